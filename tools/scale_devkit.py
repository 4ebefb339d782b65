"""Scale a devkit folder down, for studies at a small image size.

    python3 -m tools.scale_devkit --data_dir VOC2012 --out VOC2012_156 --longer_side 156
    python3 -m tools.scale_devkit --data_dir VOC2012 --archive VOC2012_320.tar --longer_side 320

Evaluation does not resize: a network that sees S pixels should see images that fit into S, as VOC's 500 pixels fit into
512. Images and boxes are scaled, lists are copied. JPEG quality is lowered until an archive has at most 50 MiB.
"""

import io
import shutil
import tarfile
import tempfile
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
from tools.system.files import read_json, read_object, replace_file, write_json

JPEG_QUALITY = 95
QUALITIES = range(JPEG_QUALITY, 30, -5)  # of an archive, best first
MOST_BYTES = 50 << 20  # of an archive
RECORD = "scaled.json"  # in the folder: where its images are from


@dataclass(frozen=True)
class Config(Arguments):
    data_dir: Path = argument(help="devkit folder to read")
    out: Path | None = argument(None, "devkit folder to make", one_of="result")
    archive: Path | None = argument(None, "tar archive to make, at most 50 MiB", one_of="result", names_file=True)
    longer_side: int = argument(help="longer side of the scaled images at most, pixels", above=0)


def scale_devkit(data_dir: Path, out: Path, longer_side: int, quality: int = JPEG_QUALITY) -> int:
    """Make a devkit folder `out` whose images have at most `longer_side` pixels per side; return their number."""
    with advice("give the devkit folder as --data_dir"):
        check_folder(data_dir, ("JPEGImages", "ImageSets"))
    images, annotations = image_files(data_dir), annotation_files(data_dir)
    if not images:
        raise UserError(f"{images.folder} holds no image ({', '.join(SUFFIXES)}): there is nothing to scale")
    with new_folder(out) as folder:
        for image_id in tqdm(images, "scaling", unit="image", disable=None):
            with advice("restore it from the original data set"):
                target = folder / "JPEGImages" / f"{image_id}.jpg"
                _, factor = save_smaller(images.path(image_id), target, longer_side, quality)
                if image_id in annotations:  # VOC's test images have none
                    _scale_annotation(annotations.path(image_id), folder / "Annotations" / f"{image_id}.xml", factor)
        shutil.copytree(data_dir / "ImageSets", folder / "ImageSets", dirs_exist_ok=True)
        write_json(folder / RECORD, _record(data_dir, longer_side))
    images.print_skipped()
    annotations.print_skipped()
    return len(images)


def longer_side_of(data_dir: Path) -> int:
    """Return how many pixels per side the images of a folder have at most; 0 if this program has not made it."""
    record = data_dir / RECORD
    made = read_object(record).get("longer_side") if record.is_file() else None
    return made if isinstance(made, int) else 0


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


def write_archive(data_dir: Path, archive: Path, longer_side: int) -> str:
    """Write the scaled folder as a tar archive, always the same bytes; return its size. UserError: no quality fits."""
    for quality in QUALITIES:
        content = _packed(data_dir, longer_side, quality)
        size = f"{len(content) / 2**20:.1f} MiB at JPEG quality {quality}"
        if len(content) <= MOST_BYTES:
            replace_file(archive, lambda target, content=content: target.write_bytes(content))
            return f"images of at most {longer_side} pixels, {size}"
    while len(content) > MOST_BYTES and longer_side > 1:
        longer_side = max(1, longer_side * MOST_BYTES // len(content))
        content = _packed(data_dir, longer_side, quality)
    raise UserError(f"{archive}: {size}, over {MOST_BYTES >> 20}: --longer_side {longer_side} or fewer images fit")


def _packed(data_dir: Path, longer_side: int, quality: int) -> bytes:
    """Return what `scale_devkit` makes as a tar archive in which only names and contents matter."""
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as temporary, tarfile.open(fileobj=content, mode="w") as archive:
        folder = Path(temporary) / "data"
        scale_devkit(data_dir, folder, longer_side, quality)
        origin = {"data_dir": data_dir.resolve().name, "longer_side": longer_side, "quality": quality}
        write_json(folder / RECORD, origin)  # the same on every machine
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = tarfile.TarInfo(str(path.relative_to(folder)))
            member.size = path.stat().st_size
            archive.addfile(member, io.BytesIO(path.read_bytes()))
    return content.getvalue()


def main() -> None:
    args = parse(Config, __doc__)
    if args.archive:
        print(f"{args.archive}: {write_archive(args.data_dir, args.archive, args.longer_side)}")
    else:
        count = scale_devkit(args.data_dir, args.out, args.longer_side)
        print(f"{args.out}: {count:,} images of at most {args.longer_side} pixels")


if __name__ == "__main__":
    run_main(main)
