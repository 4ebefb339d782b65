"""Raw scores of an evaluation, written and read back."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tools.system.errors import UserError, first_few
from tools.system.files import reason, replace_file


@dataclass
class Scores:
    """Scores of images, and what they were made with: all that metrics need.

    Attributes:
        ids: N image ids, in the split's order.
        class_names: V names.
        scores: float32 `[N, V]` in 0…1.
        labels: int8 `[N, V]`, the devkit's (1 present, 0 only as difficult objects, −1 absent); None for an unlabeled
            split.
        settings: what the scores were made with, plain values.
    """

    ids: list[str]
    class_names: list[str]
    scores: np.ndarray
    labels: np.ndarray | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def check(self, origin: str) -> None:
        """Refuse scores that no metric can use.

        Raises:
            UserError: the shapes do not match, or scores are not finite (their images are named). The message starts
                with `origin`.
        """
        shape = (len(self.ids), len(self.class_names))
        labels_shape = shape if self.labels is None else self.labels.shape
        if self.scores.shape != shape or labels_shape != shape:
            raise UserError(
                f"{origin}: scores {self.scores.shape} and labels {labels_shape} do not match {shape[0]:,} images and "
                f"{shape[1]} classes"
            )
        broken = [self.ids[row] for row in np.flatnonzero(~np.isfinite(self.scores).all(1))]
        if broken:
            raise UserError(
                f"{origin}: the scores of {len(broken):,} of {len(self.ids):,} images are not finite "
                f"({first_few(broken)})"
            )


def write_scores(path: Path, scored: Scores) -> None:
    """Write scores as `.npz`: arrays `ids`, `class_names`, `scores`, `settings`, and `presence` if there are labels."""
    arrays = {
        "ids": np.array(scored.ids),
        "class_names": np.array(scored.class_names),
        "scores": scored.scores.astype(np.float32),
        "settings": np.array(json.dumps(scored.settings)),
    }
    if scored.labels is not None:
        arrays["presence"] = scored.labels.astype(np.int8)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, NumPy would append .npz to it
            np.savez_compressed(file, **arrays)

    replace_file(path, write)


def read_scores(path: Path) -> Scores:
    """Read what `write_scores` wrote. Files of other origin need `ids`, `class_names` and `scores`.

    Raises:
        UserError: the file cannot be read, lacks arrays, or holds arrays that do not match.
    """
    arrays = _read_arrays(path)
    missing = [name for name in ("ids", "class_names", "scores") if name not in arrays]
    if missing:
        raise UserError(f"{path} lacks the arrays {', '.join(missing)}")
    scores = arrays["scores"]
    if scores.dtype.kind not in "fiu" or scores.ndim != 2:
        raise UserError(f"{path}: scores must be numbers [images, classes], not {scores.dtype} {list(scores.shape)}")
    ids, class_names = ([str(name) for name in np.atleast_1d(arrays[key])] for key in ("ids", "class_names"))
    try:
        settings = dict(json.loads(str(arrays.get("settings", "{}"))))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: its settings are not a JSON object ({reason(error)})") from error
    scored = Scores(ids, class_names, scores, arrays.get("presence"), settings)
    scored.check(str(path))
    return scored


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)})") from error
    except Exception as error:  # a damaged file can break the reader anywhere, and NumPy's message advises unsafe ways
        raise UserError(f"{path} cannot be read as .npz: it is damaged, or holds other things than arrays") from error
