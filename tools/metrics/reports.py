"""Tables of an evaluation and of predictions: text, CSV and JSON."""

import csv
import io
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from tools.metrics.bootstrap import Interval
from tools.metrics.multilabel import TOP, Metrics
from tools.system.errors import UserError
from tools.system.files import reason, replace_file, write_json

DECIMALS = 4  # of per cents in the CSV


def result_name(stem: str, split: str) -> str:
    """Name of an evaluation's files, without suffix."""
    return f"{stem}_{split.replace('/', '_')}"


def table(class_names: list[str], metrics: Metrics, interval: Interval | None, threshold: float) -> str:
    """The metrics to read: a row for each class, and the means."""
    columns = ("AP", "AP_VOC2010", "AP_VOC2007", "precision", "recall")
    heads = ("AP", "VOC2010", "VOC2007", "precision", "recall")
    lines = [f"{'class':15s}" + "".join(f"{head:>10s}" for head in heads) + f"{'positives':>11s}{'chance':>9s}"]
    for row, name in enumerate(class_names):
        values = "".join(f"{_shown(metrics.per_class[column][row]):>10s}" for column in columns)
        chance = _shown(metrics.per_class["chance"][row])
        lines.append(f"{name:15s}{values}{int(metrics.per_class['positives'][row]):11d}{chance:>9s}")
    means = metrics.means
    average = "".join(f"{_shown(means[name]):>10s}" for name in ("mAP", "mAP_VOC2010", "mAP_VOC2007", "CP", "CR"))
    total = int(metrics.per_class["positives"].sum())
    lines.append(f"{'mean (mAP)':15s}{average}{total:11d}{_shown(means['chance']):>9s}")
    if interval:
        lines.append(
            f"95 % of {interval.samples:,} bootstrap samples of the images: mAP {100 * interval.low:.2f} … "
            f"{100 * interval.high:.2f}"
        )
    for suffix, what in (("", f"score above {threshold:g}"), (f"_top{TOP}", f"top {TOP}")):
        names = ("CP", "CR", "CF1", "OP", "OR", "OF1")
        lines.append(f"{what:18s}" + "  ".join(f"{name} {_shown(means[name + suffix])}" for name in names))
    return "\n".join(lines)


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def csv_text(class_names: list[str], columns: dict[str, np.ndarray], mean: dict[str, float]) -> str:
    """A row for each class and one of means; empty where there is no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *columns])
    for row, name in enumerate(class_names):
        writer.writerow([name, *(_cell(values[row]) for values in columns.values())])
    writer.writerow(["mean", *(_cell(mean.get(name, math.nan)) for name in columns)])
    return text.getvalue()


def _cell(value: float) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if float(value).is_integer() and isinstance(value, np.integer) else f"{value:.{DECIMALS}f}"


def mean_row(metrics: Metrics) -> dict[str, float]:
    """The means under the names of their columns per class."""
    names = {"AP": "mAP", "AP_VOC2010": "mAP_VOC2010", "AP_VOC2007": "mAP_VOC2007", "chance": "chance"}
    for suffix in ("", f"_top{TOP}"):
        names |= {f"precision{suffix}": f"CP{suffix}", f"recall{suffix}": f"CR{suffix}"}
    return {column: metrics.means[name] for column, name in names.items()}


def plain(value: Any) -> Any:
    """The value as JSON knows it: arrays as lists, and what is no number as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_results(base: Path, text: str, tables: dict[str, str], result: dict[str, Any]) -> list[Path]:
    """Write `base.txt`, a CSV for each of `tables` (by what follows `base` in its name) and `base.json`.

    Returns:
        the files.
    """
    contents = {base.with_name(f"{base.name}.txt"): text + "\n"}
    contents |= {base.with_name(f"{base.name}{suffix}.csv"): content for suffix, content in tables.items()}
    for path, content in contents.items():
        replace_file(path, lambda temporary, content=content: temporary.write_text(content, encoding="utf-8"))
    json_path = base.with_name(f"{base.name}.json")
    write_json(json_path, plain(result))
    return [*contents, json_path]


COLUMNS = ("image", "class", "score", "keypoint_row", "keypoint_column")


class Prediction(NamedTuple):
    """A predicted class of an image.

    Attributes:
        name: the class; score: 0…1.
        keypoint: (row, column) in the original image's pixels; None for a network without keypoints.
    """

    name: str
    score: float
    keypoint: tuple[int, int] | None


class PredictionTable:
    """A CSV file with a row for every predicted class, and a JSON file with an entry for every image.

    Both are written beside their places and moved there when all is done, so that nobody meets half a table.
    An image of no predicted class has one row, empty but for its name.

    Args:
        path: of the CSV file; the JSON file has the same name with .json.
        about: what stands in the JSON file before the images.
    """

    def __init__(self, path: Path, about: dict[str, Any]):
        self.paths = (path.with_suffix(".csv"), path.with_suffix(".json"))
        self._partial = [target.with_name(f".{target.name}.{os.getpid()}.tmp") for target in self.paths]
        self._about = about
        self._files: list[TextIO] = []
        self._count = 0

    def __enter__(self) -> "PredictionTable":
        try:
            self.paths[0].parent.mkdir(parents=True, exist_ok=True)
            # A file name that is no UTF-8 is written as it is.
            for partial in self._partial:
                self._files.append(open(partial, "w", encoding="utf-8", errors="surrogateescape", newline=""))  # noqa: SIM115
            self._rows = csv.writer(self._files[0])
            self._rows.writerow(COLUMNS)
            about = "".join(f"\n {json.dumps(name)}: {json.dumps(value)}," for name, value in self._about.items())
            self._files[1].write("{" + about + '\n "images": [')
        except OSError as error:
            self._drop()
            raise self._unwritable(error) from error
        return self

    def add(self, image: str, size: tuple[int, int], predictions: list[Prediction], **more: str) -> None:
        """Write an image's predictions; `size` is (height, width), `more` goes into the JSON file."""
        classes = [{"class": p.name, "score": round(p.score, 6), "keypoint": p.keypoint} for p in predictions]
        entry = {"image": image, "height": size[0], "width": size[1], "classes": classes, **more}
        rows = [(image, p.name, f"{p.score:.6f}", *(p.keypoint or ("", ""))) for p in predictions]
        try:
            self._rows.writerows(rows or [(image, "", "", "", "")])
            self._files[1].write(("," if self._count else "") + "\n  " + json.dumps(entry))
        except OSError as error:
            raise self._unwritable(error) from error
        self._count += 1

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self._files[1].write("\n ]\n}\n")
                for file, partial, target in zip(self._files, self._partial, self.paths):
                    file.flush()
                    os.fsync(file.fileno())
                    file.close()
                    os.replace(partial, target)
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            self._drop()

    def _drop(self) -> None:
        """Close and remove what is not in its place; a full disk, or a folder that is none, is reported elsewhere."""
        for file in self._files:
            with suppress(OSError):
                file.close()
        for partial in self._partial:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> UserError:
        where = self.paths[0]
        return UserError(f"cannot write {where} ({reason(error)}): free some space or give another --out")
