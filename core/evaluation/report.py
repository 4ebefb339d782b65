"""Pictures of the worst errors of an evaluation, for its report."""

from collections.abc import Callable

import numpy as np
import torch

from core.cam import make_cam
from core.evaluation.pairs import visible_box
from core.evaluation.panels import draw_example
from tools.data.annotations import VOCObject
from tools.data.datasets import VOCImages
from tools.data.images import upright_size
from tools.data.transforms import fitted_box
from tools.pictures.report import Pair, embedded


def draw_errors(
    pairs: list[Pair],
    images: VOCImages,
    objects: list[list[VOCObject]],
    resize: bool,
    features_of: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> dict[Pair, str]:
    """Return the sources of pictures of (image, class) pairs: what the network sees, under its map of the class.

    Args:
        images: with the transform of the evaluation, `evaluation_transform` with `resize`.
        objects: of every image those whose boxes are drawn.
        features_of: the CAM branch's features `[1, V, n, n]` of pixels uint8 `[1, S, S, 4]`; None: there are no maps.
    """
    pictures = {}
    for row, v in pairs:
        pixels = images[row][0]
        cam = None if features_of is None else make_cam(features_of(pixels[None])[0].float())[v]
        width, height = upright_size(images.paths[row])
        place = fitted_box((height, width), len(pixels)) if resize else (0, 0, height, width)
        found = (visible_box(item, (height, width), place, len(pixels)) for item in objects[row] if item.box)
        pictures[row, v] = embedded(draw_example(np.asarray(pixels), cam, [box for box in found if box]), "jpg")
    return pictures
