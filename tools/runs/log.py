"""What a run leaves for its reader: log lines, a JSON history, and TensorBoard curves if asked for."""

import os
import threading
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.runs.folder import Folder, History, as_history, values_of
from tools.system.errors import UserError, printable
from tools.system.files import write_json, writing

LINE_SECONDS = 3  # between two lines on training at least, but that each epoch has one
SHOWN_CLASSES = 3  # best and worst ones, after an epoch


class RunLog:
    """Write a run's text log, its JSON history and, if asked for, TensorBoard curves; if silent, nothing.

    Names are the official code's wherever it writes the same thing; ours follow them. There, too, the curves count
    iterations from 0, and the log from 1.
    """

    def __init__(self, folder: Folder, tag: str, tensorboard: bool = False, silent: bool = False):
        self.history: History = {"train": [], "validation": []}  # a row per log line
        self.silent = silent
        paths = folder.log(tag), folder.history(tag), folder.curves(tag)
        self._text_path, self._history_path, self._curves_path = paths
        self._make_writer: Any = None
        self._writer: Any = None
        self._trained_at = 0.0  # when the last line on training was written
        self._since_line = np.zeros(2)  # images and seconds of training since then
        if tensorboard and not silent:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise UserError("--tensorboard needs TensorBoard: pip install tensorboard") from error
            self._make_writer = SummaryWriter

    def open(self) -> None:
        if self._make_writer:
            threading.excepthook = _report_but_tensorboard
            with writing(self._curves_path):
                self._writer = self._make_writer(str(self._curves_path))

    def state_dict(self) -> dict[str, Any]:
        """Return the history, and the length of the text log."""
        size = self._text_path.stat().st_size if self._text_path.exists() else 0
        return {"history": self.history, "text_bytes": size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to an earlier state: cut off lines and rows written after it, because the run repeats them."""
        self.history = as_history(state["history"])
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
        self,
        iteration: int,
        epoch: int,
        rates: tuple[float, float],
        losses: dict[str, float],
        count: int,
        seconds: float,
        progress: str,
        must_show: bool,
    ) -> None:
        """Log the mean losses since the last row, by name, of `count` images, which took `seconds`.

        Every row is in the history; a line is written if it `must_show`, or if the last one is a few seconds old. A
        line's time and speed are those since the line before.

        Args:
            rates: learning rate, and weight of the reconstruction loss; progress: of the run, to read.
        """
        learning_rate, alpha_re = rates
        self._since_line += count, seconds
        shown = ", ".join(f"{name}={value:.4f}" for name, value in losses.items())
        if must_show or time.monotonic() - self._trained_at >= LINE_SECONDS:
            self._trained_at, (images, spent) = time.monotonic(), self._since_line
            self._since_line, speed = np.zeros(2), images / max(spent, 1e-9)
            values = f"learning_rate={learning_rate:.5f}, {shown}, time={spent:.0f}sec, alpha_re={alpha_re:.2f}"
            done = f"{speed:.1f} images/s, {progress}, at {time.strftime('%H:%M:%S')}"
            self.line(f"[i] iteration={iteration:,}, {values}, {done}")
        row = {"learning_rate": learning_rate, **losses, "time": round(seconds, 2)}
        row |= {"epoch": epoch, "alpha_re": alpha_re, "images_per_second": round(count / max(seconds, 1e-9), 2)}
        self._record("train", iteration, row, {f"Train/{name}": value for name, value in row.items()})

    def validation(
        self, iteration: int, epoch: int, values: dict[str, Any], per_class: dict[str, float | None], seconds: float
    ) -> None:
        """Log an epoch's validation, which took `seconds`.

        Args:
            values: of the validation images "map", their mAP, %, and "eval_class_loss", their mean `class_loss`;
                "map_scale", the strongest feature of a present class's map, mean over present classes;
                "select_map", the mAP of the images of `--select_split`, if there are any; and "chance", the share of
                positives of each class, %.
            per_class: average precision of each class, %; None for a class without a positive.
        """
        known = {name: round(value, 4) for name, value in per_class.items() if value is not None}
        without_positive = [name for name in per_class if name not in known]
        note = f" (no positive of {', '.join(without_positive)})" if without_positive else ""
        mean, loss, scale = (values[name] for name in ("map", "eval_class_loss", "map_scale"))
        selected = values.get("select_map")
        if selected is not None:
            note = f", select_map={selected:.2f}%{note}"
        # fmax skips NaN, the mAP of a validation without any positive.
        best = float(np.fmax.reduce([mean, *values_of(self.history, "validation", "map")]))
        chosen_by = "map" if selected is None else "select_map"
        so_far = [*values_of(self.history, "validation", chosen_by), values[chosen_by]]
        first_best = 1 + int(np.argmax(np.nan_to_num(so_far, nan=-1)))
        best_epoch = f"best epoch {first_best}{' (new)' if first_best == len(so_far) else ''}"
        scores = f"map={mean:.2f}%, best map={best:.2f}%, eval_class_loss={loss:.4f}"
        done = f"time={seconds:.0f}sec, epoch={epoch}, map_scale={scale:.3g}{note}, {best_epoch}"
        self.line(f"[i] iteration={iteration:,}, {scores}, {done}, at {time.strftime('%H:%M:%S')}")
        ranked = [f"{name} {value:.1f}" for name, value in sorted(known.items(), key=lambda item: -item[1])]
        best_ones = ranked[:SHOWN_CLASSES]
        worst_ones = ranked[max(len(ranked) - SHOWN_CLASSES, len(best_ones)) :]
        self.line(f"    best: {', '.join(best_ones) or 'none'}; worst: {', '.join(worst_ones) or 'none'}")
        row = {"map": mean, "best map": best, "eval_class_loss": loss, "time": round(seconds, 2), "epoch": epoch}
        curves = {"map": mean / 100, "best map": best / 100, "eval class loss": loss, "epoch": epoch}
        row["map_scale"] = curves["map_scale"] = scale
        if selected is not None:
            row["select_map"], curves["select map"] = selected, selected / 100
        row |= {"average_precision": known, "without_positive": without_positive, "chance": values["chance"]}
        self._record("validation", iteration, row, {f"Evaluation/{name}": value for name, value in curves.items()})

    def picture(self, name: str, image: np.ndarray, iteration: int) -> None:
        """Show a picture, uint8 RGB `[h, w, 3]`, in TensorBoard, if asked for."""
        if self._writer:
            with writing(self._curves_path):
                self._writer.add_image(name, image, iteration - 1, dataformats="HWC")

    def close(self) -> None:
        """Return when the log is on the disk, and close the TensorBoard file."""
        if not self.silent:
            with writing(self._text_path), open(self._text_path, "a", encoding="utf-8") as file:
                os.fsync(file.fileno())
        if self._writer:
            with writing(self._curves_path):
                self._writer.close()

    def _record(self, kind: str, iteration: int, values: dict[str, Any], curves: dict[str, float]) -> None:
        self.history[kind].append({"iteration": iteration, **values})
        if self.silent:
            return
        write_json(self._history_path, self.history)
        if self._writer:
            with writing(self._curves_path):  # what it could not write earlier is an error now
                for tag, value in curves.items():
                    self._writer.add_scalar(tag, value, iteration - 1)


def _report_but_tensorboard(error: threading.ExceptHookArgs) -> None:
    """Print the error of a thread, unless it is TensorBoard's: the next call to its writer raises that again."""
    if not type(error.thread).__module__.startswith("tensorboard"):
        threading.__excepthook__(error)
