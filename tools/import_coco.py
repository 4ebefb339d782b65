"""Make a devkit folder from annotations in the format of COCO's instances_*.json.

    python3 -m tools.import_coco --annotations instances.json --images my_photos --out my_data
    python3 -m tools.import_coco --annotations instances_train2017.json --images train2017 \\
        --val_annotations instances_val2017.json --val_images val2017 --out coco

Classes are all categories, in the order of their ids. A crowd (`iscrowd`) becomes a difficult object. Segmentations are
not imported. With a file for val, --val_share and --seed have no effect.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.data.annotations import Annotated, Box
from tools.data.devkit import class_name_problem
from tools.data.importing import ImportArguments, find_duplicates, find_image, image_id_of, import_samples, split_ids
from tools.data.writing import Sample, raise_problems
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, run_main
from tools.system.files import read_json

Entries = list[dict[str, Any]]  # of one of the file's lists; what is wrong with them is appended to `problems`


@dataclass(frozen=True)
class Config(ImportArguments):
    annotations: Path = argument(help="JSON file in COCO's format")
    images: Path = argument(help="folder of its images")
    val_annotations: Path | None = argument(None, "JSON file of list val, with the same categories")
    val_images: Path | None = argument(None, "folder of its images")

    def check(self) -> None:
        if (self.val_annotations is None) != (self.val_images is None):
            raise UserError("--val_annotations and --val_images belong together: give both or neither")


def read_instances(path: Path, images: Path) -> tuple[list[Sample], list[str]]:
    """Return the samples, and the class names in the order of the categories' ids.

    The `UserError` for entries that cannot be used names them.
    """
    if not images.is_dir():
        raise UserError(f"no folder {images}: give the folder of the images of {path}")
    content = read_json(path)
    for key in ("images", "annotations", "categories"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{path} is not a COCO file: it has no list of objects under '{key}'")
    problems: list[str] = []
    names = _categories(content["categories"], problems)
    objects = _objects(content, names, problems)
    samples = _samples(content["images"], images, objects, problems)
    raise_problems(path, problems + find_duplicates(samples))
    if not samples or not names:
        raise UserError(f"{path} has no {'image' if names else 'category'}")
    return samples, list(names.values())


def _categories(entries: Entries, problems: list[str]) -> dict[str, str]:
    """Return the categories' names by id: numbers in order, then all other ids as text."""

    def order(entry: dict[str, Any]) -> tuple[bool, Any]:
        category = entry.get("id")
        is_number = isinstance(category, (int, float))
        return not is_number, category if is_number else str(category)

    names: dict[str, str] = {}
    for entry in sorted(entries, key=order):
        category, name = str(entry.get("id")), entry.get("name")
        problem = class_name_problem(name) if isinstance(name, str) else "it has no name"
        if category in names or name in names.values():
            problem = "its id or name occurs twice"
        if problem:
            problems.append(f"category {category}: {problem}")
        names[category] = name
    return names


def _objects(content: dict[str, Entries], names: dict[str, str], problems: list[str]) -> dict[str, list[Annotated]]:
    """Return each image's objects by the image's id."""
    objects: dict[str, list[Annotated]] = {str(entry.get("id")): [] for entry in content["images"]}
    for entry in content["annotations"]:
        image, category = str(entry.get("image_id")), str(entry.get("category_id"))
        try:
            if image not in objects:
                raise ValueError(f"image_id {image} is not in the file")
            if category not in names:
                raise ValueError(f"category_id {category} is not in the file")
            if box := devkit_box(entry.get("bbox")):
                objects[image].append(Annotated(names[category], box, difficult=bool(entry.get("iscrowd"))))
        except ValueError as error:
            problems.append(f"annotation {entry.get('id')}: {error}")
    return objects


def devkit_box(bbox: Any) -> Box | None:
    """Convert COCO's 0-based (left, top, width, height) to the devkit's 1-based first and last pixel.

    None: the box has no width or height and does not count (official code). `ValueError`: not four finite numbers.

    >>> devkit_box([0, 10.5, 20, 4])
    (1, 11, 20, 15)
    """
    numbers = isinstance(bbox, list) and len(bbox) == 4 and all(type(side) in (int, float) for side in bbox)
    if not numbers or not all(map(math.isfinite, bbox)):
        raise ValueError("bbox is not [left, top, width, height]")
    left, top, width, height = bbox
    if width <= 0 or height <= 0:
        return None
    xmin, ymin = math.floor(left) + 1, math.floor(top) + 1
    # A box one pixel wide has equal corners in the devkit, where it would count as empty: it becomes two pixels wide.
    return xmin, ymin, max(math.ceil(left + width), xmin + 1), max(math.ceil(top + height), ymin + 1)


def _samples(entries: Entries, images: Path, objects: dict[str, list[Annotated]], problems: list[str]) -> list[Sample]:
    """Return one sample per usable image."""
    samples, seen = [], set()
    for entry in entries:
        image, name = str(entry.get("id")), entry.get("file_name")
        try:
            if image in seen:
                raise ValueError("its id occurs twice")
            if not isinstance(name, str):
                raise ValueError("it has no file_name")
            seen.add(image)
            samples.append(Sample(f"image {image}", find_image(images, name), image_id_of(name), tuple(objects[image])))
        except ValueError as error:
            problems.append(f"image {image}: {error}")
    return samples


def main() -> None:
    args = parse(Config, __doc__)
    samples, class_names = read_instances(args.annotations, args.images)
    ids = [sample.image_id for sample in samples]
    if args.val_annotations:
        val_samples, val_names = read_instances(args.val_annotations, args.val_images)
        if val_names != class_names:
            raise UserError(f"{args.val_annotations} has other categories than {args.annotations}")
        samples += val_samples
        raise_problems(args.val_annotations, find_duplicates(samples))
        val_ids = [sample.image_id for sample in val_samples]
        lists = {"train": ids, "val": val_ids, "trainval": ids + val_ids}
    else:
        lists = split_ids(ids, args.val_share, args.seed)
    import_samples(args, args.annotations, "COCO file", samples, lists, class_names)


if __name__ == "__main__":
    run_main(main)
