"""What a network sees of annotated objects: (image, present class) pairs and their visible boxes.

Shapes: K pairs, T boxes (top, left, bottom, right), S pixels of the canvas's side.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tools.data.annotations import VOCObject
from tools.data.transforms import fitted_box

ROUNDING = 1e-6  # pixels
Box = tuple[int, int, int, int]  # top, left, bottom, right in pixels from 0, the last two exclusive


class Pairs(NamedTuple):
    """The (image, present class) pairs of a batch, image by image, classes in order, and their visible boxes."""

    image: Tensor  # [K], position in the batch
    label: Tensor  # [K]
    shown: Tensor  # boolean [K], whether a box of the pair is visible
    region: Tensor  # [K, 4], of the canvas, where it shows the pair's image
    boxes: Tensor  # [T, 4]
    owner: Tensor  # [T], the pair of each box
    frames: Tensor  # [B, 4], of each image of the batch: cells of the canvas outside it count as 0


@dataclass
class PresentClasses:
    """The classes of images, and their boxes on the canvas that `evaluation_transform` fills."""

    objects: list[list[VOCObject]]  # of every image, those that count
    sizes: list[tuple[int, int]]  # (height, width) of the images, pixels
    num_classes: int
    image_size: int  # S, pixels
    resize: bool = False  # see `evaluation_transform`

    def __post_init__(self) -> None:
        extents = [fitted_box(size, self.image_size) if self.resize else (0, 0, *size) for size in self.sizes]
        self.regions = torch.tensor(extents).clamp_max(self.image_size)  # where the canvas shows each image
        canvas = torch.tensor([0, 0, self.image_size, self.image_size])
        # Of a fitted image what inference counts; of a top-left crop the whole canvas, as in the official code.
        self.frames = self.regions if self.resize else canvas.expand_as(self.regions)
        self.boxes: list[dict[int, list[Box]]] = []  # of every image, by class; empty for a class that is out of sight
        for objects, size, extent in zip(self.objects, self.sizes, extents, strict=True):
            found = {label: [] for label in sorted({item.class_index for item in objects})}
            for item in objects:
                box = visible_box(item, size, extent, self.image_size)
                found[item.class_index] += [box] if box else []
            self.boxes.append(found)

    def pairs(self, indices: list[int], device: torch.device) -> Pairs:
        """Return the pairs of a batch of images."""
        found = [(at, *of_class) for at, index in enumerate(indices) for of_class in self.boxes[index].items()]
        rows = torch.tensor([(at, label, len(own)) for at, label, own in found], dtype=torch.long).reshape(-1, 3)
        boxes = [(*box, owner) for owner, (_, _, own) in enumerate(found) for box in own]
        boxes = torch.tensor(boxes, dtype=torch.long).reshape(-1, 5)
        image, label, shown = rows.unbind(1)
        found = (image, label, shown > 0, self.regions[indices][image], boxes[:, :4], boxes[:, 4], self.frames[indices])
        return Pairs(*(each.to(device) for each in found))


def visible_box(item: VOCObject, size: tuple[int, int], extent: Box, image_size: int) -> Box | None:
    """Return an object's box on the canvas, with partly covered pixels; None if it is out of sight.

    `extent` is where the whole image, of `size` (height, width), would be on the canvas of `image_size` pixels.
    """
    xmin, ymin, xmax, ymax = item.box or (1, 1, size[1], size[0])  # the devkit's 1-based, inclusive corners
    sides = []
    for axis, corners in enumerate(((ymin, ymax), (xmin, xmax))):
        first, last = sorted(corners)  # some tools swap corners
        scale = (extent[axis + 2] - extent[axis]) / size[axis]
        start = math.floor((math.floor(first) - 1) * scale + extent[axis] + ROUNDING)
        end = math.ceil(math.ceil(last) * scale + extent[axis] - ROUNDING)
        sides.append((max(start, extent[axis]), min(end, extent[axis + 2], image_size)))
    (top, bottom), (left, right) = sides
    return (top, left, bottom, right) if top < bottom and left < right else None
