"""Transforms of images for training and evaluation, from torchvision.

They return bytes; `normalize` makes floats of a whole batch on the device, so that a third of the bytes travels there.
"""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from tools.data.randaugment import cutout, randaugment
from tools.system.errors import UserError, quoted

Transform = Callable[[Image.Image], torch.Tensor]  # of an RGB image to uint8 `[S, S, 4]`, see `normalize`


class Normalization(NamedTuple):
    """Mean and standard deviation of red, green and blue, where white is 1, with which a network was trained."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # ImageNet's
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


IMAGENET_MEAN, IMAGENET_STD = IMAGENET = Normalization()
# In the order in which they are applied.
AUGMENTATIONS = {"colorjitter": v2.ColorJitter(0.3, 0.3, 0.3, 0.1), "randaugment": randaugment}
flip = v2.RandomHorizontalFlip()


def training_transform(
    image_size: int, min_image_size: int, max_image_size: int, augment: str = "", cut_out: float = 0.0
) -> Transform:
    """Return random resizing, flip, optional cutout and color augmentation, and random crop (official code).

    The random numbers are those of torch's global generator. An image smaller than the crop is placed at a random
    offset; the rest is 0 after normalization.

    Args:
        image_size: S, pixels; the longer side is uniform from `min_image_size` to `max_image_size`, both included.
        augment: see `augmentations`.
        cut_out: sides of the rectangle that `cutout` covers, as a share of the image's; 0: none.
    """
    colors = [functools.partial(cutout, share=cut_out)] if cut_out else []
    colors += augmentations(augment)
    sides = (min_image_size, max_image_size)
    return functools.partial(augmented, image_size=image_size, sides=sides, colors=colors)


def augmented(image: Image.Image, image_size: int, sides: tuple[int, int], colors: list[Callable]) -> torch.Tensor:
    """Return a random view of an image, see `training_transform`."""
    pixels = flip(resize_longer_side(to_pixels(image), *sides))
    if colors:  # they are faster on PIL images
        image = F.to_pil_image(pixels[:3])
        for change in colors:
            image = change(image)
        pixels = to_pixels(image)
    return crop(pixels, image_size, at_random=True)


def augmentations(text: str) -> list[Callable]:
    """Return those of `AUGMENTATIONS` that a text names, in their order there, whatever is between the names."""
    unknown = re.findall(r"[^\W_]+", re.sub("|".join(AUGMENTATIONS), " ", text))
    if unknown:
        raise UserError(f"unknown augmentation {quoted(unknown[0])}: choose from {', '.join(AUGMENTATIONS)}")
    return [change for name, change in AUGMENTATIONS.items() if name in text]


def evaluation_transform(image_size: int, resize: bool = False) -> Transform:
    """Return the top-left crop, zero-padded, without resizing (official code); with `resize`, `fit` instead."""
    return functools.partial(fit if resize else top_left, image_size=image_size)


def top_left(image: Image.Image, image_size: int) -> torch.Tensor:
    return crop(to_pixels(image), image_size, at_random=False)


def fit(image: Image.Image, image_size: int) -> torch.Tensor:
    """Resize (bicubic) an RGB PIL image as `fitted_box` says; the square around it is 0: uint8 `[S, S, 4]`."""
    top, left, bottom, right = fitted_box((image.height, image.width), image_size)
    # Pillow is much faster on large photographs if it may halve them first (`reducing_gap`).
    pixels = to_pixels(image.resize((right - left, bottom - top), Image.Resampling.BICUBIC, reducing_gap=3.0))
    return F.pad(pixels, [left, top, image_size - right, image_size - bottom]).movedim(0, -1)


def fitted_box(size: tuple[int, int], image_size: int) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right) of an image of (height, width) on its square: its longer side is S, centered.

    >>> fitted_box((100, 300), 96)
    (32, 0, 64, 96)
    """
    height, width = (max(1, round(side * image_size / max(size))) for side in size)
    top, left = (image_size - height) // 2, (image_size - width) // 2
    return top, left, top + height, left + width


def covered_cells(boxes: torch.Tensor, image_size: int, cells: int) -> torch.Tensor:
    """Return which cells of n × n maps the boxes `[..., 4]` cover at least in part: boolean `[..., n, n]`."""
    start = torch.arange(cells, device=boxes.device) * image_size / cells
    end = start + image_size / cells
    top, left, bottom, right = boxes[..., None].unbind(-2)
    rows, columns = (start < bottom) & (end > top), (start < right) & (end > left)
    return rows[..., None] & columns[..., None, :]


def to_pixels(image: Image.Image) -> torch.Tensor:
    """Convert an RGB PIL image to uint8 `[4, h, w]`: red, green, blue, and a validity mask: 255 inside the image.

    The tensor is a view of `[h, w, 4]`, and the transforms keep it so: resizing and copies are fastest when the four
    bytes of a pixel are adjacent in memory.
    """
    image = image.copy()
    image.putalpha(255)  # not `convert("RGBA")`, which would leave a hole at a PNG's transparent color
    return F.pil_to_tensor(image)


def resize_longer_side(pixels: torch.Tensor, smallest: int, largest: int) -> torch.Tensor:
    """Resize (bicubic) so that the longer side is a uniform random number of pixels; the aspect ratio is kept.

    Works on uint8 tensors `[C, h, w]`: several times faster than Pillow, and within 2 of 255 levels of it.
    """
    scale = int(torch.randint(smallest, largest + 1, ())) / max(pixels.shape[-2:])
    sides = [max(1, round(side * scale)) for side in pixels.shape[-2:]]
    return F.resize(pixels, sides, InterpolationMode.BICUBIC, antialias=True)


def crop(pixels: torch.Tensor, size: int, at_random: bool) -> torch.Tensor:
    """Cut out a square, zero-padded: `[4, h, w]` → `[S, S, 4]`, height × width × channels as in memory.

    At random, each axis has a uniform offset of the square in the image or, if the image is smaller, of the image in
    the square. Otherwise both start at the top left.
    """
    margins: list[int] = []  # left, right, top, bottom; negative ones cut off
    for side in pixels.shape[-2:]:
        offset = int(torch.randint(abs(side - size) + 1, ())) if at_random else 0
        before = offset if side < size else -offset
        margins = [before, size - side - before, *margins]
    return torch.nn.functional.pad(pixels.movedim(0, -1), [0, 0, *margins])


def normalize(pixels: torch.Tensor, normalization: Normalization | None = None) -> torch.Tensor:
    """Normalize pixels and validity mask, uint8 `[..., S, S, 4]`, to float32 `[..., 3, S, S]`, on any device.

    Without `normalization` it is ImageNet's; outside the image the result is exactly 0.
    """
    scale, shift = _scale_and_shift(pixels.device, normalization or IMAGENET)
    return pixels[..., :3].float().mul_(scale).sub_(shift).masked_fill_(pixels[..., 3:] == 0, 0).movedim(-1, -3)


@functools.cache
def _scale_and_shift(device: torch.device, normalization: Normalization) -> tuple[torch.Tensor, torch.Tensor]:
    """`[3]` each. Cached: creating a tensor from Python numbers synchronizes with the GPU."""
    mean, std = (torch.tensor(values, device=device) for values in normalization)
    return 1 / (255 * std), mean / std


def denormalize(images: torch.Tensor, normalization: Normalization | None = None) -> torch.Tensor:
    """Convert normalized images `[..., 3, h, w]` to uint8 `[..., h, w, 3]`, RGB, for pictures."""
    mean, std = (torch.tensor(values)[:, None, None] for values in normalization or IMAGENET)
    pixels = (images.cpu().float() * std + mean) * 255
    return pixels.round().clamp(0, 255).byte().movedim(-3, -1)
