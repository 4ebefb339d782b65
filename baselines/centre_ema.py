"""Baseline: Puzzle-CAM's cut with an EMA teacher. Every image is cut at its centre, for every present class.

Differs from cMax in the keypoint alone. Paper of the cut: Puzzle-CAM (ICIP 2021).
"""

import torch
import torch.nn.functional as F

from core.losses import class_loss, p_class_loss, reconstruction_loss
from core.puzzle import cut_tiles, merge_tiles
from core.training import Crops, Options, Step, main


def training_step(
    student: torch.nn.Module,
    teacher: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    crops: Crops,
    options: Options,
) -> Step:
    """Losses of the centre cut with a teacher on one batch.

    Args:
        student, teacher: `Classifier`s in train mode; the gradient reaches the student alone.
        images: `[B, 3, S, S]`; labels: multi-hot `[B, V]`.
        crops: image and class of each crop, one for every present class of every image.
        options: weights of the losses.
    """
    logits, features = student(images)  # [B, V], [B, V, n, n]

    keypoints = torch.full((len(crops.image), 2), images.shape[-1] // 2, device=images.device)  # [crops, 2]
    tiles = cut_tiles(images, crops.image, keypoints)  # [crops, 4, 3, S/2, S/2]

    with torch.no_grad():  # the teacher gives targets: nothing flows back through it
        _, tile_features = teacher(tiles, features_only=True)  # [crops, 4, V, n/2, n/2]
        merged = merge_tiles(tile_features, keypoints, images.shape[-1])  # [crops, V, n, n]

    targets = F.one_hot(crops.label, labels.shape[1]).float()  # [crops, V]
    classification = class_loss(logits, labels)
    puzzle = p_class_loss(merged, targets)
    reconstruction = reconstruction_loss(features[crops.image], merged, targets, options.re_loss)
    loss = classification + options.alpha_p * puzzle + options.alpha_re * reconstruction
    return Step(loss, classification, puzzle, reconstruction, keypoints)


if __name__ == "__main__":
    main(training_step, __doc__)
