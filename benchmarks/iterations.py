"""Iterations whose number of crops changes from batch to batch, and every wait for the device in them.

Trains on noise, as benchmarks.step does; in each batch other images show the least to the most of --labels.

rules  cuDNN chooses its kernels by rules (ours)
tuned  cuDNN times its kernels for every number of crops that it has not seen

Seconds are those of all iterations: most timing happens in the first ones. On a GPU it then runs ten iterations of
every strategy with CUDA's warning for every operation that waits for the device, and names the lines of the project
that wait, except the one that asks whether loss and gradients are finite.
"""

import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks import measure, step
from tools.system.command_line import argument, parse
from tools.system.errors import run_main
from tools.system.files import ROOT

WAYS = ("rules", "tuned")
WATCHED = 10  # iterations
EXPECTED = "_all_finite"  # the function of the trainer that waits once per iteration


@dataclass(frozen=True)
class Config(step.Config):
    iterations: int = argument(40, "batches of each way", above=0)


def main() -> None:
    config = parse(Config, __doc__)
    results = {}
    for name in config.strategies:
        results[name] = measure.measured({way: (varying, config, name, way) for way in WAYS}, f"{name},")
    if measure.prepare_device(config).type == "cuda":
        results["waits"] = measure.measured({name: (waits, config, name) for name in step.STRATEGIES}, "waits,")
    measure.save(config, "iterations", results)


def batches(config: Config) -> list[torch.Tensor]:
    """Return the labels `[B, V]` of all batches."""
    generator = torch.Generator().manual_seed(0)
    size = (config.iterations, config.batch_size)
    counts = torch.randint(min(config.labels), max(config.labels) + 1, size, generator=generator)
    order = torch.rand(*size, config.classes, generator=generator).argsort(-1).argsort(-1)  # of each class
    return list((order < counts[..., None]).float())


def varying(config: Config, name: str, way: str) -> dict:
    """Measure all iterations of one of `WAYS`, from the first."""
    steps = step.Steps(config, name)
    trainer = steps.trainer()
    torch.backends.cudnn.benchmark = way == "tuned"
    labels = batches(config)
    seconds = measure.seconds(lambda: [trainer.iterate(steps.images, batch) for batch in labels], steps.device)
    crops = sorted({len(steps.strategy.crops(batch).image) for batch in labels})
    return {"seconds": seconds, "peak_memory": measure.peak_memory(steps.device), "crops": crops}


def waits(config: Config, name: str) -> dict[str, int]:
    """Return, and print, how often each line waits for the device in the iterations after the first."""
    steps = step.Steps(config, name)
    trainer = steps.trainer()
    trainer.iterate(steps.images, steps.labels)
    torch.cuda.set_sync_debug_mode("warn")
    lines = lines_that_warn(lambda: [trainer.iterate(steps.images, steps.labels) for _ in range(WATCHED)])
    torch.cuda.set_sync_debug_mode("default")
    for line, count in lines.items():
        print(f"{name} waits {count} times in {WATCHED} iterations: {line}", flush=True)
    return lines


def lines_that_warn(action: Callable[[], object]) -> dict[str, int]:
    """Return the innermost line of the project under each warning about a wait, without `EXPECTED`, and its count."""
    lines = Counter()

    def note(message: Warning | str, *_: object) -> None:
        stack = traceback.extract_stack()[:-1]
        *_, frame = (at for at in stack if at.filename.startswith(str(ROOT)) and "site-packages" not in at.filename)
        if "synchroniz" in str(message) and frame.name != EXPECTED:
            lines[f"{frame.filename.removeprefix(f'{ROOT}/')}:{frame.lineno} ({frame.line})"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        action()
    return dict(lines)


if __name__ == "__main__":
    run_main(main)
