"""Raw scores of an evaluation, written and read back."""

import io
import json
import math
import os
import zipfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logit

from tools.data.devkit import class_columns, class_name_problem
from tools.system.errors import UserError, first_few, quoted, reported
from tools.system.files import replace_file, require_regular_file, write_text
from tools.system.text_table import csv_text

SCORE_SUFFIXES = (".csv", ".npz")
MAX_BYTES = 1 << 30  # of all arrays of a file; the 10,991 test images of VOC need one million
END_BYTES = 22  # of a zip file after its list of members; from the tenth on, the number of members
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass
class Scores:
    """Scores of images, and what they were made with: all that metrics need."""

    ids: list[str]  # N, in the split's order
    class_names: list[str]  # V
    scores: np.ndarray  # floats `[N, V]`: logits, whose order is the ranking, or scores in 0…1 (see `are_logits`)
    # int8 `[N, V]`, the devkit's (1 present, 0 only as difficult objects, −1 absent); None: unlabeled split
    labels: np.ndarray | None = None
    settings: dict[str, Any] = field(default_factory=dict)  # what the scores were made with, plain values
    are_logits: bool = True

    @property
    def probabilities(self) -> np.ndarray:
        """Scores in 0…1 `[N, V]`: sigmoids in float64, which are below 1 for logits up to 36; in float32, up to 17."""
        return expit(self.scores.astype(np.float64)) if self.are_logits else self.scores

    @property
    def logits(self) -> np.ndarray:
        """Logits `[N, V]`, or those of the probabilities if only these are known."""
        if self.are_logits:
            return self.scores
        # Sigmoids in float32 may be exactly 0 or 1, whose logits are infinite.
        return logit(np.clip(self.scores.astype(np.float64), 1e-38, 1 - 2**-25))

    def check(self, origin: str) -> None:
        """Raise a UserError that starts with `origin` if anything in it is impossible, as ids that occur twice."""
        for name, values in (("image id", self.ids), ("class name", self.class_names)):
            if not values:
                raise UserError(f"{origin} holds no {name}")
            if repeated := [quoted(value) for value, count in Counter(values).items() if count > 1]:
                raise UserError(f"{origin} holds the {name} {first_few(repeated)} more than once")
            if invalid := [quoted(value) for value in values if class_name_problem(value)]:
                raise UserError(f"{origin}: the {name} {invalid[0]} has unprintable characters or outer whitespace")
        shape = (len(self.ids), len(self.class_names))
        labels_shape = shape if self.labels is None else self.labels.shape
        if self.scores.shape != shape or labels_shape != shape:
            counts = f"{shape[0]:,} images and {shape[1]} classes"
            raise UserError(f"{origin}: scores {self.scores.shape} and labels {labels_shape} do not match {counts}")
        if broken := [self.ids[row] for row in np.flatnonzero(~np.isfinite(self.scores).all(1))]:
            share = f"{len(broken):,} of {len(self.ids):,} images"
            raise UserError(f"{origin}: the scores of {share} are not finite ({first_few(broken)})")
        low, high = self.scores.min(), self.scores.max()
        if not self.are_logits and (low < 0 or high > 1):
            found = f"scores are in 0…1, but these are in {low:.4g}…{high:.4g}"
            raise UserError(f"{origin}: {found}: save logits as an array `logits`, and divide values in % by 100")

    def select(self, rows: Any = slice(None), columns: Any = slice(None)) -> "Scores":
        """Return the images and classes of these indices."""
        scores, labels = (None if array is None else array[rows][:, columns] for array in (self.scores, self.labels))
        ids, names = np.array(self.ids)[rows].tolist(), np.array(self.class_names)[columns].tolist()
        return replace(self, ids=ids, class_names=names, scores=scores, labels=labels)

    def of_classes(self, class_names: list[str]) -> "Scores":
        """Return the same scores with the columns in the order of `class_names`; a UserError: other classes."""
        return self.select(columns=class_columns(class_names, self.class_names))

    def of_images(self, ids: list[str], problem: str) -> "Scores":
        """Return the same scores with the rows in the order of `ids`; a UserError that says `problem`: other images."""
        rows = {image: row for row, image in enumerate(self.ids)}
        if differing := sorted(rows.keys() ^ set(ids)):
            raise UserError(f"{problem}; they differ in {first_few(differing)}")
        return self.select([rows[image] for image in ids])


def write_scores(path: Path, scored: Scores) -> None:
    """Write scores as `.npz`, see `read_scores`; labels are written as `presence`."""
    arrays = {"ids": np.array(scored.ids), "class_names": np.array(scored.class_names)}
    arrays["logits" if scored.are_logits else "scores"] = scored.scores
    arrays["settings"] = np.array(json.dumps(scored.settings))
    if scored.labels is not None:
        arrays["presence"] = scored.labels.astype(np.int8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    replace_file(path, lambda temporary: temporary.write_bytes(buffer.getvalue()))


def write_score_file(path: Path, ids: list[str], class_names: list[str], logits: np.ndarray) -> None:
    """Write unlabeled logits `[N, V]` as `.npz`, see `write_scores`, or their scores in 0…1 as a table `.csv`."""
    if path.suffix == ".npz":
        write_scores(path, Scores(ids, class_names, logits))
        return
    rows = [["image", *class_names]]
    rows += [[image, *map("{:.9g}".format, row)] for image, row in zip(ids, expit(logits), strict=True)]
    write_text(path, csv_text(rows))


def read_scores(path: Path) -> Scores:
    """Read a `.npz` file with `ids`, `class_names`, and `logits`, or `scores` in 0…1; each array is verified by a CRC.

    Labels, if any, are `presence`, the devkit's (1, 0, −1), or `labels`, which are multi-hot (0 and 1, or bool) if none
    is −1. `settings` is a JSON object of plain values.

    Raises:
        UserError: the file cannot be read, is damaged, lacks arrays, or holds arrays that do not match.
    """
    arrays = _read_arrays(path)
    missing = [name for name in ("ids", "class_names") if name not in arrays]
    missing += [] if {"logits", "scores"} & arrays.keys() else ["logits (or scores in 0…1)"]
    if missing:
        raise UserError(f"{path} lacks the arrays {', '.join(missing)}")
    are_logits = "logits" in arrays
    scores = arrays["logits" if are_logits else "scores"]
    if scores.dtype.kind not in "fiu" or scores.ndim != 2:
        raise UserError(f"{path}: scores must be numbers [images, classes], not {scores.dtype} {list(scores.shape)}")
    if scores.dtype != np.float32:
        scores = scores.astype(np.float64)
    for name in ("ids", "class_names"):
        if arrays[name].dtype.kind not in "Uiu" or arrays[name].ndim != 1:
            raise UserError(f"{path}: {name} must be texts [n], not {arrays[name].dtype} {list(arrays[name].shape)}")
    ids, class_names = ([str(value) for value in arrays[name]] for name in ("ids", "class_names"))
    settings = _settings(path, arrays)
    scored = Scores(ids, class_names, scores, _labels(path, arrays, settings), settings, are_logits)
    scored.check(str(path))
    return scored


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an `.npz` file, without running code in it or making memory that it does not fill."""
    require_regular_file(path)
    try:
        with reported(f"{path} cannot be read", OSError), path.open("rb") as raw, zipfile.ZipFile(raw) as file:
            members = file.infolist()
            if sum(member.file_size for member in members) > MAX_BYTES:
                raise UserError(f"{path} is too large for scores: its arrays need over {MAX_BYTES >> 30} GiB")
            raw.seek(-len(file.comment) - END_BYTES, os.SEEK_END)
            if int.from_bytes(raw.read(END_BYTES)[10:12], "little") != len(members):
                raise zipfile.BadZipFile  # ZipFile overlooks a damaged list, and an array would be missing
            # `ZipFile.read` compares the CRC of the whole member, NumPy's reader only that of what the shape asks for.
            return {member.filename.removesuffix(".npy"): _array(file.read(member)) for member in members}
    except UserError:
        raise
    except Exception as error:  # a damaged file can break the reader anywhere, and NumPy's message advises unsafe ways
        raise UserError(f"{path} cannot be read as .npz: it is damaged, or holds other things than arrays") from error


def _array(content: bytes) -> np.ndarray:
    """Return the array of a `.npy` file, whose shape may be one of 37 GB, or of endless empty texts."""
    file = io.BytesIO(content)
    shape, fortran_order, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    values = np.frombuffer(content[file.tell() :], dtype) if math.prod(shape) else np.empty(0, dtype)
    return values.reshape(shape, order="F" if fortran_order else "C")


def _settings(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    try:
        settings = json.loads(str(arrays.get("settings", "{}")))
    except (ValueError, RecursionError):
        settings = None
    if isinstance(settings, dict):
        items = [item for value in settings.values() for item in (value if isinstance(value, list) else [value])]
        split = settings.get("split", "val")
        nested = any(isinstance(item, list | dict) for item in items)
        if isinstance(split, str) and not class_name_problem(split) and not nested:
            return settings
    raise UserError(f"{path}: its settings are not a JSON object of plain values, with a name as split")


def _labels(path: Path, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> np.ndarray | None:
    """Return the devkit's labels. A multi-hot `presence` would make every class a positive of every image."""
    if "labels" in arrays and "presence" in arrays:
        raise UserError(f"{path} holds both presence and labels: keep one of them")
    if "labels" in arrays:
        return devkit_labels(_integers(path, "labels", arrays["labels"], kinds="biuf"))
    if "presence" not in arrays:
        return None
    values = _integers(path, "presence", arrays["presence"], kinds="iuf")
    # A file of this project says how it was made, and a split of one class may have no image without it.
    if 0 in values and -1 not in values and "checkpoint" not in settings:
        meaning = "presence is 1 (present), 0 (only as difficult objects) or -1 (absent), and this one has no -1"
        raise UserError(f"{path}: {meaning}: save an array of 0 and 1 as `labels`")
    return values


def devkit_labels(values: np.ndarray) -> np.ndarray:
    """Return labels of 1, 0 and −1 as they are, and those without a −1, which are multi-hot, with −1 for 0."""
    return values if (values < 0).any() else 2 * values - 1


def _integers(path: Path, name: str, values: np.ndarray, kinds: str) -> np.ndarray:
    if values.dtype.kind not in kinds or not np.isin(values, (-1, 0, 1)).all():
        numbers = f"numbers out of -1, 0, 1 ({values.dtype} found)"
        raise UserError(f"{path}: {name} must hold {numbers}; a multi-hot array is saved as `labels`")
    return values.astype(np.int8)
