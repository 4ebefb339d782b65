"""Panels of a figure: images, class activation maps over them, keypoints and cuts, maps as cells, color bars.

Images are uint8 `[h, w, 3]` in RGB; coordinates are (row, column) in their pixels. Color-blind readers can read both
color scales: viridis for maps, blue to red for signed values.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from tools.pictures.figure import DPI, POINTS, fit_text, new_figure, printable, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Pair = tuple[int, int]  # (row, column) or (height, width)

PANEL = 300  # side of a panel, pixels
BAR = 112  # width of a color bar with its numbers and its name, pixels
CAPTION = 34  # height of a caption, pixels
GAP = 10  # pixels
OPACITY = 0.65  # of a map where it is 1
KEYPOINT = "#D55E00"


@style()
def panel_grid(rows: int, widths: list[int], height: int = PANEL, title: str = "") -> tuple[Figure, np.ndarray]:
    """Return a figure of empty panels and its axes `[rows, columns]`.

    `widths` of the columns and `height` of each panel, without the caption above it, are in pixels.
    """
    head = CAPTION if title else 0
    width, total = sum(widths) + GAP * (len(widths) + 1), head + rows * (height + CAPTION) + GAP
    figure = new_figure(width, total)
    grid = np.empty((rows, len(widths)), dtype=object)
    for row, column in np.ndindex(grid.shape):
        left = sum(widths[:column]) + GAP * (column + 1)
        bottom = total - head - (row + 1) * (height + CAPTION)
        box = (left / width, bottom / total, widths[column] / width, height / total)
        grid[row, column] = figure.add_axes(box, anchor="NW")
        grid[row, column].set_axis_off()
    if title:
        text = figure.text(GAP / width, 1 - 0.6 * CAPTION / total, printable(title), va="center")
        fit_text(text, width - 2 * GAP)
    return figure, grid


@style()
def single_panel(width: int, height: int) -> tuple[Figure, Axes]:
    """Return a figure of these sides in pixels, and its only panel, which fills it."""
    figure = new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    return figure, axes


@style()
def caption(axes: Axes, text: str) -> None:
    """Write a line above a panel, shortened where it would reach the next one."""
    width = axes.get_position(original=True).width * axes.figure.get_figwidth() * DPI
    fit_text(axes.set_title(printable(text), loc="left", pad=5), width)


def show_image(axes: Axes, image: np.ndarray, size: Pair | None = None) -> AxesImage:
    """Show an image; if it was scaled, the panel's coordinates count the pixels of its original `size`."""
    height, width = size or image.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)  # pixels have whole coordinates at their centers
    shown = axes.imshow(image, extent=extent, interpolation="catrom")
    axes.autoscale(False)  # what is drawn on the image does not move its edges
    return shown


def show_overlay(axes: Axes, image: np.ndarray, heat: np.ndarray, size: Pair | None = None) -> AxesImage:
    """Show an image as `show_image` does, under its heat map `[n, m]` in 0…1; return what `color_bar` takes."""
    muted = 0.5 * image + 0.5 * image.mean(-1, keepdims=True)  # so that its colors are not taken for the map's
    extent = show_image(axes, muted.round().astype(np.uint8), size).get_extent()
    heat = heat.clip(0, 1)
    opacity = OPACITY * np.sqrt(heat)  # where the heat is 0, the image shows through
    return axes.imshow(heat, "viridis", vmin=0, vmax=1, alpha=opacity, extent=extent, interpolation="bilinear")


def draw_class(
    axes: Axes, image: np.ndarray, heat: np.ndarray, keypoint: Pair | None, title: str, size: Pair | None = None
) -> AxesImage:
    """Show an image as `show_overlay` does, with the keypoint, if there is one, and the cut of a class."""
    shown = show_overlay(axes, image, heat, size)
    if keypoint is not None:
        draw_cut(axes, keypoint)
    caption(axes, title)
    return shown


def show_map(axes: Axes, values: np.ndarray, low: float, high: float, signed: bool = False) -> AxesImage:
    """Show a map `[n, n]` as colored cells, and return what `color_bar` takes; `low` and `high` end the colors."""
    return axes.imshow(values, "RdBu_r" if signed else "viridis", vmin=low, vmax=max(high, low + 1e-12))


def show_tiles(axes: Axes, tiles: np.ndarray) -> None:
    """Show four tiles `[4, h, w, 3]`, row by row, with a gap between them."""
    side, gap = tiles.shape[1], max(1, tiles.shape[1] // 15)
    framed = np.pad(tiles, ((0, 0), (0, gap), (0, gap), (0, 0)), mode="edge")
    rows = [np.concatenate(list(pair), axis=1) for pair in (framed[:2], framed[2:])]
    show_image(axes, np.concatenate(rows)[:-gap, :-gap])
    axes.axhspan(side - 0.5, side + gap - 0.5, color="white")
    axes.axvspan(side - 0.5, side + gap - 0.5, color="white")


@style()
def color_bar(
    axes: Axes, image: AxesImage, low: str = "0", high: str = "1", name: str = "class activation map"
) -> None:
    """Fill a panel of width `BAR` with the colors of a map, and write what its ends are and what it shows."""
    bar = axes.figure.colorbar(image, cax=axes.inset_axes((0, 0.03, 0.16, 0.94)))
    bar.set_ticks(list(image.get_clim()), labels=[low, high])
    height = axes.get_position(original=True).height * axes.figure.get_figheight() * DPI
    bar.set_label(textwrap.fill(name, int(height / 10.5)))  # pixels per character


def draw_cut(axes: Axes, keypoint: Pair) -> None:
    """Draw a keypoint and the two lines that cut the image there."""
    row, column = keypoint
    for color, width in (("black", 4), ("white", 2)):
        axes.axhline(row, color=color, linewidth=width * POINTS)
        axes.axvline(column, color=color, linewidth=width * POINTS)
    axes.plot(column, row, "o", color=KEYPOINT, markeredgecolor="black", markersize=16 * POINTS, clip_on=False)


def draw_points(axes: Axes, points: list[Pair]) -> None:
    """Draw a ring at each point."""
    rows, columns = zip(*points, strict=True) if points else ((), ())
    for color, width in (("black", 5), ("white", 2)):
        edge = {"markeredgecolor": color, "markeredgewidth": width * POINTS}
        axes.plot(columns, rows, "o", color="none", markersize=13, **edge)


def draw_boxes(axes: Axes, boxes: list[tuple[float, float, float, float]]) -> None:
    """Draw thin rectangles (top, left, bottom, right)."""
    for top, left, bottom, right in boxes:
        for color, width in (("black", 3), ("white", 1.5)):
            corners = ([left, right, right, left, left], [top, top, bottom, bottom, top])
            axes.plot(*corners, color=color, linewidth=width * POINTS)
