"""Tables as Markdown, CSV and LaTeX."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.system.files import write_text
from tools.system.text_table import csv_text, latex_text, markdown_cell


@dataclass(frozen=True)
class Number:
    """A cell: a single value or the mean of several runs, and then the sample standard deviation; NaN is a dash."""

    mean: float
    std: float = math.nan
    signed: bool = False  # whether a positive value shows its sign
    decimals: int = 2

    @classmethod
    def of(cls, values: Sequence[float]) -> "Number":
        """Return mean and sample standard deviation of the runs' values.

        >>> str(Number.of([1.0, 2.0, 3.0])), str(Number.of([1.5]))
        ('2.00 ± 1.00', '1.50')
        """
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        sign = "+" if self.signed else ""
        text = f"{self.mean:{sign}.{self.decimals}f}".replace("-", "−")
        return text if math.isnan(self.std) else f"{text} ± {self.std:.{self.decimals}f}"


@dataclass(frozen=True)
class Table:
    """A table; the first column holds the names of the rows."""

    caption: str
    columns: list[str]
    rows: list[list[str | Number]]

    def markdown(self) -> str:
        """Return a Markdown table; numbers are aligned to the right."""
        head, *body = [[markdown_cell(str(cell)) for cell in row] for row in (self.columns, *self.rows)]
        lines = [head, ["---", *["---:"] * (len(self.columns) - 1)], *body]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def csv(self) -> str:
        """Return CSV with four decimals; a column with standard deviations is followed by a column `<name> std`."""
        columns = []
        for name, *cells in zip(self.columns, *self.rows, strict=True):
            numbers = [cell if isinstance(cell, Number) else None for cell in cells]
            columns.append([name, *(cell if isinstance(cell, str) else _plain(cell.mean) for cell in cells)])
            if any(number and not math.isnan(number.std) for number in numbers):
                columns.append([f"{name} std", *(_plain(number.std) if number else "" for number in numbers)])
        return csv_text(zip(*columns, strict=True))

    def latex(self) -> str:
        """Return a LaTeX table environment; it needs the package booktabs."""
        head, *body = [" & ".join(latex_text(str(cell)) for cell in row) + r" \\" for row in (self.columns, *self.rows)]
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex_text(self.caption)}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}", r"\toprule", head, r"\midrule", *body]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])

    def write(self, base: Path) -> None:
        """Write `base.md`, `base.csv` and `base.tex`."""
        for suffix, text in {".md": self.markdown(), ".csv": self.csv(), ".tex": self.latex()}.items():
            write_text(base.with_name(base.name + suffix), text)


def _plain(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"
