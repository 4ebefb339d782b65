"""Pictures for people: heat maps over images, cuts, points, and sheets of panels (OpenCV)."""

from pathlib import Path

import cv2
import numpy as np

from tools.errors import UserError
from tools.files import replace_file

WHITE, BLACK, ORANGE = (255, 255, 255), (0, 0, 0), (255, 140, 0)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def heat_overlay(image: np.ndarray, heat: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """An image under a heat map, in colours that the colour-blind can tell apart (viridis).

    Args:
        image: uint8 `[h, w, 3]`, RGB.
        heat: `[n, m]` in 0…1; where it is 0 the image shows unchanged.
        strength: opacity where the heat is 1.

    Returns:
        uint8 `[h, w, 3]`, RGB.
    """
    heat = cv2.resize(heat.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    opacity = strength * np.sqrt(heat)[..., None]
    return (image * (1 - opacity) + colours * opacity).round().astype(np.uint8)


def draw_cut(image: np.ndarray, keypoint: tuple[int, int], scale: float = 1.0) -> np.ndarray:
    """A copy of the image with the keypoint (row, column) and the two lines that cut it there."""
    drawn = image.copy()
    row, column = (round(coordinate * scale) for coordinate in keypoint)
    height, width = drawn.shape[:2]
    for colour, thickness in ((BLACK, 4), (WHITE, 2)):
        cv2.line(drawn, (0, row), (width - 1, row), colour, thickness)
        cv2.line(drawn, (column, 0), (column, height - 1), colour, thickness)
    cv2.circle(drawn, (column, row), 7, BLACK, -1, cv2.LINE_AA)
    cv2.circle(drawn, (column, row), 5, ORANGE, -1, cv2.LINE_AA)
    return drawn


def draw_points(image: np.ndarray, points: list[tuple[int, int]], scale: float = 1.0) -> np.ndarray:
    """A copy of the image with a ring at every (row, column)."""
    drawn = image.copy()
    for row, column in points:
        place = (round(column * scale), round(row * scale))
        cv2.circle(drawn, place, 8, BLACK, 3, cv2.LINE_AA)
        cv2.circle(drawn, place, 8, WHITE, 1, cv2.LINE_AA)
    return drawn


def caption(image: np.ndarray, text: str, height: int = 30) -> np.ndarray:
    """The image with a line of text above it, made smaller where it would not fit."""
    bar = np.full((height, image.shape[1], 3), 255, np.uint8)
    size = 0.6
    while cv2.getTextSize(text, FONT, size, 1)[0][0] > image.shape[1] - 12 and size > 0.3:
        size -= 0.05
    cv2.putText(bar, text, (6, height - 10), FONT, size, BLACK, 1, cv2.LINE_AA)
    return np.concatenate((bar, image))


def sheet(rows: list[list[np.ndarray]], gap: int = 8) -> np.ndarray:
    """Panels of equal size in rows, on white."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    page = np.full((len(rows) * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            top, left = gap + i * (height + gap), gap + j * (width + gap)
            page[top : top + height, left : left + width] = panel
    return page


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write an RGB picture as PNG or JPEG, in one move.

    Raises:
        UserError: a suffix that stands for no picture, or a file that cannot be written.
    """
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"cannot write a picture to {path}: its name must end in .png or .jpg")
    encoded = cv2.imencode(path.suffix, image[..., ::-1])[1].tobytes()
    replace_file(path, lambda temporary: temporary.write_bytes(encoded))
