"""Make a devkit folder from annotations in the format of COCO's instances_*.json.

    python3 -m tools.import_coco --annotations instances.json --images my_photos --out my_data
    python3 -m tools.import_coco --annotations instances_train2017.json --images train2017 \\
        --val_annotations instances_val2017.json --val_images val2017 --out coco

Classes are all categories, in the order of their ids. A crowd (`iscrowd`) becomes a difficult object. Segmentations are
not imported. With a file for val, --val_share and --seed have no effect.
"""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tools.data.annotations import Annotated, devkit_box
from tools.data.devkit import noted, raise_problems
from tools.data.importing import Found, ImportArguments, import_samples, read_all, sample_of
from tools.data.writing import Sample
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, quoted, run_main, shorten
from tools.system.files import read_json

Entry = dict[str, Any]  # of one of the file's lists


@dataclass(frozen=True)
class Config(ImportArguments):
    annotations: Path = argument(help="JSON file in COCO's format")
    images: Path = argument(help="folder of its images")
    val_annotations: Path | None = argument(None, "JSON file of list val, with the same categories")
    val_images: Path | None = argument(None, "folder of its images")

    def check(self) -> None:
        if (self.val_annotations is None) != (self.val_images is None):
            raise UserError("--val_annotations and --val_images belong together: give both or neither")


def read_instances(path: Path, images: Path, part: str = "") -> Found:
    """Return the samples of list `part`, and the class names in the order of the categories' ids.

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
    names = read_categories(content["categories"], problems)
    objects = read_objects(content, names, problems)
    raise_problems(path, problems)

    def read(origin: str, entry: Entry) -> Sample:
        if not isinstance(entry.get("file_name"), str):
            raise ValueError("it has no file_name")
        return sample_of(origin, images, entry["file_name"], objects[id_of(entry)], part)

    samples = read_all(path, [(name_of("image", entry), entry) for entry in content["images"]], read)
    if not samples or not names:
        raise UserError(f"{path} has no {'image' if names else 'category'}")
    without_box = sum(item.box is None for sample in samples for item in sample.objects)
    note = f"{path.name}: {len(samples):,} images" + (f", {without_box:,} labels without a box" if without_box else "")
    return Found(path, "COCO file", samples, list(names.values()), [note])


def name_of(kind: str, entry: Entry) -> str:
    """Return how messages name an entry."""
    return f"{kind} {shorten(str(next((entry[key] for key in ('id', 'name', 'file_name') if key in entry), None)))}"


def id_of(entry: Entry, key: str = "id", known: Collection[str] | None = None) -> str:
    """Return an id as text: 7, 7.0 (a table's) and "7" are the same; raise a `ValueError` for anything else.

    >>> id_of({"id": 7.0}), id_of({"id": "7"}), id_of({"id": "007"}), id_of({"id": "cat_1"})
    ('7', '7', '007', 'cat_1')
    """
    value = entry.get(key)
    if isinstance(value, str) and value.strip():
        text = re.sub(r"^(\d+)\.0+$", r"\1", value.strip())
    elif type(value) in (int, float) and abs(value) < math.inf:
        text = str(int(value)) if value == int(value) else str(value)
    else:
        problem = "is missing" if value is None else f"{quoted(str(value))} is not a number or text"
        raise ValueError(f"{key} {problem}")
    if known is not None and text not in known:
        raise ValueError(f"{key} {shorten(text)} is not in the file")
    return text


def read_categories(entries: list[Entry], problems: list[str]) -> dict[str, str]:
    """Return the categories' names by id: numbers in order, then all other ids as text."""
    names: dict[str, str] = {}
    for entry in entries:
        with noted(problems, name_of("category", entry)):
            category, name = id_of(entry), entry.get("name")
            if not isinstance(name, str):
                raise ValueError("it has no name")
            if category in names or name in names.values():
                raise ValueError("its id or name occurs twice")
            names[category] = name
    numbers = sorted((name for name in names if re.fullmatch(r"-?\d{1,20}", name)), key=int)
    return {category: names[category] for category in [*numbers, *sorted(names.keys() - numbers)]}


def read_objects(content: dict[str, Any], names: dict[str, str], problems: list[str]) -> dict[str, list[Annotated]]:
    """Return each image's objects by the image's id."""
    objects: dict[str, list[Annotated]] = {}
    for entry in content["images"]:
        with noted(problems, name_of("image", entry)):
            if id_of(entry) in objects:
                raise ValueError("its id occurs twice")
            objects[id_of(entry)] = []
    for entry in content["annotations"]:
        with noted(problems, name_of("annotation", entry)):
            image, category = id_of(entry, "image_id", objects), id_of(entry, "category_id", names)
            box = None if entry.get("bbox") in (None, []) else devkit_box(entry["bbox"])
            objects[image].append(Annotated(names[category], box, difficult=entry.get("iscrowd") in (1, "1", "true")))
    return objects


def main() -> None:
    args = parse(Config, __doc__)
    found = read_instances(args.annotations, args.images, "train" if args.val_annotations else "")
    if args.val_annotations:
        val = read_instances(args.val_annotations, args.val_images, "val")
        if val.class_names != found.class_names:
            raise UserError(f"{args.val_annotations} has other categories than {args.annotations}")
        found = replace(found, samples=found.samples + val.samples, notes=found.notes + val.notes)
    import_samples(args, found)


if __name__ == "__main__":
    run_main(main)
