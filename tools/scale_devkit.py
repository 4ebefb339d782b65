"""Scale a devkit folder down, for studies at a small image size.

    python3 -m tools.scale_devkit --data_dir VOC2012 --out VOC2012_156 --longer_side 156

Evaluation does not resize: a network that sees S pixels should see images that fit into S, as VOC's 500 pixels fit into
512. Images and boxes are scaled, lists are copied.
"""

import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tools.data.annotations import BOX_SIDES, annotated_size, read_box, read_xml, scaled_box
from tools.data.devkit import annotation_files, check_folder, image_files
from tools.data.images import SUFFIXES, save_smaller
from tools.data.writing import new_folder
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, advice, reported, run_main
from tools.system.files import read_json, write_json

JPEG_QUALITY = 95
RECORD = "scaled.json"  # in the folder: where its images are from


@dataclass(frozen=True)
class Config(Arguments):
    data_dir: Path = argument(help="devkit folder to read")
    out: Path = argument(help="devkit folder to make")
    longer_side: int = argument(help="of the scaled images, pixels", above=0)


def scale_devkit(data_dir: Path, out: Path, longer_side: int) -> int:
    """Make a devkit folder `out` whose images have at most `longer_side` pixels per side; return their number."""
    with advice("give the devkit folder as --data_dir"):
        check_folder(data_dir, ("JPEGImages", "ImageSets"))
    images, annotations = image_files(data_dir), annotation_files(data_dir)
    if not images:
        raise UserError(f"{images.folder} holds no image ({', '.join(SUFFIXES)}): there is nothing to scale")
    with new_folder(out) as folder:
        for image_id in tqdm(images, desc="scaling", unit="image"):
            with advice("restore it from the original data set"):
                target = folder / "JPEGImages" / f"{image_id}.jpg"
                _, factor = save_smaller(images.path(image_id), target, longer_side, JPEG_QUALITY)
                if image_id in annotations:  # VOC's test images have none
                    _scale_annotation(annotations.path(image_id), folder / "Annotations" / f"{image_id}.xml", factor)
        shutil.copytree(data_dir / "ImageSets", folder / "ImageSets", dirs_exist_ok=True)
        write_json(folder / RECORD, _record(data_dir, longer_side))
    images.print_skipped()
    annotations.print_skipped()
    return len(images)


def require_scaled_from(data_dir: Path, out: Path, longer_side: int) -> None:
    """Raise a `UserError` if `scale_devkit` made the folder `out` from other images or at another size."""
    record = read_json(out / RECORD)
    if record != _record(data_dir, longer_side):
        raise UserError(f"{out} holds the images of {record}, not of {data_dir} at {longer_side}: choose another --out")


def _record(data_dir: Path, longer_side: int) -> dict[str, Any]:
    return {"data_dir": str(data_dir.resolve()), "longer_side": longer_side}


def _scale_annotation(path: Path, out: Path, factor: float) -> None:
    root = read_xml(path)
    before = annotated_size(root)
    for side, length in zip(("width", "height"), before or (), strict=False):
        root.find(f"size/{side}").text = str(max(1, round(length * factor)))
    after = annotated_size(root)
    for element in root.iterfind(".//bndbox/xmin/../.."):  # objects, and the parts of objects
        with reported(f"{path} cannot be scaled", ValueError):
            box = read_box(element.findtext("name", ""), element)
        for side, value in zip(BOX_SIDES, scaled_box(box, factor, before, after), strict=True):
            element.find(f"bndbox/{side}").text = f"{value:.2f}"
    ElementTree.ElementTree(root).write(out)


def main() -> None:
    args = parse(Config, __doc__)
    count = scale_devkit(args.data_dir, args.out, args.longer_side)
    print(f"{args.out}: {count:,} images of at most {args.longer_side} pixels")


if __name__ == "__main__":
    run_main(main)
