"""Tables to read on a screen."""

from collections.abc import Iterable, Sequence


def fixed_width_table(rows: Iterable[Sequence[str]], widths: Sequence[int] = ()) -> str:
    """Lay out rows of cells: the first column flush left, the others flush right, one space between columns.

    Args:
        rows: rows of equally many cells.
        widths: least width of each column, in characters; a column grows to its longest cell.

    Returns:
        a line for each row, joined by line ends.

    >>> print(fixed_width_table([("class", "images"), ("sofa", "1,449"), ("dog", "7")], widths=(6, 8)))
    class    images
    sofa      1,449
    dog           7
    """
    rows = list(rows)
    longest = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths = [max(pair) for pair in zip(longest, widths or longest, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append(" ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)
