"""The processes of one run: those that torchrun started, or only this one."""

import contextlib
import os
import sys
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from tools.system.errors import UserError, quoted, reported

TIMEOUT = timedelta(minutes=30)  # of waiting for the other processes, for example while the first one writes
LOST = ("peer", "pair closure", "remote process", "Broken pipe")  # how gloo and NCCL report that one is gone


def _variable(name: str, default: int, least: int = 0) -> int:
    """Return a number that a launcher set in the environment."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or len(text) > 9 or int(text) < least:
        raise UserError(f"the environment variable {name} is {quoted(text)}: start with torchrun, or unset it")
    return int(text)


class Processes:
    """This process among those that torchrun started; without torchrun, the only one."""

    def __init__(self):
        self.rank, self.local_rank = _variable("RANK", 0), _variable("LOCAL_RANK", 0)  # local: on its machine
        self.size = _variable("WORLD_SIZE", 1, least=1)
        if self.rank >= self.size:
            raise UserError(f"RANK is {self.rank} of WORLD_SIZE {self.size}: start with torchrun, or unset RANK")
        self._store: dist.Store | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and the screen."""
        return self.rank == 0

    def __enter__(self) -> "Processes":
        """Connect the processes: tensors on GPUs travel over NCCL, everything else over gloo."""
        if self.size > 1:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            with reported("the processes could not connect", ValueError, RuntimeError):
                self._store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
                dist.init_process_group(backend, timeout=TIMEOUT, store=self._store, rank=rank, world_size=size)
        return self

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set in any process. On the CPU, so no GPU synchronizes for it."""
        if self.size == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return [bool(flag) for flag in raised.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every process, in the order of ranks."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """End all processes after an error in one. Its message is shown once, however many processes meet it."""
        if self.size == 1:
            return
        if error is None or isinstance(error, SystemExit):
            dist.destroy_process_group()
        elif isinstance(error, UserError):
            met_before = 0
            with contextlib.suppress(RuntimeError):  # torchrun keeps the count: it outlives its processes
                met_before = self._store.add("errors", 1) - 1 if self._store else 0
            if met_before:
                sys.exit(2)
            if not self.is_first:
                print(file=sys.stderr)  # ends the line of the first process's progress bar
        elif isinstance(error, RuntimeError) and any(word in str(error) for word in LOST):
            raise SystemExit("another process of this run ended; its own message says why") from error
