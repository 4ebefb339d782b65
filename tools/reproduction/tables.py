"""Tables as Markdown, CSV and LaTeX."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.system.files import replace_file

LATEX_ESCAPES = {"%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "±": r"$\pm$", "−": "$-$", "…": r"\dots{}", "–": "--"}


@dataclass(frozen=True)
class Number:
    """A cell: the mean of several runs, or a single value; NaN is shown as a dash.

    Attributes:
        mean, std: sample standard deviation over the runs, NaN for a single one.
        signed: show the sign of a positive value.
        decimals: that are shown.
    """

    mean: float
    std: float = math.nan
    signed: bool = False
    decimals: int = 2

    @classmethod
    def of(cls, values: Sequence[float]) -> "Number":
        """Mean and sample standard deviation of the runs' values.

        >>> str(Number.of([1.0, 2.0, 3.0])), str(Number.of([1.5]))
        ('2.00 ± 1.00', '1.50')
        """
        mean = sum(values) / len(values)
        if len(values) == 1:
            return cls(mean)
        return cls(mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)))

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        sign = "+" if self.signed else ""
        text = f"{self.mean:{sign}.{self.decimals}f}".replace("-", "−")
        return text if math.isnan(self.std) else f"{text} ± {self.std:.{self.decimals}f}"


@dataclass(frozen=True)
class Table:
    """A table to be written.

    Attributes:
        caption: one sentence.
        columns: names; the first is that of the rows' names.
        rows: as many cells as columns: texts or numbers.
    """

    caption: str
    columns: list[str]
    rows: list[list[str | Number]]

    def markdown(self) -> str:
        """Names to the left, numbers to the right."""
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)

    def csv(self) -> str:
        """Numbers as they are, with a column `<name> std` behind each that has a deviation anywhere."""
        deviating = [any(_deviates(row[column]) for row in self.rows) for column in range(len(self.columns))]
        heads = [[name, f"{name} std"] if has else [name] for name, has in zip(self.columns, deviating)]
        lines = [[cell for pair in heads for cell in pair]]
        for row in self.rows:
            cells = [[_plain(cell), _plain_std(cell)] if has else [_plain(cell)] for cell, has in zip(row, deviating)]
            lines.append([cell for pair in cells for cell in pair])
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        return text.getvalue()

    def latex(self) -> str:
        """A table environment; needs the package booktabs."""
        body = [" & ".join(_latex(str(cell)) for cell in row) + r" \\" for row in self.rows]
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{_latex(self.caption)}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
                r"\toprule",
                " & ".join(map(_latex, self.columns)) + r" \\",
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )

    def write(self, base: Path) -> None:
        """Write `base.md`, `base.csv` and `base.tex`."""
        formats: dict[str, Callable[[], str]] = {".md": self.markdown, ".csv": self.csv, ".tex": self.latex}
        for suffix, form in formats.items():
            write_text(base.with_name(base.name + suffix), form())


def write_text(path: Path, text: str) -> None:
    """Write a text file in one move."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _deviates(cell: str | Number) -> bool:
    return isinstance(cell, Number) and not math.isnan(cell.std)


def _plain(cell: str | Number) -> str:
    if isinstance(cell, str):
        return cell
    return "" if math.isnan(cell.mean) else f"{cell.mean:.4f}"


def _plain_std(cell: str | Number) -> str:
    return f"{cell.std:.4f}" if _deviates(cell) else ""


def _latex(text: str) -> str:
    return "".join(LATEX_ESCAPES.get(sign, sign) for sign in text)
