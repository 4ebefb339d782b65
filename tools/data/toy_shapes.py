"""The objects of the toy data set: one shape, color scheme and texture for every class index.

The first twenty shapes are pictograms of the twenty VOC classes in the devkit's order; further classes take the
shapes in turn again, in other colors and textures.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

_DARK = np.array([38, 34, 46], np.float32)


_LIGHT = np.array([244, 242, 232], np.float32)


_HUES = (0.0, 0.065, 0.14, 0.24, 0.35, 0.46, 0.55, 0.65, 0.77, 0.89)  # red to pink, in steps that look alike


_FILL = 0.94  # of the side is drawn on, which leaves room for round line ends and the rim


_SHIFT = 4  # OpenCV takes sub-pixel coordinates as integers with this many bits of fraction


@dataclass(frozen=True)
class _Part:
    """One piece of a shape: a polygon, or a line where `width` > 0; units are hundredths of the shape's side."""

    points: np.ndarray
    paint: str
    width: float = 0.0


def _poly(paint: str, *points: tuple[float, float]) -> _Part:
    return _Part(np.array(points, np.float64), paint)


def _rect(paint: str, left: float, top: float, right: float, bottom: float) -> _Part:
    return _poly(paint, (left, top), (right, top), (right, bottom), (left, bottom))


def _oval(paint: str, x: float, y: float, radius_x: float, radius_y: float | None = None) -> _Part:
    return _Part(_ellipse(x, y, radius_x, radius_y or radius_x), paint)


def _ring(paint: str, x: float, y: float, radius: float, width: float) -> _Part:
    points = _ellipse(x, y, radius, radius)
    return _Part(np.vstack([points, points[:1]]), paint, width)


def _line(paint: str, width: float, *points: tuple[float, float]) -> _Part:
    return _Part(np.array(points, np.float64), paint, width)


def _ellipse(x: float, y: float, radius_x: float, radius_y: float) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], 1)


_SHAPES: tuple[tuple[_Part, ...], ...] = (
    (  # aeroplane, from above
        _poly("accent", (50, 76), (76, 91), (76, 98), (50, 92), (24, 98), (24, 91)),
        _poly("body", (50, 30), (98, 58), (98, 70), (50, 58), (2, 70), (2, 58)),
        _oval("body", 50, 50, 10, 48),
        _oval("dark", 50, 14, 5, 7),
    ),
    (  # bicycle
        _ring("accent", 24, 66, 18, 11),
        _ring("accent", 76, 66, 18, 11),
        _line("body", 11, (24, 66), (38, 40), (68, 38), (48, 68), (24, 66)),
        _line("body", 11, (34, 28), (48, 68)),
        _line("body", 11, (76, 66), (66, 24)),
        _line("dark", 7, (60, 20), (78, 20)),
        _line("dark", 8, (26, 28), (44, 28)),
    ),
    (  # bird
        _line("dark", 4, (44, 74), (42, 94)),
        _line("dark", 4, (56, 74), (58, 94)),
        _poly("accent", (26, 50), (2, 30), (0, 44), (4, 58), (24, 66)),
        _oval("body", 50, 55, 34, 24),
        _oval("body", 76, 33, 16),
        _poly("accent", (30, 46), (64, 46), (32, 86)),
        _poly("light", (90, 28), (100, 36), (88, 42)),
        _oval("dark", 80, 29, 4),
    ),
    (  # boat
        _poly("accent", (52, 6), (52, 62), (94, 62)),
        _poly("light", (44, 18), (44, 62), (14, 62)),
        _line("dark", 4, (48, 2), (48, 70)),
        _poly("body", (2, 66), (98, 66), (80, 94), (20, 94)),
    ),
    (  # bottle
        _poly("body", (41, 8), (59, 8), (59, 30), (72, 44), (72, 97), (28, 97), (28, 44), (41, 30)),
        _rect("light", 28, 56, 72, 80),
        _rect("accent", 28, 60, 72, 76),
        _rect("dark", 39, 2, 61, 12),
    ),
    (  # bus
        _rect("body", 3, 14, 97, 82),
        _rect("accent", 3, 54, 97, 64),
        *(_rect("light", left, 24, left + 17, 46) for left in (9, 31, 53, 75)),
        _oval("dark", 25, 82, 12),
        _oval("dark", 75, 82, 12),
    ),
    (  # car
        _poly("body", (2, 50), (20, 45), (34, 22), (70, 22), (84, 45), (98, 52), (98, 76), (2, 76)),
        _poly("light", (30, 44), (39, 31), (49, 31), (49, 44)),
        _poly("light", (55, 44), (55, 31), (66, 31), (74, 44)),
        _rect("accent", 2, 54, 98, 63),
        _oval("dark", 24, 76, 14),
        _oval("dark", 76, 76, 14),
        _oval("accent", 24, 76, 7),
        _oval("accent", 76, 76, 7),
    ),
    (  # cat
        _poly("body", (10, 50), (12, 4), (46, 24)),
        _poly("body", (90, 50), (88, 4), (54, 24)),
        _oval("body", 50, 58, 42, 38),
        _poly("accent", (18, 32), (18, 14), (34, 24)),
        _poly("accent", (82, 32), (82, 14), (66, 24)),
        _oval("light", 33, 52, 10),
        _oval("light", 67, 52, 10),
        _oval("dark", 33, 52, 4, 8),
        _oval("dark", 67, 52, 4, 8),
        _poly("accent", (42, 68), (58, 68), (50, 78)),
        _line("dark", 3, (40, 84), (50, 79), (60, 84)),
    ),
    (  # chair
        _line("accent", 8, (26, 56), (22, 96)),
        _line("accent", 8, (76, 56), (82, 96)),
        _poly("body", (10, 3), (34, 3), (40, 56), (20, 56)),
        _rect("body", 18, 48, 88, 68),
        _line("accent", 5, (24, 78), (76, 78)),
    ),
    (  # cow
        *(_line("body", 9, (x, 66), (x, 96)) for x in (20, 34, 58, 70)),
        _line("accent", 4, (14, 38), (4, 52), (5, 74)),
        _poly("body", (12, 34), (72, 32), (78, 50), (72, 74), (14, 74)),
        _oval("accent", 48, 76, 9, 6),
        _line("light", 5, (74, 18), (78, 28), (94, 28), (98, 18)),
        _oval("body", 86, 38, 12, 15),
        _oval("accent", 87, 49, 10, 6),
        _oval("dark", 84, 34, 3),
    ),
    (  # dining table
        _line("accent", 10, (50, 40), (50, 86)),
        _oval("accent", 50, 88, 28, 8),
        _oval("body", 50, 36, 48, 20),
        _oval("light", 28, 34, 11, 5),
        _oval("light", 72, 34, 11, 5),
        _oval("accent", 50, 30, 7, 5),
    ),
    (  # dog
        _oval("body", 50, 48, 34, 40),
        _oval("accent", 15, 44, 13, 34),
        _oval("accent", 85, 44, 13, 34),
        _oval("light", 50, 68, 22, 20),
        _oval("dark", 50, 58, 10, 7),
        _oval("dark", 36, 38, 5),
        _oval("dark", 64, 38, 5),
        _poly("accent", (44, 78), (56, 78), (55, 94), (45, 94)),
    ),
    (  # horse
        *(_line("body", 7, (x, 60), (x + dx, 97)) for x, dx in ((18, -3), (28, 2), (56, -2), (64, 4))),
        _line("accent", 8, (12, 46), (4, 60), (4, 82)),
        _oval("body", 40, 54, 32, 15),
        _poly("body", (52, 50), (68, 8), (84, 10), (72, 60)),
        _poly("body", (68, 6), (84, 6), (100, 28), (92, 36), (76, 24)),
        _line("accent", 8, (68, 6), (60, 26), (52, 46)),
        _oval("dark", 80, 15, 3),
    ),
    (  # motorbike
        _oval("dark", 22, 70, 20),
        _oval("dark", 78, 70, 20),
        _oval("accent", 22, 70, 9),
        _oval("accent", 78, 70, 9),
        _poly("body", (2, 34), (36, 44), (48, 28), (74, 30), (82, 50), (66, 84), (34, 84), (28, 58), (6, 54)),
        _line("accent", 6, (78, 70), (66, 26)),
        _line("dark", 6, (56, 18), (70, 28)),
        _line("light", 6, (20, 84), (56, 82)),
    ),
    (  # person
        _line("accent", 13, (42, 60), (38, 95)),
        _line("accent", 13, (58, 60), (62, 95)),
        _line("body", 10, (36, 36), (22, 62)),
        _line("body", 10, (64, 36), (78, 62)),
        _poly("body", (30, 32), (70, 32), (66, 66), (34, 66)),
        _oval("light", 50, 17, 14, 15),
        _oval("dark", 50, 8, 14, 7),
    ),
    (  # potted plant
        *(
            _poly("accent", (50, 70), (x - 9, y + 16), (x, y), (x + 9, y + 16))
            for x, y in ((14, 34), (32, 12), (50, 2), (68, 12), (86, 34))
        ),
        _poly("body", (26, 62), (74, 62), (66, 98), (34, 98)),
        _rect("dark", 22, 58, 78, 66),
    ),
    (  # sheep
        *(_line("dark", 7, (x, 70), (x, 96)) for x in (26, 38, 56, 66)),
        *(_oval("body", x, y, 16) for x, y in ((20, 50), (34, 36), (52, 34), (68, 44), (66, 62), (48, 68), (28, 66))),
        _oval("body", 46, 52, 26, 20),
        _oval("accent", 84, 42, 13, 16),
        _oval("accent", 72, 34, 8, 4),
        _oval("light", 86, 38, 3),
    ),
    (  # sofa
        _rect("dark", 10, 82, 18, 92),
        _rect("dark", 82, 82, 90, 92),
        _rect("body", 10, 24, 90, 84),
        _rect("accent", 16, 54, 49, 74),
        _rect("accent", 51, 54, 84, 74),
        _oval("body", 9, 50, 9),
        _oval("body", 91, 50, 9),
        _rect("body", 2, 50, 16, 84),
        _rect("body", 84, 50, 98, 84),
    ),
    (  # train
        _poly("accent", (70, 8), (90, 8), (85, 24), (85, 40), (75, 40), (75, 24)),
        _rect("body", 30, 36, 94, 68),
        _rect("body", 6, 14, 40, 70),
        _rect("accent", 2, 8, 44, 17),
        _rect("light", 14, 24, 32, 42),
        _rect("dark", 4, 66, 96, 74),
        *(_oval("accent", x, 80, 11) for x in (18, 46, 74)),
        *(_oval("dark", x, 80, 4) for x in (18, 46, 74)),
        _poly("dark", (90, 72), (100, 92), (86, 92)),
    ),
    (  # television
        _poly("accent", (40, 74), (60, 74), (70, 94), (30, 94)),
        _rect("dark", 2, 10, 98, 78),
        _rect("body", 10, 18, 90, 70),
        _line("accent", 5, (50, 12), (36, 2)),
        _line("accent", 5, (50, 12), (64, 2)),
    ),
)


_WAVES: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    lambda x, y: _sine(5 * y),
    lambda x, y: _sine(5 * x),
    lambda x, y: _sine(4 * (x + y)),
    lambda x, y: _sine(4 * x) * _sine(4 * y),
    lambda x, y: _sine(6 * np.hypot(x - 0.5, y - 0.5)),
    lambda x, y: _sine(6 * x) + _sine(6 * y) - 0.9,
    lambda x, y: _sine(5 * y + 0.35 * _sine(4 * x)),
)


def class_colors(index: int) -> dict[str, np.ndarray]:
    """The color scheme of class `index`: RGB in 0…255 for the paints body, pattern, accent, dark and light."""
    # Ten hues, each with a dark and with a light pattern, tell twenty classes apart; when the shapes come round again
    # the hues have moved on by three.
    step = index + 3 * (index // len(_SHAPES))
    hue = _HUES[step % 10]
    dark = index // 10 % 2 == 0
    return {
        "body": _rgb(hue, 0.9, 0.92),
        "pattern": _rgb(hue, 0.9, 0.3) if dark else _rgb(hue, 0.12, 1.0),
        "accent": _rgb(_HUES[(step + 3 + index // 10 % 5) % 10], 0.8, 0.95),
        "dark": _DARK,
        "light": _LIGHT,
    }


def class_texture(index: int, side: int) -> np.ndarray:
    """The texture of class `index`: `[side, side]`, 0 where the body color shows and 1 where the pattern does."""
    ticks = np.arange(side, dtype=np.float32) / side
    wave = _WAVES[index % len(_WAVES)](ticks[None, :], ticks[:, None])
    return np.clip(0.5 + 3 * wave + np.zeros((side, side), np.float32), 0, 1)


def draw_object(index: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one object of class `index`, upright, with its own slight change of tone.

    Args:
        index: the class; any number from 0.
        side: the picture's height and width in pixels.
        rng: where the change of tone comes from.

    Returns:
        `[side, side, 4]` uint8, RGB and opacity.
    """
    paints = {name: _flat(color, side) for name, color in class_colors(index).items()}
    texture = class_texture(index, side)
    paints["body"] = cv2.blendLinear(paints["pattern"], paints["body"], texture, 1 - texture)
    picture = paints["dark"].copy()
    picture[..., 3] = 0
    for part in _SHAPES[index % len(_SHAPES)]:
        cover = _cover(part, side)
        picture = cv2.blendLinear(paints[part.paint], picture, cover, 1 - cover)
    # Light falls from above, and a thin dark rim keeps an object apart from whatever lies behind it.
    tone = rng.uniform(0.85, 1.1) * rng.uniform(0.94, 1.06, 3)
    light = np.linspace(1.12, 0.8, side)[:, None, None] * tone
    picture[..., :3] = (picture[..., :3] * light.astype(np.float32)).clip(0, 255)
    picture[..., 3] = cv2.dilate(picture[..., 3], cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)))
    return picture


def _flat(color: np.ndarray, side: int) -> np.ndarray:
    """A sheet of one color, opaque: `[side, side, 4]` uint8."""
    return np.full((side, side, 4), (*color.round(), 255), np.uint8)


def _sine(turns: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * turns)


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)


def _cover(part: _Part, side: int) -> np.ndarray:
    """How much of each pixel the part covers: `[side, side]` in 0…1."""
    cover = np.zeros((side, side), np.uint8)
    points = (part.points - 50) * _FILL + 50
    points = np.round((points * side / 100 - 0.5) * 2**_SHIFT).astype(np.int32)
    if part.width:
        thickness = max(1, round(part.width * side / 100))
        cv2.polylines(cover, [points], False, 255, thickness, cv2.LINE_AA, _SHIFT)
    else:
        cv2.fillPoly(cover, [points], 255, cv2.LINE_AA, _SHIFT)
    return cover / np.float32(255)
