"""Image files: found, checked, and read in the same way by every program."""

import glob
import io
import math
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from tools.system.errors import UserError, quoted, reason
from tools.system.files import require_regular_file
from tools.system.shortages import shortage

# Pillow knows many more. Some start other programs (EPS), and none of them belongs in a file named .jpg.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
MAX_BARE_BYTES = 1 << 28
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
Size = tuple[int, int]  # width and height in pixels
ImageSource = str | Path | Image.Image | np.ndarray
_TURN = Image.Transpose
# By EXIF orientation: what makes the image upright.
TURNS = {2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM, 5: _TURN.TRANSPOSE}
TURNS |= {6: _TURN.ROTATE_270, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_90}
# Pillow's remarks on side data and on large images, which `opened_image` refuses, are not for the user.
warnings.filterwarnings("ignore", module=r"PIL\.")


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Open an image of one of `FORMATS` and read its header; until it is closed, every error is a `UserError`.

    An image of more pixels than Pillow opens without a warning is an error.
    """
    if not require_regular_file(path).st_size:
        raise UserError(f"{path} is not a readable image (it is empty)")
    with _damage_reported(f"{path} is not a readable image"):
        try:
            image = Image.open(path, formats=FORMATS)
        except Exception as error:  # Pillow refuses a PNG whose comments are damaged
            image = _bare_png(path, error)
    with image, _damage_reported(f"cannot decode {path}"):
        most = Image.MAX_IMAGE_PIXELS or math.inf
        if math.prod(image.size) > most:
            width, height = image.size
            raise UserError(f"{path} is too large an image ({width} × {height} pixels; at most {most:,} are read)")
        yield image


def _bare_png(path: Path, error: Exception) -> Image.Image:
    """Open a PNG with its pixels and EXIF data alone; raise `error`, that of the whole file, if it is not a PNG."""
    content = path.read_bytes() if path.stat().st_size <= MAX_BARE_BYTES else b""
    if not content.startswith(PNG_SIGNATURE):
        raise error
    position, kept = len(PNG_SIGNATURE), [PNG_SIGNATURE]
    while position < len(content):  # a chunk: length, kind, data, checksum
        end = position + 12 + int.from_bytes(content[position : position + 4], "big")
        kind, checksum = content[position + 4 : position + 8], int.from_bytes(content[end - 4 : end], "big")
        is_whole = zlib.crc32(content[position + 4 : end - 4]) == checksum
        if kind in PNG_PIXELS or (kind == b"eXIf" and is_whole):  # with the orientation
            kept.append(content[position:end])
        position = end
    return Image.open(io.BytesIO(b"".join(kept)), formats=("PNG",))


@contextmanager
def _damage_reported(problem: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything in Pillow's decoders
        if shortage(error) and not isinstance(error, MemoryError):  # too many open files, for example
            raise
        unidentified = isinstance(error, UnidentifiedImageError)
        cause = f"not one of {', '.join(FORMATS)}" if unidentified else reason(error)
        raise UserError(f"{problem} ({cause})") from error


def read_image(path: Path) -> Image.Image:
    """Decode an image in full and return it upright in 8-bit RGB, see `upright_rgb`: the reader of every program."""
    with opened_image(path) as image:
        return upright_rgb(image)


def as_rgb(image: ImageSource) -> Image.Image:
    """Return a file, a PIL image or pixels as `upright_rgb` does; a UserError if it cannot be read.

    Pixels are uint8, `[h, w]` gray, `[h, w, 3]` RGB (OpenCV reads BGR: reverse it) or `[h, w, 4]` RGBA.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not image.size or image.ndim < 2 or image.shape[2:] not in ((), (3,), (4,)):
            given = f"an array of {image.dtype} {list(image.shape)}"
            raise UserError(f"{given} is not an image: give uint8 pixels [h, w], [h, w, 3] (RGB) or [h, w, 4]")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image) or 0 in image.size:
        raise UserError(f"{quoted(repr(image))} is not an image: give a file, a PIL image or an array")
    with _damage_reported(f"cannot decode {getattr(image, 'filename', '') or 'the PIL image'}"):
        return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an opened image in 8-bit RGB as a viewer shows it, without side data except an RGB color profile.

    Pillow's `convert` does it, as in the official code: gray is repeated, CMYK and palettes are converted, transparency
    is dropped. Of 16 bits, the upper 8 count. The EXIF orientation is applied. Of several images, the first counts.
    """
    try:
        image.load()
    except Exception as error:  # perhaps because of a comment behind the pixels of a PNG
        if not image.filename:
            raise
        return upright_rgb(_bare_png(Path(image.filename), error))
    if image.mode.startswith("I"):  # `convert` would make every value above 255 white
        rgb = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    else:
        rgb = image.convert("RGB")
    turn = TURNS.get(orientation(image))
    upright = rgb if turn is None else rgb.transpose(turn)
    profile = image.info.get("icc_profile") or b""
    # Side data could turn the image a second time; a profile of CMYK or gray does not describe RGB.
    upright.info = {"icc_profile": profile} if profile[16:20] == b"RGB " else {}
    return upright


def orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation of an opened image, from 1 (upright) to 8; None if its side data are damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
        return int(value) if value in TURNS else 1
    except Exception:  # EXIF data can be anything; a picture is shown without them
        return None


def upright_size(path: Path) -> Size:
    """Return the size of the upright image, from its header."""
    with opened_image(path) as image:
        width, height = image.size
        return (height, width) if (orientation(image) or 1) >= 5 else (width, height)


def save_smaller(source: Path, target: Path, longest: int, quality: int, **resize: float) -> tuple[Size, float]:
    """Write an upright JPEG with at most `longest` pixels per side; return its size and the factor, at most 1."""
    image = read_image(source)
    factor = min(1.0, longest / max(image.size))
    width, height = (max(1, round(side * factor)) for side in image.size)
    smaller = image.resize((width, height), Image.Resampling.BICUBIC, **resize)
    smaller.save(target, "JPEG", quality=quality, icc_profile=image.info.get("icc_profile"))
    return smaller.size, factor


def find_images(names: list[str]) -> tuple[list[Path], list[Path]]:
    """Return the images that files, folders (with everything below) and patterns (`*`, `?`, `[…]`, `**`) name.

    Each image is returned once, unopened; the second list has what the folders hold besides. Hidden files do not count.
    A name without an image is an error.
    """
    images: dict[Path, None] = {}
    others: dict[Path, None] = {}
    for name in names:
        # A name that looks like a pattern may be that of a file.
        paths = [Path(name)] if os.path.exists(name) else sorted(map(Path, glob.glob(name, recursive=True)))
        found = [images_below(path) if path.is_dir() else ([path], []) for path in paths]
        if not any(inside for inside, _ in found):
            raise UserError(f"{name} names no image (a file, a folder with {', '.join(SUFFIXES)}, or *.jpg)")
        for inside, left_out in found:
            images |= dict.fromkeys(inside)
            others |= dict.fromkeys(left_out)
    return list(images), list(others)


def images_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images and the other visible files below a folder. Links are followed, into each folder once."""
    others: list[Path] = []
    files, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=lambda e: others.append(Path(e.filename))):
        real = os.path.realpath(root)
        if real in seen:  # a link can lead back up
            folders.clear()
            others.append(Path(root))
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(root, name) for name in names if not name.startswith(".")]
    images = {file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()}
    return sorted(images), others + sorted(set(files) - images)
