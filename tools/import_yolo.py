"""Make a devkit folder from images with labels in YOLO's format.

    python3 -m tools.import_yolo --folder traffic --out my_data

    traffic/images/1.jpg  traffic/labels/1.txt                also images/train, images/val; train/images, valid/images
    traffic/data.yaml or classes.txt                          the classes' names, in order; or --names FILE

A line of a label file is `class center_x center_y width height`, or `class x y x y x y …`: the class's number, then
numbers relative to the image. An image without label file, or with an empty one, is an image without labels.
"""

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import yaml

from tools.data.annotations import Annotated
from tools.data.devkit import class_name_problem
from tools.data.importing import (
    PARTS,
    Found,
    ImportArguments,
    devkit_box,
    image_id_of,
    image_sizes,
    import_samples,
    sample_of,
    skipped,
    walk,
)
from tools.data.writing import Sample, Size, raise_problems
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, first_few, quoted, run_main
from tools.system.files import reason, require_regular_file

NAME_FILES = ("*.yaml", "*.yml", "classes.txt", "*.names", "labels/classes.txt")
TOLERANCE = 0.01  # by which a rounded coordinate may lie outside the image
MAX_BYTES = 1 << 20  # of a file of names or labels


@dataclass(frozen=True)
class Config(ImportArguments):
    folder: Path = argument(help="folder of the images, the label files and the classes' names")
    names: Path | None = argument(None, "classes' names: data.yaml, or a text file with a name per line")


def read_yolo(folder: Path, names_file: Path | None) -> Found:
    """Return one sample per image; the `UserError` for unusable label files names them."""
    images, others = walk(folder)
    names_file = names_file or find_names(folder)
    class_names = read_names(names_file)
    problems: list[str] = []
    samples = _samples(folder, images, problems)
    raise_problems(folder, problems)
    label_files = {sample.origin: label_file(sample.origin) for sample in samples}
    present = set(label_files.values()) & set(others)
    if not present:
        raise UserError(f"{folder} has no label file for any image: it needs images/1.jpg and labels/1.txt")
    sizes = image_sizes(samples, folder)
    empty: Counter = Counter()
    for index, sample in enumerate(samples):
        file = label_files[sample.origin]
        try:
            if file in present:
                objects = read_labels(folder / file, class_names, sizes[sample.source], empty)
                samples[index] = replace(sample, objects=objects)
        except ValueError as error:
            problems.append(f"{file}, {error}")
    raise_problems(folder, problems)
    notes = [f"{len(samples):,} images, {len(present):,} with a label file; classes: {names_file}"]
    notes += [f"skipped: {empty.total():,} boxes without width or height"] if empty else []
    notes += skipped(set(others) - present - {os.path.relpath(names_file, folder)})
    return Found(folder, "YOLO folder", samples, class_names, notes, sizes)


def _samples(folder: Path, images: list[str], problems: list[str]) -> list[Sample]:
    """Return one sample per image, without objects; its list and its id do not depend on folders named images."""
    samples = []
    for image in images:
        *folders, name = (part for part in PurePath(image).parts if part != "images")
        try:
            sample = sample_of(image, folder, image, (), PARTS.get(folders[0].lower(), "") if folders else "")
            samples.append(replace(sample, image_id=image_id_of("/".join([*folders, name]))))
        except ValueError as error:
            problems.append(f"{image}: {error}")
    return samples


def label_file(image: str) -> str:
    """Return the path of an image's label file: in `labels` instead of the last `images`, or beside the image.

    >>> label_file("images/train/1.jpg"), label_file("obj/1.jpg")
    ('labels/train/1.txt', 'obj/1.txt')
    """
    parts = list(PurePath(image).with_suffix(".txt").parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return "/".join(parts)


def find_names(folder: Path) -> Path:
    """Return the only file in the folder that can hold the classes' names."""
    files = [file for pattern in NAME_FILES for file in sorted(folder.glob(pattern)) if file.is_file()]
    if len(files) != 1:
        found = f"{first_few(list(map(str, files)))} could all name" if files else f"{folder} has no file that names"
        raise UserError(f"{found} the classes: pass data.yaml or a text file with a name per line as --names")
    return files[0]


def read_names(path: Path) -> list[str]:
    """Return the distinct, valid class names of a YAML file's key `names`, or of a text file's lines."""
    text = _read(path)
    names = [line.strip() for line in text.strip().splitlines()]
    if path.suffix.lower() in (".yaml", ".yml"):
        try:
            content = yaml.load(text, yaml.BaseLoader)  # every value is text: a class named `no` is not False
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"cannot read {path} as YAML: {reason(error)}") from error
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, dict):
            names = [names.get(str(index)) for index in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} has no list of names, numbered from 0, under 'names'")
    problems = list(filter(None, map(class_name_problem, names)))
    raise_problems(path, problems or [f"{quoted(name)} occurs twice" for name in set(names) if names.count(name) > 1])
    return names


def read_labels(path: Path, class_names: list[str], size: Size, empty: Counter) -> tuple[Annotated, ...]:
    """Return the objects of a label file in an image of this size; raise a `ValueError` with the line if it is invalid.

    Boxes without width or height do not count; they are counted in `empty`.
    """
    objects = []
    for number, line in enumerate(_read(path).splitlines(), start=1):
        words = line.split()
        try:
            numbers = list(map(float, words[1:]))
            known = not words or float(words[0]) in range(len(class_names))
        except ValueError as error:
            raise ValueError(f"line {number}: {quoted(line)} is not a list of numbers") from error
        if not known:
            raise ValueError(f"line {number}: class {quoted(words[0])} is not one of 0 to {len(class_names) - 1}")
        if words and not (len(numbers) == 4 or len(numbers) >= 6 and len(numbers) % 2 == 0):
            raise ValueError(f"line {number}: {quoted(line)} is not class center_x center_y width height")
        if not all(-TOLERANCE <= value <= 1 + TOLERANCE for value in numbers):
            raise ValueError(f"line {number}: {quoted(line)} is not relative to the image, from 0 to 1")
        if words and (box := devkit_box(_left_top_width_height(numbers, size))):
            objects.append(Annotated(class_names[int(float(words[0]))], box))
        elif words:
            empty[path] += 1
    return tuple(objects)


def _left_top_width_height(numbers: list[float], size: Size) -> list[float]:
    """Return the box, in pixels, of a line's numbers: a center, a width and a height, or a polygon's corners."""
    x, y = numbers[0::2], numbers[1::2]
    left, top, width, height = min(x), min(y), max(x) - min(x), max(y) - min(y)
    if len(numbers) == 4:
        left, top, width, height = x[0] - x[1] / 2, y[0] - y[1] / 2, x[1], y[1]
    return [left * size[0], top * size[1], width * size[0], height * size[1]]


def _read(path: Path) -> str:
    if require_regular_file(path).st_size > MAX_BYTES:
        raise UserError(f"{path} is too large (over {MAX_BYTES >> 20} MiB)")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({reason(error)})") from error


def main() -> None:
    args = parse(Config, __doc__)
    import_samples(args, read_yolo(args.folder, args.names))


if __name__ == "__main__":
    run_main(main)
