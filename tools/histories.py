"""The history of a run, `experiments/data/<tag>.json`, as the charts read it."""

from pathlib import Path
from typing import Any

from tools.charts import MOST_LINES
from tools.errors import UserError
from tools.files import read_json

History = dict[str, list[dict[str, Any]]]


def read_histories(folder: Path, tags: list[str]) -> list[History]:
    """The histories of several runs.

    Args:
        folder: the `experiments` folder.
        tags: the runs' names.

    Raises:
        UserError: no such run, no history in its file, or more runs than colours that can be told apart.
    """
    if len(tags) > MOST_LINES:
        raise UserError(f"{len(tags)} tags: a picture holds at most {MOST_LINES}, whose colours can be told apart")
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
