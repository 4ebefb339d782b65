"""Charts for a screen or a column of a paper, in colors that color-blind readers can tell apart.

Lengths are in letters, that is in units of the style's font size.
"""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tools.pictures.figure import DPI, POINTS, WIDTHS, fit_text, new_figure, printable, style
from tools.system.errors import UserError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from tools.metrics.bootstrap import Interval

# The palette of Okabe and Ito (without its yellow, too light for lines), and a gray.
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#6E6E6E")
MOST_LINES = len(LINE_COLORS)
MOST_ROWS = 12  # of bars in one column
CHART, BAR, NAMES = 17, 1.15, 11  # height of a chart and of a bar, width of the names beside bars at most
MOST_CURVES, CURVE = 60, 10  # of `curve_grid`: charts, and the least width of one
CHARACTER = 0.6  # mean width


class Line(NamedTuple):
    """A curve through the points (x, y); NaN makes a gap. `band`: its lower and upper edge."""

    label: str
    x: list[float]
    y: list[float]
    band: tuple[list[float], list[float]] | None = None

    @classmethod
    def mean(cls, label: str, runs: list[Line]) -> Line:
        """Return the mean of runs where all of them have a point, with a band from the lowest to the highest.

        >>> Line.mean("both", [Line("a", [1, 2], [1, 2]), Line("b", [1, 2, 3], [3, 4, 5])])
        Line(label='both', x=[1, 2], y=[2.0, 3.0], band=([1.0, 2.0], [3.0, 4.0]))
        """
        if len(runs) == 1:
            return runs[0]._replace(label=label)
        points = [dict(zip(run.x, run.y, strict=True)) for run in runs]
        x = [place for place in runs[0].x if all(place in of_run for of_run in points)]
        y = np.array([[of_run[place] for place in x] for of_run in points], float)
        return cls(label, x, y.mean(0).tolist(), (y.min(0).tolist(), y.max(0).tolist()))


def chart(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorate a function that draws charts: its figure is built and rendered in the style of its `column`."""

    @functools.wraps(draw)
    def drawn(*words: Any, column: str = "screen", **more: Any) -> Figure:
        with style(column):
            figure = draw(*words, column=column, **more)
        figure.column = column
        return figure

    return drawn


@chart
def line_charts(title: str, x_label: str, charts: dict[str, list[Line]], column: str = "screen") -> Figure:
    """Draw charts of at most `MOST_LINES` curves, with one legend, two in a row if there is room.

    `charts` holds curves by the chart's title; every chart has the same labels in the same order. Curves that coincide
    are one of alternating colors.
    """
    labels = [line.label for line in next(iter(charts.values()))]
    banded = any(line.band for lines in charts.values() for line in lines)
    in_row, width = _row(column, len(charts))
    rows = math.ceil(len(charts) / in_row)
    more = [_patch("#BBBBBB", "from the lowest to the highest run")] if banded else []
    figure, colors = _page(title, labels, width, CHART * rows, more)
    for number, (name, lines) in enumerate(charts.items(), 1):
        axes = figure.add_subplot(rows, in_row, number)
        for line, color in zip(lines, colors, strict=True):
            same = [other.label for other in lines if other[1:] == line[1:]]
            dashes = (6 * same.index(line.label), (6, 6 * len(same) - 6)) if len(same) > 1 else "-"
            axes.plot(line.x, line.y, color=color, linestyle=dashes, marker="o" if len(line.x) <= 30 else None)
            if line.band:
                axes.fill_between(line.x, *line.band, color=color, alpha=0.2, linewidth=0)
        if not any(math.isfinite(y) for line in lines for y in line.y):
            axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center")
        axes.set_title(_wrapped(name, width / in_row - 4))
        axes.set_xlabel(x_label)
        axes.grid(axis="y")
    return figure


@chart
def bar_chart(
    title: str,
    labels: list[str],
    names: list[str],
    values: list[list[float]],
    deviations: list[list[float]] | None = None,
    chance: Sequence[float] = (),
    column: str = "screen",
) -> Figure:
    """Draw horizontal bars of values in %, in two columns if there are many and there is room.

    Args:
        labels: names of the series, at most `MOST_LINES`; names: of the groups.
        values, deviations: for each group one number per series, in %; NaN has no bar, or no deviation.
        chance: of each group, in %: a dashed line; without finite ones there is none.
    """
    from matplotlib.lines import Line2D

    lengths = np.array(values, float)
    errors = np.full_like(lengths, math.nan) if deviations is None else np.array(deviations, float)
    chances = np.array(chance, float)
    dashed = {"color": "black", "linestyle": "--"}
    more = [Line2D([], [], **dashed, label="chance")] if np.isfinite(chances).any() else []
    in_row, width = _row(column, 1 if len(names) <= MOST_ROWS else 2)
    rows, group = math.ceil(len(names) / in_row), len(labels) * BAR + 0.7
    figure, colors = _page(title, labels, width, rows * group + 1, more)
    longest = np.nan_to_num([*(lengths + np.nan_to_num(errors)).flat, *chances, 1]).max()
    room = 1.45 if np.isfinite(errors).any() else 1.25  # for the numbers
    for start in range(0, len(names), rows):
        part = slice(start, start + rows)
        axes = figure.add_subplot(1, in_row, start // rows + 1, xlim=(0, room * longest), ylim=(rows - 0.5, -0.5))
        middles = np.arange(len(names[part]))
        for index, (series, error, color) in enumerate(zip(lengths[part].T, errors[part].T, colors, strict=True)):
            places = middles + (index - (len(labels) - 1) / 2) * BAR / group
            axes.barh(places, np.nan_to_num(series), 0.93 * BAR / group, color=color)
            _write_numbers(axes, places, series, error)
        if more:
            axes.vlines(chances[part], middles - 0.5, middles + 0.5, **dashed)
        _write_names(axes.yaxis, names[part])
        axes.tick_params(left=False, bottom=False, labelbottom=False)
        axes.spines["bottom"].set_visible(False)
        axes.spines["left"].set_bounds(-0.5, len(middles) - 0.5)
    return figure


def _write_numbers(axes: Axes, places: np.ndarray, values: np.ndarray, errors: np.ndarray) -> None:
    """Draw the deviations of bars, and write their numbers beside them."""
    if np.isfinite(errors).any():
        axes.errorbar(values, places, xerr=errors, fmt="none", ecolor="black")
    for place, value, error in zip(places, values, errors, strict=True):
        number = "none" if math.isnan(value) else f"{value:.1f}"
        number += "" if math.isnan(error) else f" ± {error:.1f}"
        end = np.nan_to_num(value) + np.nan_to_num(error)
        axes.annotate(number, (end, place), (0.3 * _letter() * POINTS, 0), textcoords="offset points", va="center")


@chart
def interval_chart(
    title: str, charts: dict[str, dict[str, tuple[float, Interval]]], column: str = "screen"
) -> Figure:
    """Draw values in 0…1 with their intervals in %, a chart above the other; `charts` holds both by row, by title."""
    sizes = [len(rows) for rows in charts.values()]
    _, width = _row(column, 1)
    figure, _ = _page(title, [], width, sum(4 + 2.6 * size for size in sizes))
    grid = figure.add_gridspec(len(charts), 1, height_ratios=[size + 1 for size in sizes])
    for part, (name, rows) in zip(grid, charts.items(), strict=True):
        axes = figure.add_subplot(part)
        values, low, high = 100 * np.array([(value, one.low, one.high) for value, one in rows.values()]).T
        axes.errorbar(values, np.arange(len(rows)), xerr=(values - low, high - values), fmt="o", color=LINE_COLORS[0])
        if low.min() < 0:
            axes.axvline(0, color=LINE_COLORS[-1], linestyle="--")
        _write_names(axes.yaxis, list(rows), 0.45 * width)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(name)
    return figure


@chart
def matrix_charts(title: str, names: list[str], charts: dict[str, np.ndarray], column: str = "screen") -> Figure:
    """Draw matrices `[V, V]` of the classes `names` as colored cells, by the name of their color bar.

    The diagonal is empty. A screen's figure grows with the classes; in print some names are skipped if there are many.
    """
    in_row, width = _row(column, len(charts))
    if column == "screen":
        width = max(width, in_row * (BAR * len(names) + NAMES))
    side, rows = width / in_row, math.ceil(len(charts) / in_row)
    figure, _ = _page(title, [], width, rows * (side + 5))
    places = np.arange(0, len(names), math.ceil(1.05 * len(names) / (side - 8)))
    for number, (name, values) in enumerate(charts.items(), 1):
        axes = figure.add_subplot(rows, in_row, number)
        cells = axes.imshow(np.where(np.eye(len(names)), np.nan, values), vmin=0)
        for axis in (axes.xaxis, axes.yaxis):
            _write_names(axis, [names[place] for place in places], 7, places)
        axes.tick_params(axis="x", labelrotation=90)
        bar = figure.colorbar(cells, ax=axes, location="top", shrink=0.8, aspect=30)
        bar.set_label(_wrapped(name, 0.8 * side), loc="left")
    return figure


@chart
def curve_grid(
    title: str, x_label: str, y_label: str, charts: dict[str, list[Line]], column: str = "screen"
) -> Figure:
    """Draw small charts of values in %, at most `MOST_CURVES`, as `line_charts`; of one curve there is no legend."""
    _, width = _row(column, len(charts))
    in_row = max(1, min(int(width / CURVE), len(charts)))
    rows, side = math.ceil(len(charts) / in_row) or 1, min(width / in_row, 1.5 * CURVE)
    labels = [line.label for line in next(iter(charts.values()), [])]
    figure, _ = _page(title, labels if len(labels) > 1 else [], width, side * rows + 2)
    grid = figure.subplots(rows, in_row, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(charts) :]:
        axes.set_axis_off()
    for axes, (name, lines) in zip(grid.flat, charts.items(), strict=False):
        for line, color in zip(lines, LINE_COLORS, strict=False):
            axes.plot(line.x, line.y, color=color)
        axes.set(xlim=(0, 100), ylim=(0, 102), xticks=(0, 50, 100), yticks=(0, 50, 100))
        fit_text(axes.set_title(printable(name)), (width / in_row - 1) * _letter())
    figure.supxlabel(x_label)
    figure.supylabel(y_label)
    return figure


def _letter() -> float:
    """Return the height of the style's letters, in pixels of a screen."""
    import matplotlib

    return matplotlib.rcParams["font.size"] / POINTS


def _row(column: str, charts: int) -> tuple[int, float]:
    """Return how many charts are in a row, and the width of the figure."""
    in_row = min(max(charts, 1), len(WIDTHS[column]))
    return in_row, WIDTHS[column][in_row - 1] * DPI / _letter()


def _page(
    title: str, labels: list[str], width: float, height: float, more: Sequence[Artist] = ()
) -> tuple[Figure, tuple[str, ...]]:
    """Return a figure with title, legend and `height` below them, and the labels' colors; `more` is in the legend."""
    if len(labels) > MOST_LINES:
        raise UserError(f"{len(labels)} curves or bars: only {MOST_LINES} have colors that can be told apart")
    colors = LINE_COLORS[: len(labels)]
    handles = [*map(_patch, colors, labels), *more]
    longest = max((len(handle.get_label()) for handle in handles), default=0)
    columns = max(1, min(len(handles), int(width / (1.1 * CHARACTER * longest + 5))))
    heading = _wrapped(title, width / 1.2 - 1)
    above = 1.5 * (heading.count("\n") + 1) + 1.6 * math.ceil(len(handles) / columns) + 1
    figure = new_figure(width * _letter(), (height + above) * _letter(), layout="constrained")
    legend = figure.legend(handles=handles, ncols=columns, title=heading, alignment="left", loc="outside upper left")
    for text in legend.get_texts():
        fit_text(text, (width / columns - 5) * _letter())
    return figure, colors


def _patch(color: str, label: str) -> Artist:
    from matplotlib.patches import Patch

    return Patch(color=color, label=printable(label))


def _wrapped(text: str, width: float) -> str:
    return textwrap.fill(printable(text), max(1, int(width / CHARACTER)))


def _write_names(axis: Axis, names: list[str], width: float = NAMES, places: np.ndarray | None = None) -> None:
    """Write names at an axis, shortened to a width; a difference "a − b" has two lines."""
    places = np.arange(len(names)) if places is None else places
    axis.set_ticks(places, [printable(name).replace(" − ", " −\n") for name in names])
    written = axis.get_ticklabels()
    for text in written:
        fit_text(text, width * _letter())
    axis.set_ticks(places, [text.get_text() for text in written])  # drawing would restore the whole names
