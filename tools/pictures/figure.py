"""Figures, drawn by matplotlib without a screen and written as PNG, JPEG, PDF or SVG.

matplotlib is imported in the functions that need it: it takes half a second, and most programs draw nothing.
"""

from __future__ import annotations

import json
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.data.images import opened_image
from tools.system.command_line import Arguments, argument
from tools.system.errors import UserError, first_few
from tools.system.files import replace_file, result_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

STYLE = Path(__file__).with_name("style.mplstyle")
# A figure's width with one chart in a row, and with two, inches: on a screen, and in the columns of a paper.
WIDTHS = {"screen": (6.4, 12.8), "single": (3.5,), "double": (7.2, 7.2)}
PRINT_LETTERS, PRINT_DPI = 8, 300  # points; of the pixels of a PNG
COLUMN_HELP = "size of charts: screen, or in print (8 pt) single or double column, 3.5 or 7.2 inches wide"
RECORD = "Description"  # of a PNG: what the picture was made with, as JSON
SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")
DPI = 100  # of a screen, whose pixels lengths are given in
POINTS = 72 / DPI  # per pixel
MAX_SIDE = 65_000  # pixels, that every format and matplotlib can have
_column = ContextVar("column", default="screen")
_families = ["DejaVu Sans"]  # in use, and more of them when a text needs one
_known: set[str] = set()  # letters that were looked for
_boxes: set[str] = set()  # those that no font has


@dataclass(frozen=True)
class FigureArguments(Arguments):
    """Arguments of programs that draw one figure."""

    column: str = argument("screen", COLUMN_HELP, choices=WIDTHS)
    out: Path | None = argument(None, "picture to write: .png, .jpg, .pdf or .svg (default: in experiments/pictures)")

    def draw(self, default: Path, chart: Callable[..., Figure], *words: Any) -> None:
        """Write a chart of `words` to `--out`, or to `default` unless that has other arguments, and say where it is."""
        with style(self.column):
            figure = chart(*words)
        made_with = json.loads(json.dumps({**asdict(self), "out": None}, default=str))
        path = self.out or result_path(default, made_with, recorded_in_picture)
        write_picture(path, figure, made_with)
        print(f"written: {path}")


@contextmanager
def style(column: str | None = None) -> Iterator[None]:
    """Set `STYLE` for a column of `WIDTHS` while figures are built or rendered; None: the one in force, or the screen.

    The caller's matplotlib stays as it is.
    """
    import matplotlib

    before = _column.set(column or _column.get())
    settings = {**matplotlib.rc_params_from_file(STYLE, use_default_template=False), "font.family": _families}
    if in_print():
        shrunk = PRINT_LETTERS / settings["font.size"]
        settings |= {name: shrunk * value for name, value in settings.items() if isinstance(value, float)}
        settings["figure.dpi"] = PRINT_DPI
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # `printable` has said so
        try:
            yield
        finally:
            _column.reset(before)


def in_print() -> bool:
    """Return whether figures are for a paper."""
    return _column.get() != "screen"


def letter() -> float:
    """Return the height of the style's letters, in pixels of a screen."""
    import matplotlib

    return matplotlib.rcParams["font.size"] / POINTS


def page_width(charts: int) -> tuple[int, float]:
    """Return how many charts are in a row, and the width of their figure, in letters."""
    widths = WIDTHS[_column.get()]
    in_row = min(max(charts, 1), len(widths))
    return in_row, widths[in_row - 1] * DPI / letter()


def new_figure(width: float, height: float, **options: str) -> Figure:
    """Return an empty figure of these sides in pixels of a screen, at most `MAX_SIDE` in its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width / DPI, height / DPI), **options)
    if max(figure.bbox.size) > MAX_SIDE:
        size = " × ".join(f"{side:.0f}" for side in figure.bbox.size)
        raise UserError(f"a picture of {size} pixels is too large (at most {MAX_SIDE:,}): show less")
    FigureCanvasAgg(figure)  # measures text
    figure.column = _column.get()  # whose style it is rendered in
    figure.suffix = ".png" if figure.column == "screen" else ".pdf"  # of a name without one
    return figure


def printable(text: str) -> str:
    """Return the text on one line, and take any font of this machine into use that has letters which it needs.

    A file name may contain line breaks and bytes that are not text. What no font has is drawn as a box, and said once.
    """
    import matplotlib
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    text = "".join(letter if letter.isprintable() else "?" for letter in unicodedata.normalize("NFC", text))
    if letters := set(text) - _known:
        _known.update(letters)
        preferred = {name: rank for rank, name in enumerate(matplotlib.rcParams["font.sans-serif"])}
        fonts = [font for font in fontManager.ttflist if "Last Resort" not in font.name]  # it has boxes for everything
        for font in sorted(fonts, key=lambda font: preferred.get(font.name, len(preferred))):
            with suppress(OSError, RuntimeError):  # a font may have been removed, or be damaged
                face = FT2Font(font.fname) if letters else None
                if found := {letter for letter in letters if face.get_char_index(ord(letter))}:
                    letters -= found
                    _families.extend({font.name} - {*_families})
        if letters and not _boxes:
            shown = first_few(sorted(letters))
            print(f"note: no font of this machine has {shown}, drawn as boxes: install one", file=sys.stderr)
        _boxes.update(letters)
    matplotlib.rcParams["font.family"] = _families  # of the texts to come, within `style`
    return text


def fit_text(text: Text, width: float) -> None:
    """Shorten a drawn text in its middle until it is at most `width` pixels of a screen wide."""
    whole = text.get_text()
    kept = len(whole)
    while kept > 1 and text.get_window_extent().width * DPI / text.figure.dpi > width:
        kept -= 1
        text.set_text(whole[: (kept + 1) // 2] + "…" + whole[len(whole) - kept // 2 :])


def rgb_array(figure: Figure) -> np.ndarray:
    """Return the figure as pixels, uint8 `[h, w, 3]`."""
    with style(figure.column):
        figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def write_picture(path: Path, figure: Figure, made_with: dict[str, Any] | None = None, scale: float = 1) -> None:
    """Write a figure in one step, in the format of the suffix; errors as `check_picture_path` and `replace_file`.

    A PNG also holds the settings that it was `made_with`, see `recorded_in_picture`. `scale` multiplies its pixels.
    """
    check_picture_path(path)
    kind = path.suffix[1:].lower()
    about = {"metadata": {RECORD: json.dumps(made_with)}} if made_with and kind == "png" else {}
    with style(figure.column):
        replace_file(path, lambda temporary: figure.savefig(temporary, format=kind, dpi=scale * figure.dpi, **about))


def recorded_in_picture(path: Path) -> dict[str, Any] | None:
    """Return the settings that a PNG of `write_picture` holds, or None if there is no picture."""
    if not path.exists():
        return None
    with opened_image(path) as image:
        found = json.loads(image.info.get(RECORD, "{}"))
        return found if isinstance(found, dict) else {}


def check_picture_path(path: Path) -> None:
    """Raise a `UserError` unless the name ends in one of `SUFFIXES`."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"cannot write a picture to {path}: its name must end in .png, .jpg, .pdf or .svg")
