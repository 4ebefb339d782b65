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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.data.images import opened_image
from tools.system.errors import UserError, first_few
from tools.system.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

RECORD = "Description"  # of a PNG: what the picture was made with, as JSON
SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")
DPI = 100
POINTS = 72 / DPI  # per pixel
MAX_SIDE = 65_000  # pixels, that every format and matplotlib can have
FONT_SIZE = 14.0  # points: capitals are 14 pixels high
# matplotlib's own font first; the others (Linux, macOS, Windows) have the Chinese, Japanese and Korean characters that
# it lacks. Any other font is taken where these lack a character.
FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei"]
FONTS += ["WenQuanYi Micro Hei", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS"]
FONTS += ["Microsoft YaHei", "Yu Gothic", "Malgun Gothic"]
_families = FONTS[:1]  # in use, and more of them when a text needs one
_family_of: dict[str, str | None] = {}  # by letter, as far as they were looked for; None: no font has it


@contextmanager
def style() -> Iterator[None]:
    """Set letters and fonts while a figure is built or rendered, and leave the caller's matplotlib as it is."""
    import matplotlib

    settings = {
        "font.family": _families,
        "font.size": FONT_SIZE,
        "axes.titlesize": FONT_SIZE,
        "text.parse_math": False,  # a class or a file may be called "$a$"
        "text.usetex": False,
        "svg.fonttype": "none",  # text stays text
        "pdf.fonttype": 42,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # `printable` has said so
        yield


def new_figure(width: float, height: float, **options: str) -> Figure:
    """Return an empty white figure of this size in pixels, at most `MAX_SIDE`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if max(width, height) > MAX_SIDE:
        raise UserError(
            f"a picture of {width:.0f} × {height:.0f} pixels is too large (at most {MAX_SIDE:,}): show less"
        )
    figure = Figure((width / DPI, height / DPI), dpi=DPI, facecolor="white", **options)
    FigureCanvasAgg(figure)  # measures text
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
    """Note the font family of each letter: the first of `FONTS` that has it, or any other that is installed."""
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    fonts = [font for font in fontManager.ttflist if "Last Resort" not in font.name]  # it has boxes for everything
    for font in sorted(fonts, key=lambda font: FONTS.index(font.name) if font.name in FONTS else len(FONTS)):
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


def write_picture(path: Path, figure: Figure, made_with: dict[str, Any] | None = None) -> None:
    """Write a figure in one step, in the format of the suffix; errors as `check_picture_path` and `replace_file`.

    A PNG also holds the settings that it was `made_with`, see `recorded_in_picture`.
    """
    check_picture_path(path)
    kind = path.suffix[1:].lower()
    about = {"metadata": {RECORD: json.dumps(made_with)}} if made_with and kind == "png" else {}
    with style():
        replace_file(path, lambda temporary: figure.savefig(temporary, format=kind, **about))


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
