"""What a run leaves behind for its reader: log lines, a JSON history, and TensorBoard curves where wanted."""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from tools.errors import UserError
from tools.files import write_json


class RunLog:
    """Writes `experiments/logs/<tag>.txt`, `experiments/data/<tag>.json` and `experiments/tensorboards/<tag>/`.

    Args:
        root: the `experiments` folder.
        tag: the run's name.
        tensorboard: also write TensorBoard events.

    Attributes:
        history: `{"train": [...], "validation": [...]}`, one dict per log line.
    """

    def __init__(self, root: Path, tag: str, tensorboard: bool = False):
        self.history: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
        self._text_path = root / "logs" / f"{tag}.txt"
        self._history_path = root / "data" / f"{tag}.json"
        self._writer = _summary_writer(root / "tensorboards" / tag) if tensorboard else None

    def line(self, text: str) -> None:
        """One line on the screen, above any progress bar, and in the log file."""
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
        write_json(self._history_path, self.history)
        if self._writer:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(f"{kind}/{name}", value, iteration)

    def close(self) -> None:
        """Let TensorBoard finish its file."""
        if self._writer:
            self._writer.close()


def _summary_writer(folder: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs TensorBoard: pip install tensorboard") from error
    return SummaryWriter(str(folder))
