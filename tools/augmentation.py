"""Images in training and evaluation, with torchvision's transforms."""

import torch
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


def training_transform(
    image_size: int, min_image_size: int, max_image_size: int, augment: str = "", normalised: bool = True
) -> v2.Compose:
    """Random resizing, flip, optional colour changes, random crop and normalisation (official code).

    Where an image does not cover the crop it lies at a random offset, and the rest is 0 after normalisation.

    Args:
        image_size: S, pixels.
        min_image_size, max_image_size: the longer side is uniform between them, both included, pixels.
        augment: names of `AUGMENTATIONS`, separated by commas.
        normalised: False leaves `normalise` to the device, with a quarter of the bytes on the way there.

    Returns:
        from a PIL image to float32 `[3, S, S]`, or to what `normalise` takes; random numbers come from torch's global
        generator.

    Raises:
        UserError: unknown augmentation.
    """
    names = [name.strip() for name in augment.split(",") if name.strip()]
    unknown = [name for name in names if name not in AUGMENTATIONS]
    if unknown:
        raise UserError(f"--augment: unknown '{unknown[0]}': choose from {', '.join(AUGMENTATIONS)}")
    return v2.Compose(
        [
            v2.PILToTensor(),
            RandomLongerSide(min_image_size, max_image_size),
            v2.RandomHorizontalFlip(),
            *(OnPicture(AUGMENTATIONS[name]()) for name in names),
            v2.Lambda(add_cover),
            # Both sides are padded by what is missing, so the crop leaves the image at a uniform offset.
            v2.RandomCrop(image_size, pad_if_needed=True, fill=0),
            *([v2.Lambda(normalise)] if normalised else []),
        ]
    )


def evaluation_transform(image_size: int, normalised: bool = True) -> v2.Compose:
    """The top-left crop, padded with 0, and normalisation; no resizing (official code).

    Gives float32 `[3, S, S]`, or with `normalised` False what `normalise` takes.
    """
    last = [v2.Lambda(normalise)] if normalised else []
    return v2.Compose([v2.PILToTensor(), v2.Lambda(add_cover), TopLeftCrop(image_size), *last])


def add_cover(image: torch.Tensor) -> torch.Tensor:
    """A fourth channel that is 1 wherever there is an image: uint8 `[3, h, w]` → `[4, h, w]`."""
    return torch.cat((image, torch.ones_like(image[:1])))


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Normalised images, exactly 0 where there is none; works on any device.

    Args:
        pixels: uint8 `[..., 4, S, S]`: red, green, blue, and 1 where the image covers the canvas, else 0.

    Returns:
        float32 `[..., 3, S, S]`.
    """
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    images = pixels[..., :3, :, :].float().mul_(1 / (255 * std)).sub_(mean / std)
    return images.masked_fill_(pixels[..., 3:, :, :] == 0, 0)


def denormalise(images: torch.Tensor) -> torch.Tensor:
    """Pictures to look at: normalised images `[..., 3, h, w]` to uint8 `[..., h, w, 3]`, RGB."""
    mean = torch.tensor(IMAGENET_MEAN)[:, None, None]
    std = torch.tensor(IMAGENET_STD)[:, None, None]
    pixels = (images.cpu().float() * std + mean) * 255
    return pixels.round().clamp(0, 255).byte().movedim(-3, -1)


class RandomLongerSide(nn.Module):
    """Resize so that the longer side is a uniform random number of pixels; the other keeps the aspect (bicubic).

    On tensors `[3, h, w]` of uint8, several times faster than Pillow and at most 2 of 255 levels from it.
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
    """A transform of PIL images on a tensor `[3, h, w]` of uint8: colour changes are faster there."""

    def __init__(self, transform: nn.Module):
        super().__init__()
        self.transform = transform

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return F.pil_to_tensor(self.transform(F.to_pil_image(image)))


class TopLeftCrop(nn.Module):
    """The top-left square of an image tensor `[C, h, w]`, filled up with 0."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return F.crop(image, 0, 0, self.size, self.size)
