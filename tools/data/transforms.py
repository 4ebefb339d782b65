"""Images in training and evaluation, with torchvision's transforms."""

import functools

import torch
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from tools.system.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)


IMAGENET_STD = (0.229, 0.224, 0.225)


AUGMENTATIONS = {
    "colorjitter": lambda: v2.ColorJitter(0.3, 0.3, 0.3, 0.1),
    "randaugment": lambda: v2.RandAugment(num_ops=2, magnitude=10),
}


def training_transform(
    image_size: int, min_image_size: int, max_image_size: int, augment: str = "", normalized: bool = True
) -> v2.Compose:
    """Random resizing, flip, optional color changes, random crop and normalization (official code).

    Where an image does not cover the crop it lies at a random offset, and the rest is 0 after normalization.

    Args:
        image_size: S, pixels.
        min_image_size, max_image_size: the longer side is uniform between them, both included, pixels.
        augment: names of `AUGMENTATIONS`, separated by commas.
        normalized: False leaves `normalize` to the device, with a third of the bytes on the way there.

    Returns:
        from an RGB PIL image to float32 `[3, S, S]`, or to what `normalize` takes; random numbers come from torch's
        global generator.

    Raises:
        UserError: unknown augmentation.
    """
    names = [name.strip() for name in augment.split(",") if name.strip()]
    unknown = [name for name in names if name not in AUGMENTATIONS]
    if unknown:
        raise UserError(f"--augment: unknown '{unknown[0]}': choose from {', '.join(AUGMENTATIONS)}")
    return v2.Compose(
        [
            v2.Lambda(to_pixels),
            RandomLongerSide(min_image_size, max_image_size),
            v2.RandomHorizontalFlip(),
            *(OnPicture(AUGMENTATIONS[name]()) for name in names),
            Crop(image_size, at_random=True),
            *([v2.Lambda(normalize)] if normalized else []),
        ]
    )


def evaluation_transform(image_size: int, normalized: bool = True) -> v2.Compose:
    """The top-left crop, padded with 0, and normalization; no resizing (official code).

    Gives float32 `[3, S, S]`, or with `normalized` False what `normalize` takes.
    """
    last = [v2.Lambda(normalize)] if normalized else []
    return v2.Compose([v2.Lambda(to_pixels), Crop(image_size, at_random=False), *last])


def to_pixels(image: Image.Image) -> torch.Tensor:
    """An RGB PIL image as uint8 `[4, h, w]`: red, green, blue, and a cover of 255 wherever there is an image.

    Pillow, torch's resizing and memory copies all are fastest on four interleaved bytes, so the tensor is a view of
    `[h, w, 4]` and the transforms keep it one.
    """
    image = image.copy()
    image.putalpha(255)  # not `convert("RGBA")`, for which a PNG's transparent color would be a hole in the cover
    return F.pil_to_tensor(image)


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    """Normalized images, exactly 0 where there is none; works on any device.

    Args:
        pixels: uint8 `[..., S, S, 4]`: red, green, blue, and 0 where no image covers the canvas.

    Returns:
        float32 `[..., 3, S, S]`.
    """
    scale, shift = _scale_and_shift(pixels.device)
    images = pixels[..., :3].float().mul_(scale).sub_(shift).masked_fill_(pixels[..., 3:] == 0, 0)
    return images.movedim(-1, -3)


@functools.cache
def _scale_and_shift(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """`[3]` each. Kept, because a GPU is waited for whenever a tensor is made from Python's numbers."""
    mean, std = (torch.tensor(values, device=device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return 1 / (255 * std), mean / std


def denormalize(images: torch.Tensor) -> torch.Tensor:
    """Pictures to look at: normalized images `[..., 3, h, w]` to uint8 `[..., h, w, 3]`, RGB."""
    mean = torch.tensor(IMAGENET_MEAN)[:, None, None]
    std = torch.tensor(IMAGENET_STD)[:, None, None]
    pixels = (images.cpu().float() * std + mean) * 255
    return pixels.round().clamp(0, 255).byte().movedim(-3, -1)


class RandomLongerSide(nn.Module):
    """Resize so that the longer side is a uniform random number of pixels; the other keeps the aspect (bicubic).

    On tensors `[C, h, w]` of uint8, several times faster than Pillow and at most 2 of 255 levels from it.
    """

    def __init__(self, smallest: int, largest: int):
        super().__init__()
        self.smallest, self.largest = smallest, largest

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        longer = int(torch.randint(self.smallest, self.largest + 1, ()))
        scale = longer / max(image.shape[-2:])
        sides = [max(1, round(side * scale)) for side in image.shape[-2:]]
        return F.resize(image, sides, InterpolationMode.BICUBIC, antialias=True)


class OnPicture(nn.Module):
    """A transform of RGB PIL images on what `to_pixels` gives: color changes are faster there."""

    def __init__(self, transform: nn.Module):
        super().__init__()
        self.transform = transform

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return to_pixels(self.transform(F.to_pil_image(image[:3])))


class Crop(nn.Module):
    """A square of an image, filled up with 0: `[4, h, w]` → `[S, S, 4]`, as pictures lie in memory.

    Args:
        size: S, pixels.
        at_random: each axis has a uniform offset, of the square in the image or, where the image is smaller, of the
            image in the square. Otherwise both begin at the top left.
    """

    def __init__(self, size: int, at_random: bool):
        super().__init__()
        self.size = size
        self.at_random = at_random

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        canvas = torch.zeros(self.size, self.size, len(image), dtype=image.dtype)
        (rows, onto_rows), (columns, onto_columns) = map(self._place, image.shape[-2:])
        canvas[onto_rows, onto_columns] = image[:, rows, columns].movedim(0, -1)
        return canvas

    def _place(self, side: int) -> tuple[slice, slice]:
        """Along one axis, the part of an image of `side` pixels that is taken, and where it goes."""
        offset = int(torch.randint(abs(side - self.size) + 1, ())) if self.at_random else 0
        if side > self.size:
            return slice(offset, offset + self.size), slice(None)
        return slice(None), slice(offset, offset + side)
