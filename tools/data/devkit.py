"""PASCAL VOC devkit folders: class files, split lists and file paths, checked before they are used."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tools.system.errors import UserError, first_few, quoted, shorten
from tools.system.files import ROOT, read_json, reason, require_regular_file

DATA = ROOT / "data"
MAX_LIST_BYTES = 1 << 26  # about five million ids
UNPRINTABLE = r"\x00-\x1f\x7f-\x9f\ud800-\udfff\ufeff"  # control characters, bytes outside UTF-8, stray BOMs


def read_class_names(path: str | Path) -> list[str]:
    """Return the distinct, valid names under `class_names` in a JSON file, in the order of their indices."""
    require_regular_file(Path(path))
    content = read_json(Path(path))
    names = content.get("class_names") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"class file {path} has no list of names under 'class_names'")
    for name in names:
        if problem := class_name_problem(name):
            raise UserError(f"class file {path}: {problem}")
    if len(set(names)) < len(names):
        raise UserError(f"class file {path} contains a name twice")
    return names


def class_name_problem(name: str) -> str | None:
    """Return why a class cannot have this name, or None.

    >>> class_name_problem("hot dog")
    >>> class_name_problem(" ")
    "the class name ' ' is empty, has surrounding whitespace or contains unprintable characters"
    """
    if name and name == name.strip() and not re.search(f"[{UNPRINTABLE}]", name):
        return None
    return f"the class name {quoted(name)} is empty, has surrounding whitespace or contains unprintable characters"


def split_path(data_dir: str | Path, split: str) -> Path:
    """Return the list file of a split: `NAME` in the project's data folder, or `Main/NAME` in the devkit's ImageSets.

    The error of an unknown split lists the choices.
    """
    folder = Path(data_dir) / "ImageSets" if "/" in split else DATA
    path = folder / f"{split}.txt"
    if ".." not in Path(split).parts and not Path(split).is_absolute() and os.path.isfile(path):
        return path
    ours = sorted(file.stem for file in DATA.glob("*.txt"))
    devkit = sorted(f"Main/{file.stem}" for file in (Path(data_dir) / "ImageSets" / "Main").glob("*.txt"))
    plain = [name for name in devkit if not re.search(r"_(train|val|trainval|test)$", name)]
    raise UserError(f"unknown split '{split}' (no file {path}): choose one of {', '.join(ours + plain)}")


def read_split(data_dir: str | Path, split: str) -> list[str]:
    """Return the image ids of a split, at least one and each once, in the list's order; see `validate_split`."""
    path = split_path(data_dir, split)
    ids, problems = validate_split(path)
    if len(problems) == 1:
        raise UserError(f"{path}, {problems[0]}")
    if problems:
        raise UserError(f"{path} has {len(problems):,} invalid lines: {first_few(problems, separator='; ')}")
    if not ids:
        raise UserError(f"{path} contains no image id")
    return ids


def validate_split(path: Path) -> tuple[list[str], list[str]]:
    """Return the valid ids of a split's list, in its order and each once, and a message per invalid or repeated id.

    The first word of each line is an id; empty lines are ignored, and so are further words: the labels in the devkit's
    lists of one class. Labels are read from the annotations instead.
    """
    if require_regular_file(path).st_size > MAX_LIST_BYTES:
        raise UserError(f"{path} is not a list of image ids (over {MAX_LIST_BYTES >> 20} MiB)")
    first_lines: dict[str, int] = {}
    problems = []
    try:
        # Bytes that are not UTF-8 stay visible in their line's id instead of stopping the reader.
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, start=1):
                words = line.split(maxsplit=1)
                if not words:
                    continue
                if problem := _id_problem(words[0], first_lines):
                    problems.append(f"line {number}: {problem}")
                else:
                    first_lines[words[0]] = number
    except OSError as error:
        raise UserError(f"cannot read {path} ({reason(error)})") from error
    return list(first_lines), problems


def _id_problem(image_id: str, first_lines: dict[str, int]) -> str | None:
    # An id is part of a path that must stay inside the data folder, and messages print it.
    if image_id in (".", "..") or re.search(rf"[/\\{UNPRINTABLE}]", image_id):
        return f"{quoted(image_id)} is not an image id (a file name without folder and suffix, in UTF-8)"
    if image_id in first_lines:
        return f"repeats {shorten(image_id)} (first on line {first_lines[image_id]}): remove one of the lines"
    return None


def image_path(data_dir: Path, image_id: str) -> Path:
    return data_dir / "JPEGImages" / f"{image_id}.jpg"


def annotation_path(data_dir: Path, image_id: str) -> Path:
    return data_dir / "Annotations" / f"{image_id}.xml"


def check_folder(data_dir: Path, folders: Sequence[str] = ("JPEGImages", "Annotations")) -> None:
    """Check that a devkit folder and the named folders in it exist."""
    if not os.path.isdir(data_dir):
        raise UserError(f"no folder {data_dir}")
    for folder in folders:
        if not os.path.isdir(data_dir / folder):
            raise UserError(f"{data_dir} has no folder {folder}")


def require_files(data_dir: Path, ids: list[str], split: str, folder: str, suffix: str) -> None:
    """Check that a folder has all files of a split; the error counts the missing files and names the first of them."""
    if missing := missing_files(data_dir, ids, folder, suffix):
        files = f"{len(missing):,} of the {len(ids):,} files of split '{split}'"
        raise UserError(f"{data_dir / folder} lacks {files} ({first_few(list(map(shorten, missing)))})")


def missing_files(data_dir: Path, ids: list[str], folder: str, suffix: str) -> list[str]:
    """Return the ids whose file is not in the folder, or all of them if there is no folder.

    The folder is listed once, which is faster than asking for each of thousands of files.
    """
    try:
        present = set(os.listdir(data_dir / folder)) if os.path.isdir(data_dir / folder) else set()
    except OSError as error:
        raise UserError(f"cannot read {data_dir / folder} ({reason(error)})") from error
    return [image_id for image_id in ids if image_id + suffix not in present]
