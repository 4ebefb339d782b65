"""Raw scores of an evaluation, written and read back."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tools.system.errors import UserError, first_few
from tools.system.files import reason, replace_file


@dataclass
class Scores:
    """Scores of images, and what they were made with: all that metrics need."""

    ids: list[str]  # N, in the split's order
    class_names: list[str]  # V
    scores: np.ndarray  # float32 `[N, V]` in 0…1
    # int8 `[N, V]`, the devkit's (1 present, 0 only as difficult objects, −1 absent); None: unlabeled split
    labels: np.ndarray | None = None
    settings: dict[str, Any] = field(default_factory=dict)  # what the scores were made with, plain values

    def check(self, origin: str) -> None:
        """Raise a UserError that starts with `origin` if shapes do not match or scores are not finite."""
        shape = (len(self.ids), len(self.class_names))
        labels_shape = shape if self.labels is None else self.labels.shape
        if self.scores.shape != shape or labels_shape != shape:
            counts = f"{shape[0]:,} images and {shape[1]} classes"
            raise UserError(f"{origin}: scores {self.scores.shape} and labels {labels_shape} do not match {counts}")
        broken = [self.ids[row] for row in np.flatnonzero(~np.isfinite(self.scores).all(1))]
        if broken:
            share = f"{len(broken):,} of {len(self.ids):,} images"
            raise UserError(f"{origin}: the scores of {share} are not finite ({first_few(broken)})")


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
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    replace_file(path, lambda temporary: temporary.write_bytes(buffer.getvalue()))


def read_scores(path: Path) -> Scores:
    """Read what `write_scores` wrote. Files of other origin need `ids`, `class_names` and `scores`.

    Raises:
        UserError: the file cannot be read, lacks arrays, or holds arrays that do not match.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)})") from error
    except Exception as error:  # a damaged file can break the reader anywhere, and NumPy's message advises unsafe ways
        raise UserError(f"{path} cannot be read as .npz: it is damaged, or holds other things than arrays") from error
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
