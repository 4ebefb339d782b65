"""Beyond the paper: cMax, cTopk or cTopk-w with a reconstruction between maps whose scale does not matter.

With an EMA teacher the logits see the CAM branch's maps only through `make_cam`, which divides each by its maximum, and
`p_class_loss` carries no gradient. So of the losses `re_loss` alone acts on the maps' scale, and maps near zero are the
cheapest to reconstruct: they shrink. Here `re_loss` compares the maps after the same division. It does not change when
a map is multiplied by a positive number, so its gradient is orthogonal to each map: it moves the shape, not the scale.
`p_class_loss`, a monitor, is of the divided maps too.
"""

import torch
from torch import Tensor

from baselines.recipe import TRAINING
from core.cam import make_cam
from core.losses import puzzle_losses
from core.networks import Classifier
from core.puzzle import cut_tiles, merge_tiles
from core.strategy import KEYPOINTS, Argument, Crops, Options, Step, Strategy
from core.training import train

TINY = torch.finfo(torch.float32).tiny  # keeps maps of zeros at zero, and changes no other


def find_keypoints(cams: Tensor, image_size: int, options: Options) -> Tensor:
    """Return the keypoints of `--strategy`, see `core.strategy.Keypoints.find`."""
    return KEYPOINTS[options.strategy].find(cams, image_size, options)


def training_step(
    student: Classifier, teacher: Classifier, images: Tensor, labels: Tensor, crops: Crops, options: Options
) -> Step:
    """Return the losses of one batch; `core.strategy.Strategy` describes the arguments."""
    logits, features = student(images)  # [B, V], [B, V, n, n]

    cams = make_cam(features.float(), TINY)  # [B, V, n, n]
    keypoints = find_keypoints(cams[crops.image, crops.label], images.shape[-1], options)  # [crops, 2]
    tiles = cut_tiles(images, crops.image, keypoints)  # [crops, 4, 3, S/2, S/2]

    with torch.no_grad():  # the teacher's maps are targets: no gradient flows through it
        _, tile_features = teacher(tiles, features_only=True)  # [crops, 4, V, n/2, n/2]
    merged = make_cam(merge_tiles(tile_features, keypoints, images.shape[-1]).float(), TINY)  # [crops, V, n, n]

    # The one change: the strategies' own scripts compare the features themselves.
    class_loss, p_class_loss, re_loss = puzzle_losses(logits, cams, merged, labels, crops, options.re_loss)
    loss = class_loss + options.alpha_p * p_class_loss + options.alpha_re * re_loss
    return Step(loss, class_loss, p_class_loss, re_loss, keypoints)


STRATEGY = Strategy(
    "scale_free",
    training_step,
    keypoints=find_keypoints,
    arguments={**TRAINING, "strategy": Argument("cMax", "whose keypoints cut", choices=("cMax", "cTopk", "cTopk-w"))},
)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
