"""Collect the class names of a devkit folder's annotations into a class file.

    python3 -m tools.make_class_file --data_dir my_data

The file is JSON: `class_names` in alphabetical order (a name's position is its index; the only key that training
needs), `color_dict` (mask colors) and `images` (the number of images per class).
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tools.data.annotations import validate_annotation
from tools.data.devkit import annotation_files, check_folder, class_name_problem
from tools.data.importing import print_classes, read_all
from tools.data.writing import CLASS_FILE, print_next_commands, write_class_file
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, advice, first_few, run_main


@dataclass(frozen=True)
class Config(Arguments):
    data_dir: Path = argument(help="devkit folder: JPEGImages, Annotations, ImageSets")
    out: Path | None = argument(None, "class file to write (default: classes.json in --data_dir)")
    overwrite: bool = argument(False, "replace the class file if it exists")


def names_in(origin: str, path: Path) -> list[str]:
    """Return the class of each object of an annotation that counts; every object must be valid."""
    objects, problems = validate_annotation(path, class_names=None)  # there is no class file yet
    names = [item.name for item in objects if not item.is_empty]
    problems += filter(None, map(class_name_problem, names))
    if problems:
        raise ValueError(first_few(problems, count=1))
    return names


def main() -> None:
    config = parse(Config, __doc__)
    out = config.out or config.data_dir / CLASS_FILE
    if os.path.lexists(out) and not config.overwrite:
        kept = "the order of its names is that of a trained network's outputs"
        raise UserError(f"{out} already exists, and {kept}: choose another --out, or pass --overwrite to replace it")
    with advice("give the devkit folder as --data_dir, or fix the annotations"):
        check_folder(config.data_dir)
        files = annotation_files(config.data_dir)
        paths = [files.path(image_id) for image_id in files]
        found = read_all(files.folder, [(path.name, path) for path in paths], names_in)
        images = Counter(name for names in found for name in set(names))
        if not images:
            raise UserError(f"{files.folder} has no annotation with an object")
    names = sorted(images)
    write_class_file(out, names, images)
    print_classes(names, images=images, objects=Counter(name for names in found for name in names))
    print(f"written: {out} ({len(names)} classes)")
    print_next_commands(config.data_dir, out, "Main/train", "Main/val")


if __name__ == "__main__":
    run_main(main)
