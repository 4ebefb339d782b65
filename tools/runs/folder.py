"""The `experiments` folder: every path in it, the claim of a run to its files, and what becomes of an earlier run."""

import errno
import fcntl
import itertools
import math
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tools.system.errors import UserError, first_few, reason
from tools.system.files import read_json, remove, sync_folder, writing

History = dict[str, list[dict[str, Any]]]
# Endings of the tables beside a result; no result's own name ends so, or one would replace the other.
BESIDE = LOCALIZATION, IN_PROTOCOLS, LABELS, CLASS_PAIRS = ("_localization", "_protocols", "_labels", "_class_pairs")
SEED = re.compile(r"[._-]?seed[._-]?\d+", re.IGNORECASE)  # in names that otherwise are the same
EARLIER_NAMES = {"lr": "learning_rate", "mAP": "map"}  # of values in histories of earlier versions


def _under(pattern: str) -> Callable[..., Path]:
    """Return a method of `Folder`: a path with a tag or another name in it."""

    def path(self: "Folder", *names: str | Path) -> Path:
        return self.root / pattern.format(*names)

    return path


@dataclass(frozen=True)
class Folder:
    """Every path in an `experiments` folder; no other file of the project spells one.

    Of a model there are "best_", "last_" and "" for the latest, each with a .json that describes it; of a state ".pth",
    ".earlier.pth", the one before, and ".lock", the claim. Results and predictions are those of a checkpoint.
    """

    root: Path = Path("experiments")

    log = _under("logs/{}.txt")
    history = _under("data/{}.json")
    config = _under("data/{}.config.json")
    curves = _under("tensorboards/{}")
    snapshots = _under("snapshots/{}")
    epochs = _under("epochs/{}")
    usage = _under("usage/{}.json")
    predictions = _under("predictions/{.stem}.csv")  # of a checkpoint
    export = _under("exports/{.stem}{}")  # of a checkpoint, with this suffix
    results_again = _under("evaluation/{.stem}_again")  # a second measurement of a scores file, beside the first
    benchmark = _under("benchmarks/{}")
    picture = _under("pictures/{}.png")
    pictures = _under("pictures/{}")  # the folder of those that belong to a table of predictions

    def model(self, tag: str, kind: str = "") -> Path:
        return self.root / "models" / f"{kind}{tag}.pth"

    def state(self, tag: str, suffix: str = ".pth") -> Path:
        return self.root / "states" / f"{tag}{suffix}"

    def earlier(self, tag: str, number: int, hidden: str = "") -> Path:
        """Return where files of an earlier run go; hidden: "." until everything has been moved there."""
        return self.root / "earlier" / f"{hidden}{tag}.{number}"

    def results(self, checkpoint: Path, split: str) -> Path:
        """Return where the evaluation of a checkpoint on a split goes, without suffix."""
        name = f"{checkpoint.stem}_{split.replace('/', '_')}"
        return self.root / "evaluation" / (f"{name}_split" if name.endswith(BESIDE) else name)

    def lasting(self, tag: str = "") -> list[Path]:
        """Return what outlives runs, as far as its name holds `tag`: earlier runs, results, pictures, exports."""
        folders = [self.root / name for name in ("earlier", "evaluation", "exports", "pictures", "predictions")]
        return [path for folder in folders for path in sorted(folder.glob("*")) if tag in path.name]


class RunFiles:
    """The files of one run in the `experiments` folder, and the only writer's claim to them."""

    def __init__(self, folder: Folder, tag: str):
        self.folder = folder
        self.tag = tag
        self._lock = folder.state(tag, ".lock")
        self._held: TextIO | None = None
        self.archived_to: Path | None = None  # where this process has moved an earlier run's files

    def claim(self) -> None:
        """Claim the run's files for this process until it ends, and complete the moves of a killed run."""
        with writing(self._lock):
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            held = open(self._lock, "a+", encoding="utf-8")  # noqa: SIM115 – closing it would release the lock
        try:
            # A lock of the process, not of the open file: loader processes do not inherit it.
            fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise UserError(f"cannot lock {self._lock} ({error.strerror}): choose another folder") from error
            held.seek(0)
            holder = held.read().strip() or "another process"
            running = f"a run with tag {self.tag} is already running ({holder})"
            raise UserError(f"{running}: wait, stop it, or choose another --tag") from error
        if not (self._lock.exists() and os.path.samefile(self._lock, held.fileno())):
            held.close()  # and the lock removed meanwhile, by `list_runs`
            return self.claim()
        with writing(self._lock):
            held.truncate(0)
            held.write(f"process {os.getpid()} on {socket.gethostname()}")
            held.flush()
        self._held = held
        # A run killed during the move had not written anything yet: what was not moved belongs to the run before it.
        name = re.compile(rf"\.{re.escape(self.tag)}\.\d+")
        for moving in self.folder.earlier(self.tag, 0).parent.glob(".*"):
            if name.fullmatch(moving.name):
                self._move_into(moving)

    def release(self) -> None:
        """End the claim. The lock file stays."""
        if self._held:
            self._held.close()
            self._held = None

    def find_earlier(self) -> list[Path]:
        """Return the files and folders that an earlier run of this tag left."""
        folder, tag = self.folder, self.tag
        models = [folder.model(tag, kind) for kind in ("", "best_", "last_")]
        paths = [folder.log(tag), folder.history(tag), folder.config(tag), folder.curves(tag), folder.snapshots(tag)]
        paths += [folder.epochs(tag), folder.state(tag), folder.state(tag, ".earlier.pth")]
        paths += [*models, *(model.with_suffix(".json") for model in models)]
        return [path for path in paths if os.path.lexists(path)]

    def archive(self) -> None:
        """Move what an earlier run of this tag left into a folder of its own, `archived_to`.

        So a new run starts clean. A move that was interrupted is completed by the next claim.
        """
        number = next(n for n in itertools.count(1) if not self.folder.earlier(self.tag, n).exists())
        moving = self.folder.earlier(self.tag, number, hidden=".")
        with writing(moving):
            moving.mkdir(parents=True)
            sync_folder(moving.parent)
        self._move_into(moving)

    def _move_into(self, moving: Path) -> None:
        try:
            for path in self.find_earlier():
                _move(path, moving / path.relative_to(self.folder.root))
            self.archived_to = moving.with_name(moving.name[1:])
            os.replace(moving, self.archived_to)
            sync_folder(moving.parent)
        except OSError as error:
            moved = f"cannot move an earlier run of this tag to {moving} ({reason(error)})"
            raise UserError(f"{moved}: free some space, or choose another --tag") from error


def _move(source: Path, target: Path) -> None:
    """Move a file or a folder in one step, also to another disk; an earlier move to it may have been interrupted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(target):
        try:
            os.rename(source, target)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        partial = target.with_name(f".{target.name}.partial")
        remove(partial)
        shutil.copytree(source, partial) if source.is_dir() else shutil.copy2(source, partial)
        os.rename(partial, target)
    remove(source)


def checkpoint_path(tag: str | None, weights: str | Path | None) -> Path:
    """Return the checkpoint that `--tag` or `--weights` names; the error of an unknown tag lists the runs."""
    path = Path(weights) if weights else Folder().model(tag, "best_")
    if not weights and not os.path.exists(path):
        runs = sorted(file.stem.removeprefix("best_") for file in path.parent.glob("best_*.pth"))
        raise UserError(f"no checkpoint {path}: give the --tag of a run (here: {first_few(runs, 20) or 'none'})")
    return path


def read_histories(folder: Folder, tags: list[str]) -> list[History]:
    histories = []
    for path in map(folder.history, tags):
        if not path.is_file():
            known = sorted(file.stem for file in path.parent.glob("*.json") if not file.stem.endswith(".config"))
            raise UserError(f"no history {path}: give the --tag of a run (here: {first_few(known, 20) or 'none'})")
        histories.append(as_history(read_json(path)))
        if histories[-1] is None:
            raise UserError(f"{path} is not the history of a training run")
    return histories


def as_history(content: Any) -> History | None:
    """Return a history with the names of today, also if an earlier version wrote it; None if it is not a history."""
    history = {}
    for kind in ("train", "validation"):
        rows = content.get(kind) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(map(_is_row, rows)):
            return None
        history[kind] = [{EARLIER_NAMES.get(name, name): value for name, value in row.items()} for row in rows]
    return history


def _is_row(row: Any) -> bool:
    by_class = ("average_precision", "chance")
    if not isinstance(row, dict) or not all(isinstance(row.get(name, {}), dict) for name in by_class):
        return False
    names = row.get("without_positive", [])
    counts = [row.get(name) for name in ("iteration", "epoch")]
    return isinstance(names, list) and all(isinstance(name, str) for name in names) and all(map(is_number, counts))


def is_number(value: Any) -> bool:
    """Return whether a value is a number that float holds, not NaN."""
    return type(value) in (int, float) and abs(value) < 1e300


def values_of(history: History, kind: str, name: str) -> list[float]:
    """Return a value of every row; NaN where a row lacks it."""
    return numbers([row.get(name) for row in history[kind]])


def numbers(values: Iterable[Any]) -> list[float]:
    """Return values as floats; NaN for one that is not a number."""
    return [float(value) if is_number(value) else math.nan for value in values]


def best_validation(history: History, tag: str) -> dict[str, Any]:
    """Return the row of the best epoch: with the highest mAP, of the images of `--select_split` if there are any."""
    rows = history["validation"]
    if not rows:
        raise UserError(f"the run {tag} has no validation yet: wait for the end of its first epoch")
    name = "select_map" if "select_map" in rows[-1] else "map"
    values = [-math.inf if math.isnan(value) else value for value in values_of(history, "validation", name)]
    return rows[values.index(max(values))]


def epochs_of(history: History, kind: str) -> list[float]:
    """Return when each row was written, in epochs."""
    counted = history["validation"] or history["train"]
    per_epoch = max((row["iteration"] / max(row["epoch"], 1) for row in counted), default=0) or 1
    return [row["iteration"] / per_epoch for row in history[kind]]
