"""What a run leaves behind for its reader: log lines, a JSON history, and TensorBoard curves where wanted."""

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.runs.folder import RunFiles
from tools.system.errors import UserError
from tools.system.files import write_json


class RunLog:
    """Writes a run's text log, its JSON history and, where wanted, TensorBoard curves.

    Args:
        files: where they lie.
        tensorboard: also write TensorBoard events.
        silent: write and show nothing (all processes of a run but the first).

    Attributes:
        history: `{"train": [...], "validation": [...]}`, one dict per log line.
    """

    def __init__(self, files: RunFiles, tensorboard: bool = False, silent: bool = False):
        self.history: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
        self.silent = silent
        self._text_path = files.log
        self._history_path = files.history
        self._writer = _summary_writer(files.curves) if tensorboard and not silent else None

    def state_dict(self) -> dict[str, Any]:
        """The history, and how long the text log is."""
        size = self._text_path.stat().st_size if self._text_path.exists() else 0
        return {"history": copy.deepcopy(self.history), "text_bytes": size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to an earlier state: lines and rows written after it are cut off, for the run repeats them."""
        self.history = copy.deepcopy(state["history"])
        if self.silent:
            return
        write_json(self._history_path, self.history)
        if not self._text_path.exists():
            return
        try:
            os.truncate(self._text_path, min(state["text_bytes"], self._text_path.stat().st_size))
        except OSError as error:
            raise UserError(f"cannot write {self._text_path} ({error.strerror}): free it or go elsewhere") from error

    def line(self, text: str) -> None:
        """One line on the screen, above any progress bar, and in the log file."""
        if self.silent:
            return
        tqdm.write(text)
        try:
            self._text_path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._text_path, "a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self._text_path} ({error.strerror}): free it or go elsewhere") from error

    def record(self, kind: str, iteration: int, values: dict[str, Any]) -> None:
        """Add a row to the history file and its numbers to TensorBoard.

        Args:
            kind: "train" or "validation".
            iteration: steps done so far.
            values: names with numbers, or with dicts of numbers.
        """
        self.history[kind].append({"iteration": iteration, **values})
        if self.silent:
            return
        write_json(self._history_path, self.history)
        if self._writer:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(f"{kind}/{name}", value, iteration)

    def picture(self, name: str, image: np.ndarray, iteration: int) -> None:
        """Show a picture, uint8 RGB `[h, w, 3]`, in TensorBoard, where that is wanted."""
        if self._writer:
            self._writer.add_image(name, image, iteration, dataformats="HWC")

    def close(self) -> None:
        """Let TensorBoard finish its file."""
        if self._writer:
            self._writer.close()


def _summary_writer(folder: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs TensorBoard: pip install tensorboard") from error
    try:
        return SummaryWriter(str(folder))
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}): choose a writable folder") from error
