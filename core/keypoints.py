"""Keypoints: where an image is cut, found on class activation maps (paper, section 2; one function per strategy).

Coordinates are (row, column) in pixels of the image. Every function treats all maps at once, on their own device and
without gradient. A keypoint in row 0 or column 0 would cut off nothing; it is replaced by the image's centre.
"""

import torch
import torch.nn.functional as F

# Distances are given at this image size and scale with it.
REFERENCE_SIZE = 512
PEAK_DISTANCE = 20
TOPK = 5
TOPK_RADIUS = 128.0


@torch.no_grad()
def max_keypoints(cams: torch.Tensor, labels: torch.Tensor, image_size: int) -> torch.Tensor:
    """Max: the arg-max of the strongest present class, one keypoint per image.

    Args:
        cams: class activation maps `[B, V, n, n]`.
        labels: multi-hot `[B, V]`.
        image_size: S, pixels.

    Returns:
        `[B, 2]` int64, (row, column) in pixels. An image without labels has the centre.
    """
    # The maximum comes before the resizing: the other order gives other keypoints than the official code's.
    strongest = (cams * labels[:, :, None, None]).amax(1)
    return cmax_keypoints(strongest, image_size)


@torch.no_grad()
def cmax_keypoints(cams: torch.Tensor, image_size: int) -> torch.Tensor:
    """cMax: the arg-max of the class's own map.

    Args:
        cams: maps `[crops, n, n]`, one per image and present class.
        image_size: S, pixels.

    Returns:
        `[crops, 2]` int64, (row, column) in pixels.
    """
    return _or_centre(_argmax(resize_cams(cams, image_size))[1], image_size)


@torch.no_grad()
def ctopk_keypoints(cams: torch.Tensor, image_size: int, k: int = TOPK, radius: float = TOPK_RADIUS) -> torch.Tensor:
    """cTopk: the mean of the k strongest local maxima, of those nearer to the arg-max than the radius.

    The official code compares a row with a column in its radius test; here the distance is Euclidean.

    Args:
        cams: maps `[crops, n, n]`, one per image and present class.
        image_size: S, pixels.
        k: how many local maxima at most.
        radius: pixels at S = 512, strict; 0 takes all k (the paper's figure).

    Returns:
        `[crops, 2]` int64, (row, column) in pixels; sums of coordinates, integer-divided.
    """
    maps = resize_cams(cams, image_size)
    coordinates, _, taken = local_maxima(maps, k)
    if radius > 0:
        offset = (coordinates - _argmax(maps)[1][:, None]).double()
        taken &= offset.norm(dim=-1) < radius * image_size / REFERENCE_SIZE
    total = (coordinates * taken[..., None]).sum(1)
    return _or_centre(total // taken.sum(1, keepdim=True).clamp_min(1), image_size)


@torch.no_grad()
def ctopk_w_keypoints(cams: torch.Tensor, image_size: int, k: int = TOPK) -> torch.Tensor:
    """cTopk-w: the response-weighted mean of the k strongest local maxima, truncated term by term.

    Args:
        cams: maps `[crops, n, n]`, one per image and present class.
        image_size: S, pixels.
        k: how many local maxima at most.

    Returns:
        `[crops, 2]` int64, (row, column) in pixels: Σ int(coordinate · value / Σ values).
    """
    coordinates, values, taken = strongest_peaks(cams, image_size, k)
    # Double precision, so that a single peak, or equal ones, lose nothing to truncation.
    values = (values.double() * taken)[..., None]
    total = values.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return _or_centre((coordinates * values / total).long().sum(1), image_size)


def centre_keypoints(crops: int, image_size: int, device: torch.device | None = None) -> torch.Tensor:
    """Puzzle-CAM's cut: the image centre for every crop, `[crops, 2]` int64, (row, column) in pixels."""
    return torch.full((crops, 2), image_size // 2, device=device)


@torch.no_grad()
def strongest_peaks(
    cams: torch.Tensor, image_size: int, k: int = TOPK
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The local maxima that cTopk and cTopk-w start from: `local_maxima` of maps `[crops, n, n]` at image size."""
    return local_maxima(resize_cams(cams, image_size), k)


def local_maxima(maps: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k strongest local maxima of each map, as scikit-image's `peak_local_max` finds them.

    A local maximum equals the maximum of its window of ±20 pixels, exceeds the map's minimum and keeps 20 pixels
    from the border; of equal ones nearer than 20 pixels the first in reading order stays. (20 pixels at S = 512.)

    Args:
        maps: `[crops, S, S]`.
        k: how many at most.

    Returns:
        coordinates `[crops, k, 2]` int64 (row, column), values `[crops, k]`, and which of the k exist `[crops, k]`
        bool; strongest first, absent ones have coordinates and value 0.
    """
    size = maps.shape[-1]
    distance = max(1, round(PEAK_DISTANCE * size / REFERENCE_SIZE))
    peak = (maps == _window_maximum(maps, distance)) & (maps > maps.amin(dim=(-2, -1), keepdim=True))
    place = torch.arange(size, device=maps.device)
    inside = (place >= distance) & (place < size - distance)
    candidates = maps.masked_fill(~(peak & inside[:, None] & inside), -torch.inf)
    coordinates, values = [], []
    for _ in range(k):
        value, strongest = _argmax(candidates)
        near_row, near_column = ((place - strongest[..., None]).abs() < distance).unbind(1)
        candidates = candidates.masked_fill(near_row[:, :, None] & near_column[:, None], -torch.inf)
        coordinates.append(strongest)
        values.append(value)
    values = torch.stack(values, 1)
    taken = values > -torch.inf
    return torch.stack(coordinates, 1) * taken[..., None], values.masked_fill(~taken, 0), taken


def resize_cams(cams: torch.Tensor, image_size: int) -> torch.Tensor:
    """Maps `[crops, n, n]` → `[crops, S, S]`, bilinear with half-pixel centres, float32."""
    maps = cams.float().contiguous()[:, None]
    return F.interpolate(maps, size=(image_size, image_size), mode="bilinear", align_corners=False)[:, 0]


def _argmax(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maximum `[crops]` and (row, column) `[crops, 2]` of its first place in reading order."""
    value, place = maps.flatten(1).max(1)
    size = maps.shape[-1]
    return value, torch.stack((place // size, place % size), 1)


def _window_maximum(maps: torch.Tensor, distance: int) -> torch.Tensor:
    """Maximum over the window of ±distance pixels around each pixel, cut at the border, as `maps`."""
    padded = F.pad(maps, (distance,) * 4, value=-torch.inf)
    return _running_maximum(_running_maximum(padded, -1, 2 * distance + 1), -2, 2 * distance + 1)


def _running_maximum(x: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    """Maximum of every `length` neighbors along `dim`; windows double in length, so few passes are needed."""
    span = 1
    while span < length:
        step = min(span, length - span)
        rest = x.shape[dim] - step
        x = torch.maximum(x.narrow(dim, 0, rest), x.narrow(dim, step, rest))
        span += step
    return x


def _or_centre(keypoints: torch.Tensor, image_size: int) -> torch.Tensor:
    """The centre in place of keypoints with a row or column of 0."""
    degenerate = (keypoints == 0).any(1, keepdim=True)
    return keypoints.masked_fill(degenerate, image_size // 2)
