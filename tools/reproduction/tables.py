"""Tables as text, Markdown, CSV and LaTeX."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.system.files import write_text
from tools.system.text_table import csv_text, fixed_width_table, latex_text, markdown_cell

MISSING = "–"  # in the CSV: nothing
MOST_UPRIGHT = 12  # columns of a LaTeX table; the names of more are rotated, so that they fit
# Caption, label, alignment and rows go in. A table wider than the page is scaled down to it.
LATEX = r"""%% needs the packages booktabs and adjustbox
\begin{table*}\centering
\caption{%s}\label{tab:%s}
\smallskip\footnotesize\setlength{\tabcolsep}{4pt}
\begin{adjustbox}{max width=\linewidth}\begin{tabular}{%s}
\toprule
%s
\bottomrule
\end{tabular}\end{adjustbox}
\end{table*}
"""


class Number(NamedTuple):
    """A value or the mean of several runs, its sample standard deviation and the ends of an interval; NaN: missing."""

    mean: float = math.nan
    std: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, values: Sequence[float]) -> "Number":
        """Return mean and sample standard deviation of the runs' values."""
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)


@dataclass(frozen=True)
class Column:
    """A column of numbers, one per row."""

    name: str
    numbers: Sequence[Number]
    best: Callable | None = None  # max or min: which value is better; None: neither
    form: str = ".2f"
    spread: bool = True  # whether to print standard deviations, which the CSV always has
    marked: frozenset[int] = frozenset()  # the rows whose values carry a †

    def text(self, number: Number) -> str:
        """Return a number to read: `51.00 ± 1.41`, `−1.50 (−2.00 … +0.50)`, or a dash if it is missing."""
        if math.isnan(number.mean):
            return MISSING
        mean, std, low, high = (f"{value:{self.form}}".replace("-", "−") for value in number)
        std = f" ± {std}" if self.spread and not math.isnan(number.std) else ""
        return f"{mean}{std}" if math.isnan(number.low) else f"{mean}{std} ({low} … {high})"

    def best_rows(self, references: int) -> set[int]:
        """Return which rows print the best value, ties included; none if all print the same.

        The last `references` rows do not compete, nor does a row that prints the same as one of them.
        """
        printed = [float(f"{number.mean:{self.form}}") for number in self.numbers]
        compared = printed[: len(printed) - references]
        values = {value for value in compared if not math.isnan(value)} - {*printed[len(compared) :]}
        best = self.best(values) if self.best and len(values) > 1 else None
        return {row for row, value in enumerate(compared) if value == best}


@dataclass(frozen=True)
class Table:
    """A table of named rows. The last `references` rows, such as chance, do not compete, see `Column.best_rows`."""

    caption: str
    names: list[str]  # of the rows
    columns: list[Column]
    references: int = 0

    def cells(self, escape: Callable[[str], str] = str, bold: str = "{}", mark: str = "†") -> list[list[str]]:
        """Return the cells to print, names of columns first; a column without any number is left to the CSV."""
        columns = [["method", *map(escape, self.names)]]
        for column in self.columns:
            best = column.best_rows(self.references)
            texts = [escape(column.text(number)) for number in column.numbers]
            texts = [bold.format(text) if row in best else text for row, text in enumerate(texts)]
            texts = [text + mark if row in column.marked else text for row, text in enumerate(texts)]
            if set(texts) != {escape(MISSING)}:
                columns.append([escape(column.name), *texts])
        return [list(row) for row in zip(*columns, strict=True)]

    def text(self) -> str:
        cells = self.cells()
        return fixed_width_table(cells, [9] * len(cells[0]))

    def markdown(self) -> str:
        """Return a Markdown table; numbers are aligned to the right."""
        head, *body = self.cells(markdown_cell, "**{}**")
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def csv(self) -> str:
        """Return CSV, empty where a number is missing; `<name> std`, `<name> low` and `<name> high` are columns too."""
        columns = [["method", *self.names]]
        for column in self.columns:
            for part, values in zip(Number._fields, zip(*column.numbers, strict=True), strict=True):
                if part == "mean" or not all(map(math.isnan, values)):
                    name = column.name if part == "mean" else f"{column.name} {part}"
                    columns.append([name, *("" if math.isnan(value) else f"{value:.4f}" for value in values)])
        return csv_text(zip(*columns, strict=True))

    def latex(self, label: str) -> str:
        r"""Return a LaTeX table over both columns of a page, to refer to by `\ref{tab:LABEL}`."""
        head, *body = self.cells(latex_text, r"\textbf{{{}}}", r"\rlap{$^\dagger$}")
        if len(head) > MOST_UPRIGHT:
            head = [head[0], *(rf"\rotatebox{{90}}{{{name}}}" for name in head[1:])]
        lines = [" & ".join(row) + r" \\" for row in (head, *body)]
        lines.insert(1, r"\midrule")
        if self.references:
            lines.insert(-self.references, r"\midrule")
        return LATEX % (latex_text(self.caption), label, "l" + "r" * (len(head) - 1), "\n".join(lines))

    def write(self, base: Path) -> None:
        """Write `base.md`, `base.csv` and `base.tex`, whose label is the name of `base`."""
        for suffix, text in {".md": self.markdown(), ".csv": self.csv(), ".tex": self.latex(base.name)}.items():
            write_text(base.with_name(base.name + suffix), text)
