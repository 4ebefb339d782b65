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
PAPER = ("--alpha_schedule_re", "0.05", "--alpha_re", "3.00", "--alpha_p", "0.5")  # what the README's commands say
SMALL = (
    *PAPER,
    *("--architecture", "resnet18", "--weights", "none", "--num_workers", "0", "--batch_size", "16"),
    *("--image_size", "32", "--min_image_size", "32", "--max_image_size", "48"),
    *("--train_split", "Main/train", "--val_split", "Main/val"),
)


def command(script: str, *words: object) -> list[str]:
    """Return the words of a script of the repository, or of a module as ("-m", NAME, …)."""
    program = [script] if script == "-m" else [str(ROOT / script)]
    return [sys.executable, *program, *map(str, words)]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return a clean environment in which the repository's modules are found from any folder."""
    return {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(folder), "PYTHONPATH": str(ROOT), **more}


def run(folder: Path, script: str, *words: object, **more: str) -> subprocess.CompletedProcess:
    """Run a script, typed in `folder`; `more` goes into its environment."""
    typed, variables = command(script, *words), environment(folder, **more)
    return subprocess.run(typed, cwd=folder, capture_output=True, text=True, timeout=1200, env=variables)


def refused(folder: Path, script: str, *words: object, **more: str) -> str:
    """Return the one line of a run that has to end with status 2 and no traceback."""
    result = run(folder, script, *words, **more)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def small_with(**changes: object) -> list:
    """Return the words of a small run with some arguments changed."""
    words = list(SMALL)
    for name, value in changes.items():
        if f"--{name}" in words:
            index = words.index(f"--{name}")
            del words[index : index + 2]
        words += [f"--{name}", value]
    return words
