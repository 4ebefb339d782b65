"""Result files of other programs: score tables, the VOC server's text files, and what ADD-GCN and CSRA write."""

import csv
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import logit

from tools.metrics.multilabel import binary_labels
from tools.metrics.scores import Scores, read_scores
from tools.metrics.submission import CLASSES, read_submission
from tools.system.errors import UserError, first_few
from tools.system.files import read_json, reason

LABEL = "label:"  # before the class's name in the header of a column of labels
ARRAYS = ("logits", "probabilities", "labels", "counted")
SERVER_FILE = re.compile(r"comp\d+_cls_(.+)_([^_]+)\.txt")
LABELS = (-1, 0, 1)


def read_results(path: Path, class_names: list[str] | None = None) -> Scores:
    """Read scores of any of these formats; labels are None if the format has none.

    * `.npz`: see `tools.metrics.scores.read_scores`.
    * `.csv` with a header: a column of image names, one column per class, and, for labels, columns `label:CLASS`.
    * `.csv` without one, as ADD-GCN's `results.csv`: name, a logit per class, a label per class.
    * `.json`, as CSRA's result list: objects with `file_name`, `scores` and perhaps `target`.
    * a folder or an archive of `comp?_cls_SPLIT_CLASS.txt`, or one of these files, whose neighbors are read too.

    Values outside 0…1 make a table one of logits; others are probabilities. Labels are 1, 0 (only difficult) and −1.

    Args:
        class_names: of formats that do not name them (default: VOC's, if there are 20).

    Raises:
        UserError: the file cannot be read, and where.
    """
    reader = _reader(path)
    return reader(path, class_names)


@dataclass(frozen=True)
class LabeledScores:
    """Scores with labels, as metrics take them; arrays `[N, V]`."""

    ids: list[str]
    class_names: list[str]
    logits: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray  # boolean
    counted: np.ndarray  # boolean: False leaves a pair out

    def take(self, rows: np.ndarray) -> "LabeledScores":
        """Return the images of these rows."""
        arrays = {name: getattr(self, name)[rows] for name in ARRAYS}
        return replace(self, ids=[self.ids[row] for row in rows], **arrays)

    def with_classes(self, class_names: list[str], origin: Path) -> "LabeledScores":
        """Return the same classes in this order; raise a `UserError` that names `origin` if they are others."""
        if differing := sorted(set(class_names).symmetric_difference(self.class_names)):
            raise UserError(f"{origin} has other classes than the first file; they differ in {first_few(differing)}")
        columns = [self.class_names.index(name) for name in class_names]
        arrays = {name: getattr(self, name)[:, columns] for name in ARRAYS}
        return replace(self, class_names=class_names, **arrays)


def read_labeled(path: Path, class_names: list[str] | None = None, difficult: str = "positive") -> LabeledScores:
    """Read scores that have labels, see `read_results`; `difficult` as in `tools.metrics.multilabel.binary_labels`.

    Raises:
        UserError: as `read_results`, and if the file holds no labels.
    """
    scored = read_results(path, class_names)
    if scored.labels is None:
        raise UserError(f"{path} holds no labels: evaluate_classification.py --scores {path} --data_dir … adds them")
    labels, counted = binary_labels(scored.labels, difficult)
    arrays = (logits_of(scored), scored.probabilities, labels & counted, counted)
    return LabeledScores(scored.ids, scored.class_names, *arrays)


def logits_of(scored: Scores) -> np.ndarray:
    """Return the logits `[N, V]`, or those of the probabilities if only these are known."""
    if scored.are_logits:
        return scored.scores
    scores = np.clip(scored.scores.astype(np.float64), 1e-38, 1 - 2**-25)  # float32 sigmoids may be exactly 0 or 1
    return logit(scores)


def _reader(path: Path) -> Callable[[Path, list[str] | None], Scores]:
    if path.is_dir() or path.suffix == ".txt" or path.name.endswith((".tar.gz", ".tgz")):
        return _read_server_files
    known = {".csv": _read_table, ".json": _read_list}
    return known.get(path.suffix.lower(), lambda path, _: read_scores(path))


def _read_table(path: Path, class_names: list[str] | None) -> Scores:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} as CSV: {reason(error)}") from error
    if not rows or len(rows[0]) < 2:
        raise UserError(f"{path} is not a table of an image's name and a score per class")
    ragged = [str(number) for number, row in enumerate(rows, 1) if len(row) != len(rows[0])]
    if ragged:
        raise UserError(f"{path}: rows {first_few(ragged)} do not have {len(rows[0])} columns like the first")
    has_header = not _is_number(rows[0][1])
    values = _numbers(path, (row[1:] for row in rows[has_header:]), 1 + has_header)
    ids = [row[0] for row in rows[has_header:]]
    if has_header:
        return _with_header(path, ids, [cell.strip() for cell in rows[0][1:]], values)
    classes = values.shape[1] // 2
    names = _names(path, class_names, classes)
    if values.shape[1] % 2 or not np.isin(values[:, classes:], LABELS).all():
        raise UserError(f"{path} has no header; then a row is a name, a score per class, a label (1, 0, -1) per class")
    return _scores(path, ids, names, values[:, :classes], values[:, classes:])


def _with_header(path: Path, ids: list[str], header: list[str], values: np.ndarray) -> Scores:
    names = [name for name in header if not name.startswith(LABEL)]
    labels = [LABEL + name for name in names]
    if len(set(header)) < len(header) or set(header) - set(names) not in (set(), set(labels)):
        expected = f"each class once, and either none or all of them as {LABEL}CLASS"
        raise UserError(f"{path}: the header must name {expected}")
    columns = {name: values[:, number] for number, name in enumerate(header)}
    found = np.stack([columns[name] for name in labels], 1) if len(names) < len(header) else None
    return _scores(path, ids, names, np.stack([columns[name] for name in names], 1), found)


def _read_list(path: Path, class_names: list[str] | None) -> Scores:
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} is not a list of objects with file_name and scores")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str) or "scores" not in entry:
            raise UserError(f"{path}: entry {number} is not an object with file_name and scores")
    scores = _numbers(path, (entry["scores"] for entry in entries))
    has_labels = all("target" in entry for entry in entries)
    labels = _numbers(path, (entry["target"] for entry in entries)) if has_labels else None
    names = _names(path, class_names, scores.shape[1])
    return _scores(path, [entry["file_name"] for entry in entries], names, scores, labels)


def _read_server_files(path: Path, class_names: list[str] | None) -> Scores:
    folder = path if path.is_dir() else path.parent
    is_archive = path.is_file() and path.suffix != ".txt"
    contents = read_submission(path) if is_archive else {str(file): None for file in sorted(folder.glob("comp*.txt"))}
    found = {name: match for name in contents if (match := SERVER_FILE.fullmatch(Path(name).name))}
    if path.suffix == ".txt" and str(path) in found:  # of several sets in a folder, the one that was named
        found = {name: match for name, match in found.items() if match[1] == found[str(path)][1]}
    sets = {Path(name).name.removesuffix(f"_{match[2]}.txt") for name, match in found.items()}
    if len(sets) != 1:
        seen = f"files of {first_few(sorted(sets))}" if sets else "none"
        raise UserError(f"{path}: expected comp?_cls_SPLIT_CLASS.txt of one competition and split, found {seen}")
    columns = {found[name][2]: dict(zip(*(contents[name] or _text_column(Path(name))), strict=True)) for name in found}
    names = class_names or sorted(columns)
    if differing := sorted(columns.keys() ^ set(names)):
        raise UserError(f"{path}: its files and the class file differ in {first_few(differing)}")
    ids = list(columns[names[0]])
    if differing := [name for name in names if columns[name].keys() != set(ids)]:
        raise UserError(f"{path}: the files of {first_few(differing)} list other images than that of {names[0]}")
    return _scores(path, ids, names, np.array([[columns[name][image] for name in names] for image in ids], float))


def _text_column(path: Path) -> tuple[list[str], list[float]]:
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({reason(error)})") from error
    wrong = [number for number, row in enumerate(rows, 1) if len(row) != 2 or not _is_number(row[1])]
    if wrong:
        raise UserError(f"{path}, line {wrong[0]}: expected an image id and a score")
    return [row[0] for row in rows], [float(row[1]) for row in rows]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(path: Path, rows: Iterable[list], first: int = 0) -> np.ndarray:
    """Return rows of numbers as float64 `[N, columns]`; `first` is the number of the first row in messages."""
    values = []
    for number, row in enumerate(rows, first):
        try:
            values.append(np.array(row, np.float64))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: row {number} holds something that is not a number ({reason(error)})") from error
        if values[-1].shape != values[0].shape or values[0].ndim != 1:
            raise UserError(f"{path}: row {number} does not hold {values[0].size} numbers like the first")
    if not values:
        raise UserError(f"{path} has no row of scores")
    return np.stack(values)


def _names(path: Path, class_names: list[str] | None, count: int) -> list[str]:
    names = class_names or (sorted(CLASSES) if count == len(CLASSES) else [])
    if len(names) != count:
        named = f"the class file names {len(names)}" if names else "does not name them: give a class file"
        raise UserError(f"{path} has scores of {count} classes; {named}")
    return names


def _scores(
    path: Path, ids: list[str], names: list[str], values: np.ndarray, labels: np.ndarray | None = None
) -> Scores:
    if labels is not None and (labels.shape != values.shape or not np.isin(labels, LABELS).all()):
        raise UserError(f"{path}: labels must be 1, 0 (only difficult objects) or -1, one for each score")
    if not np.isfinite(values).all():
        raise UserError(f"{path}: scores must be finite numbers")
    labels = labels if labels is None else labels.astype(np.int8)
    are_logits = bool((values < 0).any() or (values > 1).any())
    scored = Scores(ids, names, values, labels, {"scores": path.name}, are_logits)
    scored.check(str(path))
    return scored
