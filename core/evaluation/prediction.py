"""Logits of a network on the images of a loader, and test-time augmentation."""

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

PRECISIONS = ("off", "bf16", "fp16")
STRIDE = 32  # pixels: the sides that a network accepts are its multiples


def autocast(device: torch.device, amp: str) -> AbstractContextManager:
    """Return the context in which the network computes in precision `amp`, one of `PRECISIONS`."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=amp != "off")


def to_device(images: torch.Tensor, device: torch.device, network: nn.Module) -> torch.Tensor:
    """Return float32 `[B, 3, S, S]` on the device, normalized and in memory as the network expects its images.

    Images are uint8 `[B, S, S, 4]` as the loaders return them, a third of the bytes, or normalized already. It does not
    synchronize with the device.
    """
    images = images.to(device, non_blocking=True)
    if images.dtype == torch.uint8:
        images = normalize(images, network.normalization)
    return images.contiguous(memory_format=network.memory_format)


@torch.inference_mode()
def predict(
    network: "Classifier | TestTimeAugmentation",
    loader: DataLoader,
    device: torch.device,
    amp: str = "off",
    observe: Callable[[torch.Tensor, torch.Tensor], None] | None = None,
    silent: bool = False,
    total: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the logits of every image, in evaluation mode; the network's mode is restored.

    Args:
        network, device, amp: the network is on the device; for the precision see `autocast`.
        loader: batches of images (see `to_device`), labels `[B, V]` and indices `[B]`.
        observe: called with the features `[B, V, n, n]` and indices of every batch.
        silent, total: hide the progress bar; number of batches, for a loader without a length.

    Returns:
        logits and labels, both float32 `[N, V]` in the loader's order. Rank by logits: their float32 sigmoids are
        equal from 17 on.
    """
    training = network.training
    network.eval()
    all_logits, labels = [], []
    bar = tqdm(loader, "evaluation", total, leave=False, unit="batch", disable=silent or None)
    for images, batch_labels, indices in bar:
        images = to_device(images, device, network)
        with autocast(device, amp):
            logits, features = network(images)
        if observe:
            observe(features, indices)
        all_logits.append(logits.float())  # stays on the device: a copy per batch would synchronize
        labels.append(batch_labels)
    network.train(training)
    if not all_logits:  # fewer images than processes
        return np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32)
    return torch.cat(all_logits).cpu().numpy(), torch.cat(labels).numpy()


class TestTimeAugmentation(nn.Module):
    """Average the logits of a classifier over scales of each image, and with `flip` over their mirrored views too.

    All views show the same part of the image, see `resize_images`. The mean is taken over logits, because averaged
    sigmoids saturate.
    """

    __test__ = False  # pytest would collect a class named Test…

    def __init__(self, network: Classifier, scales: Sequence[float] = (1.0,), flip: bool = False):
        super().__init__()
        self.network = network
        self.memory_format, self.normalization = network.memory_format, network.normalization
        self.scales, self.flip = tuple(scales), flip

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the average logits `[B, V]`, and the features of the scale nearest to 1, not mirrored."""
        nearest, all_logits = min(self.scales, key=lambda scale: abs(scale - 1)), []
        for scale in self.scales:
            view = resize_images(images, scale)
            logits, features = self.network(view)
            all_logits += [logits.float(), *([self.network(view.flip(-1))[0].float()] if self.flip else [])]
            if scale == nearest:
                shown = features
        return torch.stack(all_logits).mean(0), shown


def resize_images(images: torch.Tensor, scale: float) -> torch.Tensor:
    """Resize `[B, 3, S, S]` to a side of 32 · round(scale · S / 32) pixels (at least 32), bilinear, antialiased."""
    size = images.shape[-1]
    side = max(STRIDE, STRIDE * round(scale * size / STRIDE))
    if side == size:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
