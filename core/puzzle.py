"""Tiles: a keypoint cuts an image into four; their feature maps are laid back into one (paper, section 2).

Cutting, resizing and merging with nearest neighbors are index look-ups, so all crops are treated at once.
"""

import torch


def cut_tiles(images: torch.Tensor, image_index: torch.Tensor, keypoints: torch.Tensor) -> torch.Tensor:
    """Cut images at keypoints into top-left, top-right, bottom-left and bottom-right, each resized to half size.

    Args:
        images: `[B, 3, S, S]`.
        image_index: `[crops]` int64, the image of each crop.
        keypoints: `[crops, 2]` int64, (row, column) in pixels, each in 1…S−1.

    Returns:
        tiles `[crops, 4, 3, S/2, S/2]`, every tile channels-last in memory.
    """
    size = images.shape[-1]
    rows = _piece_lookup(keypoints[:, 0], size, size // 2)  # [crops, 2, S/2]
    columns = _piece_lookup(keypoints[:, 1], size, size // 2)
    pixels = images.permute(0, 2, 3, 1)  # a view in channels-last memory
    tiles = pixels[image_index[:, None, None, None, None], rows[:, :, None, :, None], columns[:, None, :, None, :]]
    return tiles.flatten(1, 2).permute(0, 1, 4, 2, 3)


def merge_tiles(tile_features: torch.Tensor, keypoints: torch.Tensor, image_size: int) -> torch.Tensor:
    """Lay the tiles' feature maps back where their tiles came from; the gradient flows through.

    Args:
        tile_features: `[crops, 4, V, n/2, n/2]`.
        keypoints: `[crops, 2]` int64, (row, column) in pixels.
        image_size: S, pixels; S / n is the feature stride.

    Returns:
        merged `[crops, V, n, n]`. The cut in feature cells is max(1, coordinate // stride).
    """
    half = tile_features.shape[-1]
    cells = 2 * half
    cuts = torch.div(keypoints, image_size // cells, rounding_mode="floor").clamp_min(1)
    row_tile, row = _merge_lookup(cuts[:, 0], cells, half)  # [crops, n]
    column_tile, column = _merge_lookup(cuts[:, 1], cells, half)
    tile = 2 * row_tile[:, :, None] + column_tile[:, None, :]
    crop = torch.arange(len(keypoints), device=keypoints.device)[:, None, None]
    merged = tile_features[crop, tile, :, row[:, :, None], column[:, None, :]]  # [crops, n, n, V]
    return merged.permute(0, 3, 1, 2)


def _piece_lookup(cut: torch.Tensor, size: int, target: int) -> torch.Tensor:
    """Which pixel of 0…size−1 each pixel of the two resized pieces comes from: cut `[crops]` → `[crops, 2, target]`."""
    place = torch.arange(target, device=cut.device)
    before = _nearest(place, cut[:, None], target)
    after = _nearest(place, size - cut[:, None], target) + cut[:, None]
    return torch.stack((before, after), 1)


def _merge_lookup(cut: torch.Tensor, cells: int, half: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of two pieces, and which of its `half` cells, each of `cells` merged cells shows: both `[crops, cells]`."""
    place = torch.arange(cells, device=cut.device)
    cut = cut[:, None]
    second = place >= cut
    before = _nearest(place.expand(len(cut), -1), half, cut)
    after = _nearest((place - cut).clamp_min(0), half, (cells - cut).clamp_min(1))
    return second.long(), torch.where(second, after, before)


def _nearest(place: torch.Tensor, source: torch.Tensor | int, target: torch.Tensor | int) -> torch.Tensor:
    """Source index of target index `place` as `F.interpolate(mode="nearest")` computes it, in float32."""
    scale = torch.as_tensor(source, device=place.device, dtype=torch.float32) / target
    index = torch.floor(place.float() * scale).long()
    return torch.minimum(index, torch.as_tensor(source, device=place.device) - 1)
