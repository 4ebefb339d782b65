"""Line and bar charts, in colors that color-blind readers can tell apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tools.pictures.figure import POINTS, fit_text, new_figure, printable, style
from tools.system.errors import UserError, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tools.metrics.bootstrap import Interval

# The palette of Okabe and Ito (without its yellow, too light for lines), and a gray.
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#6E6E6E")
MOST_LINES = len(LINE_COLORS)
MOST_ROWS = 12  # of bars in one column
COLUMN = 640  # width of a chart, pixels
BAR = 22  # height of a bar, pixels
NAMES = 220  # width of the names beside bars at most, pixels
MOST_CURVES, CURVE = 60, 230  # of `curve_grid`: charts, and the side of one, pixels


class Line(NamedTuple):
    """A curve through the points (x, y); NaN makes a gap."""

    label: str
    x: list[float]
    y: list[float]


@style()
def line_charts(title: str, x_label: str, charts: dict[str, list[Line]]) -> Figure:
    """Draw charts of at most `MOST_LINES` curves in two columns, with one legend.

    `charts` holds curves by the chart's title; every chart has the same labels in the same order.
    """
    labels = [line.label for line in next(iter(charts.values()))]
    rows = math.ceil(len(charts) / 2)
    figure, colors = _page(title, labels, 2 * COLUMN, 370 * rows)
    # Where curves coincide, the wider ones below show at both sides of those above.
    widths = POINTS * np.linspace(min(3 * len(labels), 10), 2.5, len(labels))
    for number, (name, lines) in enumerate(charts.items(), 1):
        axes = figure.add_subplot(rows, 2, number)
        for line, color, width in zip(lines, colors, widths, strict=True):
            marker = "o" if len(line.x) <= 30 else None
            axes.plot(line.x, line.y, color=color, linewidth=width, marker=marker, markersize=width + 3)
        if not any(math.isfinite(y) for line in lines for y in line.y):
            axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center")
        axes.set_title(name, loc="left")
        axes.set_xlabel(x_label)
        axes.grid(axis="y", color="#DEDEDE")
    return figure


@style()
def bar_chart(title: str, labels: list[str], names: list[str], values: list[list[float]]) -> Figure:
    """Draw horizontal bars of values in %, in two columns if there are many.

    Args:
        labels: names of the series, at most `MOST_LINES`; names: of the groups.
        values: for each group one number per series, in %; NaN has no bar.
    """
    columns = 1 if len(names) <= MOST_ROWS else 2
    rows = math.ceil(len(names) / columns)
    group = len(labels) * BAR + 14
    figure, colors = _page(title, labels, columns * COLUMN, rows * group + 20)
    for column in range(columns):
        axes = figure.add_subplot(1, columns, column + 1, xlim=(0, 114), ylim=(rows - 0.5, -0.5))
        part = slice(column * rows, (column + 1) * rows)
        middles = np.arange(len(names[part]))
        for index, (series, color) in enumerate(zip(np.array(values[part], float).T, colors, strict=True)):
            offset = (index - (len(labels) - 1) / 2) * BAR / group
            bars = axes.barh(middles + offset, np.nan_to_num(series), 0.93 * BAR / group, color=color)
            axes.bar_label(bars, ["none" if math.isnan(value) else f"{value:.1f}" for value in series], padding=4)
        axes.set_yticks(middles, map(printable, names[part]))
        written = axes.get_yticklabels()
        for text in written:
            fit_text(text, NAMES)
        axes.set_yticks(middles, [text.get_text() for text in written])  # drawing would restore the whole names
        axes.tick_params(left=False, bottom=False, labelbottom=False)
        axes.spines["bottom"].set_visible(False)
        axes.spines["left"].set_bounds(-0.5, len(middles) - 0.5)
    return figure


def _page(title: str, labels: list[str], width: int, height: int) -> tuple[Figure, tuple[str, ...]]:
    """Return a figure with title, legend and `height` pixels below them, and the labels' colors."""
    from matplotlib.patches import Patch

    if len(labels) > MOST_LINES:
        raise UserError(f"{len(labels)} curves or bars: only {MOST_LINES} have colors that can be told apart")
    colors = LINE_COLORS[: len(labels)]
    columns = max(1, min(len(labels), width // (13 * max(map(len, labels)) + 80)))  # at 13 pixels per character
    figure = new_figure(width, height + 60 + 30 * math.ceil(len(labels) / columns), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # inches
    handles = [Patch(color=color, label=printable(label)) for label, color in zip(labels, colors, strict=True)]
    legend = figure.legend(handles=handles, ncols=columns, title=printable(title), title_fontsize=18, frameon=False,
                           alignment="left", loc="outside upper left")  # fmt: skip
    for text in legend.get_texts():
        fit_text(text, width / columns - 80)
    fit_text(legend.get_title(), width - 40)
    return figure, colors


@style()
def interval_chart(title: str, charts: dict[str, dict[str, tuple[float, Interval]]]) -> Figure:
    """Draw values in 0…1 with their intervals in %, a chart above the other; `charts` holds both by row, by title."""
    sizes = [len(rows) for rows in charts.values()]
    figure = new_figure(1.5 * COLUMN, 60 + sum(80 + BAR * 1.6 * size for size in sizes), layout="constrained")
    figure.suptitle(printable(title), x=0.01, ha="left")
    grid = figure.add_gridspec(len(charts), 1, height_ratios=[size + 1 for size in sizes])
    for part, (name, rows) in zip(grid, charts.items(), strict=True):
        axes = figure.add_subplot(part)
        values, low, high = 100 * np.array([(value, one.low, one.high) for value, one in rows.values()]).T
        places = np.arange(len(rows))
        axes.errorbar(values, places, xerr=(values - low, high - values), fmt="o", color=LINE_COLORS[0], capsize=5)
        if low.min() < 0:
            axes.axvline(0, color=LINE_COLORS[-1], linewidth=1)
        axes.set_yticks(places, [printable(shorten(row)) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(name, loc="left")
    return figure


@style()
def matrix_charts(title: str, names: list[str], charts: dict[str, np.ndarray]) -> Figure:
    """Draw matrices `[V, V]` of the classes `names` side by side as colored cells, by title; the diagonal is empty."""
    side = max(COLUMN, BAR * len(names) + NAMES + 80)
    figure = new_figure(len(charts) * side, side, layout="constrained")
    figure.suptitle(printable(title), x=0.01, ha="left")
    places, shown = np.arange(len(names)), [printable(shorten(name)) for name in names]
    for number, (name, values) in enumerate(charts.items(), 1):
        axes = figure.add_subplot(1, len(charts), number)
        cells = axes.imshow(np.where(np.eye(len(names)), np.nan, values), "viridis", vmin=0)
        axes.set_title(name, loc="left")
        axes.set_xticks(places, shown, rotation=90)
        axes.set_yticks(places, shown)
        figure.colorbar(cells, ax=axes, shrink=0.6)
    return figure


@style()
def curve_grid(charts: dict[str, Line], x_label: str, y_label: str) -> Figure:
    """Draw small charts of values in %, at most `MOST_CURVES`, five in a row, by the chart's title."""
    columns = min(5, max(len(charts), 1))
    rows = math.ceil(len(charts) / columns) or 1
    figure = new_figure(CURVE * columns, CURVE * rows + 60, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(charts) :]:
        axes.set_axis_off()
    for axes, (name, line) in zip(grid.flat, charts.items(), strict=False):
        axes.plot(line.x, line.y, color=LINE_COLORS[0], linewidth=1.5 * POINTS)
        axes.set(xlim=(0, 100), ylim=(0, 102), xticks=(0, 50, 100), yticks=(0, 50, 100))
        axes.spines[["top", "right"]].set_visible(False)
        fit_text(axes.set_title(printable(name), loc="left", fontsize=11), CURVE - 20)
    figure.supxlabel(x_label)
    figure.supylabel(y_label)
    return figure
