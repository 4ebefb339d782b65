"""Test-time augmentation: one network, several views of each image, averaged logits."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from core.networks import Classifier


class AveragedViews(nn.Module):
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
