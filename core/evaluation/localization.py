"""Object-awareness of a network on annotated images: keypoints and maps against boxes."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from core.cam import make_cam
from core.keypoints import TOPK, TOPK_RADIUS, cmax_keypoints, ctopk_keypoints, ctopk_w_keypoints, max_keypoints
from tools.data.annotations import VOCObject

TOLERANCE = 15  # pixels, the pointing game's (Zhang et al., Top-down neural attention by excitation backprop, 2016)


def clip_boxes(boxes: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The visible part of boxes `[T, 4]` on a canvas that shows `height` × `width` pixels.

    Returns:
        the clipped boxes `[T, 4]`, and which have any pixel left `[T]`.
    """
    limit = torch.tensor([height, width, height, width], device=boxes.device)
    clipped = torch.minimum(boxes.clamp_min(0), limit)
    return clipped, (clipped[:, 2:] > clipped[:, :2]).all(1)


def box_masks(boxes: torch.Tensor, owner: torch.Tensor, count: int, size: int, tolerance: int = 0) -> torch.Tensor:
    """Which pixels lie inside a box, or at most `tolerance` pixels (Euclidean) from one.

    Args:
        boxes: `[T, 4]` int64, within the canvas.
        owner: `[T]` int64, the mask that each box belongs to.
        count: K, number of masks.
        size: S, pixels.

    Returns:
        boolean `[K, S, S]`.
    """
    # A rectangle with rounded corners is a union of rectangles: so much higher, and as much wider as the circle allows.
    rows = torch.arange(tolerance + 1, device=boxes.device)
    columns = (tolerance**2 - rows**2).double().sqrt().floor().long()
    growth = torch.stack((-rows, -columns, rows, columns), 1)  # [tolerance + 1, 4]
    grown = (boxes[:, None] + growth).clamp(0, size).flatten(0, 1)
    owner = owner.repeat_interleave(tolerance + 1)
    # Two sums over the corners' signs count for every pixel the rectangles that hold it.
    corners = torch.zeros(count, size + 1, size + 1, dtype=torch.int32, device=boxes.device)
    top, left, bottom, right = grown.unbind(1)
    one = torch.ones_like(top, dtype=torch.int32)
    for row, column, sign in ((top, left, one), (top, right, -one), (bottom, left, -one), (bottom, right, one)):
        corners.index_put_((owner, row, column), sign, accumulate=True)
    return corners.cumsum(1).cumsum(2)[:, :size, :size] > 0


def visible_masks(heights: torch.Tensor, widths: torch.Tensor, size: int) -> torch.Tensor:
    """Where the canvas shows an image: heights and widths `[K]` → boolean `[K, S, S]`."""
    place = torch.arange(size, device=heights.device)
    return (place < heights[:, None])[:, :, None] & (place < widths[:, None])[:, None]


def at(masks: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The masks' `[K, S, S]` values at points `[K, 2]` (row, column): `[K]`."""
    return masks[torch.arange(len(points), device=points.device), points[:, 0], points[:, 1]]


def share_of(masks: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Probability that a uniform point of the visible image is in the mask: both `[K, S, S]` → float64 `[K]`."""
    return (masks & visible).flatten(1).sum(1).double() / visible.flatten(1).sum(1)


def resized_maps(cams: torch.Tensor, image_size: int) -> torch.Tensor:
    """Maps `[K, n, n]` → `[K, S, S]`, bilinear, float32: what the keypoints are found on."""
    size = (image_size, image_size)
    return F.interpolate(cams.float().contiguous()[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def energy_share(maps: torch.Tensor, masks: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Share of a map's sum that lies inside the boxes (Wang et al., Score-CAM, 2020: energy-based pointing game).

    Args:
        maps: class activation maps `[K, S, S]`.
        masks, visible: boolean `[K, S, S]`; the sum is over the visible image.

    Returns:
        `[K]` in 0…1, float64; 0 for a map that is 0 all over.
    """
    energy = (maps * visible).double()
    return (energy * masks).flatten(1).sum(1) / energy.flatten(1).sum(1).clamp_min(torch.finfo(torch.float64).tiny)


def strongest_at(
    maps: torch.Tensor, image_index: torch.Tensor, label: torch.Tensor, points: torch.Tensor, num_classes: int
) -> torch.Tensor:
    """The present class whose own map is strongest at a point of the image: the class that Max's keypoint came from.

    Args:
        maps: `[K, S, S]`, of every present class of every image.
        image_index, label: `[K]` int64, the image and the class of each map.
        points: `[B, 2]`, (row, column).
        num_classes: V.

    Returns:
        `[B]` int64; of equal maps the first class.
    """
    values = maps.new_full((len(points), num_classes), -torch.inf)
    values[image_index, label] = at(maps, points[image_index])
    return values.argmax(1)


KEYPOINTS = ("Max", "cMax", "cTopk", "cTopk-w", "centre", "uniform")


NEAR = f"within {TOLERANCE}"


ENERGY = "energy"


EMPTY = "empty"


@dataclass(frozen=True)
class Pairs:
    """The present classes of a batch's images, and their boxes.

    Attributes:
        image, label: `[K]`, position in the batch and class of each pair.
        boxes: `[T, 4]`, visible parts; owner: `[T]`, the pair of each.
        heights, widths: `[K]`, of the image's visible part.
    """

    image: torch.Tensor
    label: torch.Tensor
    boxes: torch.Tensor
    owner: torch.Tensor
    heights: torch.Tensor
    widths: torch.Tensor


class Localization:
    """Collects, batch after batch, how often keypoints fall on objects; give `observe` to `predict`.

    For every image and every class that it shows: do the keypoints of cMax, cTopk and cTopk-w on the class's own map
    lie inside a box of that class? Max has one keypoint an image; it counts for the class whose map is strongest
    there, and for no other. Beside them stands what needs no network: the centre of the visible image, and a uniform
    point in it (its exact probability). Only the visible part of an image and its boxes counts; a class whose boxes lie
    outside altogether is left out. A map without a positive value is empty: its keypoint is the canvas's centre.

    Args:
        objects: of every image, those that count.
        sizes: (height, width) of every image, pixels.
        num_classes: V.
        image_size: S of the evaluated canvas, pixels.
        topk, topk_radius: of cTopk and cTopk-w.

    Attributes:
        left_out: (image, class) pairs that no box shows.
        strengths: largest feature of each pair's class, before maps are scaled to 0…1.
    """

    def __init__(
        self,
        objects: list[list[VOCObject]],
        sizes: list[tuple[int, int]],
        num_classes: int,
        image_size: int,
        topk: int = TOPK,
        topk_radius: float = TOPK_RADIUS,
    ):
        self.objects = objects
        self.sizes = [(min(height, image_size), min(width, image_size)) for height, width in sizes]
        self.num_classes = num_classes
        self.image_size = image_size
        self.topk, self.topk_radius = topk, topk_radius
        self.left_out = 0
        self.strengths: list[float] = []
        self.columns = [*KEYPOINTS, *(f"{name} {NEAR}" for name in KEYPOINTS), ENERGY, EMPTY]
        self._sums = np.zeros((num_classes, len(self.columns)))
        self._counts = np.zeros((num_classes, len(self.columns)), int)

    @torch.no_grad()
    def observe(self, features: torch.Tensor, indices: torch.Tensor) -> None:
        """Take in a batch.

        Args:
            features: of the CAM branch `[B, V, n, n]`; indices: of the images `[B]`.
        """
        pairs = self._pairs(indices.tolist(), features.device)
        if not len(pairs.image):
            return
        cams = make_cam(features.float())
        labels = torch.zeros(cams.shape[:2], device=cams.device)
        labels[pairs.image, pairs.label] = 1
        points, has_max = self._points(cams, labels, pairs)
        visible = visible_masks(pairs.heights, pairs.widths, self.image_size)
        values = []
        for tolerance in (0, TOLERANCE):
            masks = box_masks(pairs.boxes, pairs.owner, len(pairs.image), self.image_size, tolerance)
            values += [at(masks, place).double() for place in points] + [share_of(masks, visible)]
        masks = box_masks(pairs.boxes, pairs.owner, len(pairs.image), self.image_size)
        maps = resized_maps(cams[pairs.image, pairs.label], self.image_size)
        values.append(energy_share(maps, masks, visible))
        values.append((cams[pairs.image, pairs.label].amax((1, 2)) == 0).double())
        shown = pairs.owner.unique()
        self.strengths += features[pairs.image[shown], pairs.label[shown]].float().amax((1, 2)).tolist()
        self._add(pairs, torch.stack(values, 1), has_max)

    def _points(
        self, cams: torch.Tensor, labels: torch.Tensor, pairs: Pairs
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Keypoints `[K, 2]` in the order of `KEYPOINTS` but the last, and whether Max's came from the pair's class."""
        size = self.image_size
        own = cams[pairs.image, pairs.label]
        of_image = max_keypoints(cams, labels, size)
        maps = resized_maps(own, size)
        came_from = strongest_at(maps, pairs.image, pairs.label, of_image, self.num_classes)
        points = [
            of_image[pairs.image],
            cmax_keypoints(own, size),
            ctopk_keypoints(own, size, self.topk, self.topk_radius),
            ctopk_w_keypoints(own, size, self.topk),
            torch.stack((pairs.heights // 2, pairs.widths // 2), 1),
        ]
        return points, came_from[pairs.image] == pairs.label

    def _pairs(self, indices: list[int], device: torch.device) -> Pairs:
        image, label, boxes, owner, sides = [], [], [], [], []
        for position, index in enumerate(indices):
            for number in sorted({item.class_index for item in self.objects[index]}):
                of_class = [whole_pixels(item) for item in self.objects[index] if item.class_index == number]
                clipped, kept = clip_boxes(torch.tensor(of_class), *self.sizes[index])
                boxes += clipped[kept].tolist()
                owner += [len(image)] * int(kept.sum())
                image.append(position)
                label.append(number)
                sides.append(self.sizes[index])
        sides = torch.tensor(sides).reshape(-1, 2)
        tensors = (torch.tensor(image), torch.tensor(label), torch.tensor(boxes).reshape(-1, 4), torch.tensor(owner))
        return Pairs(*(value.long().to(device) for value in (*tensors, sides[:, 0], sides[:, 1])))

    def _add(self, pairs: Pairs, values: torch.Tensor, has_max: torch.Tensor) -> None:
        shown = torch.zeros(len(pairs.image), dtype=torch.bool, device=values.device)
        shown[pairs.owner] = True
        counted = shown[:, None].repeat(1, len(self.columns))
        for column, name in enumerate(self.columns):
            if name.startswith("Max"):
                counted[:, column] &= has_max
        label, counted, values = pairs.label.cpu().numpy(), counted.cpu().numpy(), values.cpu().numpy()
        np.add.at(self._sums, label, values * counted)
        np.add.at(self._counts, label, counted)
        self.left_out += int((~shown).sum())

    def per_class(self) -> dict[str, np.ndarray]:
        """By column, per cent of each class `[V]` (NaN without a pair), after the number of pairs of each class."""
        shares = np.where(self._counts > 0, 100 * self._sums / np.maximum(self._counts, 1), np.nan)
        return {"pairs": self._counts[:, -1], **dict(zip(self.columns, shares.T))}

    def means(self) -> dict[str, float]:
        """By column, per cent over all pairs: classes count as often as they occur."""
        counts = self._counts.sum(0)
        sums = self._sums.sum(0)
        return {name: 100 * sums[i] / counts[i] if counts[i] else math.nan for i, name in enumerate(self.columns)}

    def class_means(self) -> dict[str, float]:
        """By column, per cent, mean over the classes."""
        columns = {name: values[~np.isnan(values)] for name, values in self.per_class().items() if name != "pairs"}
        return {name: float(values.mean()) if len(values) else math.nan for name, values in columns.items()}

    def strength(self) -> float:
        """The largest feature of a pair's class, mean over all pairs: 0 or less where maps have died."""
        return float(np.mean(self.strengths)) if self.strengths else math.nan

    def summary(self, class_names: list[str]) -> dict[str, Any]:
        """Everything, by plain names; per cent."""
        per_class = {
            name: {column: values[row] for column, values in self.per_class().items()}
            for row, name in enumerate(class_names)
        }
        settings = {"tolerance": TOLERANCE, "topk": self.topk, "topk_radius": self.topk_radius}
        counts = {"pairs": int(self._counts[:, -1].sum()), "left_out": self.left_out, "strength": self.strength()}
        return (
            settings
            | counts
            | {
                "over_pairs": self.means(),
                "mean_over_classes": self.class_means(),
                "per_class": per_class,
            }
        )

    def text(self) -> str:
        """The means, to read."""
        pairs, classes = self.means(), self.class_means()
        lines = [
            "keypoints inside a box of their class, %      over (image, class) pairs      mean over classes",
            f"{'':15s}{'inside':>20s}{NEAR + ' px':>15s}{'inside':>16s}{NEAR + ' px':>15s}",
        ]
        for name in KEYPOINTS:
            shown = name if name not in ("centre", "uniform") else f"chance: {name}"
            cells = zip(
                (20, 15, 16, 15), (values[key] for values in (pairs, classes) for key in (name, f"{name} {NEAR}"))
            )
            lines.append(f"{shown:15s}" + "".join(f"{value:{width}.2f}" for width, value in cells))
        lines.append(
            f"energy of the CAM in the boxes: {pairs[ENERGY]:.2f} over pairs, {classes[ENERGY]:.2f} mean over classes "
            f"(chance: uniform, {pairs['uniform']:.2f} and {classes['uniform']:.2f})"
        )
        lines.append(
            f"empty maps: {pairs[EMPTY]:.2f} over pairs, {classes[EMPTY]:.2f} mean over classes; strongest feature of "
            f"a map: {self.strength():.3g} on average"
        )
        lines.append(f"{int(self._counts[:, -1].sum()):,} pairs; {self.left_out:,} left out, their boxes out of sight")
        return "\n".join(lines)


def whole_pixels(item: VOCObject) -> tuple[int, int, int, int]:
    """An object's box as (top, left, bottom, right) from 0, the last two exclusive; parts of pixels count in full."""
    xmin, ymin, xmax, ymax = item.box
    return math.floor(ymin) - 1, math.floor(xmin) - 1, math.ceil(ymax), math.ceil(xmax)
