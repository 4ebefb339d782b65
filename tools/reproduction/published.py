"""Public figures beside ours, each of ours measured as the code of its source measures."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

from tools.metrics.protocols import protocol_tables
from tools.metrics.scores import read_scores
from tools.system.text_table import markdown_cell

OWN = {"mAP": "", "source": "", "protocol": "oass"}  # of a row without a public figure


def published_table(rows: Iterable[tuple[str, list[dict], Sequence[Path]]]) -> str:
    """Return a Markdown table with a line per public figure, and one for a row without.

    Args:
        rows: name; figures, each with `mAP` in %, its `source`, and its `protocol`, a key of
            `tools.metrics.protocols.PROTOCOLS`; the scores of each finished run, whose mean ± deviation is ours.
    """
    lines = [("row", "ours", "published", "source", "protocol"), ("---", "---:", "---:", "---", "---")]
    for name, figures, scores in rows:
        runs = [read_scores(path) for path in scores]
        for figure in figures or [OWN]:
            protocol = figure["protocol"]
            found = [protocol_tables([protocol], run)[2]["protocols"][protocol]["mAP"] for run in runs]
            ours = f"{mean(found):.2f}" if found else ""
            ours += f" ± {stdev(found):.2f}" if len(found) > 1 else ""
            cells = (name, ours, str(figure["mAP"]), figure["source"], protocol)
            lines.append(tuple(map(markdown_cell, cells)))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
