"""Make a devkit folder from images with labels in YOLO's format.

    python3 -m tools.import_yolo --folder traffic --out my_data

    traffic/images/1.jpg  traffic/labels/1.txt                also images/train, images/val; train/images, valid/images
    traffic/data.yaml or classes.txt                          the classes' names, in order; or --names FILE

A line of a label file is `class center_x center_y width height`, or `class x y x y x y …`: the class's number, then
numbers relative to the image. An image without label file, or with an empty one, is an image without labels.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import yaml

from tools.data.annotations import Annotated, devkit_box
from tools.data.devkit import class_names_problem, read_bytes
from tools.data.images import Size
from tools.data.importing import PARTS, Found, ImportArguments, import_samples, read_all, sample_of, skipped, walk
from tools.data.writing import Sample
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, first_few, quoted, reported, run_main

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
    label_files = {image: label_file(image) for image in images}
    present = set(label_files.values()) & set(others)
    if not present:
        raise UserError(f"{folder} has no label file for any image: it needs images/1.jpg and labels/1.txt")

    def read(image: str, file: str) -> Sample:
        # An image's list and id do not depend on folders named images.
        *folders, name = (part for part in PurePath(image).parts if part != "images")
        part = PARTS.get(folders[0].lower(), "") if folders else ""
        sample = sample_of(image, folder, image, (), part, "/".join([*folders, name]))
        objects = read_labels(folder, file, class_names, sample.size) if file in present else []
        return replace(sample, objects=tuple(objects))

    samples = read_all(folder, label_files.items(), read)
    notes = [f"{len(samples):,} images, {len(present):,} with a label file; classes: {names_file}"]
    notes += skipped(set(others) - present - {os.path.relpath(names_file, folder)})
    return Found(folder, "YOLO folder", samples, class_names, notes)


def label_file(image: str) -> str:
    """Return the path of an image's label file: in `labels` instead of the last `images`, or beside the image.

    >>> label_file("images/train/1.jpg"), label_file("obj/1.jpg")
    ('labels/train/1.txt', 'obj/1.txt')
    """
    before, found, after = f"/{PurePath(image).with_suffix('.txt')}".rpartition("/images/")
    return f"{before}/labels/{after}"[1:] if found else after[1:]


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
        with reported(f"cannot read {path} as YAML", yaml.YAMLError, ValueError, RecursionError):
            content = yaml.load(text, yaml.BaseLoader)  # every value is text: a class named `no` is not False
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, dict):
            names = [names.get(str(index)) for index in range(len(names))]
    if problem := class_names_problem(names, "under 'names', or of names numbered from 0"):
        raise UserError(f"{path}{problem}")
    return names


def read_labels(folder: Path, file: str, class_names: list[str], size: Size) -> list[Annotated]:
    """Return the objects of a label file in an image of this size; the `ValueError` of an invalid line names it."""
    objects = []
    for number, line in enumerate(_read(folder / file).splitlines(), start=1):
        try:
            if line.strip():
                objects.append(_read_object(line, class_names, size))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from error
    return objects


def _read_object(line: str, class_names: list[str], size: Size) -> Annotated:
    """Return the object of a line: its class, then a center, a width and a height, or a polygon's corners."""
    try:
        index, *numbers = map(float, line.split())
    except ValueError as error:
        raise ValueError(f"{quoted(line)} is not a list of numbers") from error
    if index not in range(len(class_names)):
        raise ValueError(f"class {quoted(line.split()[0])} is not one of 0 to {len(class_names) - 1}")
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise ValueError(f"{quoted(line)} is not class center_x center_y width height")
    if not all(-TOLERANCE <= value <= 1 + TOLERANCE for value in numbers):
        raise ValueError(f"{quoted(line)} is not relative to the image, from 0 to 1")
    x, y = numbers[0::2], numbers[1::2]
    left, top, width, height = min(x), min(y), max(x) - min(x), max(y) - min(y)
    if len(numbers) == 4:
        left, top, width, height = x[0] - x[1] / 2, y[0] - y[1] / 2, x[1], y[1]
    box = devkit_box([left * size[0], top * size[1], width * size[0], height * size[1]])
    return Annotated(class_names[int(index)], box)


def _read(path: Path) -> str:
    with reported(f"cannot read {path}", UnicodeDecodeError):
        return read_bytes(path, MAX_BYTES, "a file of names or labels").decode("utf-8-sig")


def main() -> None:
    args = parse(Config, __doc__)
    import_samples(args, read_yolo(args.folder, args.names))


if __name__ == "__main__":
    run_main(main)
