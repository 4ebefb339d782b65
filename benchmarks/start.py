"""Seconds from a command to its first words: --help and a mistyped argument of every program, and a first iteration.

Programs that need PyTorch to know their arguments are listed with the seconds that importing it takes. The first
iteration is that of cTopk-w on toy images, ResNet-18 at 64 px, which takes little time itself.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import torch

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
    """Measure, print the table and write it as JSON."""
    config = parse(Config, __doc__)
    results = {"import torch": median(config, ["-c", "import torch"])}
    for name in config.programs:
        results[name] = {words: median(config, [*PROGRAMS[name], words]) for words in ("--help", "--mistyped")}
        print(f"{name:45s} --help {results[name]['--help']:.2f} s, --mistyped {results[name]['--mistyped']:.2f} s")
    results["first iteration"] = first_iteration()
    for name in ("import torch", "first iteration"):
        print(f"{name:45s} {results[name]:.2f} s")
    measure.save(config, "start.json", torch.device("cpu"), results)


def median(config: Config, words: list[str]) -> float:
    """Return the median seconds of a command of Python."""
    seconds = []
    for _ in range(config.warm_up + config.repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[config.warm_up :])


def first_iteration() -> float:
    """Return the seconds from the command to the first logged iteration, which then ends the run."""
    with tempfile.TemporaryDirectory() as folder:
        toy = [sys.executable, "-m", "tools.make_toy_voc", "--out", f"{folder}/toy", "--images", "40"]
        subprocess.run([*toy, "--image_size", "64"], cwd=ROOT, check=True, capture_output=True)
        words = to_argv({"data_dir": f"{folder}/toy", "tag": "start", "print_ratio": 0.01, **SMALL})
        started = time.perf_counter()
        command = [sys.executable, "-u", ROOT / TRAINING, *words]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
            for line in run.stdout:
                if "iteration" in line and "loss" in line:
                    break
            seconds = time.perf_counter() - started
            run.kill()
    return seconds


if __name__ == "__main__":
    run_main(main)
