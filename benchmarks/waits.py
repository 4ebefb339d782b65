"""Every wait for the GPU in ten iterations of each strategy, on noise, as benchmarks.step trains.

Counts CUDA's warnings for operations that wait for the device, and names the lines of the project that wait, except the
one that asks whether loss and gradients are finite.
"""

import traceback
import warnings
from collections import Counter
from collections.abc import Callable

import torch

from benchmarks import measure, step
from tools.system.command_line import parse
from tools.system.errors import UserError, run_main
from tools.system.files import ROOT

WATCHED = 10  # iterations
EXPECTED = "_all_finite"  # the function of the trainer that waits once per iteration


def main() -> None:
    config = parse(step.Config, __doc__)
    if measure.prepare_device(config).type != "cuda":
        raise UserError("only a GPU computes beside the program: give --device cuda")
    measure.save(config, "waits", measure.measured({name: (waits, config, name) for name in config.strategies}))


def waits(config: step.Config, name: str) -> dict[str, int]:
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
