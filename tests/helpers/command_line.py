"""The scripts as a user types them: shared by the tests that run them whole."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    "Max": "train_classification_with_puzzle_max.py",
    "cMax": "train_classification_with_puzzle_cMax_ema.py",
    "cTopk": "train_classification_with_puzzle_cTopk_ema.py",
    "cTopk_w": "train_classification_with_puzzle_cTopk_w_ema.py",
}
SMALL = (
    *("--architecture", "resnet18", "--weights", "none", "--num_workers", "0", "--batch_size", "16"),
    *("--image_size", "32", "--min_image_size", "32", "--max_image_size", "48"),
    *("--train_split", "Main/train", "--val_split", "Main/val"),
)


def run(folder: Path, script: str, *words: object, **environment: str) -> subprocess.CompletedProcess:
    """A script, typed in `folder`."""
    command = [sys.executable, str(ROOT / script), *map(str, words)]
    clean = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(folder), "PYTHONPATH": "", **environment}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=560, env=clean)


def refused(folder: Path, script: str, *words: object, **environment: str) -> str:
    """The one line of a run that has to end with status 2 and no traceback."""
    result = run(folder, script, *words, **environment)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def small_with(**changes: object) -> list:
    """The words of a small run with some arguments changed."""
    words = list(SMALL)
    for name, value in changes.items():
        if f"--{name}" in words:
            place = words.index(f"--{name}")
            del words[place : place + 2]
        words += [f"--{name}", value]
    return words
