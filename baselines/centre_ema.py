"""Baseline: Puzzle-CAM's cut with an EMA teacher. Every image is cut at its centre, once per present class.

It differs from cMax in the keypoint alone. Paper of the cut: Puzzle-CAM (ICIP 2021).
"""

import torch
from torch import Tensor

from baselines.recipe import TRAINING
from core.keypoints import centre_keypoints
from core.losses import puzzle_losses
from core.networks import Classifier
from core.puzzle import cut_tiles, merge_tiles
from core.strategy import Crops, Options, Step, Strategy
from core.training import train


def training_step(
    student: Classifier, teacher: Classifier, images: Tensor, labels: Tensor, crops: Crops, options: Options
) -> Step:
    """Return the losses of the centre cut on one batch; `core.strategy.Strategy` describes the arguments."""
    logits, features = student(images)  # [B, V], [B, V, n, n]

    keypoints = centre_keypoints(len(crops.image), images.shape[-1], images.device)  # [crops, 2]
    tiles = cut_tiles(images, crops.image, keypoints)  # [crops, 4, 3, S/2, S/2]

    with torch.no_grad():  # the teacher's maps are targets: no gradient flows through it
        _, tile_features = teacher(tiles, features_only=True)  # [crops, 4, V, n/2, n/2]
    merged = merge_tiles(tile_features, keypoints, images.shape[-1])  # [crops, V, n, n]

    class_loss, p_class_loss, re_loss = puzzle_losses(logits, features, merged, labels, crops, options.re_loss)
    loss = class_loss + options.alpha_p * p_class_loss + options.alpha_re * re_loss
    return Step(loss, class_loss, p_class_loss, re_loss, keypoints)


STRATEGY = Strategy("centre", training_step, arguments=TRAINING)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
