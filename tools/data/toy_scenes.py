"""The images of the toy data set: one to four objects on a cluttered background, and their mask."""

import colorsys
import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from tools.data.toy_shapes import draw_object

MIN_VISIBLE = 0.4  # share of every object's pixels that must stay visible; other positions are not used
SMALL, LARGE = 0.15, 0.60  # an object's size as a share of the image's longer side
SMALLEST, SMALL_SHARE = 0.11, 0.08  # size and frequency of those below SMALL, which are difficult
OBJECT_COUNTS = (0.35, 0.35, 0.20, 0.10)  # how often an image gets one, two, three and four objects
MAX_ATTEMPTS = 20  # positions tried for an object before it is skipped
VOID = 255  # the mask's value where two objects touch
SCALE = 2  # scenes are drawn larger and reduced, which smooths every edge

Rng = np.random.Generator


@dataclass
class ToyObject:
    class_index: int
    difficult: bool
    area: int  # pixels of the whole object, including hidden ones and those outside the image
    truncated: bool  # a part of it lies outside the image
    visible: np.ndarray  # its pixels that no later object hides: boolean, of the image's size

    def box(self) -> tuple[int, int, int, int]:
        """Return xmin, ymin, xmax, ymax of the visible pixels, 1-based and inclusive as in the devkit."""
        rows, columns = np.flatnonzero(self.visible.any(1)), np.flatnonzero(self.visible.any(0))
        return int(columns[0]) + 1, int(rows[0]) + 1, int(columns[-1]) + 1, int(rows[-1]) + 1


def draw_scene(index: int, seed: int, image_size: int, classes: int) -> tuple[np.ndarray, list[ToyObject]]:
    """Draw image `index`, 0-based, of the set `seed`; its longer side has `image_size` pixels.

    The first object is of class `index % classes` and never difficult. Return the image, `[height, width, 3]` uint8
    RGB, and its objects from back to front.
    """
    rng = np.random.default_rng((seed, index))
    short = round(image_size * rng.uniform(0.7, 1.0))
    height, width = (short, image_size) if rng.random() < 0.7 else (image_size, short)
    canvas = _background(SCALE * height, SCALE * width, rng)
    objects: list[ToyObject] = []
    for number in range(1 + rng.choice(len(OBJECT_COUNTS), p=OBJECT_COUNTS)):
        class_index = int(rng.integers(classes)) if number else index % classes
        canvas = _place_object(canvas, objects, class_index, rng)
    noise = rng.normal(0, rng.uniform(0, 3), (height, width, 1))
    image = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA) + noise
    return image.clip(0, 255).round().astype(np.uint8), objects


def segmentation_mask(objects: Iterable[ToyObject], shape: tuple[int, int]) -> np.ndarray:
    """Return each pixel's class index + 1, 0 for background, `VOID` where two objects touch: `[height, width]`."""
    mask, owners = np.zeros((2, *shape), np.uint8)
    for item in objects:
        mask[item.visible] = item.class_index + 1
        owners += cv2.dilate(item.visible.astype(np.uint8), np.ones((3, 3), np.uint8))
    mask[(owners > 1) & (mask > 0)] = VOID
    return mask


def _background(height: int, width: int, rng: Rng) -> np.ndarray:
    """Return a background of color gradients, soft clouds, blobs and lines, all duller than objects: float32 RGB."""
    canvas = _gradient(height, width, rng)
    if rng.random() < 0.6:
        horizon = int(height * rng.uniform(0.4, 0.8))
        canvas[horizon:] = _gradient(height - horizon, width, rng)
    clouds = rng.normal(0, 1, (*rng.integers(3, 9, 2), 1)) * rng.uniform(-10, 10, 3)
    canvas += cv2.resize(clouds.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    clutter = canvas.copy()
    for _ in range(rng.integers(4, 14)):
        _draw_distractor(clutter, rng)
    return canvas + np.float32(rng.uniform(0.5, 0.9)) * (clutter - canvas)


def _gradient(height: int, width: int, rng: Rng) -> np.ndarray:
    corners = np.array([_dull_color(rng) for _ in range(2)])[[[0, 0], [1, 1]]] + rng.uniform(-15, 15, (2, 2, 3))
    return cv2.resize(corners.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)


def _dull_color(rng: Rng) -> np.ndarray:
    """Return a light or dark color mixed with gray: only objects have saturated colors."""
    return 255 * np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.32), rng.uniform(0.45, 0.95)))


def _draw_distractor(canvas: np.ndarray, rng: Rng) -> None:
    height, width = canvas.shape[:2]
    color = _dull_color(rng).tolist()
    center = rng.uniform(0, 1, 2) * (width, height)
    radius = rng.uniform(0.02, 0.2) * max(height, width)
    kind = ("line", "ellipse", "polygon")[rng.integers(3)]
    if kind == "line":
        ends = rng.uniform(-0.1, 1.1, (2, 2)) * (width, height)
        cv2.polylines(canvas, [ends.astype(np.int32)], False, color, int(rng.integers(1, 7)))
    elif kind == "ellipse":
        axes = (int(radius), int(radius * rng.uniform(0.3, 1)))
        cv2.ellipse(canvas, center.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, color, -1)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
        corners = center + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        cv2.fillPoly(canvas, [corners.astype(np.int32)], color)


def _place_object(canvas: np.ndarray, objects: list[ToyObject], class_index: int, rng: Rng) -> np.ndarray:
    """Draw an object where enough of every object stays visible and add it to `objects`; return the new canvas."""
    height, width = canvas.shape[:2]
    difficult = bool(objects) and rng.random() < SMALL_SHARE
    size = rng.uniform(SMALLEST, SMALL) if difficult else SMALL + (LARGE - SMALL) * math.sqrt(rng.random())
    sprite = _randomly_turned(draw_object(class_index, round(size * max(height, width)), rng), rng)
    area, half = int(_covered(sprite).sum()), len(sprite) // 2
    for attempt in range(MAX_ATTEMPTS):
        # The last position is the center, where an image's first object always fits.
        x, y = rng.uniform(0.1, 0.9, 2) if attempt < MAX_ATTEMPTS - 1 else (0.5, 0.5)
        shift = np.array([[1.0, 0, round(x * width) - half], [0, 1.0, round(y * height) - half]])
        layer = cv2.warpAffine(sprite, shift, (width, height))
        covered = _covered(layer)
        enough = all((item.visible & ~covered).sum() >= MIN_VISIBLE * item.area for item in objects)
        if enough and covered.sum() >= MIN_VISIBLE * area:
            for item in objects:
                item.visible &= ~covered
            objects.append(ToyObject(class_index, difficult, area, bool(covered.sum() < 0.95 * area), covered))
            opacity = layer[..., 3] / np.float32(255)
            return cv2.blendLinear(layer[..., :3].astype(np.float32), canvas, opacity, 1 - opacity)
    return canvas


def _covered(layer: np.ndarray) -> np.ndarray:
    """Return which pixels of the final image an RGBA layer in the canvas's scale covers by more than half."""
    height, width = layer.shape[:2]
    return cv2.resize(layer[..., 3], (width // SCALE, height // SCALE), interpolation=cv2.INTER_AREA) > 127


def _randomly_turned(sprite: np.ndarray, rng: Rng) -> np.ndarray:
    side = len(sprite)
    stretch = rng.uniform(0.85, 1.1, 2) * (rng.choice([-1, 1]), 1)
    angle = np.deg2rad(rng.normal(0, 8))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * stretch
    room = SCALE * round(1.4 * side / SCALE)
    offset = room / 2 - turn @ (side / 2, side / 2)
    return cv2.warpAffine(sprite, np.column_stack([turn, offset]), (room, room))
