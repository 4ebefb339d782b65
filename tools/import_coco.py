"""Make a devkit folder of annotations in the format of COCO's instances_*.json.

    python3 -m tools.import_coco --annotations instances.json --images my_photos --out my_data
    python3 -m tools.import_coco --annotations instances_train2017.json --images train2017 \\
        --val_annotations instances_val2017.json --val_images val2017 --out coco

Classes are all categories, in the order of their ids. A crowd (`iscrowd`) becomes a difficult object. Segments are not
taken over.
"""

import argparse
import math
from pathlib import Path
from typing import Any

from tools.data.annotations import Annotated, Box
from tools.data.writing import (
    Sample,
    class_name_problem,
    find_image,
    image_id_of,
    refuse,
    repeated,
    split_ids,
    write_data_set,
)
from tools.system.command_line import Parser
from tools.system.errors import UserError, run_main
from tools.system.files import read_json


def read_instances(path: Path, images: Path) -> tuple[list[Sample], list[str]]:
    """The samples, and the class names in the order of the categories' ids.

    Raises:
        UserError: no such file or folder, or entries that cannot be used, which are named.
    """
    if not images.is_dir():
        raise UserError(f"no folder {images}: give the folder of the images of {path}")
    content = read_json(path)
    for key in ("images", "annotations", "categories"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{path} is no COCO file: it has no list of objects under '{key}'")
    names, problems = _categories(content["categories"])
    objects, more = _objects(content["annotations"], names, {str(entry.get("id")) for entry in content["images"]})
    samples, most = _samples(content["images"], images, objects)
    refuse(path, problems + more + most + list(repeated(samples)))
    if not samples or not names:
        raise UserError(f"{path} has no {'image' if names else 'category'}")
    return samples, list(names.values())


def _categories(entries: list[dict[str, Any]]) -> tuple[dict[str, str], list[str]]:
    """Category names by id, in the order of the ids; and what is wrong."""
    names: dict[str, str] = {}
    problems = []
    for entry in sorted(entries, key=lambda entry: (not isinstance(entry.get("id"), int), entry.get("id") or 0)):
        number, name = str(entry.get("id")), entry.get("name")
        problem = class_name_problem(name) if isinstance(name, str) else "it has no name"
        if number in names or name in names.values():
            problem = "its id or name is there twice"
        if problem:
            problems.append(f"category {number}: {problem}")
        names[number] = name
    return names, problems


def _objects(
    entries: list[dict[str, Any]], names: dict[str, str], images: set[str]
) -> tuple[dict[str, list[Annotated]], list[str]]:
    """Each image's objects by the image's id; and what is wrong."""
    objects: dict[str, list[Annotated]] = {}
    problems = []
    for entry in entries:
        image, category = str(entry.get("image_id")), str(entry.get("category_id"))
        try:
            if image not in images or category not in names:
                unknown = f"image_id {image}" if image not in images else f"category_id {category}"
                raise ValueError(f"{unknown} is not in the file")
            box = devkit_box(entry.get("bbox"))
        except ValueError as error:
            problems.append(f"annotation {entry.get('id')}: {error}")
            continue
        if box:
            item = Annotated(names[category], box, difficult=bool(entry.get("iscrowd")))
            objects.setdefault(image, []).append(item)
    return objects, problems


def devkit_box(bbox: Any) -> Box | None:
    """COCO's (left, top, width, height), counted from 0, as the devkit's corners, the first and the last pixel.

    Returns:
        whole numbers; None for a box without width or height, which does not count (official code).

    Raises:
        ValueError: no four finite numbers.

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
    # A pixel's width has equal corners in the devkit, where such a box counts as empty: it gets two.
    return xmin, ymin, max(math.ceil(left + width), xmin + 1), max(math.ceil(top + height), ymin + 1)


def _samples(
    entries: list[dict[str, Any]], images: Path, objects: dict[str, list[Annotated]]
) -> tuple[list[Sample], list[str]]:
    samples, problems, seen = [], [], set()
    for entry in entries:
        number, name = str(entry.get("id")), entry.get("file_name")
        try:
            if not isinstance(name, str) or number in seen:
                raise ValueError("its id is there twice" if number in seen else "it has no file_name")
            seen.add(number)
            found = tuple(objects.get(number, ()))
            samples.append(Sample(f"image {number}", find_image(images, name), image_id_of(name), found))
        except ValueError as error:
            problems.append(f"image {number}: {error}")
    return samples, problems


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--annotations", type=Path, required=True, help="JSON file in COCO's format")
    parser.add_argument("--images", type=Path, required=True, help="folder of its images")
    parser.add_argument("--val_annotations", type=Path, help="JSON file of the list val, with the same categories")
    parser.add_argument("--val_images", type=Path, help="folder of its images")
    parser.add_argument("--out", type=Path, required=True, help="devkit folder to make, given to scripts as --data_dir")
    parser.add_argument(
        "--val_share", type=float, default=0.2, help="without a file of its own, share of images in val"
    )
    parser.add_argument("--seed", type=int, default=0, help="another number puts other images into val")
    parser.add_argument(
        "--shrink", type=int, default=0, help="longest side in pixels; larger images are copied smaller"
    )
    args = parser.parse_args()
    if (args.val_annotations is None) != (args.val_images is None):
        raise UserError("--val_annotations and --val_images belong together")
    return args


def main() -> None:
    """Import what the command line asks for."""
    args = parse_arguments()
    samples, class_names = read_instances(args.annotations, args.images)
    ids = [sample.image_id for sample in samples]
    if args.val_annotations:
        val_samples, val_names = read_instances(args.val_annotations, args.val_images)
        if val_names != class_names:
            raise UserError(f"{args.val_annotations} has other categories than {args.annotations}")
        refuse(args.val_annotations, list(repeated(samples + val_samples)))
        val_ids = [sample.image_id for sample in val_samples]
        samples, lists = samples + val_samples, {"train": ids, "val": val_ids, "trainval": ids + val_ids}
    else:
        lists = split_ids(ids, args.val_share, args.seed)
    write_data_set(
        args.out, samples, lists, class_names, f"COCO file {args.annotations.name}", args.shrink, args.annotations
    )


if __name__ == "__main__":
    run_main(main)
