"""Figures of scores alone: precision–recall curves of one or several methods, or how often classes occur together.

    python3 -m tools.plot_scores --scores plain.npz cMax.npz --kind precision_recall --column double --out curves.pdf
    python3 -m tools.plot_scores --scores plain.npz --kind co_occurrence --out together.svg

All files that evaluation's --scores reads will do; see docs/evaluation.md.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from tools.metrics.curves import precision_recall_figure
from tools.metrics.labels import TOGETHER, co_occurrence
from tools.metrics.multilabel import binary_labels
from tools.metrics.readers import ScoreArguments
from tools.pictures.charts import MOST_LINES, matrix_charts
from tools.pictures.figure import check_picture_path, save_picture
from tools.runs.folder import Folder
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, printable, run_main

KINDS = ("precision_recall", "co_occurrence")


@dataclass(frozen=True)
class Config(ScoreArguments):
    scores: list[Path] = argument(help="scores and labels: .npz, .csv or .json", metavar="FILE")
    kind: str = argument(KINDS[0], "co_occurrence: of the labels of the first file", choices=KINDS)
    out: Path | None = argument(None, "picture to write: .png, .jpg, .pdf or .svg (default: in experiments/pictures)")

    def check(self) -> None:
        if len({path.stem for path in self.scores}) < len(self.scores):
            raise UserError("several files have the same name: rename them, the figure names methods by it")
        if len(self.scores) > (MOST_LINES if self.kind == KINDS[0] else 1):
            raise UserError(f"{len(self.scores)} files: {KINDS[1]} takes one, and {KINDS[0]} at most {MOST_LINES}")
        if self.out:
            check_picture_path(self.out)


def main() -> None:
    config, methods, first = parse(Config, __doc__), {}, None
    for path in config.scores:
        scored = config.read(path, first)
        first = first or scored
        if set(scored.ids) != set(first.ids):
            raise UserError(f"{path} has other images than the first file: their curves do not compare")
        methods[printable(path.stem)] = (scored.scores, *binary_labels(scored.labels, config.difficult))
    if config.kind == "co_occurrence":
        shares = 100 * co_occurrence(*binary_labels(first.labels, config.difficult))[1]
        figure = matrix_charts("Classes that occur together", first.class_names, {TOGETHER: shares}, column=config.column)
    else:
        figure = precision_recall_figure(methods, first.class_names, config.column)
    name = "_".join([config.kind, *(path.stem for path in config.scores)])[:100]
    made_with = {**asdict(config), "scores": [str(path.resolve()) for path in config.scores], "out": None}
    save_picture(config.out, Folder().picture(name), figure, made_with | {"class_file": str(config.class_file)})


if __name__ == "__main__":
    run_main(main)
