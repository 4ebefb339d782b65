"""Figures of a trained network: maps and keypoints of an image, the strategies side by side, tiles and merged maps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image

from core.cam import make_cam
from core.evaluation.pairs import Box
from core.keypoints import resize_cams, strongest_peaks
from core.networks import Classifier
from core.puzzle import cut_tiles, merge_tiles
from core.strategy import KEYPOINTS, STRATEGIES, Keypoints, Options
from tools.data.datasets import Letterboxed
from tools.data.transforms import Normalization, denormalize
from tools.metrics.reports import Prediction
from tools.pictures import panels
from tools.pictures.panels import BAR, PANEL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4  # panels in a row
SHORTEST = 120  # height of a panel, pixels: a color bar needs it


class Example(NamedTuple):
    """An image of `draw_strategies` and `draw_tiles`; its tensors are on the network's device."""

    image: torch.Tensor  # normalized [3, S, S]
    cams: torch.Tensor  # [V, n, n]
    present: torch.Tensor  # indices of its classes [C]
    shown: torch.Tensor  # index of the class that the image is cut for [1]
    title: str  # of that class
    normalization: Normalization | None = None  # of the image
    boxes: dict[int, list[Box]] = {}  # of annotated objects, by the index of their class


def draw_strategies(examples: list[Example], options: Options, own: Keypoints | None = None) -> Figure:
    """Draw the paper's figure 2: a row per image, and in it the keypoint and the cut of each strategy.

    A panel also has the boxes of the classes whose map it shows. `own`, the checkpoint's keypoints, have a panel of
    their own if they are not those of one of the four strategies.
    """
    drawn = [KEYPOINTS[name] for name in STRATEGIES]
    if own is not None and own not in drawn:
        drawn.append(own)
    figure, grid = panels.panel_grid(len(examples), [PANEL] * len(drawn) + [BAR])
    for example, row in zip(examples, grid, strict=True):
        picture = denormalize(example.image, example.normalization).numpy()
        size = len(picture)
        for keypoints, axes in zip(drawn, row[:-1], strict=True):
            classes = example.present if keypoints.per_image else example.shown
            joined = example.cams[classes].amax(0, keepdim=True)
            heat = panels.show_overlay(axes, picture, resize_cams(joined, size)[0].cpu().numpy())
            panels.draw_boxes(axes, [box for index in classes.tolist() for box in example.boxes.get(index, [])])
            if keypoints.name.startswith("cTopk"):
                coordinates, _, exists = strongest_peaks(joined, size, options.topk)
                panels.draw_points(axes, coordinates[exists].tolist())
            panels.draw_cut(axes, keypoints.of_image(example.cams, classes, size, options)[0].tolist())
            panels.caption(axes, f"{keypoints.name}: {'all classes' if keypoints.per_image else example.title}")
        panels.color_bar(row[-1], heat)
    return figure


@torch.no_grad()
def draw_tiles(network: Classifier, examples: list[Example], keypoints: Keypoints, options: Options) -> Figure:
    """Draw a row per image: its cut, its tiles, the map of the whole, the map merged from the tiles, their difference.

    The network, in evaluation mode, sees the tiles as it sees the whole image.
    """
    figure, grid = panels.panel_grid(len(examples), [PANEL] * 4 + [BAR, PANEL, BAR])
    for example, row in zip(examples, grid, strict=True):
        image, size = example.image[None], example.image.shape[-1]
        features = network(image, features_only=True)[1]
        cut = keypoints.of_image(make_cam(features[0]), example.shown, size, options)
        tiles = cut_tiles(image, torch.zeros_like(example.shown), cut)
        merged_features = merge_tiles(network(tiles, features_only=True)[1], cut, size)
        whole, merged = (maps[0, example.shown][0].float().cpu().numpy() for maps in (features, merged_features))
        low, high = min(whole.min(), merged.min()), max(whole.max(), merged.max())
        largest = max(abs(merged - whole).max(), 1e-12)

        panels.show_image(row[0], denormalize(example.image, example.normalization).numpy())
        panels.draw_boxes(row[0], example.boxes.get(example.shown.item(), []))
        panels.draw_cut(row[0], cut[0].tolist())
        panels.show_tiles(row[1], denormalize(tiles[0], example.normalization).numpy())
        panels.show_map(row[2], whole, low, high)
        values = panels.show_map(row[3], merged, low, high)
        panels.color_bar(row[4], values, f"{low:.1f}", f"{high:.1f}", "map, not scaled")
        difference = panels.show_map(row[5], merged - whole, -largest, largest, signed=True)
        panels.color_bar(row[6], difference, f"-{largest:.1f}", f"+{largest:.1f}", "difference")
        titles = (f"cut for {example.title}", "four tiles, resized", "map of the whole", "map of the tiles, merged")
        for axes, title in zip(row[[0, 1, 2, 3, 5]], (*titles, "merged minus whole"), strict=True):
            panels.caption(axes, title)
    return figure


def draw_prediction(
    item: Letterboxed, upright: Image.Image, cams: torch.Tensor, predictions: list[Prediction], note: str = ""
) -> Figure:
    """Draw an image and, for each prediction, its map with the keypoint and the cut.

    Args:
        upright: the image at its own resolution, which is reduced in place.
        cams: of the predictions `[C, n, n]`.
        note: a caption of the image, whose name is then the figure's title.
    """
    upright.thumbnail((2 * PANEL, 2 * PANEL), reducing_gap=3.0)
    picture = np.asarray(upright)
    name, count = Path(item.path).name, 1 + len(predictions)
    columns, rows = min(count, COLUMNS), math.ceil(count / COLUMNS)
    height = max(SHORTEST, round(PANEL * item.size[0] / max(item.size)))
    figure, grid = panels.panel_grid(rows, [PANEL] * columns + [BAR], height, title=name if note else "")
    axes = grid[:, :columns].flat
    panels.show_image(axes[0], picture, item.size)
    panels.caption(axes[0], note or name)
    for number, (cam, prediction) in enumerate(zip(cams, predictions, strict=True), 1):
        title = f"{prediction.name} {prediction.score:.2f}"
        heat = panels.draw_class(axes[number], picture, item.heat_of(cam), prediction.keypoint, title, item.size)
    panels.color_bar(grid[0, -1], heat)
    return figure


def draw_example(pixels: np.ndarray, cam: torch.Tensor | None, boxes: list[tuple[float, ...]]) -> Figure:
    """Draw what a network sees of an image, under a map if there is one, with thin boxes.

    Args:
        pixels: uint8 `[S, S, 4]`, see `tools.data.transforms.normalize`; only where the fourth is not 0 is shown.
        cam: `[n, n]` in 0…1; boxes: (top, left, bottom, right) in pixels.
    """
    rows, columns = (np.flatnonzero(pixels[..., 3].any(axis)) for axis in (1, 0))
    inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    picture = pixels[..., :3][inside]
    scale = PANEL / max(picture.shape[:2])
    figure, axes = panels.single_panel(round(scale * picture.shape[1]), round(scale * picture.shape[0]))
    if cam is None:
        panels.show_image(axes, picture)
    else:
        panels.show_overlay(axes, picture, resize_cams(cam[None].float(), len(pixels))[0].cpu().numpy()[inside])
    top, left = rows[0], columns[0]
    edge = 1.5 / scale - 0.5  # half a line, so that boxes at the image's edges are visible
    ends = np.subtract(picture.shape[:2], 1 + edge)
    corners = np.reshape(boxes, (-1, 2, 2)) - (top, left) - 0.5  # pixels have whole coordinates at their centers
    panels.draw_boxes(axes, corners.clip(edge, ends).reshape(-1, 4).tolist())
    return figure
