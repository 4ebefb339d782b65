"""The objects of the toy data set: one shape, color scheme and texture for every class index.

The twenty shapes of `data/toy_shapes.json` are pictograms of the twenty VOC classes in the devkit's order; further
classes reuse them in other colors and textures. A shape is a list of parts, drawn from back to front:

    kind    "polygon" or "line" through `points`, "ellipse" or "ring" around `center` with `radii`
    color   "body" (textured), "accent", "dark" or "light"
    width   of a line or ring

All lengths are hundredths of the shape's side, x before y, from the upper left corner.
"""

import colorsys
from typing import Any

import cv2
import numpy as np

from tools.data.devkit import DATA
from tools.system.files import read_json

_DRAWINGS = read_json(DATA / "toy_shapes.json")
_SHAPES = tuple(_DRAWINGS["shapes"].values())
_HUES = _DRAWINGS["hues"]  # from red to pink, in steps that look equal
_FILL = 0.94  # share of the side that is drawn on; the margin holds round line ends and the rim
_SHIFT = 4  # OpenCV takes sub-pixel coordinates as integers with this many fractional bits
_WAVES = (
    lambda x, y: _sine(5 * y),
    lambda x, y: _sine(5 * x),
    lambda x, y: _sine(4 * (x + y)),
    lambda x, y: _sine(4 * x) * _sine(4 * y),
    lambda x, y: _sine(6 * np.hypot(x - 0.5, y - 0.5)),
    lambda x, y: _sine(6 * x) + _sine(6 * y) - 0.9,
    lambda x, y: _sine(5 * y + 0.35 * _sine(4 * x)),
)


def draw_object(index: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw an upright object of class `index` in a slightly random tone: `[side, side, 4]` uint8, RGB and opacity."""
    colors = class_colors(index)
    sheets = {name: np.full((side, side, 4), (*rgb.round(), 255), np.uint8) for name, rgb in colors.items()}
    ticks = np.arange(side, dtype=np.float32) / side
    wave = _WAVES[index % len(_WAVES)](ticks[None, :], ticks[:, None])
    texture = np.clip(0.5 + 3 * wave + np.zeros((side, side), np.float32), 0, 1)  # 1 has the color of the pattern
    sheets["body"] = cv2.blendLinear(sheets["pattern"], sheets["body"], texture, 1 - texture)
    picture = sheets["dark"].copy()
    picture[..., 3] = 0
    for part in _SHAPES[index % len(_SHAPES)]:
        cover = _cover(part, side)
        picture = cv2.blendLinear(sheets[part["color"]], picture, cover, 1 - cover)
    # Light falls from above, and a thin dark rim separates an object from its background.
    tone = rng.uniform(0.85, 1.1) * rng.uniform(0.94, 1.06, 3)
    light = np.linspace(1.12, 0.8, side)[:, None, None] * tone
    picture[..., :3] = (picture[..., :3] * light.astype(np.float32)).clip(0, 255)
    picture[..., 3] = cv2.dilate(picture[..., 3], cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)))
    return picture


def class_colors(index: int) -> dict[str, np.ndarray]:
    """Return the color scheme of class `index`: RGB in 0…255 for body, pattern, accent, dark and light."""
    # Ten hues, each with a dark and with a light pattern, distinguish twenty classes.
    step = index + 3 * (index // len(_SHAPES))  # each time the shapes repeat, the hues shift by three
    hue, accent = _HUES[step % 10], _HUES[(step + 3 + index // 10 % 5) % 10]
    pattern = _rgb(hue, 0.12, 1.0) if index // 10 % 2 else _rgb(hue, 0.9, 0.3)
    shared = {name: np.array(color, np.float32) for name, color in _DRAWINGS["colors"].items()}
    return {"body": _rgb(hue, 0.9, 0.92), "pattern": pattern, "accent": _rgb(accent, 0.8, 0.95), **shared}


def _cover(part: dict[str, Any], side: int) -> np.ndarray:
    """Return the share of each pixel that the part covers: `[side, side]` in 0…1. An ellipse has 36 corners."""
    angles = np.linspace(0, 2 * np.pi, 37)[: 37 if part["kind"] == "ring" else 36]  # a ring ends at its start
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    points = part["points"] if "points" in part else np.array(part["center"]) + np.array(part["radii"]) * circle
    points = (np.array(points, np.float64) - 50) * _FILL + 50
    points = np.round((points * side / 100 - 0.5) * 2**_SHIFT).astype(np.int32)
    cover = np.zeros((side, side), np.uint8)
    if part["kind"] in ("line", "ring"):
        thickness = max(1, round(part["width"] * side / 100))
        cv2.polylines(cover, [points], False, 255, thickness, cv2.LINE_AA, _SHIFT)
    else:
        cv2.fillPoly(cover, [points], 255, cv2.LINE_AA, _SHIFT)
    return cover / np.float32(255)


def _sine(turns: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * turns)


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)
