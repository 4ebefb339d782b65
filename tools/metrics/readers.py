"""Result files of other programs: score tables, the VOC server's text files, and what ADD-GCN and CSRA write."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.data.devkit import read_class_names
from tools.metrics.multilabel import DIFFICULT, binary_labels
from tools.metrics.scores import Scores, devkit_labels, read_scores
from tools.metrics.submission import CLASSES, RESULT_FILE, read_submission, result_lines
from tools.pictures.figure import COLUMN_HELP, WIDTHS
from tools.system.command_line import Arguments, argument
from tools.system.errors import UserError, first_few, reported
from tools.system.files import read_json, require_regular_file

OUT_HELP = "result files without suffix (default in experiments/evaluation)"
LABEL = "label:"  # before the class's name in the header of a column of labels


@dataclass(frozen=True)
class ScoreArguments(Arguments):
    """Arguments of programs that read labeled scores."""

    difficult: str = argument("positive", "what a class shown only as difficult objects is", choices=DIFFICULT)
    class_file: Path | None = argument(None, "class_names of a table that does not name its classes")
    column: str = argument("screen", COLUMN_HELP, choices=WIDTHS)

    def read(self, path: Path, first: Scores | None = None) -> Scores:
        """Read scores that have labels, with the classes of those that were read first.

        A UserError: as `read_results`, and if the file holds no labels, no positive or other classes.
        """
        scored = read_labeled(path, read_class_names(self.class_file) if self.class_file else None)
        if not binary_labels(scored.labels, self.difficult)[0].any():
            raise UserError(f"{path} has no positive: there is nothing to measure")
        try:
            return scored.of_classes(first.class_names) if first else scored
        except UserError as error:
            raise UserError(f"compared with the first file, {path} has {error}") from error


def read_labeled(path: Path, class_names: list[str] | None = None) -> Scores:
    """Read scores as `read_results` does, and raise a `UserError` if the file holds no labels."""
    scored = read_results(path, class_names)
    if scored.labels is None:
        raise UserError(f"{path} holds no labels: evaluate_classification.py --scores {path} --data_dir … adds them")
    return scored


def read_results(path: Path, class_names: list[str] | None = None) -> Scores:
    """Read scores of any of these formats; labels are None if the format has none.

    * `.npz`: see `tools.metrics.scores.read_scores`.
    * `.csv` with a header: a column of image names, one column per class, and, for labels, columns `label:CLASS`.
    * `.csv` without one: name, a score per class, and, as in ADD-GCN's `results.csv`, a label per class.
    * `.json`, as CSRA's result list: objects with `file_name`, `scores` and perhaps `target`.
    * a folder or an archive of `comp?_cls_SPLIT_CLASS.txt`, or one of these files, whose neighbors are read too.

    Values outside 0…1 make a table one of logits; others are probabilities. Labels are 1, 0 (only difficult) and −1;
    those without a −1 are multi-hot, 1 and 0 (absent).

    Args:
        class_names: the columns of the result; a format that does not name them holds them in this order (default:
            VOC's, if there are 20).

    Raises:
        UserError: the file cannot be read, and where, or holds other classes.
    """
    if not path.is_dir():
        require_regular_file(path)
    if path.is_dir() or path.name.endswith((".txt", ".tar", ".tar.gz", ".tgz")):
        scored = _read_server_files(path)
    elif path.suffix.lower() == ".csv":
        scored = _read_table(path, class_names)
    else:
        scored = _read_list(path, class_names) if path.suffix == ".json" else read_scores(path)
    try:
        return scored.of_classes(class_names) if class_names else scored
    except UserError as error:
        raise UserError(f"compared with the class file, {path} has {error}") from error


def _read_table(path: Path, class_names: list[str] | None) -> Scores:
    errors = (OSError, UnicodeDecodeError, csv.Error)
    with reported(f"cannot read {path} as CSV", *errors), path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows or len(rows[0]) < 2:
        raise UserError(f"{path} is not a table of an image's name and a score per class")
    header, names = [cell.strip() for cell in rows[0][1:]], class_names or sorted(CLASSES)
    has_header = not all(map(_is_number, header)) or sorted(header) == sorted(names)
    rows = rows[has_header:]
    ids, values = [row[0] for row in rows], _numbers(path, (row[1:] for row in rows))
    if not has_header and len(header) == len(names):
        header = names
    elif not has_header:  # ADD-GCN's
        names = _names(path, class_names, len(header) // 2)
        header = [*names, *(LABEL + name for name in names)]
    names = [name for name in header if not name.startswith(LABEL)]
    labels = [LABEL + name for name in names]
    if len(header) != values.shape[1] or sorted(header) not in (sorted(names), sorted(names + labels)):
        expected = f"a column for each class, and none or one for each as {LABEL}CLASS"
        raise UserError(f"{path}: expected {expected}")
    columns = dict(zip(header, values.T, strict=True))
    found = np.stack([columns[name] for name in labels], 1) if len(header) > len(names) else None
    return _scores(path, ids, names, np.stack([columns[name] for name in names], 1), found)


def _read_list(path: Path, class_names: list[str] | None) -> Scores:
    entries = read_json(path)
    try:
        if not isinstance(entries, list):
            raise TypeError
        ids = [str(entry["file_name"]) for entry in entries]
        scores = _numbers(path, (entry["scores"] for entry in entries))
        are_labeled = any("target" in entry for entry in entries)
        labels = _numbers(path, (entry["target"] for entry in entries)) if are_labeled else None
    except (TypeError, KeyError) as error:
        raise UserError(f"{path} is not a list of objects with file_name, scores and perhaps target") from error
    return _scores(path, ids, _names(path, class_names, scores.shape[1]), scores, labels)


def _read_server_files(path: Path) -> Scores:
    is_text = path.suffix == ".txt" and path.is_file()
    if path.is_file() and not is_text:
        contents = read_submission(path, others=True)
    else:
        files = sorted((path.parent if is_text else path).glob("comp*_cls_*.txt"))
        contents = {}
        for file in files:
            require_regular_file(file)
            with reported(f"{file}: expected an image id and a score per line", OSError, ValueError):
                contents[file.name] = result_lines(file.read_bytes())
    found = {name: match for name in contents if (match := RESULT_FILE.fullmatch(name))}
    if is_text:  # of several sets in a folder, that of the file that was named
        named = RESULT_FILE.fullmatch(path.name)
        found = {name: match for name, match in found.items() if named and match[1] == named[1]}
    sets = sorted({match[1] for match in found.values()})
    if len(sets) != 1:
        raise UserError(f"{path}: expected comp?_cls_SPLIT_CLASS.txt of one split, found {first_few(sets) or 'none'}")
    columns = {match[2]: dict(zip(*contents[name], strict=True)) for name, match in found.items()}
    names = sorted(columns)
    ids = list(columns[names[0]])
    if differing := [name for name in names if columns[name].keys() != set(ids)]:
        raise UserError(f"{path}: the files of {first_few(differing)} list other images than that of {names[0]}")
    return _scores(path, ids, names, np.array([[columns[name][image] for name in names] for image in ids], float))


def _is_number(text: str) -> bool:
    try:
        float(text)
        return True
    except ValueError:
        return False


def _numbers(path: Path, rows: Iterable[list]) -> np.ndarray:
    """Return rows of numbers as float64 `[N, columns]`."""
    # overflow: an integer of hundreds of digits
    with reported(f"{path} holds something that is not a number", ValueError, TypeError, OverflowError):
        values = [np.array(row, np.float64) for row in rows]
    wrong = [str(number) for number, value in enumerate(values, 1) if value.shape != (values[0].size,)]
    if wrong or not values or not values[0].size:
        raise UserError(f"{path}: entries {first_few(wrong)} do not hold as many numbers as the first")
    return np.stack(values)


def _names(path: Path, class_names: list[str] | None, count: int) -> list[str]:
    names = class_names or (sorted(CLASSES) if count == len(CLASSES) else [])
    if len(names) != count:
        named = f"the class file names {len(names)}" if names else "does not name them: give --class_file"
        raise UserError(f"{path} has scores of {count} classes; {named}")
    return names


def _scores(
    path: Path, ids: list[str], names: list[str], values: np.ndarray, labels: np.ndarray | None = None
) -> Scores:
    if labels is not None:
        if labels.shape != values.shape or not np.isin(labels, (-1, 0, 1)).all():
            raise UserError(f"{path}: labels must be 1, 0 (only difficult objects) or -1, one for each score")
        labels = devkit_labels(labels.astype(np.int8))
    are_logits = not bool(((values >= 0) & (values <= 1)).all())
    scored = Scores(ids, names, values, labels, {"scores": path.name}, are_logits)
    scored.check(str(path))
    return scored
