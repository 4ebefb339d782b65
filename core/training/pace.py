"""How long a run takes: what it spends its time on, and how much is left."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch


class Pace:
    """Seconds since a run was started or continued, by what they were spent on."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.training = self.waiting = self.validation = 0.0  # training includes waiting for data
        self.iterations = self.validations = 0

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yield what the loader yields; count the time until each batch is there, and its iteration."""
        iterator, started = iter(loader), time.perf_counter()
        while (batch := next(iterator, None)) is not None:
            self.waiting += time.perf_counter() - started
            yield batch
            self.iterations += 1
            self.training += time.perf_counter() - started
            started = time.perf_counter()

    def left(self, iterations: int, validations: int) -> float:
        """Return the seconds for what is left to do; validations count as soon as one has been measured."""
        training = iterations * self.training / max(self.iterations, 1)
        return training + validations * self.validation / max(self.validations, 1)


def peak_memory(gpus: list[int]) -> str:
    """Return the most memory that was in use: on the fullest of these GPUs, or of this process."""
    if gpus:
        return f"{max(map(torch.cuda.max_memory_allocated, gpus)) / 2**30:.1f} GiB on a GPU"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB"
