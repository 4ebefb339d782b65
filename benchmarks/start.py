"""Seconds from a command to its first words: --help and a mistyped argument of every program, and a first iteration.

Programs that need PyTorch to know their arguments are listed with the seconds that importing it takes. The first
iteration is that of cTopk-w on toy images, ResNet-18 at 64 px, which takes little time itself.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from tools.system.command_line import parse, to_argv
from tools.system.errors import run_main
from tools.system.files import ROOT

TRAINING = "train_classification_with_puzzle_cTopk_w_ema.py"
SCRIPTS = (TRAINING, "evaluate_classification.py", "inference_classification.py", "reproduce_tables.py")
TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py") if "run_main(" in path.read_text())
PROGRAMS = {name: [name] for name in SCRIPTS} | {f"tools.{name}": ["-m", f"tools.{name}"] for name in TOOLS}
SMALL = {"architecture": "resnet18", "weights": "none", "num_workers": 0, "batch_size": 4, "image_size": 64}
SMALL |= {"min_image_size": 64, "max_image_size": 80, "train_split": "Main/train", "val_split": "Main/val"}


@dataclass(frozen=True)
class Config(measure.TimingArguments):
    programs: tuple[str, ...] = measure.names_argument(PROGRAMS)


def main() -> None:
    config = parse(Config, __doc__)
    results = {"import torch": median(config, "import torch", ["-c", "import torch"])}
    for name in config.programs:
        endings = ("--help", "--mistyped")
        results[name] = {word: median(config, f"{name} {word}", [*PROGRAMS[name], word]) for word in endings}
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"data_dir": measure.toy_set(folder, 64), "tag": "start", "print_ratio": 0.01, **SMALL}
        command = [str(ROOT / TRAINING), *to_argv(arguments)]
        results["first iteration"] = median(config, "first iteration", command, Path(folder), until="] iteration=")
    measure.save(config, "start", results)


def median(config: Config, name: str, words: list[str], folder: Path = ROOT, until: str | None = None) -> float:
    """Print and return the median seconds of a command of Python, until it ends or prints a line with this text."""

    def run() -> None:
        command = [sys.executable, "-u", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, cwd=folder, text=True, **pipes) as process:
            for line in process.stdout:
                if until and until in line:
                    process.kill()

    seconds = measure.measurement(config, measure.CPU, run)["seconds"]
    print(f"{name:65s} {seconds:6.2f} s", flush=True)
    return seconds


if __name__ == "__main__":
    run_main(main)
