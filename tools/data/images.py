"""Image files: found, checked, and read in the same way by every program."""

import functools
import glob
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from tools.system.errors import UserError
from tools.system.files import reason, require_regular_file

# Pillow knows many more. Some start other programs (EPS), and none of them belongs in a file named .jpg.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Open an image of one of `FORMATS` and read its header; until it is closed, every error is a `UserError`.

    An image of more pixels than Pillow opens without a warning is an error.
    """
    if not require_regular_file(path).st_size:
        raise UserError(f"{path} is not a readable image (it is empty)")
    with _damage_reported(f"{path} is not a readable image"):
        image = Image.open(path, formats=_formats())
    with image, _damage_reported(f"cannot decode {path}"):
        most = Image.MAX_IMAGE_PIXELS or math.inf
        if math.prod(image.size) > most:
            width, height = image.size
            raise UserError(f"{path} is too large an image ({width} × {height} pixels; at most {most:,} are read)")
        yield image


@contextmanager
def _damage_reported(problem: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything in Pillow's decoders
        unidentified = isinstance(error, UnidentifiedImageError)
        cause = f"not one of {', '.join(_formats())}" if unidentified else reason(error)
        raise UserError(f"{problem} ({cause})") from error


def read_image(path: Path) -> Image.Image:
    """Decode an image in full and convert it to RGB with Pillow's `convert`, as in the official code.

    Gray is repeated, CMYK and palettes are converted, transparency is dropped, 16-bit values above 255 become 255. Of a
    file with several images the first counts. An EXIF orientation is not applied.
    """
    with opened_image(path) as image:
        return image.convert("RGB")


def read_upright(path: Path) -> Image.Image:
    """Return an image as a viewer shows it: RGB, with its EXIF orientation applied."""
    with opened_image(path) as image:
        return ImageOps.exif_transpose(image.convert("RGB"))


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this Pillow was built with."""
    # `opened_image` refuses images of the size that Pillow prints this two-line warning for.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def find_images(names: list[str]) -> list[Path]:
    """Return the images that files, folders (with everything below) and patterns (`*`, `?`, `[…]`, `**`) name.

    Each image is returned once, unopened. A name without an image is an error.
    """
    found: list[Path] = []
    for name in names:
        images = _matching(name)
        if not images:
            raise UserError(f"{name} names no image (a file, a folder with {', '.join(SUFFIXES)}, or *.jpg)")
        found += images
    return list(dict.fromkeys(found))


def _matching(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if path.exists():  # also one whose name looks like a pattern
        return [path]
    matches = sorted(Path(match) for match in glob.glob(name, recursive=True))
    return [file for match in matches for file in (_matching(str(match)) if match.is_dir() else [match])]
