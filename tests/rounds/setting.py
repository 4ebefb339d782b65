"""The small world in which the rounds happen: a toy data set, finished runs to compare with, and a tally of faults."""

import json
import random
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.helpers.command_line import SCRIPTS
from tests.rounds.sandbox import Outcome, run

# What differs between two runs with the same result.
CLOCK = ("images_per_second", "time", "seconds", "train_seconds", "validation_seconds", "data_seconds", "peak_memory")
SMALL = (
    *("--architecture", "resnet18", "--weights", "none", "--num_workers", "0", "--batch_size", "15", "--device", "cpu"),
    *("--image_size", "32", "--min_image_size", "32", "--max_image_size", "48", "--lr", "0.01", "--max_epoch", "2"),
    *("--train_split", "Main/train", "--val_split", "Main/val", "--save_minutes", "1e-9", "--print_ratio", "0.5"),
)
# The smallest network that there is: a run takes half a second.
SMALLEST = ("--architecture", "timm/test_efficientnet")
TINY = dict([SMALLEST]) | {"--max_epoch": 1, "--save_minutes": 10}


@dataclass
class Tally:
    """Cases of a round, what happened how often, and every fault."""

    name: str
    cases: int = 0
    notes: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def add(self, fault: str | None, case: object, note: str = "") -> None:
        """Count a case; say at once what is wrong with it."""
        self.cases += 1
        if note:
            self.notes[note] = self.notes.get(note, 0) + 1
        if fault:
            self.faults.append(f"{case}: {fault}")
            print(f"FAULT {self.name}: {self.faults[-1]}", flush=True)

    def __str__(self) -> str:
        notes = "".join(f", {count} {note}" for note, count in sorted(self.notes.items()))
        seconds = time.monotonic() - self.started
        return f"{self.name}: {self.cases} cases, {len(self.faults)} faults{notes} ({seconds:.0f} s)"


class World:
    """A folder with a toy data set of 80 images, thrown away at the end."""

    def __init__(self, seed: int):
        self.chance = random.Random(seed)
        self.root = Path(tempfile.mkdtemp(prefix="rounds."))
        self.toy = self.root / "toy"
        self._whole: dict[tuple, Path] = {}
        self._number = 0
        words = ("--out", self.toy, "--images", 80, "--seed", 1, "--image_size", 64)
        made = run(self.folder(), "-m", "tools.make_toy_voc", *words)
        assert made.status == 0, made.errors

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def folder(self) -> Path:
        """Return a new empty folder."""
        self._number += 1
        folder = self.root / f"case{self._number}" / "here"
        folder.mkdir(parents=True)
        return folder

    def copy(self, source: Path) -> Path:
        """Return a new folder with the content of another."""
        folder = self.folder()
        shutil.copytree(source, folder, dirs_exist_ok=True, symlinks=True)
        return folder

    def remove(self, folder: Path) -> None:
        shutil.rmtree(folder.parent, ignore_errors=True)

    def words(self, tag: str, *more: object) -> tuple:
        """Return the command line of a small run of a strategy."""
        return (SCRIPTS[tag], *SMALL, "--data_dir", self.toy, "--tag", tag, *more)

    def tiny(self, program: tuple, tag: str) -> tuple:
        """Return the command line of a run as short as possible."""
        _, *words = self.words("cTopk_w")
        pairs = dict(zip(words[::2], words[1::2], strict=True)) | TINY | {"--tag": tag}
        return (*program, *(word for pair in pairs.items() for word in pair))

    def whole(self, tag: str, *more: object) -> Path:
        """Return the folder of a strategy's run that nothing interrupted."""
        key = (tag, *more)
        if key not in self._whole:
            folder = self.folder()
            ended = run(folder, *self.words(tag, *more))
            assert ended.status == 0, ended.errors
            self._whole[key] = folder
        return self._whole[key]

    def model(self) -> Path:
        """Return the best checkpoint of an uninterrupted run."""
        return self.whole("cTopk_w") / "experiments/models/best_cTopk_w.pth"

    def differs(self, folder: Path, tag: str, *more: object) -> str | None:
        """Return how a run's result differs from the uninterrupted one's, or None: weights bit for bit, history."""
        whole = self.whole(tag, *more)
        models = [root / f"experiments/models/last_{tag}.pth" for root in (folder, whole)]
        if not models[0].exists():
            return "no final model"
        ours, theirs = (torch.load(path, weights_only=True) for path in models)
        if ours.keys() != theirs.keys() or any(not torch.equal(ours[name], theirs[name]) for name in theirs):
            return "other weights at the end"
        if history(folder, tag) != history(whole, tag):
            return "another history"
        left = [str(path.relative_to(folder)) for path in folder.rglob("*.tmp")]
        return f"left behind: {', '.join(left)}" if left else None


def history(folder: Path, tag: str) -> dict:
    """Return a run's history without what the clock says."""
    content = json.loads((folder / f"experiments/data/{tag}.json").read_text())
    kinds = ("train", "validation")
    return {
        kind: [{name: value for name, value in row.items() if name not in CLOCK} for row in content[kind]]
        for kind in kinds
    }


def failed(outcome: Outcome) -> str | None:
    """Return what is wrong with a run that had to succeed."""
    return outcome.fault() or (None if outcome.status == 0 else f"status {outcome.status}: {outcome.line}")
