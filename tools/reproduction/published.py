"""Public figures beside ours, each of ours measured as the code of its source measures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tools.metrics.protocols import protocol_tables
from tools.metrics.scores import Scores, read_scores
from tools.system.files import write_text
from tools.system.text_table import csv_text, fixed_width_table, markdown_cell

COLUMNS = ("row", "ours", "published", "source", "protocol")
OWN_PROTOCOL = "oass"  # of a row without a public figure


def published_lines(row: str, figures: Sequence[dict], scores: Sequence[Path]) -> list[tuple[str, ...]]:
    """Return the cells of `COLUMNS` for each public figure of a row, or for our figure alone.

    Args:
        row: its name.
        figures: each with `mAP` in %, its `source`, and its `protocol`, a key of `tools.metrics.protocols.PROTOCOLS`.
        scores: the file of each finished run; ours is their mean ± sample standard deviation, empty without any.
    """
    runs, lines = [read_scores(path) for path in scores], []
    for figure in figures or [{"mAP": "", "source": "", "protocol": OWN_PROTOCOL}]:
        ours = [_mean_average_precision(figure["protocol"], run) for run in runs]
        spread = f" ± {np.std(ours, ddof=1):.2f}" if len(ours) > 1 else ""
        shown = f"{np.mean(ours):.2f}{spread}" if ours else ""
        lines.append((row, shown, str(figure["mAP"]), figure["source"], figure["protocol"]))
    return lines


def _mean_average_precision(protocol: str, scored: Scores) -> float:
    return protocol_tables([protocol], scored)[2]["protocols"][protocol]["mAP"]


def published_text(lines: Sequence[Sequence[str]]) -> str:
    """Return what `published_lines` returned as a table for a screen, without sources."""
    return fixed_width_table([line[:3] for line in (COLUMNS, *lines)], [6, 6, 9])


def write_published(base: Path, lines: Sequence[Sequence[str]]) -> None:
    """Write what `published_lines` returned to `base.md` and `base.csv`."""
    head, *body = [[*map(markdown_cell, line)] for line in (COLUMNS, *lines)]
    rows = [head, ["---", "---:", "---:", "---", "---"], *body]
    write_text(base.with_suffix(".md"), "".join(f"| {' | '.join(row)} |\n" for row in rows))
    write_text(base.with_suffix(".csv"), csv_text([COLUMNS, *lines]))
