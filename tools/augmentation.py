"""Images in training and evaluation, with torchvision's transforms."""

import torch
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from tools.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
AUGMENTATIONS = {
    "colorjitter": lambda: v2.ColorJitter(0.3, 0.3, 0.3, 0.1),
    "randaugment": lambda: v2.RandAugment(num_ops=2, magnitude=10),
}


def training_transform(image_size: int, min_image_size: int, max_image_size: int, augment: str = "") -> v2.Compose:
    """Random resizing, flip, optional colour changes, normalisation and random crop (official code).

    Where an image does not cover the crop it lies at a random offset, and the rest is 0 after normalisation.

    Args:
        image_size: S, pixels.
        min_image_size, max_image_size: the longer side is uniform between them, both included, pixels.
        augment: names of `AUGMENTATIONS`, separated by commas.

    Returns:
        from a PIL image to float32 `[3, S, S]`; random numbers come from torch's global generator.

    Raises:
        UserError: unknown augmentation.
    """
    names = [name.strip() for name in augment.split(",") if name.strip()]
    unknown = [name for name in names if name not in AUGMENTATIONS]
    if unknown:
        raise UserError(f"--augment: unknown '{unknown[0]}': choose from {', '.join(AUGMENTATIONS)}")
    return v2.Compose(
        [
            RandomLongerSide(min_image_size, max_image_size),
            v2.RandomHorizontalFlip(),
            *(AUGMENTATIONS[name]() for name in names),
            *_normalisation(),
            # Both sides are padded by what is missing, so the crop leaves the image at a uniform offset.
            v2.RandomCrop(image_size, pad_if_needed=True, fill=0),
            v2.ToPureTensor(),
        ]
    )


def evaluation_transform(image_size: int) -> v2.Compose:
    """Normalisation and the top-left crop, padded with 0; no resizing (official code). Gives float32 `[3, S, S]`."""
    return v2.Compose([*_normalisation(), TopLeftCrop(image_size), v2.ToPureTensor()])


def denormalise(images: torch.Tensor) -> torch.Tensor:
    """Pictures to look at: normalised images `[..., 3, h, w]` to uint8 `[..., h, w, 3]`, RGB."""
    mean = torch.tensor(IMAGENET_MEAN)[:, None, None]
    std = torch.tensor(IMAGENET_STD)[:, None, None]
    pixels = (images.cpu().float() * std + mean) * 255
    return pixels.round().clamp(0, 255).byte().movedim(-3, -1)


def _normalisation() -> list[nn.Module]:
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]


class RandomLongerSide(nn.Module):
    """Resize so that the longer side is a uniform random number of pixels; the other keeps the aspect (bicubic)."""

    def __init__(self, smallest: int, largest: int):
        super().__init__()
        self.smallest, self.largest = smallest, largest

    def forward(self, image: Image.Image) -> Image.Image:
        longer = int(torch.randint(self.smallest, self.largest + 1, ()))
        scale = longer / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        return F.resize(image, [height, width], InterpolationMode.BICUBIC)


class TopLeftCrop(nn.Module):
    """The top-left square of an image tensor `[3, h, w]`, filled up with 0."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return F.crop(image, 0, 0, self.size, self.size)
