"""Images, checked before they are used and read the same way by every program."""

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

# Pillow knows many more. Some start other programs (EPS), and none is what a file named .jpg should hold.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """An image whose header has been read and whose pixels have not.

    Raises:
        UserError: no regular file, none of `FORMATS`, or more pixels than Pillow opens without a warning.
    """
    if not require_regular_file(path).st_size:
        raise UserError(f"{path} is no readable image (it is empty): restore it from the devkit")
    try:
        image = Image.open(path, formats=_formats())
    except UnidentifiedImageError as error:
        names = ", ".join(_formats())
        raise UserError(f"{path} is no readable image (none of {names}): restore it from the devkit") from error
    except Exception as error:  # a damaged file can break the decoder anywhere
        raise UserError(f"{path} is no readable image ({reason(error)}): restore it from the devkit") from error
    with image:
        largest = Image.MAX_IMAGE_PIXELS or math.inf
        if math.prod(image.size) > largest:
            width, height = image.size
            raise UserError(f"{path} is no usable image ({width} × {height} pixels; at most {largest:,} are read)")
        yield image


def read_image(path: Path) -> Image.Image:
    """An image, decoded in full and made RGB by Pillow's `convert`, as in the official code.

    Gray is repeated, CMYK and palettes are converted, transparency is dropped, 16-bit values above 255 become 255, of
    several pictures in a file the first counts. An EXIF orientation is not applied.

    Raises:
        UserError: it cannot be decoded; the file is named.
    """
    with opened_image(path) as image:
        try:
            return image.convert("RGB")
        except Exception as error:  # a damaged file can break the decoder anywhere
            raise UserError(f"cannot decode {path} ({reason(error)}): restore it from the devkit") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    # Instead of Pillow's two-line warning, `opened_image` refuses images of that size.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")


def find_images(names: list[str]) -> list[Path]:
    """The images that files, folders (with all below them) and patterns (`*`, `?`, `[…]`, `**`) name, each once.

    Whether a file can be read shows when it is read.

    Raises:
        UserError: a name that stands for no image.
    """
    found: dict[Path, None] = {}
    for name in names:
        images = _matching(name)
        if not images:
            raise UserError(
                f"--images {name} names no image: give a file, a folder with {', '.join(SUFFIXES)}, or *.jpg"
            )
        found.update(dict.fromkeys(images))
    return list(found)


def _matching(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if path.exists():
        return [path]
    matches = sorted(Path(match) for match in glob.glob(name, recursive=True))
    return [file for match in matches for file in (_matching(str(match)) if match.is_dir() else [match])]


def read_upright(path: Path) -> Image.Image:
    """An image as a viewer shows it, RGB; errors as `tools.voc.read_image`."""
    return ImageOps.exif_transpose(read_image(path))
