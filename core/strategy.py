"""What a strategy declares, and what it exchanges with the training loop."""

from typing import Any, NamedTuple

import torch

from core.keypoints import (
    TOPK,
    TOPK_RADIUS,
    cmax_keypoints,
    ctopk_keypoints,
    ctopk_w_keypoints,
    max_keypoints,
)


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
        loss: what is minimized.
        class_loss, p_class_loss, re_loss: its parts, before their weights.
        keypoints: `[crops, 2]`, (row, column) in pixels.
    """

    loss: torch.Tensor
    class_loss: torch.Tensor
    p_class_loss: torch.Tensor
    re_loss: torch.Tensor
    keypoints: torch.Tensor


STRATEGIES = ("Max", "cMax", "cTopk", "cTopk-w")


SCRIPTS = {
    "train_classification_with_puzzle_max": "Max",
    "train_classification_with_puzzle_cMax_ema": "cMax",
    "train_classification_with_puzzle_cTopk_ema": "cTopk",
    "train_classification_with_puzzle_cTopk_w_ema": "cTopk-w",
}


class Cutting(NamedTuple):
    """How keypoints are found.

    Attributes:
        strategy: one of `STRATEGIES`.
        topk, topk_radius: see `core.keypoints`.
    """

    strategy: str
    topk: int = TOPK
    topk_radius: float = TOPK_RADIUS

    @classmethod
    def of(cls, description: dict[str, Any], strategy: str | None = None) -> "Cutting":
        """As the checkpoint with this description was trained; cTopk-w where it does not say."""
        arguments = description.get("arguments", {})
        trained = SCRIPTS.get(description.get("script", ""), "cTopk-w")
        return cls(strategy or trained, arguments.get("topk", TOPK), arguments.get("topk_radius", TOPK_RADIUS))

    def keypoints(self, cams: torch.Tensor, present: torch.Tensor, image_size: int) -> torch.Tensor:
        """A keypoint for each present class of one image; Max gives all of them the same.

        Args:
            cams: class activation maps of the image `[V, n, n]`.
            present: indices of the classes `[C]`.
            image_size: S, pixels.

        Returns:
            `[C, 2]` int64, (row, column) in pixels.
        """
        if self.strategy == "Max":
            labels = torch.zeros(len(cams), device=cams.device).index_fill_(0, present, 1)
            return max_keypoints(cams[None], labels[None], image_size).expand(len(present), -1)
        if self.strategy == "cMax":
            return cmax_keypoints(cams[present], image_size)
        if self.strategy == "cTopk":
            return ctopk_keypoints(cams[present], image_size, self.topk, self.topk_radius)
        return ctopk_w_keypoints(cams[present], image_size, self.topk)
