"""Line and bar charts as arrays, uint8 RGB, with the letters and colors of `tools.pictures.panels`."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from tools.pictures.panels import BLACK, FONT_SIZE, GRAY, LINE_COLORS, draw_text, sheet, shortened, text_width

FAINT = (222, 222, 222)


MOST_LINES = len(LINE_COLORS)  # more could not be told apart


class Line(NamedTuple):
    """A curve: as many `x` as `y`; where `y` is no finite number the curve has a gap."""

    label: str
    x: list[float]
    y: list[float]


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that lie from `low` to `high`, about `count` of them."""
    raw = max(high - low, 1e-12) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def line_chart(title: str, x_label: str, lines: list[Line], width: int = 620, height: int = 380) -> np.ndarray:
    """A chart of curves; colors are those of `LINE_COLORS` in the lines' order.

    Args:
        title: what the curves show; stands above.
        x_label: stands below.
        width, height: pixels.
    """
    page = np.full((height, width, 3), 255, np.uint8)
    x_low, x_high = _extent([x for line in lines for x in line.x], around=False)
    y_low, y_high = _extent([y for line in lines for y in line.y])
    y_ticks = ticks(y_low, y_high)
    left = 16 + max(text_width(_number(value, y_ticks)) for value in y_ticks)
    box = (44, left, height - 62, width - 24)  # top, left, bottom, right
    draw_text(page, title, (20, left), size=FONT_SIZE + 2)

    def place(x: float, y: float) -> tuple[int, int]:
        column = box[1] + (x - x_low) / (x_high - x_low) * (box[3] - box[1])
        row = box[2] - (y - y_low) / (y_high - y_low) * (box[2] - box[0])
        return round(column), round(row)

    for value in y_ticks:
        row = place(x_low, value)[1]
        cv2.line(page, (box[1], row), (box[3], row), FAINT, 1)
        text = _number(value, y_ticks)
        draw_text(page, text, (row, left - 8 - text_width(text)))
    x_ticks = ticks(x_low, x_high)
    for value in x_ticks:
        column = place(value, y_low)[0]
        cv2.line(page, (column, box[2]), (column, box[2] + 5), BLACK, 1)
        text = _number(value, x_ticks)
        draw_text(page, text, (box[2] + 18, column - text_width(text) // 2))
    draw_text(page, x_label, (height - 16, (box[1] + box[3] - text_width(x_label)) // 2))
    cv2.line(page, (box[1], box[0]), (box[1], box[2]), BLACK, 1)
    cv2.line(page, (box[1], box[2]), (box[3], box[2]), BLACK, 1)
    for index, (line, color) in enumerate(zip(lines, LINE_COLORS)):
        places = [place(x, y) if math.isfinite(y) else None for x, y in zip(line.x, line.y)]
        # Of curves that coincide, the lower ones show at the upper ones' edges.
        _draw_line(page, places, color, thickness=min(3 + 3 * (len(lines) - 1 - index), 9))
    return page


def _draw_line(
    page: np.ndarray, places: list[tuple[int, int] | None], color: tuple[int, int, int], thickness: int
) -> None:
    for before, after in zip(places, places[1:]):
        if before and after:
            cv2.line(page, before, after, color, thickness, cv2.LINE_AA)
    if len(places) <= 30:
        for point in filter(None, places):
            cv2.circle(page, point, thickness + 1, color, -1, cv2.LINE_AA)


def _extent(values: list[float], around: bool = True) -> tuple[float, float]:
    """The smallest and the largest finite value, with some space around them."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if high - low < 1e-12:
        return low - 0.5 * abs(low) - 1e-6, high + 0.5 * abs(high) + 1e-6
    space = 0.05 * (high - low) if around else 0
    return low - space, high + space


def _number(value: float, among: list[float]) -> str:
    """A tick's text, with as many decimals as tell it from its neighbors."""
    step = abs(among[1] - among[0]) if len(among) > 1 else abs(value) or 1
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value + 0.0:.{decimals}f}" if decimals < 6 else f"{value:.1e}"


def legend(labels: list[str], width: int) -> np.ndarray:
    """Names of the lines or bars beside their colors, in as many rows as they take."""
    page = np.full((34, width, 3), 255, np.uint8)
    column = 10
    for label, color in zip(labels, LINE_COLORS):
        label = shortened(label, width - 70)
        needed = text_width(label) + 60
        if column + needed > width and column > 10:
            page = np.pad(page, ((0, 34), (0, 0), (0, 0)), constant_values=255)
            column = 10
        row = len(page) - 17
        cv2.rectangle(page, (column, row - 8), (column + 26, row + 8), color, -1)
        draw_text(page, label, (row, column + 34))
        column += needed
    return page


def bar_chart(
    rows: list[str], values: list[list[float]], limit: float, width: int = 620, bar_height: int = 22
) -> np.ndarray:
    """Horizontal bars, one group for each row, with its value at a bar's end.

    Args:
        rows: names of the groups.
        values: for each row as many numbers as there are series, in the order of `LINE_COLORS`; NaN has no bar.
        limit: the value of the longest possible bar.
        width: pixels.
    """
    names = min(max(map(text_width, rows)), width // 3)
    left, right = names + 20, width - 74
    group = len(values[0]) * bar_height + 14
    page = np.full((group * len(rows), width, 3), 255, np.uint8)
    for number, (name, series) in enumerate(zip(rows, values)):
        top = number * group + 7
        name = shortened(name, names)
        draw_text(page, name, (top + len(series) * bar_height // 2, left - 10 - text_width(name)))
        for index, (value, color) in enumerate(zip(series, LINE_COLORS)):
            middle = top + index * bar_height + bar_height // 2
            known = math.isfinite(value)
            end = left + round((right - left) * min(value / limit, 1)) if known else left
            cv2.rectangle(page, (left, middle - bar_height // 2 + 1), (end, middle + bar_height // 2 - 2), color, -1)
            draw_text(page, f"{value:.1f}" if known else "none", (middle, end + 6), BLACK if known else GRAY)
    cv2.line(page, (left, 0), (left, len(page) - 1), BLACK, 1)
    return page


def page_of(title: str, labels: list[str], rows: list[list[np.ndarray]]) -> np.ndarray:
    """A page of charts: title, legend, charts in rows."""
    charts = sheet(rows, gap=16)
    head = np.full((48, charts.shape[1], 3), 255, np.uint8)
    draw_text(head, shortened(title, charts.shape[1] - 32, FONT_SIZE + 8), (26, 16), size=FONT_SIZE + 8)
    return sheet([[head], [legend(labels, charts.shape[1])], [charts]], gap=0)
