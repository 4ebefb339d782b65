"""Baseline: Puzzle-CAM's cut. Every image is cut at its centre, and the student itself looks at the tiles.

It differs from Max in the keypoint alone. Paper of the cut: Puzzle-CAM (ICIP 2021).
"""

from torch import Tensor

from baselines.recipe import TRAINING
from core.keypoints import centre_keypoints
from core.losses import puzzle_losses
from core.networks import Classifier
from core.puzzle import cut_tiles, merge_tiles
from core.strategy import Crops, Options, Step, Strategy
from core.training import train


def training_step(
    student: Classifier, teacher: None, images: Tensor, labels: Tensor, crops: Crops, options: Options
) -> Step:
    """Return the losses of the centre cut on one batch; `core.strategy.Strategy` describes the arguments."""
    logits, features = student(images)  # [B, V], [B, V, n, n]

    keypoints = centre_keypoints(len(images), images.shape[-1], images.device)  # [B, 2]
    tiles = cut_tiles(images, crops.image, keypoints)  # [B, 4, 3, S/2, S/2]

    # The logits of the tiles are not used, but computing them moves the running statistics that evaluation uses.
    _, tile_features = student(tiles)  # [B, 4, V, n/2, n/2]
    merged = merge_tiles(tile_features, keypoints, images.shape[-1])  # [B, V, n, n]

    class_loss, p_class_loss, re_loss = puzzle_losses(logits, features, merged, labels, crops, options.re_loss)
    loss = class_loss + options.alpha_p * p_class_loss + options.alpha_re * re_loss
    return Step(loss, class_loss, p_class_loss, re_loss, keypoints)


STRATEGY = Strategy(
    "centre, no EMA", training_step, teacher=False, crops=Crops.one_per_image, keypoints="centre", arguments=TRAINING
)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
