"""Keypoints: where an image is cut, found on class activation maps (paper, section 2; one function per strategy).

Class activation maps are `[crops, n, n]`, one per image and present class, keypoints `[crops, 2]` int64, (row, column)
in pixels of the image, whose size S is in pixels too. Every function handles all maps at once, on their own device and
without gradient. A keypoint in row 0 or column 0 would leave two tiles empty, so the image center is used instead.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Distances are given at this image size and scale with it.
REFERENCE_SIZE = 512
PEAK_DISTANCE = 20
TOPK = 5
TOPK_RADIUS = 128.0


@torch.no_grad()
def max_keypoints(cams: Tensor, labels: Tensor, image_size: int) -> Tensor:
    """Return the keypoints of Max, one per image `[B, 2]`: the arg-max of the strongest present class.

    It is the center for an image without labels. `cams` are the maps of all classes `[B, V, n, n]`, and `labels` are
    multi-hot `[B, V]`.
    """
    # The maximum comes before the resizing, as in the official code: the other order finds other keypoints.
    return cmax_keypoints((cams * labels[:, :, None, None]).amax(1), image_size)


@torch.no_grad()
def cmax_keypoints(cams: Tensor, image_size: int) -> Tensor:
    """Return the keypoints of cMax `[crops, 2]`: the arg-max of the class's own map `[crops, n, n]`."""
    return _or_centre(_argmax(resize_cams(cams, image_size))[1], image_size)


@torch.no_grad()
def ctopk_keypoints(cams: Tensor, image_size: int, k: int = TOPK, radius: float = TOPK_RADIUS) -> Tensor:
    """Return the keypoints of cTopk: the mean of those of the k strongest local maxima that are near the arg-max.

    The official code compares a row with a column in its radius test; here the distance is Euclidean. The mean is the
    sum of coordinates, integer-divided.

    Args:
        k: maximum number of local maxima.
        radius: local maxima must be closer than this to the arg-max, pixels at S = 512; 0 takes all k (the paper's
            figure).
    """
    maps = resize_cams(cams, image_size)
    coordinates, _, taken = local_maxima(maps, k)
    if radius > 0:
        offset = (coordinates - _argmax(maps)[1][:, None]).double()
        taken &= offset.norm(dim=-1) < radius * image_size / REFERENCE_SIZE
    total = (coordinates * taken[..., None]).sum(1)
    return _or_centre(total // taken.sum(1, keepdim=True).clamp_min(1), image_size)


@torch.no_grad()
def ctopk_w_keypoints(cams: Tensor, image_size: int, k: int = TOPK) -> Tensor:
    """Return the keypoints of cTopk-w: the response-weighted mean of the k strongest local maxima.

    It is Σ int(coordinate · value / Σ values), truncated term by term (official code).
    """
    coordinates, values, taken = strongest_peaks(cams, image_size, k)
    # In double precision truncation does not shift a single peak, or equal ones.
    values = (values.double() * taken)[..., None]
    total = values.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return _or_centre((coordinates * values / total).long().sum(1), image_size)


def centre_keypoints(crops: int, image_size: int, device: torch.device | None = None) -> Tensor:
    """Return Puzzle-CAM's cut, the image center, for every crop: `[crops, 2]` int64, (row, column) in pixels."""
    return torch.full((crops, 2), image_size // 2, device=device)


@torch.no_grad()
def strongest_peaks(cams: Tensor, image_size: int, k: int = TOPK) -> tuple[Tensor, Tensor, Tensor]:
    """Return the `local_maxima` of maps `[crops, n, n]` at image size: what cTopk and cTopk-w start from."""
    return local_maxima(resize_cams(cams, image_size), k)


def local_maxima(maps: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k strongest local maxima of each map, as scikit-image's `peak_local_max` finds them.

    A local maximum equals the maximum of its window of ±20 pixels, exceeds the map's minimum and keeps 20 pixels
    from the border; of equal peaks closer than 20 px the first in row-major order is kept. (20 px at S = 512.)

    Args:
        maps: `[crops, S, S]`.
        k: maximum number per map.

    Returns:
        coordinates `[crops, k, 2]` int64 (row, column), values `[crops, k]`, and which of the k exist `[crops, k]`
        bool; strongest first, absent ones have coordinates and value 0.
    """
    size = maps.shape[-1]
    distance = max(1, round(PEAK_DISTANCE * size / REFERENCE_SIZE))
    peak = (maps == _window_maximum(maps, distance)) & (maps > maps.amin(dim=(-2, -1), keepdim=True))
    index = torch.arange(size, device=maps.device)
    inside = (index >= distance) & (index < size - distance)
    candidates = maps.masked_fill(~(peak & inside[:, None] & inside), -torch.inf)
    coordinates, values = [], []
    for _ in range(k):
        value, strongest = _argmax(candidates)
        near_row, near_column = ((index - strongest[..., None]).abs() < distance).unbind(1)
        candidates = candidates.masked_fill(near_row[:, :, None] & near_column[:, None], -torch.inf)
        coordinates.append(strongest)
        values.append(value)
    values = torch.stack(values, 1)
    taken = values > -torch.inf
    return torch.stack(coordinates, 1) * taken[..., None], values.masked_fill(~taken, 0), taken


def resize_cams(cams: Tensor, image_size: int) -> Tensor:
    """Return maps `[crops, n, n]` at image size, `[crops, S, S]`: bilinear with half-pixel centers, float32."""
    maps = cams.float().contiguous()[:, None]
    return F.interpolate(maps, size=(image_size, image_size), mode="bilinear", align_corners=False)[:, 0]


def _argmax(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maximum `[crops]` and its (row, column) `[crops, 2]`, the first in row-major order."""
    value, flat_index = maps.flatten(1).max(1)
    size = maps.shape[-1]
    return value, torch.stack((flat_index // size, flat_index % size), 1)


def _window_maximum(maps: Tensor, distance: int) -> Tensor:
    """Return the maximum over the window of ±distance pixels around each pixel, clipped at the border.

    Windows double in length, so few passes are needed: 43 times faster on a CPU than separable `max_pool2d` with a
    41 × 41 window, and the same bits.
    """
    x, length = F.pad(maps, (distance,) * 4, value=-torch.inf), 2 * distance + 1
    for dim in (-1, -2):
        span = 1
        while span < length:
            step = min(span, length - span)
            rest = x.shape[dim] - step
            x = torch.maximum(x.narrow(dim, 0, rest), x.narrow(dim, step, rest))
            span += step
    return x


def _or_centre(keypoints: Tensor, image_size: int) -> Tensor:
    """Replace keypoints with a row or column of 0 by the center."""
    return keypoints.masked_fill((keypoints == 0).any(1, keepdim=True), image_size // 2)
