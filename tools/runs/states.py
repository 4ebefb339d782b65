"""The state of a run, from which `--resume` continues: written so that one whole state is always on the disk."""

import os
from pathlib import Path
from typing import Any

import torch

from tools.runs.checkpoints import read_tensors
from tools.runs.folder import Folder, as_history
from tools.system.errors import UserError
from tools.system.files import replace_file

# What a state consists of.
PARTS: dict[str, type | tuple[type, ...]] = {
    "strategy": str,
    "trainer": dict,
    "random": list,
    "epoch": int,
    "samples": int,
    "losses": dict,
    "best": (int, float),
    "log": dict,
    "arguments": dict,
    "images": str,
}


class OldVersion(UserError):
    """A state that an earlier version of this code saved."""


def save_state(folder: Folder, tag: str, state: dict[str, Any]) -> None:
    """Write a run's state. The one before stays until this one is whole, and is then the earlier state."""
    path = folder.state(tag)

    def write(temporary: Path) -> None:
        torch.save(state, temporary)
        if path.exists():
            os.replace(path, folder.state(tag, ".earlier.pth"))

    replace_file(path, write)


def load_state(folder: Folder, tag: str, path: Path | None = None) -> tuple[dict[str, Any], str] | None:
    """Return the last whole state, and which file it is from (with what was wrong with a newer one).

    Args:
        path: another file than the run's own.

    Returns:
        None if there is no file. If there are files but none can be used, that is an error.
    """
    own = [folder.state(tag), folder.state(tag, ".earlier.pth")]
    problems: list[str] = []
    for candidate in [path] if path else [file for file in own if file.exists()]:
        try:
            state = _read(candidate)
        except OldVersion:
            raise  # the state before it is older still
        except UserError as error:
            problems.append(str(error))
            continue
        newer = "".join(f" (a newer state was unreadable: {problem})" for problem in problems)
        return state, f"{candidate}{newer}"
    if problems:
        raise UserError(" and ".join(problems))
    return None


def is_own(folder: Folder, tag: str, path: Path) -> bool:
    """Return whether a file is one of the run's two states."""
    return path.resolve() in (folder.state(tag).resolve(), folder.state(tag, ".earlier.pth").resolve())


def _read(path: Path) -> dict[str, Any]:
    state = read_tensors(path)
    if isinstance(state, dict) and "trainer" in state and "strategy" not in state:
        raise OldVersion(
            f"{path} was saved by an earlier version of this code: finish its run with that version, or start again "
            "without --resume"
        )
    if not _is_state(state):
        raise UserError(f"{path} is not the state of a run (models are for --weights)")
    return state


def _is_state(content: Any) -> bool:
    if not isinstance(content, dict) or not all(isinstance(content.get(name), kind) for name, kind in PARTS.items()):
        return False
    log = content["log"]
    known = as_history(log.get("history")) is not None and isinstance(log.get("text_bytes"), int)
    losses = all(isinstance(name, str) and isinstance(loss, torch.Tensor) for name, loss in content["losses"].items())
    return known and losses and content["epoch"] >= 0 and content["samples"] >= 0
