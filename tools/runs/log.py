"""What a run leaves for its reader: log lines, a JSON history, and TensorBoard curves if asked for."""

import copy
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.runs.folder import Folder
from tools.system.errors import UserError, printable
from tools.system.files import write_json, writing


class RunLog:
    """Write a run's text log, its JSON history and, if asked for, TensorBoard curves.

    Args:
        folder, tag: where they lie.
        tensorboard: also write TensorBoard events.
        silent: write and show nothing (all processes of a run except the first).

    Attributes:
        history: `{"train": [...], "validation": [...]}`, one dict per log line.
    """

    def __init__(self, folder: Folder, tag: str, tensorboard: bool = False, silent: bool = False):
        self.history: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
        self.silent = silent
        self._text_path = folder.log(tag)
        self._history_path = folder.history(tag)
        self._curves_path = folder.curves(tag)
        self._make_writer = _summary_writer() if tensorboard and not silent else None
        self._writer: Any = None

    def open(self) -> None:
        """Open the TensorBoard file, if asked for."""
        if self._make_writer:
            with writing(self._curves_path):
                self._writer = self._make_writer(str(self._curves_path))

    def state_dict(self) -> dict[str, Any]:
        """Return the history, and the length of the text log."""
        size = self._text_path.stat().st_size if self._text_path.exists() else 0
        return {"history": copy.deepcopy(self.history), "text_bytes": size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to an earlier state: cut off lines and rows written after it, because the run repeats them."""
        self.history = copy.deepcopy(state["history"])
        if self.silent:
            return
        write_json(self._history_path, self.history)
        if self._text_path.exists():
            with writing(self._text_path):
                os.truncate(self._text_path, min(state["text_bytes"], self._text_path.stat().st_size))

    def line(self, text: str) -> None:
        """Write one line to the screen, above any progress bar, and to the log file."""
        if self.silent:
            return
        text = printable(text)
        tqdm.write(text)
        with writing(self._text_path):
            self._text_path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._text_path, "a", encoding="utf-8") as file:
                file.write(text + "\n")

    def training(
        self, iteration: int, epoch: int, rates: Mapping[str, float], losses: Mapping[str, float], speed: float
    ) -> None:
        """Log the mean losses since the last line, by name; `rates`: lr and alpha_re; `speed`: images per second."""
        shown = ", ".join(f"{name}={value:.4f}" for name, value in losses.items())
        weights = f"lr={rates['lr']:.5f}, alpha_re={rates['alpha_re']:.2f}"
        self.line(f"[i] iteration={iteration:,}, {weights}, {shown}, {speed:.1f} images/s")
        row = {"epoch": epoch, **rates, **losses, "images_per_second": round(speed, 2)}
        self._record("train", iteration, row)

    def validation(self, iteration: int, epoch: int, mean: float, per_class: dict[str, float | None]) -> None:
        """Log an epoch's mAP and average precision of each class, %; None for a class without a positive."""
        known = {name: round(value, 4) for name, value in per_class.items() if value is not None}
        without_positive = [name for name in per_class if name not in known]
        note = f" (no positive of {', '.join(without_positive)})" if without_positive else ""
        self.line(f"[i] iteration={iteration:,}, epoch={epoch}, mAP={mean:.2f}%{note}")
        self.line("    " + ", ".join(f"{name} {value:.1f}" for name, value in known.items()))
        row = {"epoch": epoch, "mAP": mean, "average_precision": known, "without_positive": without_positive}
        self._record("validation", iteration, row)

    def picture(self, name: str, image: np.ndarray, iteration: int) -> None:
        """Show a picture, uint8 RGB `[h, w, 3]`, in TensorBoard, if asked for."""
        if self._writer:
            self._writer.add_image(name, image, iteration, dataformats="HWC")

    def close(self) -> None:
        if self._writer:
            self._writer.close()

    def _record(self, kind: str, iteration: int, values: dict[str, Any]) -> None:
        self.history[kind].append({"iteration": iteration, **values})
        if self.silent:
            return
        write_json(self._history_path, self.history)
        if self._writer:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(f"{kind}/{name}", value, iteration)


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs TensorBoard: pip install tensorboard") from error
    return SummaryWriter
