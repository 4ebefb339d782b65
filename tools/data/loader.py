"""Loaders whose samples depend on (seed, epoch, index) alone, not on processes or on where a run was resumed."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from tools.system.errors import UserError
from tools.system.interruption import end_loader_processes_at_exit, ignore_signals


class EpochSampler(Sampler):
    """Yields (epoch, index) in an order that depends on (seed, epoch) alone; a last incomplete batch is left out.

    Args:
        length: number of samples.
        batch_size: samples of a batch, over all processes.
        seed: of the whole run.
        rank, processes: of each batch, this process takes the rank-th of equal parts.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1):
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.processes = processes
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, counted from 0, and how many of its samples to leave out at the beginning."""
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)[self.start :]
        share = self.batch_size // self.processes
        batches = order[: self._batches() * self.batch_size].reshape(-1, self.processes, share)
        return iter([(self.epoch, int(index)) for index in batches[:, self.rank].flat])

    def __len__(self) -> int:
        return self._batches() * self.batch_size // self.processes

    def _batches(self) -> int:
        return (self.length - self.start) // self.batch_size


class SeededDataset(Dataset):
    """A data set whose random numbers are fixed by (seed, epoch, index)."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, position: tuple[int, int]):
        epoch, index = position
        sample_seed = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1, np.uint64)[0]
        # The CPU's generator alone, and so without the 0.1 ms in which `manual_seed` looks for others.
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(int(sample_seed) >> 1)
        try:
            return self.dataset[index]
        finally:
            torch.set_rng_state(before)

    def __len__(self) -> int:
        return len(self.dataset)


def training_loader(
    dataset: Dataset, batch_size: int, num_workers: int, seed: int, rank: int = 0, processes: int = 1
) -> DataLoader:
    """Shuffled batches; a last incomplete one is left out. Call `loader.sampler.set_epoch` before each epoch.

    Args:
        batch_size: images of a batch, over all processes; each gets an equal part.

    Raises:
        UserError: the data set does not fill a single batch, or the processes cannot share one equally.
    """
    if batch_size > len(dataset):
        raise UserError(f"--batch_size {batch_size} exceeds the {len(dataset)} images of the training split")
    if batch_size % processes:
        raise UserError(f"--batch_size {batch_size} is the whole batch and does not divide by {processes} processes")
    return DataLoader(
        SeededDataset(dataset, seed),
        batch_size=batch_size // processes,
        sampler=EpochSampler(len(dataset), batch_size, seed, rank, processes),
        **_process_options(num_workers),
    )


def evaluation_loader(
    dataset: Dataset, batch_size: int, num_workers: int, rank: int = 0, processes: int = 1
) -> DataLoader:
    """Batches in the data set's order, the last incomplete one included; of several processes, each takes every
    `processes`-th image, from the rank-th on."""
    part = Subset(dataset, range(rank, len(dataset), processes)) if processes > 1 else dataset
    return DataLoader(part, batch_size=batch_size, **_process_options(num_workers))


def _process_options(num_workers: int) -> dict:
    if num_workers:
        end_loader_processes_at_exit()
    return {
        "num_workers": num_workers,
        "pin_memory": torch.cuda.is_available(),
        "persistent_workers": num_workers > 0,
        "worker_init_fn": ignore_signals,
        # Otherwise every pass over a loader draws from the random numbers that the network's drop-out uses.
        "generator": torch.Generator(),
    }
