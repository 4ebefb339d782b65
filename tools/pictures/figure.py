"""Figures, drawn by matplotlib without a screen and written as PNG, JPEG, PDF or SVG.

matplotlib is imported in the functions that need it: it takes half a second, and most programs draw nothing.
"""

from __future__ import annotations

import json
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.data.images import opened_image
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
_families = ["DejaVu Sans"]  # in use, and more of them when a text needs one
_family_of: dict[str, str | None] = {}  # by letter, as far as they were looked for; None: no font has it


@contextmanager
def style(column: str = "screen") -> Iterator[None]:
    """Set `STYLE` while a figure is built or rendered, and leave the caller's matplotlib as it is."""
    import matplotlib

    settings = {**_style_file(), "font.family": _families}
    if column != "screen":
        shrunk = PRINT_LETTERS / settings["font.size"]
        settings |= {name: shrunk * value for name, value in settings.items() if isinstance(value, float)}
        settings["figure.dpi"] = PRINT_DPI
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # `printable` has said so
        yield


@cache
def _style_file() -> dict[str, Any]:
    import matplotlib

    return dict(matplotlib.rc_params_from_file(STYLE, use_default_template=False))


def new_figure(width: float, height: float, dpi: float | None = None, **options: str) -> Figure:
    """Return an empty figure of these sides in pixels of a screen, at most `MAX_SIDE`; `dpi` None: the style's."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dpi = dpi or matplotlib.rcParams["figure.dpi"]
    width, height = width / DPI, height / DPI
    if max(width, height) * dpi > MAX_SIDE:
        size = f"{width * dpi:.0f} × {height * dpi:.0f}"
        raise UserError(f"a picture of {size} pixels is too large (at most {MAX_SIDE:,}): show less")
    figure = Figure((width, height), dpi=dpi, **options)
    FigureCanvasAgg(figure)  # measures text
    figure.column = "screen"  # whose style it is rendered in
    return figure


def printable(text: str) -> str:
    """Return the text on one line, in letters that the fonts have, as far as any font of this machine has them.

    A file name may contain line breaks and bytes that are not text. What no font has is drawn as a box, and said once.
    """
    import matplotlib

    text = "".join(letter if letter.isprintable() else "?" for letter in unicodedata.normalize("NFC", text))
    if unknown := set(text) - _family_of.keys():
        _look_for(unknown)
    for family in (_family_of[letter] for letter in text):
        if family not in (None, *_families):
            _families.append(family)
    matplotlib.rcParams["font.family"] = _families  # of the texts to come, within `style`
    return text


def _look_for(letters: set[str]) -> None:
    """Note the font family of each letter: the first of the style that has it, or any other that is installed."""
    from matplotlib import rcParams
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    preferred = {name: rank for rank, name in enumerate(rcParams["font.sans-serif"])}
    fonts = [font for font in fontManager.ttflist if "Last Resort" not in font.name]  # it has boxes for everything
    for font in sorted(fonts, key=lambda font: preferred.get(font.name, len(preferred))):
        with suppress(OSError, RuntimeError):  # a font may have been removed, or be damaged
            face = FT2Font(font.fname)
            found = {letter for letter in letters if face.get_char_index(ord(letter))}
            _family_of.update(dict.fromkeys(found, font.name))
            letters = letters - found
        if not letters:
            return
    if None not in _family_of.values():
        shown = first_few(sorted(letters))
        print(f"note: no font of this machine has {shown}, drawn as boxes: install one", file=sys.stderr)
    _family_of.update(dict.fromkeys(letters))


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


def write_picture(path: Path, figure: Figure, made_with: dict[str, Any] | None = None) -> None:
    """Write a figure in one step, in the format of the suffix; errors as `check_picture_path` and `replace_file`.

    A PNG also holds the settings that it was `made_with`, see `recorded_in_picture`.
    """
    check_picture_path(path)
    kind = path.suffix[1:].lower()
    about = {"metadata": {RECORD: json.dumps(made_with)}} if made_with and kind == "png" else {}
    with style(figure.column):
        replace_file(path, lambda temporary: figure.savefig(temporary, format=kind, **about))


def save_picture(path: Path | None, default: Path, figure: Figure, made_with: dict[str, Any]) -> None:
    """Write a figure to `path`, or to `default` unless that was `made_with` other settings, and say where it is."""
    path = path or result_path(default, made_with, recorded_in_picture)
    write_picture(path, figure, made_with)
    print(f"written: {path}")


def save_beside(base: Path, figure: Figure) -> list[Path]:
    """Write a figure that belongs to results as `base`.png, one for print also as .pdf; return the paths."""
    suffixes = [".png"] if figure.column == "screen" else [".png", ".pdf"]
    paths = [base.with_name(f"{base.name}{suffix}") for suffix in suffixes]
    for path in paths:
        write_picture(path, figure)
    return paths


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
