"""Object-awareness of a network on annotated images: keypoints and class activation maps against boxes.

Shapes: K (image, present class) pairs, T boxes (top, left, bottom, right), S pixels of the canvas's side, V classes.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from core.cam import make_cam
from core.keypoints import resize_cams
from core.strategy import KEYPOINTS, STRATEGIES, Keypoints, Options
from tools.data.annotations import VOCObject
from tools.data.transforms import fitted_box
from tools.metrics.average_precision import mean_over_classes
from tools.metrics.reports import by_class, class_csv
from tools.system.text_table import fixed_width_table

TOLERANCE = 15  # pixels, the pointing game's (Zhang et al., Top-down neural attention by excitation backprop, 2016)
NEAR = f"within {TOLERANCE}"
CENTRE, UNIFORM, ENERGY, EMPTY = "centre", "uniform", "energy", "empty"
THE_FOUR = tuple(KEYPOINTS[name] for name in STRATEGIES)
FAR = 1 << 40  # pixels: integers of 64 bits hold it, and no image reaches it
TOP_LEFT = torch.zeros(1, 2, dtype=torch.long)


def whole_pixels(item: VOCObject) -> tuple[int, int, int, int]:
    """Return an object's box (top, left, bottom, right) from 0, the last two exclusive, with partly covered pixels."""
    if item.box is None:
        return 0, 0, FAR, FAR
    xmin, ymin, xmax, ymax = (min(max(side, -FAR), FAR) for side in item.box)
    left, right = sorted((xmin, xmax))  # some tools swap corners
    top, bottom = sorted((ymin, ymax))
    return math.floor(top) - 1, math.floor(left) - 1, math.ceil(bottom), math.ceil(right)


def clip_boxes(
    boxes: torch.Tensor, ends: torch.Tensor, starts: torch.Tensor = TOP_LEFT
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clip boxes `[T, 4]` to what is visible, between (row, column) `[T, 2]` and, exclusive, `[T, 2]`.

    Return also which have any pixel left `[T]`.
    """
    clipped = boxes.maximum(starts.repeat(1, 2)).minimum(ends.repeat(1, 2))
    return clipped, (clipped[:, 2:] > clipped[:, :2]).all(1)


def box_masks(boxes: torch.Tensor, owner: torch.Tensor, count: int, size: int, tolerance: int = 0) -> torch.Tensor:
    """Return which pixels are inside a box, or at most `tolerance` pixels (Euclidean) from one: boolean `[K, S, S]`.

    Boxes are int64 `[T, 4]` within the canvas; `owner` `[T]` is the mask that each belongs to, of `count`.
    """
    # Dilating a box by a disc of radius t is a union of boxes: r px taller and ⌊√(t² − r²)⌋ px wider, r = 0…t.
    rows = torch.arange(tolerance + 1, device=boxes.device)
    columns = (tolerance**2 - rows**2).double().sqrt().floor().long()
    growth = torch.stack((-rows, -columns, rows, columns), 1)  # [t + 1, 4]
    top, left, bottom, right = (boxes[:, None] + growth).clamp(0, size).flatten(0, 1).unbind(1)
    owner = owner.repeat_interleave(tolerance + 1)
    # Two cumulative sums over signed corners count the boxes that cover each pixel.
    corners = torch.zeros(count, size + 1, size + 1, dtype=torch.int32, device=boxes.device)
    one = torch.ones_like(top, dtype=torch.int32)
    for row, column, sign in ((top, left, one), (top, right, -one), (bottom, left, -one), (bottom, right, one)):
        corners.index_put_((owner, row, column), sign, accumulate=True)
    return corners.cumsum(1).cumsum(2)[:, :size, :size] > 0


def visible_masks(ends: torch.Tensor, size: int, starts: torch.Tensor = TOP_LEFT) -> torch.Tensor:
    """Return where the canvas shows an image, see `clip_boxes`: `[K, 2]` → boolean `[K, S, S]`."""
    cells = torch.arange(size, device=ends.device)
    inside = (starts[:, :, None] <= cells) & (cells < ends[:, :, None])  # [K, 2, S]
    return inside[:, 0, :, None] & inside[:, 1, None, :]


def values_at(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return the values `[K]` of maps `[K, S, S]` at points `[K, 2]` (row, column)."""
    return maps[torch.arange(len(points), device=points.device), points[:, 0], points[:, 1]]


def covered_share(masks: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Return the probability that a uniform point of the visible image is in the mask: `[K, S, S]` → `[K]` float64."""
    return (masks & visible).flatten(1).sum(1).double() / visible.flatten(1).sum(1)


def energy_share(maps: torch.Tensor, masks: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Return the share of each visible map's sum inside the boxes, 0 for an empty map: `[K, S, S]` → `[K]` float64.

    Reference: Wang et al., Score-CAM, 2020: energy-based pointing game.
    """
    energy = (maps * visible).double()
    return (energy * masks).flatten(1).sum(1) / energy.flatten(1).sum(1).clamp_min(torch.finfo(torch.float64).tiny)


def strongest_class_at(
    maps: torch.Tensor, image: torch.Tensor, label: torch.Tensor, points: torch.Tensor, num_classes: int
) -> torch.Tensor:
    """Return the present class `[B]` whose map is strongest at the image's point `[B, 2]`: Max's keypoint is from it.

    Maps are `[K, S, S]`, with the image and class `[K]` of each. The first of equally strong classes counts.
    """
    values = maps.new_full((len(points), num_classes), -torch.inf)
    values[image, label] = values_at(maps, points[image])
    return values.argmax(1)


class Shares:
    """A table with a row for each class and named columns, whose cells are means in % of values in 0…1."""

    def __init__(self, columns: Sequence[str], num_classes: int):
        self.columns = list(columns)
        self._sums = np.zeros((num_classes, len(self.columns)))
        self._counts = np.zeros((num_classes, len(self.columns)), int)

    def add(self, column: str, label: torch.Tensor, values: torch.Tensor, counted: torch.Tensor) -> None:
        """Take in values of classes `label`, those that are `counted`; all `[K]`."""
        index = self.columns.index(column)
        rows = label[counted].cpu().numpy()
        np.add.at(self._sums[:, index], rows, values[counted].double().cpu().numpy())
        np.add.at(self._counts[:, index], rows, 1)

    def counts(self, column: str) -> np.ndarray:
        """Return how many values each class has in a column, `[V]`."""
        return self._counts[:, self.columns.index(column)]

    def per_class(self) -> dict[str, np.ndarray]:
        """Return the means by column `[V]`; NaN without a value."""
        return dict(zip(self.columns, _percent(self._sums, self._counts).T, strict=True))

    def over_all(self) -> dict[str, float]:
        """Return the means over all values, by column: classes weigh as often as they occur."""
        return dict(zip(self.columns, _percent(self._sums.sum(0), self._counts.sum(0)).tolist(), strict=True))

    def over_classes(self) -> dict[str, float]:
        """Return the means over the classes, by column: each class with a value has the same weight."""
        return {name: mean_over_classes(values) for name, values in self.per_class().items()}


def _percent(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.where(counts > 0, 100 * sums / np.maximum(counts, 1), np.nan)


class Pairs(NamedTuple):
    """The (image, present class) pairs of a batch, and the visible parts of their boxes."""

    image: torch.Tensor  # [K], position in the batch
    label: torch.Tensor  # [K]
    starts: torch.Tensor  # [K, 2], first (row, column) on the canvas of the pair's image
    ends: torch.Tensor  # [K, 2], last ones, exclusive
    boxes: torch.Tensor  # [T, 4], see `whole_pixels`
    owner: torch.Tensor  # [T], the pair of each box
    shown: torch.Tensor  # boolean [K], whether a box of the pair is visible


class Localization:
    """Measures, batch by batch, how often keypoints fall on objects; pass its `observe` to `predict`.

    For every image and each of its classes: is the keypoint on the map of the class inside a box of that class? A
    strategy with one keypoint per image (Max) is measured only on the class whose map is strongest at the keypoint. For
    comparison, the same is computed without a network: for the centre of the visible image, and for a uniform point in
    it (its exact probability). Only the visible parts of images and boxes count; a class without a visible box is
    `skipped`. The keypoint of a map without a positive value ("empty") is the centre of the canvas.

    Args:
        objects, sizes: of every image the objects that count, and (height, width) in pixels.
        image_size: S of the evaluated canvas, pixels; resize: see `evaluation_transform`.
        keypoints, options: what is measured, a column of `shares` for each.

    Raises:
        ValueError: two columns have the same name.
    """

    def __init__(
        self,
        objects: list[list[VOCObject]],
        sizes: list[tuple[int, int]],
        num_classes: int,
        image_size: int,
        keypoints: Sequence[Keypoints] = THE_FOUR,
        options: Options | None = None,
        resize: bool = False,
    ):
        self.objects, self.sizes, self.resize = objects, torch.tensor(sizes), resize
        shown = [fitted_box(size, image_size) if resize else (0, 0, *size) for size in sizes]
        self.starts, self.ends = torch.tensor(shown).clamp_max(image_size).split(2, dim=1)
        self.num_classes, self.image_size = num_classes, image_size
        self.keypoints, self.options = keypoints, options or Options()
        self.points = [*(item.name for item in keypoints), CENTRE, UNIFORM]
        columns = [*self.points, *(f"{name} {NEAR}" for name in self.points), ENERGY, EMPTY]
        for name in columns:
            if columns.count(name) > 1:
                raise ValueError(f"two columns have the name '{name}'")
        self.shares = Shares(columns, num_classes)
        self.skipped = 0
        self._strengths: list[float] = []

    @torch.no_grad()
    def observe(self, features: torch.Tensor, indices: torch.Tensor) -> None:
        """Take in a batch: features of the CAM branch `[B, V, n, n]`, and indices of the images `[B]`."""
        pairs = self._pairs(indices.tolist(), features.device)
        if not len(pairs.image):
            return
        cams = make_cam(features.float())
        own = cams[pairs.image, pairs.label]
        maps = resize_cams(own, self.image_size)
        visible = visible_masks(pairs.ends, self.image_size, pairs.starts)
        points = {item.name: self._keypoints(item, cams, maps, pairs) for item in self.keypoints}
        points[CENTRE] = (pairs.starts + pairs.ends) // 2, pairs.shown
        for suffix, tolerance in ((f" {NEAR}", TOLERANCE), ("", 0)):  # the boxes themselves last: energy is of them
            inside = box_masks(pairs.boxes, pairs.owner, len(pairs.image), self.image_size, tolerance)
            for name, (keypoints, counted) in points.items():
                self.shares.add(name + suffix, pairs.label, values_at(inside, keypoints), counted)
            self.shares.add(UNIFORM + suffix, pairs.label, covered_share(inside, visible), pairs.shown)
        self.shares.add(ENERGY, pairs.label, energy_share(maps, inside, visible), pairs.shown)
        self.shares.add(EMPTY, pairs.label, own.amax((1, 2)) == 0, pairs.shown)
        strongest = features[pairs.image, pairs.label].float().amax((1, 2))
        self._strengths += strongest[pairs.shown].tolist()
        self.skipped += int((~pairs.shown).sum())

    def _keypoints(
        self, item: Keypoints, cams: torch.Tensor, maps: torch.Tensor, pairs: Pairs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keypoints `[K, 2]` of the pairs, and which of them count `[K]`."""
        if not item.per_image:
            return item.find(cams[pairs.image, pairs.label], self.image_size, self.options), pairs.shown
        present = torch.zeros_like(cams[:, :, :1, :1])
        present[pairs.image, pairs.label] = 1
        of_image = item.find((cams * present).amax(1), self.image_size, self.options)
        strongest = strongest_class_at(maps, pairs.image, pairs.label, of_image, self.num_classes)
        return of_image[pairs.image], pairs.shown & (strongest[pairs.image] == pairs.label)

    def _pairs(self, indices: list[int], device: torch.device) -> Pairs:
        """Return the pairs of the images `indices`, image by image, classes in order."""
        rows = [
            (position, item.class_index, *whole_pixels(item))
            for position, index in enumerate(indices)
            for item in self.objects[index]
        ]
        rows = torch.tensor(rows, dtype=torch.long).reshape(-1, 6)
        pairs, owner = rows[:, :2].unique(dim=0, return_inverse=True)
        image, label = pairs.unbind(1)
        index = torch.tensor(indices, dtype=torch.long)
        of_box, of_pair = index[rows[:, 0]], index[image]
        boxes, visible = clip_boxes(self._on_canvas(rows[:, 2:], of_box), self.ends[of_box], self.starts[of_box])
        boxes, owner = boxes[visible], owner[visible]
        shown = torch.zeros(len(image), dtype=torch.bool)
        shown[owner] = True
        starts, ends = self.starts[of_pair], self.ends[of_pair]
        return Pairs(*(tensor.to(device) for tensor in (image, label, starts, ends, boxes, owner, shown)))

    def _on_canvas(self, boxes: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Map boxes `[T, 4]` of images `index` `[T]` to the canvas, with the pixels that they cover in part."""
        if not self.resize:
            return boxes
        starts, ends, rounding = self.starts[index], self.ends[index], 1e-6
        moved = boxes * ((ends - starts).double() / self.sizes[index]).repeat(1, 2) + starts.repeat(1, 2)
        return torch.cat(((moved[:, :2] + rounding).floor(), (moved[:, 2:] - rounding).ceil()), 1).long()

    def per_class(self) -> dict[str, np.ndarray]:
        """Return the number of pairs of each class, and the means in % by column, all `[V]`; NaN without a pair."""
        return {"pairs": self.shares.counts(EMPTY), **self.shares.per_class()}

    def strength(self) -> float:
        """Return the largest feature of a pair's class, mean over all pairs: 0 or less if maps have vanished."""
        return float(np.mean(self._strengths)) if self._strengths else math.nan

    def summary(self, class_names: list[str]) -> dict[str, Any]:
        """Return everything as plain values by name, in %."""
        return {
            "tolerance": TOLERANCE,
            "topk": self.options.topk,
            "topk_radius": self.options.topk_radius,
            "pairs": int(self.shares.counts(EMPTY).sum()),
            "left_out": self.skipped,
            "strength": self.strength(),
            "over_pairs": self.shares.over_all(),
            "mean_over_classes": self.shares.over_classes(),
            "per_class": by_class(class_names, self.per_class()),
        }

    def csv(self, class_names: list[str]) -> str:
        """Return the means by class as CSV, and their means over the classes."""
        return class_csv(class_names, self.per_class(), self.shares.over_classes())

    def text(self) -> str:
        """Return the means to read."""
        pairs, classes = self.shares.over_all(), self.shares.over_classes()
        rows = [("", "inside", f"{NEAR} px", "inside", f"{NEAR} px")]
        for name in self.points:
            values = [means[column] for means in (pairs, classes) for column in (name, f"{name} {NEAR}")]
            title = f"chance: {name}" if name in (CENTRE, UNIFORM) else name
            rows.append((title, *(f"{value:.2f}" for value in values)))
        lines = [
            "keypoints inside a box of their class, %      over (image, class) pairs      mean over classes",
            fixed_width_table(rows, widths=(15, 19, 14, 15, 14)),
            f"energy of the CAM in the boxes: {pairs[ENERGY]:.2f} over pairs, {classes[ENERGY]:.2f} mean over "
            f"classes (chance: uniform, {pairs[UNIFORM]:.2f} and {classes[UNIFORM]:.2f})",
            f"empty maps: {pairs[EMPTY]:.2f} over pairs, {classes[EMPTY]:.2f} mean over classes; strongest feature "
            f"of a map: {self.strength():.3g} on average",
            f"{int(self.shares.counts(EMPTY).sum()):,} pairs; {self.skipped:,} skipped: no visible box",
        ]
        return "\n".join(lines)
