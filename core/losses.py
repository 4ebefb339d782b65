"""The losses of the paper, and the schedule of the reconstruction weight.

Every mean over crops is 0 for a batch without crops (no image has a label).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from core.strategy import Crops

RECONSTRUCTION_LOSSES = ("L1_Loss", "L2_Loss")


def class_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the multi-label soft margin loss, mean over classes and images: a scalar, 0 for N = 0.

    `logits` are `[N, V]`, `targets` multi-hot `[N, V]`.
    """
    # The sigmoid form of the multi-label soft margin, element by element.
    elements = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return elements.mean(1).sum() / max(len(elements), 1)


def puzzle_losses(
    logits: Tensor, features: Tensor, merged: Tensor, labels: Tensor, crops: Crops, re_loss: str = "L1_Loss"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the paper's three losses of a batch: `class_loss`, `p_class_loss` and `re_loss`, scalars without weights.

    Args:
        logits: of the images `[B, V]`; features: their maps `[B, V, n, n]`.
        merged: the maps stitched together from each crop's tiles `[crops, V, n, n]`.
        labels: multi-hot `[B, V]`.
        crops: image and class of each crop. A crop's target is its class, or all classes of its image if it has none.
        re_loss: see `reconstruction_loss`.
    """
    own_class = F.one_hot(crops.label.clamp_min(0), labels.shape[1]).to(labels.dtype)
    targets = torch.where((crops.label < 0)[:, None], labels[crops.image], own_class)  # [crops, V]
    return (
        class_loss(logits, labels),
        p_class_loss(merged, targets),
        reconstruction_loss(features[crops.image], merged, targets, re_loss),
    )


def p_class_loss(merged: Tensor, targets: Tensor) -> Tensor:
    """Return the class loss of the merged maps after global average pooling: a scalar, mean over crops.

    With a teacher it carries no gradient: it is a monitor.

    Args:
        merged: `[crops, V, n, n]`.
        targets: `[crops, V]`: the image's labels for Max, one-hot of the crop's class otherwise.
    """
    return class_loss(merged.float().mean(dim=(-2, -1)), targets)


def reconstruction_loss(features: Tensor, merged: Tensor, targets: Tensor, kind: str = "L1_Loss") -> Tensor:
    """Return the distance between the whole image's maps and the merged ones, on the target classes (`re_loss`).

    Args:
        features: `[crops, V, n, n]`, the maps of each crop's image; merged: `[crops, V, n, n]`.
        targets: `[crops, V]`; other classes count as 0 in the mean over crops, all V and cells.
        kind: "L1_Loss" or "L2_Loss".
    """
    if kind not in RECONSTRUCTION_LOSSES:
        raise ValueError(f"unknown re_loss '{kind}': choose one of {', '.join(RECONSTRUCTION_LOSSES)}")
    difference = features.float() - merged.float()
    distance = difference.abs() if kind == "L1_Loss" else difference.square()
    per_crop = (distance * targets[:, :, None, None]).mean(dim=(1, 2, 3))
    return per_crop.sum() / max(len(per_crop), 1)


def alpha_re_at(iteration: int, max_iteration: int, alpha_re: float, alpha_schedule_re: float) -> float:
    """Return the weight of the reconstruction loss at an iteration: it rises linearly to `alpha_re`, then stays.

    `alpha_schedule_re` is the share of training after which it is reached; 0: at once.
    """
    rise = max_iteration * alpha_schedule_re
    return min(alpha_re * iteration / rise, alpha_re) if rise > 0 else alpha_re
