"""cTopk with an EMA teacher: every present class cuts its image at the mean of the local maxima near its arg-max.

Paper: Object-Aware Self-Supervised Multi-Label Learning (ICIP 2022), section 2, class-specific top-k.
"""

import torch
from torch import Tensor

from core.cam import make_cam
from core.keypoints import ctopk_keypoints
from core.losses import puzzle_losses
from core.networks import Classifier
from core.puzzle import cut_tiles, merge_tiles
from core.strategy import Crops, Options, Step, Strategy
from core.training import train


def training_step(
    student: Classifier, teacher: Classifier, images: Tensor, labels: Tensor, crops: Crops, options: Options
) -> Step:
    """Return the losses of cTopk on one batch; `core.strategy.Strategy` describes the arguments."""
    logits, features = student(images)  # [B, V], [B, V, n, n]

    cams = make_cam(features.detach())[crops.image, crops.label]  # [crops, n, n]
    keypoints = ctopk_keypoints(cams, images.shape[-1], options.topk, options.topk_radius)  # [crops, 2]
    tiles = cut_tiles(images, crops.image, keypoints)  # [crops, 4, 3, S/2, S/2]

    with torch.no_grad():  # the teacher's maps are targets: no gradient flows through it
        _, tile_features = teacher(tiles, features_only=True)  # [crops, 4, V, n/2, n/2]
    merged = merge_tiles(tile_features, keypoints, images.shape[-1])  # [crops, V, n, n]

    class_loss, p_class_loss, re_loss = puzzle_losses(logits, features, merged, labels, crops, options.re_loss)
    loss = class_loss + options.alpha_p * p_class_loss + options.alpha_re * re_loss
    return Step(loss, class_loss, p_class_loss, re_loss, keypoints)


STRATEGY = Strategy("cTopk", training_step)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
