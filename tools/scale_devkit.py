"""A devkit folder scaled down, for studies at a small image size.

Evaluation does not resize: a network that sees S pixels should meet images that fit into S, as VOC's 500 pixels fit
into 512. Images and boxes are scaled, lists are copied.

python3 -m tools.scale_devkit --data_dir VOC2012 --out VOC2012_156 --longer_side 156
"""

import argparse
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from tools.data.annotations import read_xml
from tools.data.devkit import annotation_path, check_folder
from tools.data.images import read_image
from tools.data.writing import new_folder
from tools.system.command_line import Parser
from tools.system.errors import UserError, run_main
from tools.system.files import read_json, reason, write_json

QUALITY = 95  # of the JPEG files
RECORD = "scaled.json"  # in the folder: where its images are from


def scale_devkit(data_dir: Path, out: Path, longer_side: int) -> int:
    """Make a devkit folder whose images' longer side is at most `longer_side` pixels.

    Args:
        data_dir: devkit folder with JPEGImages and ImageSets; Annotations where there are any.
        out: folder to make.
        longer_side: pixels; smaller images keep their size.

    Returns:
        the number of images.

    Raises:
        UserError: no devkit folder, an image or annotation that cannot be read, or `out` cannot be made; nothing is
            left of it then.
    """
    check_folder(data_dir, ("JPEGImages", "ImageSets"))
    images = sorted((data_dir / "JPEGImages").glob("*.jpg"))
    with new_folder(out) as folder:
        for name in ("JPEGImages", "Annotations"):
            (folder / name).mkdir()
        for path in tqdm(images, desc="scaling", unit="image"):
            factor = _scale_image(path, folder / "JPEGImages" / path.name, longer_side)
            annotation = annotation_path(data_dir, path.stem)
            if annotation.exists():  # VOC's test images have none
                _scale_annotation(annotation, annotation_path(folder, path.stem), factor)
        shutil.copytree(data_dir / "ImageSets", folder / "ImageSets")
        write_json(folder / RECORD, {"data_dir": str(data_dir.resolve()), "longer_side": longer_side})
    return len(images)


def require_scaled_from(data_dir: Path, out: Path, longer_side: int) -> None:
    """Refuse a folder that was not made by `scale_devkit` with these arguments.

    Raises:
        UserError: it was made otherwise.
    """
    record = read_json(out / RECORD)
    if record != {"data_dir": str(data_dir.resolve()), "longer_side": longer_side}:
        raise UserError(f"{out} holds the images of {record}, not of {data_dir} at {longer_side}: choose another --out")


def _scale_image(path: Path, out: Path, longer_side: int) -> float:
    """Write the smaller image; gives the factor."""
    image = read_image(path)
    factor = min(1.0, longer_side / max(image.size))
    if factor < 1:
        size = [max(1, round(side * factor)) for side in image.size]
        image = image.resize(size, Image.Resampling.BICUBIC)
    image.save(out, quality=QUALITY)
    return factor


def _scale_annotation(path: Path, out: Path, factor: float) -> None:
    """Write the annotation with its sides and corners scaled; corners keep their fractions, so that no box vanishes."""
    root = read_xml(path)
    try:
        for side in (*root.iterfind("size/width"), *root.iterfind("size/height")):
            side.text = str(max(1, round(float(side.text) * factor)))
        for corner in (corner for box in root.iter("bndbox") for corner in box):
            corner.text = f"{float(corner.text) * factor:.2f}"
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} cannot be scaled ({reason(error)})") from error
    ElementTree.ElementTree(root).write(out)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="devkit folder to read")
    parser.add_argument("--out", type=Path, required=True, help="devkit folder to make")
    parser.add_argument("--longer_side", type=int, required=True, help="of the scaled images, pixels")
    args = parser.parse_args()
    if args.longer_side < 1:
        raise UserError(f"--longer_side {args.longer_side}: must be above 0")
    return args


def main() -> None:
    """Scale what the command line names."""
    args = parse_arguments()
    count = scale_devkit(args.data_dir, args.out, args.longer_side)
    print(f"{args.out}: {count:,} images of at most {args.longer_side} pixels")


if __name__ == "__main__":
    run_main(main)
