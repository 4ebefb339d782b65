"""Baseline: Puzzle-CAM's cut. Every image is cut at its centre, and the student itself looks at the tiles.

Differs from Max in the keypoint alone. Paper of the cut: Puzzle-CAM (ICIP 2021).
"""

import torch

from core.losses import class_loss, p_class_loss, reconstruction_loss
from core.puzzle import cut_tiles, merge_tiles
from core.training import Crops, Options, Step, main


def training_step(
    student: torch.nn.Module,
    teacher: None,
    images: torch.Tensor,
    labels: torch.Tensor,
    crops: Crops,
    options: Options,
) -> Step:
    """Losses of the centre cut on one batch.

    Args:
        student: a `Classifier` in train mode; there is no teacher.
        images: `[B, 3, S, S]`; labels: multi-hot `[B, V]`.
        crops: one for every image, whatever its classes.
        options: weights of the losses.
    """
    logits, features = student(images)  # [B, V], [B, V, n, n]

    keypoints = torch.full((len(images), 2), images.shape[-1] // 2, device=images.device)  # [B, 2]
    tiles = cut_tiles(images, crops.image, keypoints)  # [B, 4, 3, S/2, S/2]

    # The tiles' logits are not used, but the running statistics behind them move with every crop.
    _, tile_features = student(tiles)  # [B, 4, V, n/2, n/2]
    merged = merge_tiles(tile_features, keypoints, images.shape[-1])  # [B, V, n, n]

    classification = class_loss(logits, labels)
    puzzle = p_class_loss(merged, labels)
    reconstruction = reconstruction_loss(features, merged, labels, options.re_loss)
    loss = classification + options.alpha_p * puzzle + options.alpha_re * reconstruction
    return Step(loss, classification, puzzle, reconstruction, keypoints)


if __name__ == "__main__":
    main(training_step, __doc__, with_teacher=False, crops_of=Crops.one_per_image)
