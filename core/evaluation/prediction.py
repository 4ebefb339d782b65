"""Scores of a network on a labelled split, and test-time augmentation."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from core.networks import Classifier
from tools.data.transforms import normalize

PRECISION_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, amp: str) -> AbstractContextManager:
    """The context in which the network computes in `amp` ("off", "bf16" or "fp16") precision."""
    return torch.autocast(device.type, dtype=PRECISION_TYPES.get(amp, torch.bfloat16), enabled=amp != "off")


def to_device(images: torch.Tensor, device: torch.device, memory_format: torch.memory_format) -> torch.Tensor:
    """A batch as the network takes it, without waiting for the device.

    Args:
        images: uint8 `[B, S, S, 4]` as the loaders give it, a third of the bytes, normalized on the device; or
            normalized float32 `[B, 3, S, S]`.

    Returns:
        normalized float32 `[B, 3, S, S]`.
    """
    images = images.to(device, non_blocking=True)
    if images.dtype == torch.uint8:
        images = normalize(images)
    return images.contiguous(memory_format=memory_format)


@torch.no_grad()
def predict(
    network: Classifier,
    loader: DataLoader,
    device: torch.device,
    amp: str = "off",
    observe: Callable[[torch.Tensor, torch.Tensor], None] | None = None,
    silent: bool = False,
    total: int | None = None,
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
    for images, batch_labels, indices in tqdm(
        loader, desc="evaluation", unit="batch", leave=False, disable=silent, total=total
    ):
        images = to_device(images, device, network.memory_format)
        with autocast(device, amp):
            logits, features = network(images)
        if observe:
            observe(features, indices)
        scores.append(torch.sigmoid(logits.float()))
        labels.append(batch_labels)
    network.train(training)
    return torch.cat(scores).cpu().numpy(), torch.cat(labels).numpy()


class TestTimeAugmentation(nn.Module):
    """A classifier that looks at every image at several scales, and mirrored.

    All views show the same part of the image. At scale s the canvas of S pixels is resized (bilinearly, antialiased) to
    32 · round(s · S / 32) pixels, at least 32, so that it divides by the feature stride.

    Logits are averaged, not sigmoids: a view that is sure (a sigmoid near 0 or 1) then still says how sure.

    Args:
        network: a `Classifier`.
        scales: s of each view.
        flip: add the mirrored views.
    """

    def __init__(self, network: Classifier, scales: Sequence[float] = (1.0,), flip: bool = False):
        super().__init__()
        self.network = network
        self.scales = tuple(scales)
        self.flip = flip

    @property
    def memory_format(self) -> torch.memory_format:
        """The network's memory layout."""
        return self.network.memory_format

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Average logits over the views, and the features of one.

        Args:
            images: `[B, 3, S, S]`.

        Returns:
            logits `[B, V]`, float32; features `[B, V, n, n]` of the scale nearest to 1, not mirrored.
        """
        nearest = min(range(len(self.scales)), key=lambda place: abs(self.scales[place] - 1))
        total, shown = 0, None
        for place, scale in enumerate(self.scales):
            view = resized(images, scale)
            logits, features = self.network(view)
            total = total + logits.float()
            if place == nearest:
                shown = features
            if self.flip:
                total = total + self.network(view.flip(-1))[0].float()
        return total / (len(self.scales) * (2 if self.flip else 1)), shown


def resized(images: torch.Tensor, scale: float) -> torch.Tensor:
    """Images `[B, 3, S, S]` at a scale, their side a multiple of 32 pixels; unchanged where that is S."""
    size = images.shape[-1]
    side = max(32, 32 * round(scale * size / 32))
    if side == size:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True)


PRECISIONS = ("off", "bf16", "fp16")
