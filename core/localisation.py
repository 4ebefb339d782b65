"""Object-awareness: do keypoints and class activation maps lie on the objects? Tensors only.

Boxes are (top, left, bottom, right) in whole pixels of the evaluated canvas, counted from 0, the last two exclusive.
"""

import torch
import torch.nn.functional as F

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
