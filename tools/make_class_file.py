"""Collect the class names of a devkit folder's annotations into a class file.

    python3 -m tools.make_class_file --data_dir my_data

The file is JSON: `class_names` in alphabetical order (a name's place is its index; the only key that training needs),
`color_dict` (mask colors) and `images` (how many show each class).
"""

import argparse
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from tools.data.annotations import object_names, read_annotation
from tools.data.devkit import check_folder
from tools.data.writing import CLASS_FILE, class_name_problem, print_next_commands, raise_problems, write_class_file
from tools.system.command_line import Parser
from tools.system.errors import UserError, run_main


def names_in(path: Path) -> list[str] | str:
    """The class of each object of an annotation that counts, or what is wrong with it."""
    try:
        # Whatever the classes are, their objects have to be complete.
        names = [item.name for item in read_annotation(path, object_names(path))]
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")
    problems = filter(None, map(class_name_problem, names))
    return next(problems, names)


def count_names(folder: Path) -> tuple[Counter, Counter]:
    """How many images and how many objects there are of each class.

    Raises:
        UserError: there is no annotation, or some cannot be used; the first are named.
    """
    paths = sorted(folder.glob("*.xml"))
    with ThreadPoolExecutor() as pool:
        found = list(tqdm(pool.map(names_in, paths), desc="reading", unit="file", total=len(paths)))
    raise_problems(folder, [f"{path.name}: {names}" for path, names in zip(paths, found) if isinstance(names, str)])
    images = Counter(name for names in found for name in set(names))
    if not images:
        raise UserError(f"{folder} has no annotation with an object: give the devkit folder as --data_dir")
    return images, Counter(name for names in found for name in names)


def main() -> None:
    """Write the class file that the command line asks for."""
    args = parse_arguments()
    check_folder(args.data_dir)
    images, objects = count_names(args.data_dir / "Annotations")
    names = sorted(images)
    out = args.out or args.data_dir / CLASS_FILE
    write_class_file(out, names, images)
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}s} {images[name]:7,d} images {objects[name]:7,d} objects")
    print_case_variants(names)
    print(f"written: {out} ({len(names)} classes)")
    print_next_commands(args.data_dir, out, "Main/train", "Main/val")


def print_case_variants(names: list[str]) -> None:
    """A note for names that look like one class written in two ways."""
    spelling: dict[str, str] = {}
    for name in names:
        other = spelling.setdefault(name.casefold(), name)
        if other != name:
            print(f"note: '{other}' and '{name}' count as two classes")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    sys.stdout.reconfigure(errors="backslashreplace")
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="devkit folder: JPEGImages, Annotations, ImageSets"
    )
    parser.add_argument("--out", type=Path, help="class file to write (default: classes.json in --data_dir)")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
