"""Collect the class names of a devkit folder's annotations into a class file.

    python3 -m tools.make_class_file --data_dir my_data

The file is JSON: `class_names` in alphabetical order (a name's position is its index; the only key that training
needs), `color_dict` (mask colors) and `images` (the number of images per class).
"""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from tools.data.annotations import validate_annotation
from tools.data.devkit import annotation_files, check_folder, class_name_problem
from tools.data.importing import find_similar_names
from tools.data.writing import CLASS_FILE, print_next_commands, raise_problems, write_class_file
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, advice, first_few, quoted, run_main
from tools.system.text_table import fixed_width_table


@dataclass(frozen=True)
class Config(Arguments):
    data_dir: Path = argument(help="devkit folder: JPEGImages, Annotations, ImageSets")
    out: Path | None = argument(None, "class file to write (default: classes.json in --data_dir)")
    overwrite: bool = argument(False, "replace the class file if it exists")


def names_in(path: Path) -> list[str] | str:
    """Return the class of each object of an annotation that counts, or what is wrong with the annotation."""
    try:
        objects, problems = validate_annotation(path, class_names=None)  # there is no class file yet
    except UserError as error:
        return str(error)
    names = [item.name for item in objects if not item.is_empty]
    problems += filter(None, map(class_name_problem, names))
    return f"{path.name}: {first_few(problems, count=1)}" if problems else names


def count_names(data_dir: Path) -> tuple[Counter, Counter]:
    """Return the number of images and the number of objects of each class; every annotation must be valid."""
    files = annotation_files(data_dir)
    paths = [files.path(image_id) for image_id in files]
    with ThreadPoolExecutor() as pool:
        found = list(tqdm(pool.map(names_in, paths), desc="reading", unit="file", total=len(paths)))
    raise_problems(files.folder, [problem for problem in found if isinstance(problem, str)])
    images = Counter(name for names in found for name in set(names))
    if not images:
        raise UserError(f"{files.folder} has no annotation with an object")
    return images, Counter(name for names in found for name in names)


def main() -> None:
    config = parse(Config, __doc__)
    out = config.out or config.data_dir / CLASS_FILE
    if os.path.lexists(out) and not config.overwrite:
        kept = "the order of its names is that of a trained network's outputs"
        raise UserError(f"{out} already exists, and {kept}: choose another --out, or pass --overwrite to replace it")
    with advice("give the devkit folder as --data_dir, or fix the annotations"):
        check_folder(config.data_dir)
        images, objects = count_names(config.data_dir)
    names = sorted(images)
    write_class_file(out, names, images)
    rows = [(name, f"{images[name]:,d}", "images", f"{objects[name]:,d}", "objects") for name in names]
    print(fixed_width_table(rows, widths=(0, 7, 6, 7, 7)))
    for group in find_similar_names(names):
        print(f"note: {' and '.join(map(quoted, group))} count as different classes")
    print(f"written: {out} ({len(names)} classes)")
    print_next_commands(config.data_dir, out, "Main/train", "Main/val")


if __name__ == "__main__":
    run_main(main)
