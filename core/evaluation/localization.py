"""Object-awareness of a network on annotated images: keypoints and maps against boxes, and maps against masks.

Shapes: K (image, present class) pairs, T boxes (top, left, bottom, right), S pixels of the canvas's side, V classes.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.cam import make_cam
from core.evaluation.maps import CENTRE, Maps, best_overlaps, box_accuracy
from core.evaluation.masks import Seeds
from core.evaluation.pairs import Pairs, PresentClasses
from core.networks import Classifier
from core.strategy import KEYPOINTS, STRATEGIES, Keypoints, Options
from tools.data.transforms import covered_cells
from tools.metrics.average_precision import mean_over_classes
from tools.metrics.reports import by_class, class_csv
from tools.pictures.report import Section
from tools.system.text_table import fixed_width_table

TOLERANCE = 15  # pixels, the pointing game's (Zhang et al., Top-down neural attention by excitation backprop, 2016)
NEAR = f"within {TOLERANCE}"
UNIFORM, ENERGY, EMPTY = "uniform", "energy", "empty"
HEADING, MEANS = "keypoints inside a box of their class, %", ("over (image, class) pairs", "mean over classes")
NO_BOXES = "no boxes: the annotations cover whole images"
THE_FOUR = tuple(KEYPOINTS[name] for name in STRATEGIES)


def box_masks(boxes: Tensor, owner: Tensor, count: int, size: int, tolerance: int = 0) -> Tensor:
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


def share_inside(weights: Tensor, masks: Tensor) -> Tensor:
    """Return which share of the sum of weights `[K, S, S]` is inside masks, 0 without weights: `[K]` float64.

    Of a map it is the energy-based pointing game (Wang et al., Score-CAM, 2020); of a boolean region, the probability
    that a uniform point of it is inside.
    """
    weights = weights.flatten(1).double()
    return (weights * masks.flatten(1)).sum(1) / weights.sum(1).clamp_min(torch.finfo(torch.float64).tiny)


def values_at(maps: Tensor, points: Tensor) -> Tensor:
    """Return the values `[K]` of maps `[K, S, S]` at points `[K, 2]` (row, column)."""
    return maps[torch.arange(len(points), device=points.device), points[:, 0], points[:, 1]]


class Localization:
    """Measures, batch by batch, how often keypoints fall on objects; pass its `observe` to `predict`.

    For every image and each of its classes: is the keypoint on the map of the class inside a box of that class? A
    strategy with one keypoint per image (Max) is measured only on the class whose map is strongest at the keypoint. For
    comparison, the same is computed without a network: for the center of the visible image, and for a uniform point in
    it (its exact probability). Only the visible parts of images and boxes count; a class without a visible box is
    `skipped`. The keypoint of a map without a positive value ("empty") is the center of the canvas.

    All kinds of `Maps` are measured too, by MaxBoxAccV2 (see `box_accuracy`) and, if they are given, as `seeds`.

    Args:
        present: the classes and boxes of the images.
        keypoints, options: what is measured, a column for each. A ValueError: two have the same name.
        network: whose features are observed; None: without the maps that need its gradient.
    """

    def __init__(
        self,
        present: PresentClasses,
        keypoints: Sequence[Keypoints] = THE_FOUR,
        options: Options | None = None,
        network: Classifier | None = None,
    ):
        self.present, self.image_size, self.maps = present, present.image_size, Maps(present.image_size, network)
        self.keypoints, self.options = keypoints, options or Options()
        self.seeds: Seeds | None = None
        self.points = [*(item.name for item in keypoints), CENTRE, UNIFORM]
        self.columns = [*self.points, *(f"{name} {NEAR}" for name in self.points), ENERGY, EMPTY]
        for name in self.columns:
            if self.columns.count(name) > 1:
                raise ValueError(f"two columns have the name '{name}'")
        self.skipped = 0
        # Of every pair: its class, values in 0…1 by column (NaN: it does not count), and its map's strongest feature.
        self._seen: list[np.ndarray] = []
        self._overlaps: list[np.ndarray] = []  # of every pair, `[kinds, thresholds]`

    @torch.no_grad()
    def observe(self, features: Tensor, indices: Tensor) -> None:
        """Take in a batch: features of the CAM branch `[B, V, n, n]`, and indices of the images `[B]`."""
        pairs = self.present.pairs(indices.tolist(), features.device)
        all_maps = self.maps.of_pairs(features, pairs)
        if self.seeds:
            self.seeds.add(all_maps, pairs, indices.tolist())
        if not len(pairs.image):
            return
        self._overlaps += best_overlaps(all_maps, pairs)
        count, size = len(pairs.image), self.image_size
        features = features.float() * covered_cells(pairs.frames, size, features.shape[-1])[:, None]
        cams = make_cam(features)
        own, maps = cams[pairs.image, pairs.label], all_maps[0]
        visible = box_masks(pairs.region, torch.arange(count, device=features.device), count, size)
        points = {item.name: self._keypoints(item, cams, maps, pairs) for item in self.keypoints}
        points[CENTRE] = (pairs.region[:, :2] + pairs.region[:, 2:]) // 2, pairs.shown
        values = {EMPTY: own.amax((1, 2)) == 0}
        frame = pairs.frames[pairs.image]  # as inference, the nearest pixel of a keypoint beside the image counts
        for suffix, tolerance in (("", 0), (f" {NEAR}", TOLERANCE)):
            inside = box_masks(pairs.boxes, pairs.owner, count, size, tolerance)
            values[UNIFORM + suffix] = share_inside(visible, inside)
            if not suffix:
                values[ENERGY] = share_inside(maps * visible, inside)
            for name, (keypoints, counted) in points.items():
                shown = keypoints.clamp(frame[:, :2], frame[:, 2:] - 1)
                values[name + suffix] = values_at(inside, shown).double().masked_fill(~counted, torch.nan)
        strongest = features[pairs.image, pairs.label].amax((1, 2))
        columns = (pairs.label, *(values[name] for name in self.columns), strongest)
        self._seen.append(torch.stack([column.double() for column in columns], 1)[pairs.shown].cpu().numpy())
        self.skipped += int((~pairs.shown).sum())

    def _keypoints(self, item: Keypoints, cams: Tensor, maps: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Return keypoints of the pairs `[K, 2]`, and which of them count `[K]`."""
        if not item.per_image:
            return item.find(cams[pairs.image, pairs.label], self.image_size, self.options), pairs.shown
        present = torch.zeros_like(cams[:, :, :1, :1])
        present[pairs.image, pairs.label] = 1
        points = item.find((cams * present).amax(1), self.image_size, self.options)[pairs.image]
        strengths = cams.new_full(cams.shape[:2], -torch.inf)  # of the present classes' maps there
        strengths[pairs.image, pairs.label] = values_at(maps, points)
        return points, pairs.shown & (strengths.argmax(1)[pairs.image] == pairs.label)  # the first of equal ones

    def _table(self) -> np.ndarray:
        return np.concatenate([np.zeros((0, len(self.columns) + 2)), *self._seen])

    def over_pairs(self) -> dict[str, float]:
        """Return the means in % over all pairs, by column: classes weigh as often as they occur."""
        return dict(zip(self.columns, _percent(self._table()).tolist(), strict=True))

    def per_class(self) -> dict[str, np.ndarray]:
        """Return the number of pairs of each class, and the means in % by column, all `[V]`; NaN without a value."""
        table = self._table()
        of_classes = [table[table[:, 0] == label] for label in range(self.present.num_classes)]
        means = dict(zip(self.columns, np.array([_percent(part) for part in of_classes]).T, strict=True))
        return {"pairs": np.array([len(part) for part in of_classes]), **means}

    def over_classes(self) -> dict[str, float]:
        """Return the means over the classes, by column: each class with a value has the same weight."""
        return {name: mean_over_classes(values) for name, values in self.per_class().items() if name in self.columns}

    def strength(self) -> float:
        """Return the largest feature of a pair's class, mean over all pairs: 0 or less if maps have vanished."""
        strongest = self._table()[:, -1]
        return float(strongest.mean()) if len(strongest) else math.nan

    def of_maps(self) -> dict[str, dict[str, Any]]:
        """Return by kind of map its MaxBoxAccV2 over pairs, and its mIoU as seeds, in %."""
        found = {}
        for at, kind in enumerate(self.maps.kinds):
            as_seeds = self.seeds.result(at) if self.seeds else {}
            found[kind] = box_accuracy([of_pair[at] for of_pair in self._overlaps]) | as_seeds
        return found

    def summary(self, class_names: list[str]) -> dict[str, Any]:
        """Return everything as plain values by name, in %."""
        settings = {"tolerance": TOLERANCE, "topk": self.options.topk, "topk_radius": self.options.topk_radius}
        counts = {"pairs": len(self._table()), "left_out": self.skipped, "strength": self.strength()}
        means = {"over_pairs": self.over_pairs(), "mean_over_classes": self.over_classes(), "maps": self.of_maps()}
        return {**settings, **counts, **means, "per_class": by_class(class_names, self.per_class())}

    def csv(self, class_names: list[str]) -> str:
        """Return the means by class as CSV, and their means over the classes."""
        return class_csv(class_names, self.per_class(), self.over_classes())

    def without_boxes(self) -> bool:
        """Return whether every class's boxes cover at least 98 % of its visible image: nothing can then be missed."""
        chance = self._table()[:, 1 + self.columns.index(UNIFORM)]
        return len(chance) > 0 and chance.min() >= 0.98

    def section(self) -> Section:
        """Return the keypoints' part of a page."""
        if self.without_boxes():
            return Section("Objects", NO_BOXES)
        columns = [HEADING, *(f"{means}: {name}" for means in MEANS for name in ("inside", f"{NEAR} px"))]
        text = "How often keypoints are inside a box of their class, beside points that ignore the image (chance); "
        return Section("Objects", text + "; ".join(self._notes()), {}, columns, self._rows())

    def _rows(self) -> list[list[Any]]:
        means = self.over_pairs(), self.over_classes()
        titles = {name: f"chance: {name}" for name in (CENTRE, UNIFORM)}
        return [
            [titles.get(name, name), *(each[column] for each in means for column in (name, f"{name} {NEAR}"))]
            for name in self.points
        ]

    def _notes(self) -> list[str]:
        pairs, classes = self.over_pairs(), self.over_classes()
        energy, empty = (f"{pairs[n]:.2f} over pairs, {classes[n]:.2f} mean over classes" for n in (ENERGY, EMPTY))
        chance = f"(chance: uniform, {pairs[UNIFORM]:.2f} and {classes[UNIFORM]:.2f})"
        strongest = f"strongest feature of a map: {self.strength():.3g} on average"
        counts = f"{len(self._table()):,} pairs; {self.skipped:,} skipped: no visible box"
        return [f"energy of the CAM in the boxes: {energy} {chance}", f"empty maps: {empty}; {strongest}", counts]

    def text(self) -> str:
        """Return the means to read; without boxes only what the masks measure."""
        if self.without_boxes():
            return f"{NO_BOXES}\n\n{self._text_of_maps()}" if self.seeds else NO_BOXES
        rows = [("", *(2 * ("inside", f"{NEAR} px")))]
        rows += [(title, *(f"{value:.2f}" for value in values)) for title, *values in self._rows()]
        table = fixed_width_table(rows, widths=(15, 19, 14, 15, 14))
        heading = f"{HEADING}      {'      '.join(MEANS)}"
        return "\n".join([heading, table, *self._notes(), "", self._text_of_maps()])

    def _text_of_maps(self) -> str:
        found = self.of_maps()
        names = [name for name, value in found[CENTRE].items() if isinstance(value, float)]
        if self.without_boxes():
            names = [name for name in names if name not in box_accuracy([])]
        rows = [("maps, %", *names)]
        for kind, values in found.items():
            rows.append((f"chance: {kind}" if kind == CENTRE else kind, *(f"{values[name]:.2f}" for name in names)))
        table = fixed_width_table(rows, widths=[15, *(len(name) + 2 for name in names)])
        return f"{table}\n{self.seeds.note()}" if self.seeds else table


def _percent(table: np.ndarray) -> np.ndarray:
    """Return the means in % of the columns of a table of pairs, NaN for a column without a value."""
    return 100 * np.ma.masked_invalid(table[:, 1:-1]).mean(0).filled(np.nan)
