"""RandAugment as the official code has it: the form of FixMatch (Sohn et al., 2020), on RGB PIL images.

Two operations are drawn, each is applied with probability 1/2 at a random strength, and a black square always follows.
torchvision's `RandAugment` differs: it has no square, one strength for all, and enhances colors in both directions.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

STRENGTHS = 10  # a strength is 1 to 9 of 10
SQUARE = 16  # side of the black square, pixels


class Operation(NamedTuple):
    """A change of an image by a value, which is `largest` · strength / 10 + `smallest`."""

    apply: Callable[[Image.Image, float], Image.Image]
    largest: float = 0  # an integer makes the value one too
    smallest: float = 0
    signed: bool = False  # the value is negative with probability 1/2

    def value(self, strength: int) -> float:
        """Return the value, without its sign, of a strength from 1 to 9."""
        value = strength * self.largest / STRENGTHS
        return (int(value) if isinstance(self.largest, int) else value) + self.smallest


def _affine(matrix: Callable[[Image.Image, float], tuple[float, ...]]) -> Callable[[Image.Image, float], Image.Image]:
    """Return a transform by `matrix(image, value)`; the nearest pixel counts, and black lies outside."""
    return lambda image, value: image.transform(image.size, Image.Transform.AFFINE, matrix(image, value))


def _enhance(kind: type) -> Operation:
    return Operation(lambda image, value: kind(image).enhance(value), 0.9, 0.05)


# In the order of the official code, because an operation is drawn by its number.
OPERATIONS = (
    Operation(lambda image, _: ImageOps.autocontrast(image)),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    Operation(lambda image, _: ImageOps.equalize(image)),
    Operation(lambda image, _: image),
    Operation(ImageOps.posterize, 4, 4),
    Operation(lambda image, value: image.rotate(value), 30, signed=True),
    _enhance(ImageEnhance.Sharpness),
    Operation(_affine(lambda _, value: (1, value, 0, 0, 1, 0)), 0.3, signed=True),
    Operation(_affine(lambda _, value: (1, 0, 0, value, 1, 0)), 0.3, signed=True),
    Operation(lambda image, value: ImageOps.solarize(image, 256 - value), 256),
    Operation(_affine(lambda image, value: (1, 0, int(value * image.width), 0, 1, 0)), 0.3, signed=True),
    Operation(_affine(lambda image, value: (1, 0, 0, 0, 1, int(value * image.height))), 0.3, signed=True),
)


class Draws:
    """Where the random numbers come from: torch's global generator."""

    def chance(self) -> float:
        """Return a uniform number in [0, 1)."""
        return float(torch.rand((), dtype=torch.float64))

    def strength(self) -> int:
        """Return a uniform integer from 1 to 9."""
        return int(torch.randint(1, STRENGTHS, ()))

    def position(self, side: int) -> float:
        """Return a uniform number in [0, side)."""
        return side * self.chance()


def randaugment(image: Image.Image, draws: Draws | None = None) -> Image.Image:
    """Change an RGB PIL image at random; the numbers are drawn in the order of the official code."""
    draws = draws or Draws()
    drawn = [OPERATIONS[int(draws.chance() * len(OPERATIONS))] for _ in range(2)]
    for operation in drawn:
        strength = draws.strength()
        if draws.chance() < 0.5:
            sign = -1 if operation.signed and draws.chance() < 0.5 else 1
            image = operation.apply(image, sign * operation.value(strength))
    return black_square(image, draws.position(image.width), draws.position(image.height))


def cutout(image: Image.Image, share: float) -> Image.Image:
    """Return the image with a rectangle of a random color around a random pixel (code of ASL: `CutoutPIL`).

    Its sides are `share` of the image's; what lies outside the image is cut off.
    """
    x, y = (int(torch.randint(side, ())) for side in image.size)
    across, down = (int(share * side + 0.5) // 2 for side in image.size)
    color = tuple(torch.randint(256, (3,)).tolist())
    image = image.copy()
    ImageDraw.Draw(image).rectangle((x - across, y - down, x + across, y + down), color)
    return image


def black_square(image: Image.Image, x: float, y: float) -> Image.Image:
    """Return the image with a black square around (x, y), 17 pixels wide because Pillow includes both ends.

    At the left and the top it is moved inside; at the right and the bottom it is cut.
    """
    left, top = (int(max(0, middle - SQUARE / 2)) for middle in (x, y))
    image = image.copy()
    ImageDraw.Draw(image).rectangle((left, top, left + SQUARE, top + SQUARE), (0, 0, 0))
    return image
