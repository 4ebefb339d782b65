"""What an evaluation leaves on the disk: raw scores, and tables as text, CSV and JSON."""

import csv
import hashlib
import importlib.metadata
import io
import json
import math
import platform
import shlex
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tools.bootstrap import Interval
from tools.errors import UserError
from tools.files import reason, replace_file, write_json
from tools.metrics import TOP, Metrics

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "opencv-python-headless", "pillow")
DECIMALS = 4  # of per cents in the CSV


@dataclass
class Scores:
    """Scores of images, and what they were made with: all that metrics need.

    Attributes:
        ids: N image ids, in the split's order.
        class_names: V names.
        scores: float32 `[N, V]` in 0…1.
        presence: int8 `[N, V]` (see `tools.presence`), or None for a split without labels.
        settings: what the scores were made with, plain values.
    """

    ids: list[str]
    class_names: list[str]
    scores: np.ndarray
    presence: np.ndarray | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def check(self, origin: str) -> None:
        """Refuse scores that no metric can use.

        Raises:
            UserError: shapes that do not belong together, or a score that is no number; its image is named.
        """
        shape = (len(self.ids), len(self.class_names))
        presence_shape = shape if self.presence is None else self.presence.shape
        if self.scores.shape != shape or presence_shape != shape:
            raise UserError(
                f"{origin}: scores {self.scores.shape} and labels {presence_shape} do not belong to {shape[0]:,} "
                f"images and {shape[1]} classes"
            )
        broken = [self.ids[row] for row in np.flatnonzero(~np.isfinite(self.scores).all(1))]
        if broken:
            shown = ", ".join(broken[:3]) + (", …" if len(broken) > 3 else "")
            raise UserError(
                f"{origin}: the scores of {len(broken):,} images are not finite ({shown}): look at these images, or "
                "try --amp off"
            )


def write_scores(path: Path, scored: Scores) -> None:
    """Write scores as `.npz`: arrays `ids`, `class_names`, `scores`, `presence` (labelled splits) and `settings`."""
    arrays = {
        "ids": np.array(scored.ids),
        "class_names": np.array(scored.class_names),
        "scores": scored.scores.astype(np.float32),
        "settings": np.array(json.dumps(scored.settings)),
    }
    if scored.presence is not None:
        arrays["presence"] = scored.presence.astype(np.int8)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    replace_file(path, write)


def read_scores(path: Path) -> Scores:
    """Read what `write_scores` wrote. Files of other origin need `ids`, `class_names` and `scores`.

    Raises:
        UserError: no such file, or not these arrays in it.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if isinstance(arrays, np.ndarray):
                raise ValueError("a single array")
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"--scores {path} is no readable .npz file ({reason(error)})") from error
    missing = [name for name in ("ids", "class_names", "scores") if name not in found]
    if missing:
        raise UserError(f"--scores {path} lacks the arrays {', '.join(missing)}")
    if found["scores"].dtype.kind not in "fiu" or found["scores"].ndim != 2:
        raise UserError(f"--scores {path}: scores must be numbers [images, classes], not {found['scores'].dtype}")
    ids, class_names = ([str(word) for word in np.atleast_1d(found[name])] for name in ("ids", "class_names"))
    try:
        settings = json.loads(str(found.get("settings", "{}")))
    except json.JSONDecodeError as error:
        raise UserError(f"--scores {path}: its settings are no JSON ({reason(error)})") from error
    scored = Scores(ids, class_names, found["scores"], found.get("presence"), settings)
    scored.check(f"--scores {path}")
    return scored


def provenance() -> dict[str, Any]:
    """The command, the code's commit and the versions: what repeating a result needs besides its settings."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"command": shlex.join(["python3", *sys.argv]), "commit": commit(), "versions": versions}


def commit(root: Path = ROOT) -> str | None:
    """The checkout's commit, with "+changes" where tracked files differ from it; None outside a checkout or without
    git."""
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def sha256(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
