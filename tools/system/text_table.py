"""Tables to read on a screen."""

from collections.abc import Sequence


def fixed_width_table(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    """Return rows of cells as lines: the first column flush left, the others flush right, one space between columns.

    `widths` are least widths in characters; a column grows to its longest cell.

    >>> print(fixed_width_table([("class", "images"), ("sofa", "1,449"), ("dog", "7")], widths=(6, 8)))
    class    images
    sofa      1,449
    dog           7
    """
    columns = zip(*rows, strict=True)
    widths = [max(width, *map(len, column)) for width, column in zip(widths, columns, strict=True)]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join(map(" ".join, lines))
