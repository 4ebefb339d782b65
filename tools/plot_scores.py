"""Figures of scores alone: precision–recall curves of one or several methods, or the classes that occur together.

    python3 -m tools.plot_scores --scores plain.npz cMax.npz --kind precision_recall --column double --out curves.pdf
    python3 -m tools.plot_scores --scores plain.npz --kind co_occurrence --out together.svg

All files that evaluation's --scores reads will do; see docs/evaluation.md.
"""

from dataclasses import dataclass
from pathlib import Path

from tools.metrics.labels import TOGETHER, co_occurrence
from tools.metrics.multilabel import binary_labels
from tools.metrics.readers import ScoreArguments
from tools.metrics.reports import precision_recall_figure
from tools.pictures.charts import matrix_charts
from tools.pictures.figure import FigureArguments
from tools.runs.folder import Folder
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, run_main


@dataclass(frozen=True)
class Config(ScoreArguments, FigureArguments):
    scores: list[Path] = argument(help="scores and labels: .npz, .csv or .json", metavar="FILE")
    kind: str = argument(help="co_occurrence: of the first file", choices=("precision_recall", "co_occurrence"))


def main() -> None:
    config, methods, first = parse(Config, __doc__), {}, None
    for path in config.scores:
        scored = config.read(path, first)
        first = first or scored
        if path.stem in methods or set(scored.ids) != set(first.ids):
            raise UserError(f"{path} has the name of another file, or other images than the first: draw it alone")
        methods[path.stem] = (scored.scores, *binary_labels(scored.labels, config.difficult))
    default = Folder().picture("_".join([config.kind, *methods])[:100])
    if config.kind == "precision_recall":
        config.draw(default, precision_recall_figure, methods, first.class_names)
    else:
        shares = co_occurrence(*next(iter(methods.values()))[1:])[1]
        charts = {TOGETHER: 100 * shares}
        config.draw(default, matrix_charts, "Classes that occur together", first.class_names, charts)


if __name__ == "__main__":
    run_main(main)
