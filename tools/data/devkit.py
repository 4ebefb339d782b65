"""PASCAL VOC devkit folders: class files, split lists and file paths, checked before they are used."""

import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.data.images import SUFFIXES
from tools.system.errors import UserError, first_few, quoted, reported, shorten
from tools.system.files import ROOT, read_json, require_regular_file

DATA = ROOT / "data"
MAX_LIST_BYTES = 1 << 26  # about five million ids
# Control characters, line separators, bytes outside UTF-8, stray BOMs, and what XML cannot hold.
UNPRINTABLE = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff"
WINDOWS_FILES = ("Thumbs.db", "desktop.ini")
LABELED_LINE = re.compile(r"(.*\S)\s+(-1|0|1)")  # of the devkit's lists of one class


def read_class_names(path: str | Path) -> list[str]:
    """Return the distinct, valid names under `class_names` in a JSON file, in the order of their indices."""
    content = read_json(Path(path))
    names = content.get("class_names") if isinstance(content, dict) else None
    if problem := class_names_problem(names):
        raise UserError(f"class file {path}{problem}")
    return names


def class_names_problem(names: Any, where: str = "under 'class_names'") -> str | None:
    """Return why a value is not a list of class names, as a message about its file ends, or None."""
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return f" has no list of names {where}"
    problem = next(filter(None, map(class_name_problem, names)), None)
    twice = [name for name, count in Counter(names).items() if count > 1]
    return f": {problem}" if problem else f" contains the name {quoted(twice[0])} twice" if twice else None


def class_columns(wanted: Sequence[str], present: Sequence[str]) -> list[int]:
    """Return the index, among the classes that are present, of each wanted class; both are the same in any order.

    The `UserError` for other classes names the difference.
    """
    index = {name: column for column, name in enumerate(present)}
    differing = {"lacks": [name for name in wanted if name not in index], "has also": sorted({*present} - {*wanted})}
    parts = [f"{verb} {first_few(list(map(shorten, names)))}" for verb, names in differing.items() if names]
    if parts:
        raise UserError(f"other classes: it {' and '.join(parts)}")
    return [index[name] for name in wanted]


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
    ours = sorted(file.stem for file in DATA.glob("[!.]*.txt"))
    names = ", ".join(ours + devkit_lists(data_dir))
    raise UserError(f"unknown split '{split}' (no file {path}): choose one of {names}")


def devkit_lists(data_dir: str | Path) -> list[str]:
    """Return the names of a devkit folder's own lists, without those of single classes."""
    names = sorted(file.stem for file in (Path(data_dir) / "ImageSets" / "Main").glob("[!.]*.txt"))
    return [f"Main/{name}" for name in names if not re.search(r"_(train|val|trainval|test)$", name)]


def read_split(data_dir: str | Path, split: str, images: Collection[str] | None = None) -> list[str]:
    """Return the image ids of a split, at least one and each once, in the list's order; see `validate_split`."""
    path = split_path(data_dir, split)
    ids, problems = validate_split(path, image_files(Path(data_dir)) if images is None else images)
    raise_problems(path, problems)
    if not ids:
        raise UserError(f"{path} contains no image id")
    return ids


def raise_problems(path: Path, problems: Sequence[str]) -> None:
    """Raise a `UserError` that names the first problems of the file or folder `path`, if there are any."""
    if problems:
        raise UserError(f"{path}, {first_few(problems, separator='; ')}")


@contextmanager
def noted(problems: list[str], origin: str = "") -> Iterator[None]:
    """Add a `ValueError` or `UserError` of the `with` block to the problems, with its origin, instead of raising it."""
    try:
        yield
    except (ValueError, UserError) as error:
        problems.append(f"{origin}: {error}" if origin else str(error))


def validate_split(path: Path, images: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the valid ids of a split's list, in its order and each once, and a message per invalid or repeated id.

    A line is an id, which may contain spaces, or an id and a label as in the devkit's lists of one class. Labels are
    read from the annotations instead. `images`, the ids that have an image, tell "beach 1" from "beach" with a label.
    """
    first_lines: dict[str, int] = {}
    problems = []
    for number, line in read_lines(path):
        labeled = LABELED_LINE.fullmatch(line)
        image_id = labeled[1] if labeled and line not in images else line
        if labeled and line in images and labeled[1] in images:
            image = f"{quoted(labeled[1])} (with the label {labeled[2]})"
            problem = f"{quoted(line)} is an image, and so is {image}: rename a file"
        # An id is part of a path that must stay inside the data folder, and messages print it.
        elif image_id in (".", "..") or re.search(rf"[/\\{UNPRINTABLE}]", image_id):
            problem = f"{quoted(image_id)} is not an image id (a file name without folder and suffix, in UTF-8)"
        elif image_id in first_lines:
            problem = f"repeats {shorten(image_id)} (first on line {first_lines[image_id]}): remove one of the lines"
        else:
            first_lines[image_id] = number
            continue
        problems.append(f"line {number}: {problem}")
    return list(first_lines), problems


def read_bytes(path: Path, most: int, what: str) -> bytes:
    """Read a regular file of at most `most` bytes that should be `what`; raise a `UserError` if that is impossible."""
    if require_regular_file(path).st_size > most:
        raise UserError(f"{path} is not {what} (over {most >> 20} MiB)")
    with reported(f"cannot read {path}", OSError):
        return path.read_bytes()


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line of a list, without surrounding whitespace and empty lines."""
    content = io.BytesIO(read_bytes(path, MAX_LIST_BYTES, "a list of image ids"))
    # Bytes that are not UTF-8 stay visible in their line's id instead of stopping the reader.
    lines = io.TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(lines, start=1):
        if text := line.strip():
            yield number, composed(text)


def composed(text: str) -> str:
    """Return the Unicode form (NFC) in which ids are compared: file systems differ in how they store umlauts."""
    return unicodedata.normalize("NFC", text)


def check_folder(data_dir: Path, folders: Sequence[str] = ("JPEGImages", "Annotations")) -> None:
    """Check that a devkit folder and the named folders in it exist."""
    if not os.path.isdir(data_dir):
        raise UserError(f"no folder {data_dir}")
    for folder in folders:
        if not os.path.isdir(data_dir / folder):
            raise UserError(f"{data_dir} has no folder {folder}")


class Files(dict[str, list[str]]):
    """The files in one folder of a devkit, by id, which is listed once: faster than asking for each file.

    The id of a file is its name without the suffix, which is one of `suffixes` in any case. Hidden files do not count:
    macOS adds `._name.jpg` to every `name.jpg` that it copies. A folder that does not exist holds no files.
    """

    def __init__(self, folder: Path, suffixes: Sequence[str]):
        super().__init__()
        self.folder, self.suffixes = folder, suffixes
        with reported(f"cannot read {folder}", OSError):
            names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        self.names = [name for name in names if not name.startswith(".") and name not in WINDOWS_FILES]
        for name in self.names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in suffixes:
                self.setdefault(composed(stem), []).append(name)

    def path(self, image_id: str) -> Path:
        """Return the file of an id. None, or several (`a.jpg` and `a.PNG`), are an error."""
        names = self.get(image_id, ())
        if not names:
            raise UserError(f"{self.folder} has no file {shorten(image_id)}{self.suffixes[0]}{self._alike(image_id)}")
        if len(names) > 1:
            files = f"{len(names)} files of {shorten(image_id)} ({_named(names)})"
            raise UserError(f"{self.folder} has {files}: keep one of them")
        return self.folder / names[0]

    def paths(self, ids: Sequence[str], split: str) -> list[Path]:
        """Return the files of a split. The error for missing files counts them and says what is there instead."""
        if missing := self.missing(ids):
            files = f"{len(missing):,} of the {len(ids):,} files of split '{split}'"
            instead = self._alike(missing[0]) or f"; it holds {_named(self.names) or 'no files'}"
            lists = f"; lists of this folder: {first_few(devkit_lists(self.folder.parent)) or 'none'}"
            raise UserError(f"{self.folder} lacks {files} ({first_few(list(map(shorten, missing)))}){instead}{lists}")
        return [self.path(image_id) for image_id in ids]

    def missing(self, ids: Sequence[str]) -> list[str]:
        return [image_id for image_id in ids if image_id not in self]

    def print_skipped(self) -> None:
        """Print how many visible files of other kinds there are, if any."""
        others = [name for name in self.names if not name.lower().endswith(tuple(self.suffixes))]
        if others:
            print(f"note: {self.folder} holds {len(others):,} other files, which are skipped ({_named(others)})")

    def _alike(self, image_id: str) -> str:
        """Return the part of a message that names the files that a missing id may mean."""
        folded = {name: composed(name).casefold() for name in self.names}
        alike = [name for name, text in folded.items() if image_id.casefold() in (text, os.path.splitext(text)[0])]
        return f"; it has {_named(alike)}" if alike else ""


def _named(names: Sequence[str]) -> str:
    return first_few(list(map(quoted, names)))


def image_files(data_dir: Path) -> Files:
    return Files(data_dir / "JPEGImages", SUFFIXES)


def annotation_files(data_dir: Path) -> Files:
    return Files(data_dir / "Annotations", (".xml",))
