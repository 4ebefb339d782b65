"""Scores of a network on a labelled split."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from core.networks import Classifier
from tools.augmentation import normalise

PRECISION_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, amp: str) -> AbstractContextManager:
    """The context in which the network computes in `amp` ("off", "bf16" or "fp16") precision."""
    return torch.autocast(device.type, dtype=PRECISION_TYPES.get(amp, torch.bfloat16), enabled=amp != "off")


def to_device(images: torch.Tensor, device: torch.device, memory_format: torch.memory_format) -> torch.Tensor:
    """A batch as the network takes it, without waiting for the device.

    Args:
        images: uint8 `[B, S, S, 4]` as the loaders give it, a third of the bytes, normalised on the device; or
            normalised float32 `[B, 3, S, S]`.

    Returns:
        normalised float32 `[B, 3, S, S]`.
    """
    images = images.to(device, non_blocking=True)
    if images.dtype == torch.uint8:
        images = normalise(images)
    return images.contiguous(memory_format=memory_format)


@torch.no_grad()
def predict(
    network: Classifier,
    loader: DataLoader,
    device: torch.device,
    amp: str = "off",
    observe: Callable[[torch.Tensor, torch.Tensor], None] | None = None,
    silent: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of every image, in the loader's order; the network is left in the mode it was in.

    Args:
        network: a `Classifier`.
        loader: batches of images (see `to_device`), labels `[B, V]` and indices.
        observe: is shown the features `[B, V, n, n]` and indices `[B]` of every batch.
        silent: show no progress bar.

    Returns:
        scores (sigmoids of the logits) and labels, both float32 `[N, V]`.
    """
    training = network.training
    network.eval()
    scores, labels = [], []
    for images, batch_labels, indices in tqdm(loader, desc="evaluation", unit="batch", leave=False, disable=silent):
        images = to_device(images, device, network.memory_format)
        with autocast(device, amp):
            logits, features = network(images)
        if observe:
            observe(features, indices)
        scores.append(torch.sigmoid(logits.float()))
        labels.append(batch_labels)
    network.train(training)
    return torch.cat(scores).cpu().numpy(), torch.cat(labels).numpy()
