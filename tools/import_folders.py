"""Make a devkit folder from a folder per class (torchvision's ImageFolder).

    python3 -m tools.import_folders --folder animals --out my_data

    animals/cat/1.jpg  animals/dog/2.jpg                      lists train and val by --val_share
    animals/train/cat/1.jpg  animals/val/dog/2.jpg            lists as the folders say; also valid, test

An image that lies in several class folders by links has all their labels.
"""

import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePath

from tools.data.annotations import Annotated
from tools.data.devkit import class_name_problem
from tools.data.importing import PARTS, Found, ImportArguments, import_samples, sample_of, skipped, walk
from tools.data.writing import raise_problems
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, run_main


@dataclass(frozen=True)
class Config(ImportArguments):
    folder: Path = argument(help="folder with a folder of images per class", aliases=("images",))


def read_folders(folder: Path) -> Found:
    """Return one sample per image, labeled with the name of its class folder."""
    images, others = walk(folder)
    paths = list(map(PurePath, images))
    has_parts = {path.parts[0].lower() for path in paths} <= set(PARTS) and all(len(path.parts) > 2 for path in paths)
    depth = 1 if has_parts else 0  # of the folder whose name is the class
    samples, problems, outside = [], [], []
    for path in paths:
        if len(path.parts) < depth + 2:
            outside.append(str(path))
            continue
        name = unicodedata.normalize("NFC", path.parts[depth])
        part = PARTS[path.parts[0].lower()] if has_parts else ""
        try:
            if problem := class_name_problem(name):
                raise ValueError(problem)
            samples.append(sample_of(str(path), folder, str(path), (Annotated(name),), part))
        except ValueError as error:
            problems.append(f"{path}: {error}")
    raise_problems(folder, problems)
    if not samples:
        raise UserError(f"{folder} has no image in a folder of a class: it needs {folder}/CLASS/IMAGE.jpg")
    how = "lists as the folders say, with a folder per class" if has_parts else "a folder per class"
    notes = [how, *skipped(others), *skipped(outside, "outside the class folders")]
    names = sorted({item.name for sample in samples for item in sample.objects})
    return Found(folder, "folder", samples, names, notes)


def main() -> None:
    args = parse(Config, __doc__)
    import_samples(args, read_folders(args.folder))


if __name__ == "__main__":
    run_main(main)
