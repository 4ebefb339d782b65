"""What the loop hands to a strategy's `training_step`, and what it gets back."""

from typing import NamedTuple

import torch


class Crops(NamedTuple):
    """The crops of a batch: one for every present class of every image, image by image, classes in order.

    Attributes:
        image: index of the image `[crops]` int64.
        label: index of the class `[crops]` int64.
    """

    image: torch.Tensor
    label: torch.Tensor

    @classmethod
    def one_per_image(cls, labels: torch.Tensor) -> "Crops":
        """One crop for every image, whatever its classes (their indices are then -1)."""
        image = torch.arange(len(labels))
        return cls(image, torch.full_like(image, -1))

    @classmethod
    def of(cls, labels: torch.Tensor) -> "Crops":
        """The crops of multi-hot labels `[B, V]`. On the CPU, where the loader left them, this waits for no GPU."""
        return cls(*labels.nonzero(as_tuple=True))

    def to(self, device: torch.device) -> "Crops":
        """The same on another device."""
        return Crops(*(index.to(device, non_blocking=True) for index in self))


class Options(NamedTuple):
    """What a step may be told.

    Attributes:
        alpha_p: weight of the puzzle classification loss.
        alpha_re: weight of the reconstruction loss at this iteration (on its ramp).
        re_loss: "L1_Loss" or "L2_Loss".
        topk: number of local maxima (cTopk, cTopk-w).
        topk_radius: pixels at S = 512, 0 for none (cTopk).
    """

    alpha_p: float
    alpha_re: float
    re_loss: str
    topk: int
    topk_radius: float


class Step(NamedTuple):
    """A step's losses, scalars, and the keypoints it cut at.

    Attributes:
        loss: what is minimised.
        class_loss, p_class_loss, re_loss: its parts, before their weights.
        keypoints: `[crops, 2]`, (row, column) in pixels.
    """

    loss: torch.Tensor
    class_loss: torch.Tensor
    p_class_loss: torch.Tensor
    re_loss: torch.Tensor
    keypoints: torch.Tensor
