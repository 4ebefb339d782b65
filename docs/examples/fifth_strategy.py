"""A fifth strategy: every present class cuts its image at its map's center of mass, and maps are kept small.

The worked example of docs/change-the-method.md: a keypoint of its own, an argument of its own, a further loss.
"""

import torch
from torch import Tensor

from core.cam import make_cam
from core.losses import puzzle_losses
from core.networks import Classifier
from core.puzzle import cut_tiles, merge_tiles
from core.strategy import Argument, Crops, Options, Step, Strategy
from core.training import train

AREA_WEIGHT = 0.1


@torch.no_grad()
def center_of_mass_keypoints(cams: torch.Tensor, image_size: int, options: Options) -> torch.Tensor:
    """Return the center of mass of maps `[crops, n, n]`: `[crops, 2]` int64, (row, column) in pixels."""
    cells = cams.shape[-1]
    mass = cams.float() ** options.sharpness + 1e-6  # spread evenly, it centers the keypoint of an empty map
    centers = (torch.arange(cells, device=cams.device) + 0.5) * image_size / cells  # of the cells, pixels
    row = (mass.sum(2) * centers).sum(1) / mass.sum((1, 2))
    column = (mass.sum(1) * centers).sum(1) / mass.sum((1, 2))
    return torch.stack((row, column), 1).round().long().clamp(1, image_size - 1)


def training_step(
    student: Classifier, teacher: Classifier, images: Tensor, labels: Tensor, crops: Crops, options: Options
) -> Step:
    """Return the losses of the fifth strategy on one batch; `core.strategy.Strategy` describes the arguments."""
    logits, features = student(images)  # [B, V], [B, V, n, n]

    cams = make_cam(features)[crops.image, crops.label]  # [crops, n, n]
    keypoints = center_of_mass_keypoints(cams, images.shape[-1], options)  # [crops, 2]
    tiles = cut_tiles(images, crops.image, keypoints)  # [crops, 4, 3, S/2, S/2]

    with torch.no_grad():
        _, tile_features = teacher(tiles, features_only=True)  # [crops, 4, V, n/2, n/2]
    merged = merge_tiles(tile_features, keypoints, images.shape[-1])  # [crops, V, n, n]

    class_loss, p_class_loss, re_loss = puzzle_losses(logits, features, merged, labels, crops, options.re_loss)
    area_loss = cams.mean((1, 2)).sum() / max(len(cams), 1)  # mean over crops, 0 without crops
    loss = class_loss + options.alpha_p * p_class_loss + options.alpha_re * re_loss + AREA_WEIGHT * area_loss
    return Step(loss, class_loss, p_class_loss, re_loss, keypoints, crop_losses={"area_loss": area_loss})


STRATEGY = Strategy(
    "center of mass",
    training_step,
    keypoints=center_of_mass_keypoints,
    arguments={"sharpness": Argument(1.0, "exponent of the map before its center of mass is taken", above=0)},
)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
