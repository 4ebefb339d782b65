"""A fifth strategy: every present class cuts its image at its map's centre of mass, and an EMA teacher looks on.

The worked example of docs/change-the-method.md.
"""

import torch
import torch.nn.functional as F

from core.cam import make_cam
from core.losses import class_loss, p_class_loss, reconstruction_loss
from core.puzzle import cut_tiles, merge_tiles
from core.training import Crops, Options, Step, main


@torch.no_grad()
def centre_of_mass_keypoints(cams: torch.Tensor, image_size: int) -> torch.Tensor:
    """Maps `[crops, n, n]` → `[crops, 2]` int64, (row, column) in pixels; an empty map has the image's centre."""
    cells = cams.shape[-1]
    mass = cams.float() + 1e-6  # spread evenly, it weighs nothing beside a map and puts an empty one's centre right
    centres = (torch.arange(cells, device=cams.device) + 0.5) * image_size / cells  # of the cells, pixels
    row = (mass.sum(2) * centres).sum(1) / mass.sum((1, 2))
    column = (mass.sum(1) * centres).sum(1) / mass.sum((1, 2))
    return torch.stack((row, column), 1).round().long().clamp(1, image_size - 1)


def training_step(student, teacher, images, labels, crops: Crops, options: Options) -> Step:
    """As the other strategies' with a teacher, but for the line of the keypoints."""
    logits, features = student(images)  # [B, V], [B, V, n, n]

    cams = make_cam(features.detach())[crops.image, crops.label]  # [crops, n, n]
    keypoints = centre_of_mass_keypoints(cams, images.shape[-1])  # [crops, 2]
    tiles = cut_tiles(images, crops.image, keypoints)  # [crops, 4, 3, S/2, S/2]

    with torch.no_grad():
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
