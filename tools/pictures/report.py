"""A report to send: one HTML page that holds its pictures and needs no network."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tools.pictures.figure import style
from tools.system.errors import UserError, printable
from tools.system.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_suffix(".html")
SUFFIX = ".html"


class Picture(NamedTuple):
    """A picture of the page; `description` is for readers who do not see it."""

    source: str  # a `data:` URI, see `embedded`
    description: str
    caption: str = ""


class Section(NamedTuple):
    """A part of the page: each of text, facts, a table that sorts, and pictures may be absent."""

    title: str
    text: str = ""
    facts: dict[str, Any] = {}  # shown by name
    columns: list[str] = []  # names of the table's columns
    rows: list[list[Any]] = []  # cells: texts, or numbers of which NaN is missing
    pictures: list[Picture] = []


def embedded(figure: Figure, kind: str = "svg") -> str:
    """Return a figure as a `data:` URI: "svg" for charts, "jpg" for photographs."""
    from markupsafe import Markup

    buffer = io.BytesIO()
    with style(figure.column):
        figure.savefig(buffer, format=kind)
    types = {"svg": "image/svg+xml", "jpg": "image/jpeg"}
    return Markup(f"data:{types[kind]};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}")


def write_page(path: Path, title: str, sections: list[Section]) -> None:
    """Write a page in one step. Every text is escaped, whatever file it came from.

    Raises:
        UserError: it cannot be written.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["shown"] = _shown
    # A `data:` URI is long, and printable already.
    environment.finalize = lambda value: printable(value) if type(value) is str else value
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    write_text(path, template.render(title=title, sections=sections))


def page_path(path: Path, name: str) -> Path:
    """Return the file of a page: `path` if it ends in .html, otherwise `name`.html in this folder."""
    if path.suffix.lower() == SUFFIX:
        return path
    if path.is_file():
        raise UserError(f"{path} is a file that does not end in {SUFFIX}: give a folder or FILE{SUFFIX}")
    return path / f"{name}{SUFFIX}"


def _shown(cell: Any) -> str:
    """Return a table's cell to read: a float with two decimals, a missing one as a dash."""
    if not isinstance(cell, float):
        return str(cell)
    return "–" if math.isnan(cell) else f"{cell:.2f}"
