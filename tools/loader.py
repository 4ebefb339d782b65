"""Loaders whose samples depend on (seed, epoch, index) alone, not on processes or on where a run was resumed."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from tools.errors import UserError


class EpochSampler(Sampler):
    """Yields (epoch, index) in an order that depends on (seed, epoch) alone.

    Args:
        length: number of samples.
        seed: of the whole run.
    """

    def __init__(self, length: int, seed: int):
        self.length = length
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, counted from 0, and how many of its samples to leave out at the beginning."""
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return iter([(self.epoch, int(index)) for index in order[self.start :]])

    def __len__(self) -> int:
        return self.length - self.start


class SeededDataset(Dataset):
    """A data set whose random numbers are fixed by (seed, epoch, index)."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, position: tuple[int, int]):
        epoch, index = position
        sample_seed = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1, np.uint64)[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(sample_seed) >> 1)
            return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)


def training_loader(dataset: Dataset, batch_size: int, num_workers: int, seed: int) -> DataLoader:
    """Shuffled batches; a last incomplete one is left out. Call `loader.sampler.set_epoch` before each epoch.

    Raises:
        UserError: the data set does not fill a single batch.
    """
    if batch_size > len(dataset):
        raise UserError(f"--batch_size {batch_size} exceeds the {len(dataset)} images of the training split")
    return DataLoader(
        SeededDataset(dataset, seed),
        batch_size=batch_size,
        sampler=EpochSampler(len(dataset), seed),
        drop_last=True,
        **_process_options(num_workers),
    )


def evaluation_loader(dataset: Dataset, batch_size: int, num_workers: int) -> DataLoader:
    """Batches in the data set's order, the last incomplete one included."""
    return DataLoader(dataset, batch_size=batch_size, **_process_options(num_workers))


def _process_options(num_workers: int) -> dict:
    return {
        "num_workers": num_workers,
        "pin_memory": torch.cuda.is_available(),
        "persistent_workers": num_workers > 0,
    }
