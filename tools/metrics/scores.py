"""Raw scores of an evaluation, written and read back."""

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tools.system.errors import UserError
from tools.system.files import reason, replace_file


@dataclass
class Scores:
    """Scores of images, and what they were made with: all that metrics need.

    Attributes:
        ids: N image ids, in the split's order.
        class_names: V names.
        scores: float32 `[N, V]` in 0…1.
        presence: int8 `[N, V]` (see `tools.presence`), or None for a split without labels.
        settings: what the scores were made with, plain values.
    """

    ids: list[str]
    class_names: list[str]
    scores: np.ndarray
    presence: np.ndarray | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def check(self, origin: str) -> None:
        """Refuse scores that no metric can use.

        Raises:
            UserError: shapes that do not belong together, or a score that is no number; its image is named.
        """
        shape = (len(self.ids), len(self.class_names))
        presence_shape = shape if self.presence is None else self.presence.shape
        if self.scores.shape != shape or presence_shape != shape:
            raise UserError(
                f"{origin}: scores {self.scores.shape} and labels {presence_shape} do not belong to {shape[0]:,} "
                f"images and {shape[1]} classes"
            )
        broken = [self.ids[row] for row in np.flatnonzero(~np.isfinite(self.scores).all(1))]
        if broken:
            shown = ", ".join(broken[:3]) + (", …" if len(broken) > 3 else "")
            raise UserError(
                f"{origin}: the scores of {len(broken):,} images are not finite ({shown}): look at these images, or "
                "try --amp off"
            )


def write_scores(path: Path, scored: Scores) -> None:
    """Write scores as `.npz`: arrays `ids`, `class_names`, `scores`, `presence` (labeled splits) and `settings`."""
    arrays = {
        "ids": np.array(scored.ids),
        "class_names": np.array(scored.class_names),
        "scores": scored.scores.astype(np.float32),
        "settings": np.array(json.dumps(scored.settings)),
    }
    if scored.presence is not None:
        arrays["presence"] = scored.presence.astype(np.int8)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    replace_file(path, write)


def read_scores(path: Path) -> Scores:
    """Read what `write_scores` wrote. Files of other origin need `ids`, `class_names` and `scores`.

    Raises:
        UserError: no such file, or not these arrays in it.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if isinstance(arrays, np.ndarray):
                raise ValueError("a single array")
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"--scores {path} is no readable .npz file ({reason(error)})") from error
    missing = [name for name in ("ids", "class_names", "scores") if name not in found]
    if missing:
        raise UserError(f"--scores {path} lacks the arrays {', '.join(missing)}")
    if found["scores"].dtype.kind not in "fiu" or found["scores"].ndim != 2:
        raise UserError(f"--scores {path}: scores must be numbers [images, classes], not {found['scores'].dtype}")
    ids, class_names = ([str(word) for word in np.atleast_1d(found[name])] for name in ("ids", "class_names"))
    try:
        settings = json.loads(str(found.get("settings", "{}")))
    except json.JSONDecodeError as error:
        raise UserError(f"--scores {path}: its settings are no JSON ({reason(error)})") from error
    scored = Scores(ids, class_names, found["scores"], found.get("presence"), settings)
    scored.check(f"--scores {path}")
    return scored
