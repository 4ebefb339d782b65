"""PASCAL VOC devkit folders: class files, split lists and where files lie, checked before they are used."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tools.system.errors import UserError, quoted, shorten
from tools.system.files import ROOT, read_json, reason, require_regular_file

DATA = ROOT / "data"


LARGEST_LIST = 1 << 26  # bytes; about five million ids


UNPRINTABLE = r"\x00-\x1f\x7f-\x9f\ud800-\udfff\ufeff"  # control characters, bytes that are no UTF-8, stray BOMs


def read_class_names(path: str | Path) -> list[str]:
    """Class names in the order of their indices, from a JSON file with the key `class_names`.

    Raises:
        UserError: no such file, no JSON, or no list of distinct, printable names in it.
    """
    require_regular_file(Path(path))
    content = read_json(Path(path))
    names = content.get("class_names") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"class file {path} has no list of names under 'class_names'")
    for name in names:
        if name != name.strip() or re.search(f"[{UNPRINTABLE}]", name):
            raise UserError(f"class file {path}: the name {quoted(name)} has blanks around it or unprintable signs")
    if len(set(names)) < len(names):
        raise UserError(f"class file {path} names a class twice")
    return names


def split_path(data_dir: str | Path, split: str) -> Path:
    """The list file of a split: `NAME` in the project's data folder, or `Main/NAME` in the devkit's ImageSets.

    Raises:
        UserError: there is no such list; the choices are named.
    """
    folder = Path(data_dir) / "ImageSets" if "/" in split else DATA
    path = folder / f"{split}.txt"
    leaves_folder = ".." in Path(split).parts or Path(split).is_absolute()
    if not leaves_folder and os.path.isfile(path):
        return path
    ours = sorted(file.stem for file in DATA.glob("*.txt"))
    devkit = sorted(f"Main/{file.stem}" for file in (Path(data_dir) / "ImageSets" / "Main").glob("*.txt"))
    plain = [name for name in devkit if not re.search(r"_(train|val|trainval|test)$", name)]
    raise UserError(f"unknown split '{split}' (no file {path}): choose one of {', '.join(ours + plain)}")


def examine_split(path: Path) -> tuple[list[str], list[str]]:
    """Read a split's list. The first word of each line is an image id; blank lines and further words do not count.

    Further words are the labels of the devkit's lists of one class: labels are read from the annotations instead.

    Returns:
        the ids in the list's order, each once; and what is wrong with other lines, one text each.

    Raises:
        UserError: the file cannot be read, or is far too large for a list.
    """
    if require_regular_file(path).st_size > LARGEST_LIST:
        raise UserError(f"{path} is no list of image ids (over {LARGEST_LIST >> 20} MiB)")
    first_lines: dict[str, int] = {}
    problems = []
    try:
        # A byte that is no UTF-8 stays visible in its line's id instead of stopping the reader.
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, start=1):
                for image_id in line.split(maxsplit=1)[:1]:
                    problem = _id_problem(image_id, first_lines)
                    if problem:
                        problems.append(f"line {number}: {problem}")
                    first_lines.setdefault(image_id, number)
    except OSError as error:
        raise UserError(f"cannot read {path} ({reason(error)})") from error
    return [image_id for image_id in first_lines if not _is_no_id(image_id)], problems


def _id_problem(image_id: str, first_lines: dict[str, int]) -> str | None:
    if _is_no_id(image_id):
        return f"{quoted(image_id)} is no image id (a file's name without folder and suffix, in UTF-8)"
    if image_id in first_lines:
        return f"names {shorten(image_id)} twice (first on line {first_lines[image_id]}): remove one of the lines"
    return None


def _is_no_id(word: str) -> bool:
    """Could lead out of the data folder, or cannot be shown."""
    return word in (".", "..") or re.search(rf"[/\\{UNPRINTABLE}]", word) is not None


def read_split(data_dir: str | Path, split: str) -> list[str]:
    """Image ids of a split, in the list's order; see `examine_split`.

    Raises:
        UserError: unknown split, an id that is no plain file name, an id twice, or an empty list.
    """
    path = split_path(data_dir, split)
    ids, problems = examine_split(path)
    if len(problems) == 1:
        raise UserError(f"{path}, {problems[0]}")
    if problems:
        more = f"; and {len(problems) - 3:,} more" if len(problems) > 3 else ""
        raise UserError(f"{path} has {len(problems):,} lines that cannot be used: {'; '.join(problems[:3])}{more}")
    if not ids:
        raise UserError(f"{path} names no image")
    return ids


def image_path(data_dir: Path, image_id: str) -> Path:
    """Where an image is."""
    return data_dir / "JPEGImages" / f"{image_id}.jpg"


def annotation_path(data_dir: Path, image_id: str) -> Path:
    """Where an image's annotation is."""
    return data_dir / "Annotations" / f"{image_id}.xml"


def missing_files(data_dir: Path, ids: list[str], folder: str, suffix: str) -> list[str]:
    """The ids whose file is not in the folder, or all where there is no folder; one look-up, not one for every file."""
    present = _names_in(data_dir / folder) if os.path.isdir(data_dir / folder) else set()
    return [image_id for image_id in ids if image_id + suffix not in present]


def require_files(data_dir: Path, ids: list[str], split: str, folder: str, suffix: str) -> None:
    """Refuse a folder that lacks files of a split.

    Raises:
        UserError: how many are missing, and the first of them.
    """
    missing = missing_files(data_dir, ids, folder, suffix)
    if missing:
        first = ", ".join(map(shorten, missing[:3]))
        raise UserError(
            f"{data_dir / folder} lacks {len(missing):,} of the {len(ids):,} files of split '{split}' (first: "
            f"{first}): give the complete VOC2012 folder as --data_dir, or another split"
        )


def check_folder(data_dir: Path, folders: Sequence[str] = ("JPEGImages", "Annotations")) -> None:
    """Refuse a folder that is no devkit's.

    Raises:
        UserError: it, or a folder that belongs in it, is not there.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"no folder {data_dir}: give the devkit folder that holds JPEGImages as --data_dir")
    for folder in folders:
        if not os.path.isdir(data_dir / folder):
            raise UserError(f"{data_dir} has no folder {folder}: give the devkit folder (VOC2012) as --data_dir")


def _names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise UserError(f"cannot read {folder} ({reason(error)})") from error
