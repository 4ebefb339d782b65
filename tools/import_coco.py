"""Make a devkit folder from annotations in the format of COCO's instances_*.json.

    python3 -m tools.import_coco --annotations instances.json --images my_photos --out my_data
    python3 -m tools.import_coco --annotations instances_train2017.json --images train2017 \\
        --val_annotations instances_val2017.json --val_images val2017 --out coco

Classes are all categories, in the order of their ids. A crowd (`iscrowd`) becomes a difficult object. Segmentations are
not imported. With a file for val, --val_share and --seed have no effect.
"""

import math
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tools.data.annotations import Annotated
from tools.data.devkit import class_name_problem
from tools.data.importing import Found, ImportArguments, devkit_box, import_samples, sample_of
from tools.data.writing import Sample, raise_problems
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, quoted, run_main, shorten
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
    counts: Counter = Counter()
    names = _categories(content["categories"], problems)
    objects = _objects(content, names, problems, counts)
    samples = _samples(content["images"], images, objects, part, problems)
    raise_problems(path, problems)
    if not samples or not names:
        raise UserError(f"{path} has no {'image' if names else 'category'}")
    shown = [f"{path.name}: {len(samples):,} images", *(f"{counts[kind]:,} {kind}" for kind in sorted(counts))]
    return Found(path, "COCO file", samples, list(names.values()), [", ".join(shown)])


def id_of(value: Any) -> str:
    """Return an id as text: 7, 7.0 (a table's) and "7" are the same; raise a `ValueError` for anything else.

    >>> id_of(7.0), id_of("7"), id_of("007"), id_of("cat_1")
    ('7', '7', '007', 'cat_1')
    """
    if isinstance(value, str) and value.strip():
        return re.sub(r"^(\d+)\.0+$", r"\1", value.strip())
    if type(value) in (int, float) and abs(value) < math.inf:
        return str(int(value)) if value == int(value) else str(value)
    raise ValueError("it is missing" if value is None else f"{quoted(str(value))} is not a number or a text")


def _categories(entries: Entries, problems: list[str]) -> dict[str, str]:
    """Return the categories' names by id: numbers in order, then all other ids as text."""
    names: dict[str, str] = {}
    for entry in entries:
        try:
            category, name = id_of(entry.get("id")), entry.get("name")
            problem = class_name_problem(name) if isinstance(name, str) else "it has no name"
            if category in names or name in names.values():
                problem = "its id or name occurs twice"
            if problem:
                problems.append(f"category {shorten(category)}: {problem}")
            names[category] = name
        except ValueError as error:
            problems.append(f"the id of category {shorten(str(entry.get('name')))}: {error}")
    numbers = sorted((name for name in names if re.fullmatch(r"-?\d{1,20}", name)), key=int)
    return {category: names[category] for category in [*numbers, *sorted(set(names) - set(numbers))]}


def _objects(
    content: dict[str, Entries], names: dict[str, str], problems: list[str], counts: Counter
) -> dict[str, list[Annotated]]:
    """Return each image's objects by the image's id; count those that are special."""
    objects: dict[str, list[Annotated]] = {}
    for number, entry in enumerate(content["images"], start=1):
        try:
            image = id_of(entry.get("id"))
            if image in objects:
                problems.append(f"image {shorten(image)}: its id occurs twice")
            objects[image] = []
        except ValueError as error:
            problems.append(f"the id of image number {number:,}: {error}")
    for entry in content["annotations"]:
        try:
            image = _known(entry, "image_id", objects)
            name = names[_known(entry, "category_id", names)]
            bbox = entry.get("bbox")
            box = None if bbox in (None, []) else devkit_box(bbox)
            if box or bbox in (None, []):
                counts["labels without a box"] += box is None
                objects[image].append(Annotated(name, box, difficult=entry.get("iscrowd") in (1, "1", "true")))
            else:
                counts["boxes without width or height, skipped"] += 1
        except ValueError as error:
            problems.append(f"annotation {shorten(str(entry.get('id')))}: {error}")
    return objects


def _known(entry: dict[str, Any], key: str, known: dict) -> str:
    try:
        found = id_of(entry.get(key))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    if found not in known:
        raise ValueError(f"{key} {shorten(found)} is not in the file")
    return found


def _samples(
    entries: Entries, images: Path, objects: dict[str, list[Annotated]], part: str, problems: list[str]
) -> list[Sample]:
    """Return one sample per usable image."""
    samples = []
    for entry in entries:
        name = entry.get("file_name")
        with suppress(ValueError):  # an image without id is a problem already
            image = id_of(entry.get("id"))
            try:
                if not isinstance(name, str):
                    raise ValueError("it has no file_name")
                samples.append(sample_of(f"image {shorten(image)}", images, name, tuple(objects[image]), part))
            except ValueError as error:
                problems.append(f"image {shorten(image)}: {error}")
    return samples


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
