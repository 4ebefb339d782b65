"""The files of one run: where they lie, who holds them, and what becomes of an earlier run of the same name."""

import errno
import fcntl
import glob
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from tools.pictures.charts import MOST_LINES
from tools.runs.checkpoints import read_tensors
from tools.system.errors import UserError
from tools.system.files import read_json, reason, replace_file


@dataclass(frozen=True)
class Folder:
    """Every path in an `experiments` folder. No other file of the project knows one.

    Attributes:
        root: the folder itself.
    """

    root: Path = Path("experiments")

    def log(self, tag: str) -> Path:
        """Return the text log of a run."""
        return self.root / "logs" / f"{tag}.txt"

    def history(self, tag: str) -> Path:
        """Return the losses and average precisions of a run (JSON)."""
        return self.root / "data" / f"{tag}.json"

    def config(self, tag: str) -> Path:
        """Return the arguments of a run, for `--config` (JSON)."""
        return self.root / "data" / f"{tag}.config.json"

    def model(self, tag: str, kind: str = "") -> Path:
        """Return the latest (""), the "best_" or the "last_" model of a run; its description is the .json beside it."""
        return self.root / "models" / f"{kind}{tag}.pth"

    def state(self, tag: str, suffix: str = ".pth") -> Path:
        """Return the state that `--resume` reads; ".earlier.pth": the one before; ".lock": the run's claim."""
        return self.root / "states" / f"{tag}{suffix}"

    def curves(self, tag: str) -> Path:
        """Return the TensorBoard folder of a run."""
        return self.root / "tensorboards" / tag

    def snapshots(self, tag: str) -> Path:
        """Return the folder of a run's sheets of validation images."""
        return self.root / "snapshots" / tag

    def usage(self, tag: str) -> Path:
        """Return what a run of a series took (JSON)."""
        return self.root / "usage" / f"{tag}.json"

    def earlier(self, tag: str, number: int) -> Path:
        """Return the folder of what the `number`-th earlier run of this tag left."""
        return self.root / "earlier" / f"{tag}.{number}"

    def results(self, checkpoint: Path, split: str) -> Path:
        """Return where the evaluation of a checkpoint on a split goes, without suffix."""
        return self.root / "evaluation" / f"{checkpoint.stem}_{split.replace('/', '_')}"

    def results_again(self, scores: Path) -> Path:
        """Return where a second measurement of a scores file goes, without suffix; it does not replace the first."""
        return self.root / "evaluation" / f"{scores.stem}_again"

    def predictions(self, checkpoint: Path) -> Path:
        """Return the table of predictions of a checkpoint (CSV)."""
        return self.root / "predictions" / f"{checkpoint.stem}.csv"

    def pictures(self, name: str) -> Path:
        """Return the folder of pictures that belong to a table of predictions."""
        return self.root / "pictures" / name

    def picture(self, name: str) -> Path:
        """Return a single picture."""
        return self.root / "pictures" / f"{name}.png"


# What a state consists of.
PARTS = {"trainer": dict, "random": list, "epoch": int, "samples": int, "losses": torch.Tensor, "best": (int, float)}


PARTS |= {"log": dict, "arguments": dict, "images": str}


class RunFiles:
    """Paths of a run in the `experiments` folder, and the only writer's claim to them.

    Args:
        root: the `experiments` folder.
        tag: the run's name.

    Attributes:
        log, history, curves: the text log, the JSON history, the TensorBoard folder.
        config: the arguments, for `--config`.
        snapshots: the folder of the sheets of validation images.
        state, earlier_state: what `--resume` goes on from, and the one before.
    """

    def __init__(self, root: Path, tag: str):
        self.root = root
        self.tag = tag
        self.log = root / "logs" / f"{tag}.txt"
        self.history = root / "data" / f"{tag}.json"
        self.config = root / "data" / f"{tag}.config.json"
        self.curves = root / "tensorboards" / tag
        self.snapshots = root / "snapshots" / tag
        self.state = root / "states" / f"{tag}.pth"
        self.earlier_state = root / "states" / f"{tag}.earlier.pth"
        self._lock = root / "states" / f"{tag}.lock"
        self._held = None

    def model(self, kind: str = "") -> Path:
        """Path of the latest ("" ), the "best_" or the "last_" model."""
        return self.root / "models" / f"{kind}{self.tag}.pth"

    def take(self) -> None:
        """Claim the run's files for this process, until it ends in whatever way.

        Raises:
            UserError: another process holds them, or the folder cannot be written.
        """
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            held = open(self._lock, "a+", encoding="utf-8")  # noqa: SIM115 – closing it would give the lock back
        except OSError as error:
            raise UserError(f"cannot write {self._lock} ({error.strerror}): choose a writable folder") from error
        self._lock_exclusively(held)
        try:
            held.truncate(0)
            held.write(f"process {os.getpid()} on {socket.gethostname()}")
            held.flush()
        except OSError as error:
            raise UserError(f"cannot write {self._lock} ({error.strerror}): free some space") from error
        self._held = held
        self._sweep()

    def _lock_exclusively(self, held: TextIO) -> None:
        try:
            # A lock of the process, not of the open file: loader processes do not inherit it.
            fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise UserError(f"cannot lock {self._lock} ({error.strerror}): choose another folder") from error
            held.seek(0)
            holder = held.read().strip() or "another process"
            raise UserError(
                f"a run with tag {self.tag} is going on ({holder}): wait for it, end it, or choose another --tag"
            ) from error

    def release(self) -> None:
        """Give the claim back."""
        if self._held:
            # The file stays: if it went, a run that has just opened it and one that makes it anew could both hold it.
            self._held.close()
            self._held = None

    def _sweep(self) -> None:
        """Remove what a killed run was writing."""
        for path in self._all_files():
            for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
                temporary.unlink(missing_ok=True)

    def _all_files(self) -> list[Path]:
        models = [self.model(kind) for kind in ("", "best_", "last_")]
        descriptions = [model.with_suffix(".json") for model in models]
        return [self.log, self.history, self.config, self.state, self.earlier_state, *models, *descriptions]

    def owns(self, path: Path) -> bool:
        """Whether it is one of this run's two states."""
        return path.resolve() in (self.state.resolve(), self.earlier_state.resolve())

    def put_aside(self) -> Path | None:
        """Move what an earlier run of this tag left into a folder of its own, so that a new run begins on empty ground.

        Returns:
            the folder; None where there was nothing.

        Raises:
            UserError: the folder or the disk does not take it.
        """
        files = [path for path in [*self._all_files(), self.curves, self.snapshots] if path.exists()]
        if not files:
            return None
        number = 1
        while (self.root / "earlier" / f"{self.tag}.{number}").exists():
            number += 1
        aside = self.root / "earlier" / f"{self.tag}.{number}"
        try:
            for path in files:
                target = aside / path.relative_to(self.root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, target)
        except OSError as error:
            raise UserError(f"cannot put an earlier run aside in {aside} ({reason(error)}): choose a --tag") from error
        return aside

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the state; the one before stays until this one is whole, and then as `earlier_state`.

        Raises:
            UserError: the folder or the disk does not take it; the states before are untouched.
        """

        def write(temporary: Path) -> None:
            torch.save(state, temporary)
            if self.state.exists():
                os.replace(self.state, self.earlier_state)

        replace_file(self.state, write)

    def load_state(self, path: Path | None = None) -> tuple[dict[str, Any], str] | None:
        """The last whole state.

        Args:
            path: another file than the run's own.

        Returns:
            the state and which file it is from (with what was wrong with a later one); None where there is none.

        Raises:
            UserError: there are files, but none can be read.
        """
        candidates = [path] if path else [file for file in (self.state, self.earlier_state) if file.exists()]
        problems = []
        for candidate in candidates:
            try:
                state = read_tensors(candidate)
                if not _is_state(state):
                    raise UserError(f"{candidate} is no state of a run (models are for --weights)")
                return state, "; ".join([f"{candidate}", *problems])
            except UserError as error:
                problems.append(f"not the later one, for {error}")
        if problems:
            raise UserError(" and ".join(problem.removeprefix("not the later one, for ") for problem in problems))
        return None


def _is_state(content: Any) -> bool:
    if not isinstance(content, dict) or not all(isinstance(content.get(name), kind) for name, kind in PARTS.items()):
        return False
    log = content["log"]
    history = log.get("history")
    known = isinstance(history, dict) and all(isinstance(history.get(kind), list) for kind in ("train", "validation"))
    return known and isinstance(log.get("text_bytes"), int) and content["epoch"] >= 0 and content["samples"] >= 0


History = dict[str, list[dict[str, Any]]]


def read_histories(folder: Path, tags: list[str]) -> list[History]:
    """The histories of several runs.

    Args:
        folder: the `experiments` folder.
        tags: the runs' names.

    Raises:
        UserError: no such run, no history in its file, or more runs than colors that can be told apart.
    """
    if len(tags) > MOST_LINES:
        raise UserError(f"{len(tags)} tags: a picture holds at most {MOST_LINES}, whose colors can be told apart")
    return [_read(folder, tag) for tag in tags]


def _read(folder: Path, tag: str) -> History:
    path = folder / "data" / f"{tag}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.json"))) or "none"
        raise UserError(f"no history {path}: give the --tag of a run (here: {known})")
    history = read_json(path)
    if not isinstance(history, dict) or not all(
        isinstance(history.get(kind), list) for kind in ("train", "validation")
    ):
        raise UserError(f"{path} is no history of a training run")
    return history


def best_validation(history: History, tag: str) -> dict[str, Any]:
    """The row of the epoch with the highest mAP.

    Raises:
        UserError: the run has not been validated yet.
    """
    if not history["validation"]:
        raise UserError(f"the run {tag} has no validation yet: wait for the end of its first epoch")
    return max(history["validation"], key=lambda row: row["mAP"])


def epochs_of(history: History, kind: str) -> list[float]:
    """When each row was written, in epochs; a run's iterations an epoch are those between its validations."""
    counted = history["validation"] or history["train"]
    if not counted:
        return []
    per_epoch = max(row["iteration"] / row["epoch"] for row in counted)
    return [row["iteration"] / per_epoch for row in history[kind]]


EXPERIMENTS = Path("experiments")


def checkpoint_path(tag: str | None, weights: str | None) -> Path:
    """The checkpoint that `--tag` or `--weights` names."""
    return Path(weights) if weights else EXPERIMENTS / "models" / f"best_{tag}.pth"
