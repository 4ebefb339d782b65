"""Figures, drawn by matplotlib without a screen and written as PNG, JPEG, PDF or SVG.

matplotlib is imported in the functions that need it: it takes half a second, and most programs draw nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tools.system.errors import UserError
from tools.system.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")
DPI = 100
POINTS = 72 / DPI  # per pixel
FONT_SIZE = 14.0  # points: capitals are 14 pixels high
# matplotlib's own font first; the others (Linux, macOS, Windows) have the Chinese, Japanese and Korean characters that
# it lacks.
FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei"]
FONTS += ["WenQuanYi Micro Hei", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS"]
FONTS += ["Microsoft YaHei", "Yu Gothic", "Malgun Gothic"]


@contextmanager
def style() -> Iterator[None]:
    """Set letters and fonts while a figure is built or rendered, and leave the caller's matplotlib as it is."""
    import matplotlib
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    settings = {
        "font.family": [name for name in FONTS if name in installed],
        "font.size": FONT_SIZE,
        "axes.titlesize": FONT_SIZE,
        "text.parse_math": False,  # a class or a file may be called "$a$"
        "text.usetex": False,
        "svg.fonttype": "none",  # text stays text
        "pdf.fonttype": 42,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box
        yield


def new_figure(width: float, height: float, **options: str) -> Figure:
    """Return an empty white figure of this size in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width / DPI, height / DPI), dpi=DPI, facecolor="white", **options)
    FigureCanvasAgg(figure)  # measures text
    return figure


def printable(text: str) -> str:
    """Return the text on one line; a file name may contain line breaks and bytes that are not text."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def fit_text(text: Text, width: float) -> None:
    """Shorten a drawn text in its middle until it is at most `width` pixels wide."""
    whole = text.get_text()
    kept = len(whole)
    while kept > 1 and text.get_window_extent().width > width:
        kept -= 1
        text.set_text(whole[: (kept + 1) // 2] + "…" + whole[len(whole) - kept // 2 :])


def rgb_array(figure: Figure) -> np.ndarray:
    """Return the figure as pixels, uint8 `[h, w, 3]`."""
    with style():
        figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def write_picture(path: Path, figure: Figure) -> None:
    """Write a figure in one step, in the format of the suffix; errors as `check_picture_path` and `replace_file`."""
    check_picture_path(path)
    with style():
        replace_file(path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:].lower()))


def check_picture_path(path: Path) -> None:
    """Raise a `UserError` unless the name ends in one of `SUFFIXES`."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"cannot write a picture to {path}: its name must end in .png, .jpg, .pdf or .svg")
