"""Tiles: a keypoint cuts an image into four; their feature maps are stitched back together (paper, section 2).

Cutting, resizing and merging with nearest neighbors are index look-ups, so all crops are handled at once.
"""

import torch
from torch import Tensor


def cut_tiles(images: Tensor, image_index: Tensor, keypoints: Tensor) -> Tensor:
    """Cut images at keypoints into top-left, top-right, bottom-left and bottom-right, each resized to half size.

    Args:
        images: `[B, 3, S, S]`; image_index: `[crops]` int64, the image of each crop.
        keypoints: `[crops, 2]` int64, (row, column) in pixels, each in 1…S−1.

    Returns:
        tiles `[crops, 4, 3, S/2, S/2]`, channels-last in memory, because that is how the pixels are looked up.
    """
    size = images.shape[-1]
    rows = _piece_lookup(keypoints[:, 0], size, size // 2)  # [crops, 2, S/2]
    columns = _piece_lookup(keypoints[:, 1], size, size // 2)
    pixels = images.permute(0, 2, 3, 1)  # no copy if the images are channels-last
    tiles = pixels[image_index[:, None, None, None, None], rows[:, :, None, :, None], columns[:, None, :, None, :]]
    return tiles.flatten(1, 2).permute(0, 1, 4, 2, 3)


def merge_tiles(tile_features: Tensor, keypoints: Tensor, image_size: int) -> Tensor:
    """Stitch the tiles' feature maps back into one map `[crops, V, n, n]`. Differentiable.

    The cut in feature cells is max(1, coordinate // stride), of the stride S / n.

    Args:
        tile_features: `[crops, 4, V, n/2, n/2]`.
        keypoints: `[crops, 2]` int64, (row, column) in pixels; image_size: S, pixels.
    """
    half = tile_features.shape[-1]
    cells = 2 * half
    cuts = torch.div(keypoints, image_size // cells, rounding_mode="floor").clamp_min(1)
    row_tile, row = _merge_lookup(cuts[:, 0], cells, half)  # [crops, n]
    column_tile, column = _merge_lookup(cuts[:, 1], cells, half)
    tile = 2 * row_tile[:, :, None] + column_tile[:, None, :]
    crop = torch.arange(len(keypoints), device=keypoints.device)[:, None, None]
    return tile_features[crop, tile, :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)


def _piece_lookup(cut: Tensor, size: int, target: int) -> Tensor:
    """Return the source pixel of each pixel of the two resized pieces: cut `[crops]` → `[crops, 2, target]`."""
    index = torch.arange(target, device=cut.device)
    before = _nearest(index, cut[:, None], target)
    after = _nearest(index, size - cut[:, None], target) + cut[:, None]
    return torch.stack((before, after), 1)


def _merge_lookup(cut: Tensor, cells: int, half: int) -> tuple[Tensor, Tensor]:
    """Return the piece (0 or 1) and its cell (of `half`) for each of `cells` merged cells: both `[crops, cells]`."""
    index = torch.arange(cells, device=cut.device)
    cut = cut[:, None]
    second = index >= cut
    before = _nearest(index.expand(len(cut), -1), half, cut)
    after = _nearest((index - cut).clamp_min(0), half, (cells - cut).clamp_min(1))
    return second.long(), torch.where(second, after, before)


def _nearest(index: Tensor, source: Tensor | int, target: Tensor | int) -> Tensor:
    """Return the source index of a target index as `F.interpolate(mode="nearest")` computes it, in float32."""
    scale = torch.as_tensor(source, device=index.device, dtype=torch.float32) / target
    return torch.minimum(torch.floor(index.float() * scale).long(), torch.as_tensor(source, device=index.device) - 1)
