"""What people look at: a trained network's maps, keypoints and merged tiles of an image, as arrays and as panels."""

import numpy as np
import torch

from core.cam import make_cam
from core.keypoints import strongest_peaks
from core.networks import Classifier
from core.puzzle import cut_tiles, merge_tiles
from core.strategy import STRATEGIES, Cutting
from tools.pictures.panels import (
    BAR_HEIGHT,
    caption,
    color_bar,
    draw_cut,
    draw_points,
    heat_overlay,
    map_panel,
    on_white,
    resized,
    sheet,
)

PANEL = 300  # pixels


@torch.no_grad()
def four_strategies(
    picture: np.ndarray, cams: torch.Tensor, present: torch.Tensor, shown: int, name: str, cutting: Cutting
) -> list[np.ndarray]:
    """The paper's figure 2 for one image: the cut of each strategy, a color bar last.

    Args:
        picture: the square image, uint8 `[S, S, 3]`.
        cams: its maps `[V, n, n]`.
        present: indices of its classes `[C]`, which Max joins.
        shown: the class that the others cut for, and `name` what to call it.
        cutting: k and the radius.
    """
    size = len(picture)
    joined = cams[present].amax(0)
    panels = []
    for strategy in STRATEGIES:
        heat = joined if strategy == "Max" else cams[shown]
        classes = present if strategy == "Max" else torch.tensor([shown], device=cams.device)
        keypoint = cutting._replace(strategy=strategy).keypoints(cams, classes, size)[0].tolist()
        panel = heat_overlay(resized(picture, PANEL), heat.cpu().numpy())
        if strategy.startswith("cTopk"):
            coordinates, _, taken = strongest_peaks(heat[None], size, cutting.topk)
            panel = draw_points(panel, coordinates[taken].tolist(), PANEL / size)
        panel = draw_cut(panel, keypoint, PANEL / size)
        panels.append(caption(panel, f"{strategy}: {'all classes' if strategy == 'Max' else name}"))
    return [*panels, with_bar_space(color_bar(PANEL, "0", "1"))]


def with_bar_space(bar: np.ndarray) -> np.ndarray:
    """A color bar lowered by the height of its neighbors' captions."""
    return np.pad(bar, ((BAR_HEIGHT, 0), (0, 0), (0, 0)), constant_values=255)


@torch.no_grad()
def tiles_view(
    network: Classifier, image: torch.Tensor, picture: np.ndarray, label: int, name: str, cutting: Cutting
) -> np.ndarray:
    """A crop's tiles, the map laid together from them, and how it differs from the whole image's.

    The network looks at the tiles in evaluation mode, as it does at the whole.

    Args:
        network: in evaluation mode.
        image: `[3, S, S]` on the network's device; picture: the same to look at, uint8 `[S, S, 3]`.
        label: the crop's class, and `name` what to call it.
        cutting: where the image is cut.
    """
    size = len(picture)
    whole = network(image[None], features_only=True)[1]
    keypoints = cutting.keypoints(make_cam(whole[0]), torch.tensor([label], device=image.device), size)
    index = torch.zeros(1, dtype=torch.int64, device=image.device)
    tiles = cut_tiles(image[None], index, keypoints)
    merged = merge_tiles(network(tiles, features_only=True)[1], keypoints, size)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None]
    seen = cut_tiles(pixels, index.cpu(), keypoints.cpu())[0].permute(0, 2, 3, 1).numpy()
    maps = [maps[0, label].float().cpu().numpy() for maps in (whole, merged)]
    return _tiles_sheet(picture, keypoints[0].tolist(), seen, maps[0], maps[1], name)


def _tiles_sheet(
    picture: np.ndarray, keypoint: list[int], tiles: np.ndarray, whole: np.ndarray, merged: np.ndarray, name: str
) -> np.ndarray:
    low, high = float(min(whole.min(), merged.min())), float(max(whole.max(), merged.max()))
    widest = float(np.abs(merged - whole).max())
    half = [resized(tile, PANEL // 2 - 5) for tile in tiles]
    tiled = sheet([half[:2], half[2:]])[10:-10, 10:-10]
    panels = (
        (draw_cut(resized(picture, PANEL), keypoint, PANEL / len(picture)), f"cut for {name}"),
        (tiled, "four tiles, resized"),
        (map_panel(whole, PANEL, low, high), "map of the whole"),
        (map_panel(merged, PANEL, low, high), "map of the tiles, merged"),
    )
    captioned = [caption(panel, title) for panel, title in panels]
    difference = caption(map_panel(merged - whole, PANEL, -widest, widest, signed=True), "merged minus whole")
    bar = with_bar_space(color_bar(PANEL, f"{low:.1f}", f"{high:.1f}"))
    signed_bar = with_bar_space(color_bar(PANEL, f"-{widest:.1f}", f"+{widest:.1f}", signed=True))
    return sheet([[*captioned, bar, difference, signed_bar]])


def class_panel(
    picture: np.ndarray,
    heat: np.ndarray,
    keypoint: tuple[int, int] | None,
    title: str,
    side: int = PANEL,
    narrowest: int = 0,
) -> np.ndarray:
    """An image under a class's map, with the keypoint and its cut, and a line of text above.

    Args:
        picture: uint8 `[h, w, 3]`.
        heat: `[n, m]` in 0…1, of the whole picture.
        keypoint: (row, column) in the picture's pixels; None for no cut.
        side: of the panel's longer side, pixels; narrowest: of its width, filled up with white.
    """
    panel = heat_overlay(resized(picture, side), heat)
    if keypoint is not None:
        panel = draw_cut(panel, keypoint, side / max(picture.shape[:2]))
    return caption(on_white(panel, 0, narrowest), title)
