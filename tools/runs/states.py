"""The state of a run, from which `--resume` continues: written so that one whole state is always on the disk."""

import json
from pathlib import Path
from typing import Any

import torch

from tools.runs.checkpoints import read_tensors, write_tensors
from tools.runs.folder import Folder, as_history
from tools.system.errors import Shortage, UserError
from tools.system.files import remove, sync_folder, temporary_file

# What a state consists of.
PARTS = {"strategy": str, "trainer": dict, "random": list, "epoch": int, "samples": int, "losses": dict}
PARTS |= {"best": (int, float), "log": dict, "arguments": dict, "class_names": list, "data": dict}


class OldVersion(UserError):
    """A state that an earlier version of this code saved."""


class States:
    """The files of a run's state: the newest, and the one before.

    One whole state is on the disk at any time: the newest is moved only when its successor is whole and synced, and
    never over the one before if it could not be read.
    """

    def __init__(self, folder: Folder, tag: str):
        self.newest = folder.state(tag)
        self.before = folder.state(tag, ".earlier.pth")
        self._newest_is_damaged = False

    def save(self, state: dict[str, Any]) -> None:
        write_tensors(self.newest, state, keep=None if self._newest_is_damaged else self.before)
        self._newest_is_damaged = False

    def try_space(self, state: dict[str, Any]) -> None:
        """Raise a `UserError` if a state cannot be written; change nothing."""
        with temporary_file(self.newest) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path | None = None) -> tuple[dict[str, Any], str] | None:
        """Return the last whole state, or that of another file, and where it is from; None if there is no file.

        If there are files but none can be used, that is an error.
        """
        problems: list[str] = []
        for candidate in [path] if path else [file for file in (self.newest, self.before) if file.exists()]:
            try:
                state = _read(candidate)
            except (OldVersion, Shortage):
                raise  # the state before it is older still, or this one may be whole
            except UserError as error:
                problems.append(str(error))
                self._newest_is_damaged |= candidate == self.newest
                continue
            newer = "".join(f" (a newer state was unreadable: {problem})" for problem in problems)
            return state, f"{candidate}{newer}"
        if problems:
            raise UserError(" and ".join(problems))
        return None

    def remove(self) -> None:
        """Remove both files, the one before first: after a kill in between, the newest still ends the run."""
        for path in (self.before, self.newest):
            remove(path)
            sync_folder(path.parent)

    def include(self, path: Path) -> bool:
        return path.resolve() in (self.newest.resolve(), self.before.resolve())


def _read(path: Path) -> dict[str, Any]:
    state = read_tensors(path)
    if isinstance(state, dict) and "trainer" in state and "data" not in state:
        raise OldVersion(f"{path} was saved by an earlier version: finish its run with that, or start without --resume")
    if not _is_state(state):
        raise UserError(f"{path} is not the state of a run (models are for --weights)")
    return state


def _is_state(state: Any) -> bool:
    """Whether a run can take this: the parts of a state, each of its kind, whoever wrote them."""
    if not isinstance(state, dict) or not all(isinstance(state.get(name), kind) for name, kind in PARTS.items()):
        return False
    log, losses, best = state["log"], state["losses"], state["best"]
    counts = (state["epoch"], state["samples"], log.get("text_bytes"))
    try:
        json.dumps([state["arguments"], state["data"], state["class_names"], log, *losses])  # plain values, no tensors
        generators = [one for states in state["random"] for one in (states["cpu"], *states["cuda"])]
        return (
            as_history(log.get("history")) is not None
            and len(generators) > 0
            and all(map(torch.is_tensor, [*generators, *losses.values()]))
            and all(loss.dim() == 1 and len(loss) > 0 and loss.is_floating_point() for loss in losses.values())
            and all(type(count) is int and 0 <= count < 1 << 62 for count in counts)
            and (isinstance(best, float) or abs(best) <= 100)  # %; a float may be anything, also NaN
        )
    except (TypeError, ValueError, LookupError, RecursionError):
        return False
