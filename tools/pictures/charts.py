"""Charts, in colors that color-blind readers can tell apart, for the column of `style` in force.

Lengths are in letters, that is in units of the style's font size.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tools.pictures.figure import fit_text, in_print, letter, new_figure, page_width, printable, style
from tools.runs.folder import History, epochs_of, values_of
from tools.system.errors import UserError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from tools.metrics.bootstrap import Interval

# The palette of Okabe and Ito (without its yellow, too light for lines), and a gray.
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#6E6E6E")
MOST_LINES = len(LINE_COLORS)
MOST_ROWS = 12  # of bars in one column
CHART, BAR, NAMES = 16, 1.15, 11  # height of a chart and of a bar, width of the names beside bars at most
MOST_CURVES, SMALL = 60, 10  # small charts of a figure, and the least width of one
MOST_WRITTEN = 12  # rows of a matrix whose numbers are written
CHARACTER = 0.6  # mean width
TITLES = {  # of learning curves
    "class_loss": "classification loss (class_loss)",
    "map": "validation mAP, %",
    "eval_class_loss": "validation: classification loss (eval_class_loss)",
    "re_loss": "reconstruction loss (re_loss)",
    "map_scale": "strongest feature of a present class (map_scale)",
    "learning_rate": "learning rate",
    "loss": "weighted sum of the losses (loss)",
    "p_class_loss": "puzzle classification loss (p_class_loss)",
}
VALIDATION = ("eval_class_loss", "map", "map_scale")  # the others are of training


class Line(NamedTuple):
    """A curve through the points (x, y); NaN makes a gap. `band`: its lower and upper edge."""

    label: str
    x: list[float]
    y: list[float]
    band: tuple[list[float], list[float]] | None = None


@style()
def line_charts(title: str, x_label: str, charts: dict[str, list[Line]], percent: str = "") -> Figure:
    """Draw charts of at most `MOST_LINES` curves, with one legend, two in a row if there is room.

    Args:
        charts: curves by the chart's title, with the same labels in the same order in every chart. Those of one label
            are runs: their mean is drawn, in a band from the lowest to the highest. A label "" is not in the legend.
        percent: what values in % are: charts are then small, with the same axes.
    """
    charts = {name: _joined(lines) for name, lines in charts.items()}
    in_row, width = page_width(len(charts))
    if percent:
        in_row = math.ceil(len(charts) / math.ceil(len(charts) / int(width / SMALL))) if charts else 1
    rows, height = math.ceil(len(charts) / in_row) or 1, min(width / in_row, 1.5 * SMALL) if percent else CHART
    labels = [line.label for line in next(iter(charts.values()), [])]
    banded = any(line.band for lines in charts.values() for line in lines)
    more = [_patch("#BBBBBB", "from the lowest to the highest run")] if banded else []
    figure, colors = _page(title, labels if len(labels) > 1 or more else [""], width, height * rows + 2, more)
    grid = figure.subplots(rows, in_row, sharex=True, sharey=bool(percent), squeeze=False)
    grid[0, 0].locator_params(axis="x", integer=True)
    for axes in grid.flat[len(charts) :]:
        axes.set_axis_off()
    for axes, (name, lines) in zip(grid.flat, charts.items(), strict=False):
        for line, color in zip(lines, colors, strict=True):
            same = [other.label for other in lines if other[1:] == line[1:]]  # they are one line of alternating colors
            dashes = (6 * same.index(line.label), (6, 6 * len(same) - 6)) if len(same) > 1 else "-"
            marker = "o" if len(line.x) <= 30 else None
            axes.plot(line.x, line.y, color=color, linestyle=dashes, marker=marker, clip_on=not percent)
            if line.band:
                axes.fill_between(line.x, *line.band, color=color, alpha=0.2, linewidth=0)
        if not any(math.isfinite(y) for line in lines for y in line.y):
            axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center")
        fit_text(axes.set_title(printable(name)), (width / in_row - (2 if percent else 4)) * letter())
        axes.grid(axis="y")
    for axes in grid.flat[max(0, len(charts) - in_row) : len(charts)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    if percent:
        grid[0, 0].set(xlim=(0, 100), ylim=(0, 102), xticks=(0, 50, 100), yticks=(0, 50, 100))
    figure.supxlabel(x_label)
    figure.supylabel(percent)
    return figure


def further_losses(histories: Iterable[History]) -> list[str]:
    """Return the names of losses that strategies of one's own add."""
    names = dict.fromkeys(name for history in histories for row in history["train"] for name in row)
    return [name for name in names if name.endswith("_loss") and name not in TITLES]


def learning_curves(runs: list[tuple[str, History]], names: Iterable[str]) -> dict[str, list[Line]]:
    """Return the charts of values by title, with a curve of each (label, history); a run without a value has a gap."""
    charts = {}
    for name in names:
        kind = "validation" if name in VALIDATION else "train"
        lines = [Line(label, epochs_of(history, kind), values_of(history, kind, name)) for label, history in runs]
        charts[TITLES.get(name, name)] = lines
    return charts


def _joined(lines: list[Line]) -> list[Line]:
    """Return one curve per label: of several their mean where all have a point, with a band around all of them."""
    joined = []
    for label in dict.fromkeys(line.label for line in lines):
        runs = [line for line in lines if line.label == label]
        if len(runs) > 1:
            points = [dict(zip(run.x, run.y, strict=True)) for run in runs]
            x = [value for value in runs[0].x if all(value in of_run for of_run in points)]
            y = np.array([[of_run[value] for value in x] for of_run in points], float)
            runs = [Line(label, x, y.mean(0).tolist(), (y.min(0).tolist(), y.max(0).tolist()))]
        joined += runs
    return joined


@style()
def bar_chart(
    title: str, labels: list[str], names: list[str], values: list[list[float]], chance: Sequence[float] = ()
) -> Figure:
    """Draw horizontal bars of values in %, in two columns if there are many and there is room.

    Args:
        labels: names of the series, at most `MOST_LINES` different ones. Series of one label are runs: the bar is their
            mean, with the sample standard deviation.
        names: of the groups; values: for each group one number per series, in %; NaN has no bar.
        chance: of each group, in %: a dashed line.
    """
    from matplotlib.lines import Line2D

    table, dashed = np.reshape(values, (len(names), len(labels))), {"color": "black", "linestyle": "--"}
    series = {label: table[:, [label == other for other in labels]] for label in labels}
    several = len(series) < len(labels)
    more = [Line2D([], [], **dashed, label="chance")] if np.isfinite(chance).any() else []
    more += [Line2D([], [], color="black", label="± standard deviation of runs")] if several else []
    in_row, width = page_width(1 if len(names) <= MOST_ROWS else 2)
    rows, group = math.ceil(len(names) / in_row), len(series) * BAR + 0.7
    reach = len(series) * BAR / group / 2  # of a group's bars, which the lines of chance do not leave
    figure, colors = _page(title, list(series), width, rows * group + 1, more)
    for number, axes in enumerate(figure.subplots(1, in_row, sharex=True, squeeze=False)[0]):
        part = slice(number * rows, (number + 1) * rows)
        middles = np.arange(len(names[part]))
        for index, (runs, color) in enumerate(zip(series.values(), colors, strict=True)):
            alone = runs.shape[1] == 1
            means, errors = runs[part].mean(1), runs[part].std(1, ddof=0 if alone else 1)
            form = "{:.1f}" if alone else "{:.1f} ± {:.1f}"
            texts = ["none" if math.isnan(pair[0]) else form.format(*pair) for pair in zip(means, errors, strict=True)]
            positions = middles + (index - (len(series) - 1) / 2) * BAR / group
            xerr = None if alone else np.nan_to_num(errors)
            bars = axes.barh(positions, np.nan_to_num(means), 0.93 * BAR / group, color=color, xerr=xerr)
            axes.bar_label(bars, texts, padding=3, bbox={"color": "white", "pad": 0})  # over the line of chance
        if len(chance):
            axes.vlines(chance[part], middles - reach, middles + reach, **dashed)
        _write_names(axes.yaxis, names[part])
        axes.set(xlim=(0, (1.5 if several else 1.25) * np.nanmax([*table.flat, 1])), ylim=(rows - 0.5, -0.5))
        axes.tick_params(left=False, bottom=False, labelbottom=False)
        axes.spines["bottom"].set_visible(False)
        axes.spines["left"].set_bounds(-0.5, len(middles) - 0.5)
    return figure


@style()
def interval_chart(title: str, charts: dict[str, dict[str, tuple[float, Interval]]]) -> Figure:
    """Draw values in 0…1 with their intervals in %, a chart above the other; `charts` holds both by row, by title."""
    sizes, (_, width) = [len(rows) for rows in charts.values()], page_width(1)
    figure, _ = _page(title, [], width, sum(4 + 2.6 * size for size in sizes))
    grid = figure.subplots(len(charts), height_ratios=[size + 1 for size in sizes], squeeze=False)
    for axes, (name, rows) in zip(grid.flat, charts.items(), strict=True):
        values, low, high = 100 * np.array([(value, one.low, one.high) for value, one in rows.values()]).T
        axes.errorbar(values, np.arange(len(rows)), xerr=(values - low, high - values), fmt="o", color=LINE_COLORS[0])
        if low.min() < 0:
            axes.axvline(0, color=LINE_COLORS[-1], linestyle="--")
        _write_names(axes.yaxis, list(rows), width=0.45 * width)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(name)
    return figure


@style()
def matrix_charts(title: str, names: list[str], charts: dict[str, np.ndarray]) -> Figure:
    """Draw matrices `[V, V]` of the classes `names` as colored cells, by the name of their color bar.

    The diagonal is empty. Of up to `MOST_WRITTEN` names, cells have their rounded numbers. If there are too many names
    for the width, only each second, third, … is written.
    """
    in_row, width = page_width(len(charts))
    side, rows = width / in_row, math.ceil(len(charts) / in_row)
    figure, _ = _page(title, [], width, rows * (side + 6))
    step = math.ceil(1.05 * len(names) / (side - 8))
    grid = figure.subplots(rows, in_row, squeeze=False)
    for axes, (name, values) in zip(grid.flat, charts.items(), strict=True):
        shown = np.where(np.eye(len(names)), np.nan, values)
        cells = axes.imshow(shown, vmin=0, vmax=np.nanmax([1, *shown.flat]))
        for v, w in np.argwhere(~np.isnan(shown)) if len(names) <= MOST_WRITTEN else ():
            color = "black" if cells.norm(shown[v, w]) > 0.5 else "white"
            axes.text(w, v, f"{shown[v, w]:.0f}", ha="center", va="center", color=color, fontsize="small")
        for axis in (axes.xaxis, axes.yaxis):
            _write_names(axis, names[::step], step, width=7)
        axes.tick_params(axis="x", labelrotation=90)
        figure.colorbar(cells, ax=axes, location="top", aspect=30, label=name).locator.set_params(integer=True)
    return figure


def _page(
    title: str, labels: list[str], width: float, height: float, more: Sequence[Artist] = ()
) -> tuple[Figure, tuple[str, ...]]:
    """Return a figure with title (papers have captions), legend and `height` below them, and the labels' colors."""
    if len(labels) > MOST_LINES:
        raise UserError(f"{len(labels)} curves or bars: only {MOST_LINES} have colors that can be told apart")
    colors = LINE_COLORS[: len(labels)]
    handles = [*map(_patch, colors, labels), *more] if labels != [""] else []
    longest = max((len(handle.get_label()) for handle in handles), default=0)
    columns = max(1, min(len(handles), int(width / (1.1 * CHARACTER * longest + 5))))
    heading = "" if in_print() else textwrap.fill(printable(title), int(width / CHARACTER / 1.2))
    above = 1.5 * heading.count("\n") + 1.6 * math.ceil(len(handles) / columns) + (2.5 if heading else 0.5)
    figure = new_figure(width * letter(), (height + above) * letter(), layout="constrained")
    legend = figure.legend(handles=handles, ncols=columns, title=heading, alignment="left", loc="outside upper left")
    for text in legend.get_texts():
        fit_text(text, (width / columns - 5) * letter())
    return figure, colors


def _patch(color: str, label: str) -> Artist:
    from matplotlib.patches import Patch

    return Patch(color=color, label=printable(label))


def _write_names(axis: Axis, names: list[str], step: int = 1, width: float = NAMES) -> None:
    """Write names at each `step` of an axis, shortened to a width; a difference "a − b" has two lines."""
    positions = step * np.arange(len(names))
    axis.set_ticks(positions, [printable(name).replace(" − ", " −\n") for name in names])
    written = axis.get_ticklabels()
    for text in written:
        fit_text(text, width * letter())
    axis.set_ticks(positions, [text.get_text() for text in written])  # drawing would restore the whole names
