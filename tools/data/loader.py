"""Loaders whose samples depend on (seed, epoch, index) alone, not on the number of processes or on a resume.

Batches are (pixels, labels, indices), and the indices refer to `ids` and `labels` of the data set that was passed in:
keep it beside its loader instead of unwrapping `loader.dataset`.
"""

import io
import math
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, default_collate, get_worker_info

from tools.system.errors import UserError
from tools.system.interruption import end_loader_processes_at_exit, ignore_signals

IN_FLIGHT = 3  # batches of each loader process: two that it prepares ahead (PyTorch's prefetch_factor), one in use


class EpochSampler(Sampler):
    """Yield (epoch, index) in an order that depends on (seed, epoch) alone; a last incomplete batch is dropped.

    The epoch travels with each index, so that persistent worker processes need not be told when a new one starts.
    `batch_size` counts all processes; this one takes the rank-th of equal parts of each batch.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1):
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.processes = rank, processes
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, counted from 0, and how many of its samples, over all processes, to skip at its start."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)[self.start :]
        whole_batches = order[: len(order) // self.batch_size * self.batch_size]
        mine = whole_batches.reshape(-1, self.processes, self.batch_size // self.processes)[:, self.rank]
        return iter([(self.epoch, int(index)) for index in mine.flat])

    def __len__(self) -> int:
        """Return the samples of a whole epoch for this process, wherever `set_epoch` starts."""
        return self.length // self.batch_size * self.batch_size // self.processes


class SeededDataset(Dataset):
    """A data set whose random numbers are fixed by (seed, epoch, index)."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]):
        epoch, index = key
        sample_seed = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1, np.uint64)[0]
        # Only the CPU's generator: `torch.manual_seed` takes 0.1 ms to look for others.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(sample_seed) >> 1)
            return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)


def training_loader(
    dataset: Dataset, batch_size: int, num_workers: int, seed: int, rank: int = 0, processes: int = 1
) -> DataLoader:
    """Return a loader of shuffled batches, without a last incomplete one.

    Call `loader.sampler.set_epoch` before each epoch. `batch_size` counts all processes, which share it equally;
    `len(loader)` is the number of batches of a whole epoch.
    """
    if batch_size > len(dataset):
        raise UserError(f"a batch of {batch_size} images exceeds the {len(dataset)} images of the training split")
    if batch_size % processes:
        raise UserError(f"a batch of {batch_size} images cannot be divided equally among {processes} processes")
    sampler = EpochSampler(len(dataset), batch_size, seed, rank, processes)
    options = worker_options(num_workers, stack, default_collate)
    return DataLoader(SeededDataset(dataset, seed), batch_size // processes, sampler=sampler, **options)


def evaluation_loader(
    dataset: Dataset, batch_size: int, num_workers: int, rank: int = 0, processes: int = 1
) -> DataLoader:
    """Return a loader of batches in the data set's order, with a last incomplete one.

    Of several processes, each takes every `processes`-th image, starting with the rank-th; see `interleave`.
    """
    part = Subset(dataset, range(rank, len(dataset), processes)) if processes > 1 else dataset
    return DataLoader(part, batch_size, **worker_options(num_workers, stack, default_collate))


def interleave(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Merge the rows that the processes computed with their `evaluation_loader`, by rank, into the data set's order.

    >>> interleave([np.array([0, 2, 4]), np.array([1, 3])])
    array([0, 1, 2, 3, 4])
    """
    merged = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    for rank, part in enumerate(parts):
        if len(part):  # a process without an image does not know the number of columns
            merged[rank :: len(parts)] = part
    return merged


def worker_options(num_workers: int, collate: Callable[[list], Any], share: Callable | None = None) -> dict[str, Any]:
    """Return a loader's options that concern its processes.

    `collate` makes a batch of a list of samples; `share` does the same straight into shared memory, if there is a way.
    """
    num_workers = min(num_workers, cores())
    if num_workers:
        end_loader_processes_at_exit()
    return {
        "num_workers": num_workers,
        "collate_fn": Packing(collate, share or collate),
        # Copies to a GPU overlap with its computation only from pinned memory.
        "pin_memory": torch.cuda.is_available(),
        # Workers live on between epochs: each start would read the modules and copy the data set again.
        "persistent_workers": num_workers > 0,
        "worker_init_fn": ignore_signals,
        # Without its own generator, each pass over a loader would consume random numbers of the network's drop-out.
        "generator": torch.Generator(),
    }


def cores() -> int:
    """Return the cores that this process may use: more loader processes would only wait for each other."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stack(samples: list[tuple[torch.Tensor, torch.Tensor, int]]) -> list[torch.Tensor]:
    """Return the pixels, labels and indices of a batch, as `default_collate` but not in shared memory."""
    pixels, labels, indices = zip(*samples, strict=True)
    return [torch.stack(pixels), torch.stack(labels), torch.tensor(indices)]


class Packing:
    """Make a batch of samples; in a loader process, pack it for the main process.

    Tensors travel in shared memory if there is enough of it for all loader processes (Docker has 64 MB by default),
    otherwise through the pipe, which costs the main process a copy.
    """

    def __init__(self, collate: Callable[[list], Any], share: Callable[[list], Any]):
        self.collate, self.share = collate, share
        self._shares: bool | None = None  # decided at the first batch, when its size is known

    def __call__(self, samples: list) -> Any:
        worker = get_worker_info()
        return self.collate(samples) if worker is None else Packed(self._pack(samples, worker.num_workers))

    def _pack(self, samples: list, workers: int) -> bytes:
        if self._shares:
            try:
                return bytes(ForkingPickler.dumps(self.share(samples)))
            except (RuntimeError, OSError):  # no space left, or too many open files
                self._shares = False
        content = io.BytesIO()
        ByValue(content).dump(self.collate(samples))
        if self._shares is None:
            self._shares = IN_FLIGHT * workers * len(content.getbuffer()) < _free_shared_memory()
        return content.getvalue()


class Packed:
    """A pickled batch, which is unpickled as the batch.

    The loader process pickles it itself, because PyTorch leaves that to a thread that only prints its errors, and the
    main process would wait forever.
    """

    def __init__(self, content: bytes):
        self.content = content

    def __reduce__(self) -> tuple[Callable, tuple[bytes]]:
        return pickle.loads, (self.content,)


class ByValue(pickle.Pickler):
    """Pickle tensors with their numbers, not as handles of shared memory."""

    def reducer_override(self, value: Any) -> Any:
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, torch.Tensor) else NotImplemented


def _free_shared_memory() -> float:
    try:
        status = os.statvfs("/dev/shm")
    except OSError:  # another system than Linux
        return math.inf
    return status.f_bavail * status.f_frsize
