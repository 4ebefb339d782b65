"""Tables to read on a screen, and cells of untrusted text in CSV, Markdown and LaTeX."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

from tools.system.errors import printable

FORMULA = tuple("=+-@＝＋－＠")  # what a spreadsheet takes for the start of a formula
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
MARKDOWN = re.compile(r"[\\`*\[\]<>|~&$]|(?<!\w)_|_(?!\w)")  # an underscore within a word is none
LATEX_ESCAPES = {letter: f"\\{letter}" for letter in "%&_#${}"}
LATEX_ESCAPES |= {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
LATEX_ESCAPES |= {"±": r"$\pm$", "−": "$-$", "…": r"\dots{}", "–": "--", "<": "$<$", ">": "$>$", "|": "$|$"}
LATEX_ESCAPES |= {"†": r"$^\dagger$", "[": "{[}", "*": "{*}"}  # a [ or * after \\ would be an argument of it


def fixed_width_table(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    """Return rows of cells as lines: the first column flush left, the others flush right, one space between columns.

    `widths` are least widths in characters; a column grows to its longest cell.

    >>> print(fixed_width_table([("class", "images"), ("sofa", "1,449"), ("dog", "7")], widths=(6, 8)))
    class    images
    sofa      1,449
    dog           7
    """
    rows = [list(map(printable, row)) for row in rows]
    columns = zip(*rows, strict=True)
    widths = [max(width, *map(len, column)) for width, column in zip(widths, columns, strict=True)]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join(map(" ".join, lines))


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV. A text that a spreadsheet would compute has an apostrophe before it, so that it stays text.

    >>> csv_text([("=1+1", "-0.5", "two\\nlines")])
    "'=1+1,-0.5,two\\\\nlines\\n"
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_csv_cell(printable(str(cell))) for cell in row] for row in rows)
    return text.getvalue()


def _csv_cell(text: str) -> str:
    return f"'{text}" if text.lstrip().startswith(FORMULA) and not NUMBER.fullmatch(text) else text


def markdown_cell(text: str) -> str:
    """Return text for a cell of a Markdown table; no character of it is markup.

    >>> print(markdown_cell("a|b <i>"))
    a\\|b \\<i\\>
    """
    return MARKDOWN.sub(r"\\\g<0>", printable(text))


def latex_text(text: str) -> str:
    """Return text for LaTeX; no character of it is a command.

    >>> print(latex_text(r"\\input{x} 5 %"))
    \\textbackslash{}input\\{x\\} 5 \\%
    """
    return "".join(LATEX_ESCAPES.get(character, character) for character in printable(text))
