"""Pictures for people: heat maps over images, cuts, points, captions, color bars and sheets of panels.

Everything takes and gives arrays: images are uint8 `[h, w, 3]` in RGB, places are (row, column) in pixels. Colors
are told apart by the color-blind too: maps are viridis, signs blue and orange, lines those of Okabe and Ito. Letters
are at least 14 pixels high.
"""

import functools
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tools.system.errors import UserError
from tools.system.files import replace_file

WHITE, BLACK, GRAY = (255, 255, 255), (0, 0, 0), (110, 110, 110)


# Okabe and Ito's palette: orange, sky blue, green, yellow, blue, vermillion, purple.
ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
)


LINE_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, GRAY)


FONT_SIZE = 20  # pixels from ascender to descender: capitals of 14


BAR_HEIGHT = 30  # of a caption


BAR_WIDTH = 96  # of a color bar with its numbers


# Letters -----------------------------------------------------------------------------------------------------------


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Pillow's own: the same letters on every machine, accents included.
    return ImageFont.load_default(size)


def text_width(text: str, size: int = FONT_SIZE) -> int:
    """Pixels that a line of text takes."""
    return int(np.ceil(_font(size).getlength(text)))


def draw_text(
    image: np.ndarray, text: str, place: tuple[int, int], color: tuple[int, int, int] = BLACK, size: int = FONT_SIZE
) -> None:
    """Write a line of text on the image, in place; `place` is its left end and vertical middle, (row, column)."""
    canvas = Image.fromarray(image)
    ImageDraw.Draw(canvas).text((place[1], place[0]), text, fill=color, font=_font(size), anchor="lm")
    image[:] = np.asarray(canvas)


def shortened(text: str, width: int, size: int = FONT_SIZE) -> str:
    """The text, its middle left out where it takes more than `width` pixels."""
    text = text.encode(errors="replace").decode()  # a file's name need not be text
    if text_width(text, size) <= width:
        return text
    kept = len(text) - 1
    while kept > 1 and text_width(_ends(text, kept), size) > width:
        kept -= 1
    return _ends(text, kept)


def _ends(text: str, kept: int) -> str:
    return text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]


def caption(image: np.ndarray, text: str, height: int = BAR_HEIGHT) -> np.ndarray:
    """The image with a line of text above it, shortened where it would not fit."""
    bar = np.full((height, image.shape[1], 3), 255, np.uint8)
    draw_text(bar, shortened(text, image.shape[1] - 8), (height // 2, 4))
    return np.concatenate((bar, image))


# Maps --------------------------------------------------------------------------------------------------------------


def heat_overlay(image: np.ndarray, heat: np.ndarray, strength: float = 0.65) -> np.ndarray:
    """An image under a heat map.

    Args:
        image: the image; its colors are muted, so that those of the map are not taken for its own.
        heat: `[n, m]` in 0…1; where it is 0 the image shows unchanged but for that.
        strength: opacity where the heat is 1.
    """
    heat = cv2.resize(heat.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)
    opacity = strength * np.sqrt(heat)[..., None]
    muted = 0.5 * image + 0.5 * image.mean(-1, keepdims=True)
    return (muted * (1 - opacity) + colors_of(heat) * opacity).round().astype(np.uint8)


def colors_of(heat: np.ndarray) -> np.ndarray:
    """Viridis: values `[h, w]` in 0…1 to colors."""
    levels = (heat.clip(0, 1) * 255).astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1]


def signed_colors_of(values: np.ndarray) -> np.ndarray:
    """Values `[h, w]` in −1…1: blue below, white at 0, orange above."""
    values = values.clip(-1, 1)[..., None]
    end = np.where(values < 0, np.array(BLUE), np.array(VERMILLION))
    return (255 + (end - 255) * np.abs(values)).round().astype(np.uint8)


def map_panel(values: np.ndarray, side: int, low: float, high: float, signed: bool = False) -> np.ndarray:
    """A map `[n, m]` as colored cells, its longer side `side` pixels; `low` and `high` are the ends of the colors."""
    scaled = (values - low) / max(high - low, 1e-12)
    colored = signed_colors_of(2 * scaled - 1) if signed else colors_of(scaled)
    return resized(colored, side, cv2.INTER_NEAREST)


def color_bar(height: int, low: str, high: str, signed: bool = False) -> np.ndarray:
    """A bar of the map's colors, `high` at its top, `low` at its bottom: `[height, BAR_WIDTH, 3]`."""
    bar = np.full((height, BAR_WIDTH, 3), 255, np.uint8)
    inset = FONT_SIZE // 2
    scale = np.repeat(np.linspace(1, 0, max(height - 2 * inset, 2))[:, None], 18, 1)
    bar[inset : inset + len(scale), 4:22] = signed_colors_of(2 * scale - 1) if signed else colors_of(scale)
    cv2.rectangle(bar, (4, inset), (21, inset + len(scale) - 1), GRAY, 1)
    draw_text(bar, shortened(high, BAR_WIDTH - 28), (inset, 27))
    draw_text(bar, shortened(low, BAR_WIDTH - 28), (height - inset - 1, 27))
    return bar


# Places ------------------------------------------------------------------------------------------------------------


def draw_cut(image: np.ndarray, keypoint: tuple[int, int], scale: float = 1.0) -> np.ndarray:
    """A copy of the image with the keypoint and the two lines that cut it there; `scale` from its pixels to these."""
    drawn = image.copy()
    row, column = (round(coordinate * scale) for coordinate in keypoint)
    height, width = drawn.shape[:2]
    for color, thickness in ((BLACK, 4), (WHITE, 2)):
        cv2.line(drawn, (0, row), (width - 1, row), color, thickness)
        cv2.line(drawn, (column, 0), (column, height - 1), color, thickness)
    cv2.circle(drawn, (column, row), 9, BLACK, -1, cv2.LINE_AA)
    cv2.circle(drawn, (column, row), 7, VERMILLION, -1, cv2.LINE_AA)
    return drawn


def draw_points(image: np.ndarray, points: list[tuple[int, int]], scale: float = 1.0) -> np.ndarray:
    """A copy of the image with a ring at every place; `scale` from its pixels to these."""
    drawn = image.copy()
    for row, column in points:
        place = (round(column * scale), round(row * scale))
        cv2.circle(drawn, place, 9, BLACK, 5, cv2.LINE_AA)
        cv2.circle(drawn, place, 9, WHITE, 2, cv2.LINE_AA)
    return drawn


# Pages -------------------------------------------------------------------------------------------------------------


def resized(image: np.ndarray, side: int, interpolation: int | None = None) -> np.ndarray:
    """The image with its longer side at `side` pixels, the other at least 1."""
    scale = side / max(image.shape[:2])
    width, height = (max(1, round(length * scale)) for length in image.shape[1::-1])
    if interpolation is None:
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=interpolation)


def on_white(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image on a white ground of at least this size, at its top-left."""
    missing = (max(0, height - image.shape[0]), max(0, width - image.shape[1]))
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), constant_values=255)


def sheet(rows: list[list[np.ndarray]], gap: int = 10) -> np.ndarray:
    """Panels in rows, on white; every row is as high, and every column as wide, as its largest panel."""
    columns = max(len(row) for row in rows)
    heights = [max(panel.shape[0] for panel in row) for row in rows]
    widths = [max(row[j].shape[1] for row in rows if j < len(row)) for j in range(columns)]
    page = np.full((sum(heights) + gap * (len(rows) + 1), sum(widths) + gap * (columns + 1), 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            top, left = gap * (i + 1) + sum(heights[:i]), gap * (j + 1) + sum(widths[:j])
            page[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
    return page


def grid(panels: list[np.ndarray], columns: int, gap: int = 10) -> np.ndarray:
    """Panels on a sheet, so many in a row."""
    return sheet([panels[start : start + columns] for start in range(0, len(panels), columns)], gap)


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write an RGB picture as PNG or JPEG, in one move.

    Raises:
        UserError: a suffix that stands for no picture, or a file that cannot be written.
    """
    check_picture_path(path)
    options = [cv2.IMWRITE_PNG_COMPRESSION, 4] if path.suffix.lower() == ".png" else []
    encoded = cv2.imencode(path.suffix, image[..., ::-1], options)[1].tobytes()
    replace_file(path, lambda temporary: temporary.write_bytes(encoded))


def check_picture_path(path: Path) -> None:
    """Refuse, before anything is computed, a name that stands for no picture.

    Raises:
        UserError: another suffix than .png or .jpg.
    """
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"cannot write a picture to {path}: its name must end in .png or .jpg")
