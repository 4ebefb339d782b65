"""Max: the strongest response of any present class cuts the image, and the student itself looks at the tiles.

Paper: Object-Aware Self-Supervised Multi-Label Learning (ICIP 2022), section 2, maximum strategy.
"""

from torch import Tensor

from core.cam import make_cam
from core.keypoints import max_keypoints
from core.losses import puzzle_losses
from core.networks import Classifier
from core.puzzle import cut_tiles, merge_tiles
from core.strategy import Crops, Options, Step, Strategy
from core.training import train


def training_step(
    student: Classifier, teacher: None, images: Tensor, labels: Tensor, crops: Crops, options: Options
) -> Step:
    """Return the losses of Max on one batch; `core.strategy.Strategy` describes the arguments."""
    logits, features = student(images)  # [B, V], [B, V, n, n]

    cams = make_cam(features.detach())  # [B, V, n, n]
    keypoints = max_keypoints(cams, labels, images.shape[-1])  # [B, 2]
    tiles = cut_tiles(images, crops.image, keypoints)  # [B, 4, 3, S/2, S/2]

    # The logits of the tiles are not used, but computing them moves the running statistics that evaluation uses.
    _, tile_features = student(tiles)  # [B, 4, V, n/2, n/2]
    merged = merge_tiles(tile_features, keypoints, images.shape[-1])  # [B, V, n, n]

    class_loss, p_class_loss, re_loss = puzzle_losses(logits, features, merged, labels, crops, options.re_loss)
    loss = class_loss + options.alpha_p * p_class_loss + options.alpha_re * re_loss
    return Step(loss, class_loss, p_class_loss, re_loss, keypoints)


STRATEGY = Strategy("Max", training_step, teacher=False, crops=Crops.one_per_image)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
