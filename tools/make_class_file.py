"""Collect the class names of a devkit folder's annotations into a class file.

    python3 -m tools.make_class_file --data_dir my_data

The file is JSON: `class_names` in alphabetical order (a name's position is its index; the only key that training
needs), `color_dict` (mask colors) and `images` (the number of images per class).
"""

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from tools.data.annotations import object_names, validate_annotation
from tools.data.devkit import check_folder, class_name_problem
from tools.data.writing import CLASS_FILE, print_next_commands, raise_problems, write_class_file
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, advice, first_few, run_main


@dataclass(frozen=True)
class Config(Arguments):
    data_dir: Path = argument(help="devkit folder: JPEGImages, Annotations, ImageSets")
    out: Path | None = argument(None, "class file to write (default: classes.json in --data_dir)")


def names_in(path: Path) -> list[str] | str:
    """Return the class of each object of an annotation that counts, or what is wrong with the annotation."""
    try:
        # There is no class file yet, so the annotation's own names are the known ones.
        objects, problems = validate_annotation(path, object_names(path))
    except UserError as error:
        return str(error)
    names = [item.name for item in objects if not item.is_empty]
    problems += filter(None, map(class_name_problem, names))
    return f"{path.name}: {first_few(problems, count=1)}" if problems else names


def count_names(folder: Path) -> tuple[Counter, Counter]:
    """Return the number of images and the number of objects of each class.

    Raises:
        UserError: there is no annotation, or some are invalid; the message has the first of them.
    """
    paths = sorted(folder.glob("*.xml"))
    with ThreadPoolExecutor() as pool:
        found = list(tqdm(pool.map(names_in, paths), desc="reading", unit="file", total=len(paths)))
    raise_problems(folder, [problem for problem in found if isinstance(problem, str)])
    images = Counter(name for names in found for name in set(names))
    if not images:
        raise UserError(f"{folder} has no annotation with an object")
    return images, Counter(name for names in found for name in names)


def print_counts(images: Counter, objects: Counter) -> None:
    width = max(map(len, images))
    for name in sorted(images):
        print(f"{name:{width}s} {images[name]:7,d} images {objects[name]:7,d} objects")


def print_case_variants(names: list[str]) -> None:
    """Print a note about names that look like one class in two spellings."""
    spelling: dict[str, str] = {}
    for name in names:
        other = spelling.setdefault(name.casefold(), name)
        if other != name:
            print(f"note: '{other}' and '{name}' count as two classes")


def main() -> None:
    sys.stdout.reconfigure(errors="backslashreplace")
    config = parse(Config, __doc__)
    with advice("give the devkit folder as --data_dir, or fix the annotations"):
        check_folder(config.data_dir)
        images, objects = count_names(config.data_dir / "Annotations")
    names = sorted(images)
    out = config.out or config.data_dir / CLASS_FILE
    write_class_file(out, names, images)
    print_counts(images, objects)
    print_case_variants(names)
    print(f"written: {out} ({len(names)} classes)")
    print_next_commands(config.data_dir, out, "Main/train", "Main/val")


if __name__ == "__main__":
    run_main(main)
