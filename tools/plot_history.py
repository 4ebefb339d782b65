"""Learning curves of one or several runs in one picture: losses of training and validation, mAP and learning rate.

python3 -m tools.plot_history TAG [TAG …]
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tools.pictures.charts import MOST_LINES, Line, line_charts
from tools.pictures.figure import check_picture_path, recorded_in_picture, write_picture
from tools.runs.folder import Folder, epochs_of, read_histories, values_of
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, run_main
from tools.system.files import result_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHARTS = {
    "loss": "loss",
    "re_loss": "reconstruction loss (re_loss)",
    "class_loss": "classification loss (class_loss)",
    "eval_class_loss": "validation: classification loss (eval_class_loss)",
    "map": "validation mAP, %",
    "map_scale": "validation: strongest feature of a present class (map_scale)",
    "learning_rate": "learning rate",
}
VALIDATION = ("eval_class_loss", "map", "map_scale")
NOT_SHOWN = ("p_class_loss",)  # every other loss, of a strategy of one's own, has a chart too


@dataclass(frozen=True)
class Config(Arguments):
    """The arguments of both programs that plot runs."""

    tags: list[str] = argument(help=f"runs, by their --tag; at most {MOST_LINES}", metavar="TAG", positional=True)
    experiments: Path = argument(Path("experiments"), "folder of runs")
    out: Path | None = argument(None, "picture to write: .png, .jpg, .pdf or .svg (default: in experiments/pictures)")

    def check(self) -> None:
        if len(self.tags) > MOST_LINES:
            raise UserError(f"{len(self.tags)} tags: give at most {MOST_LINES}, whose colors can be told apart")
        if self.out:
            check_picture_path(self.out)

    def write(self, kind: str, figure: "Figure") -> None:
        """Write the picture and say where it is."""
        made_with = {"tags": self.tags, "experiments": str(self.experiments.resolve())}
        default = Folder(self.experiments).picture(f"{kind}_{'_'.join(self.tags)[:100]}")
        path = self.out or result_path(default, made_with, recorded_in_picture)
        write_picture(path, figure, made_with)
        print(f"written: {path}")


def main() -> None:
    config = parse(Config, __doc__)
    histories = read_histories(Folder(config.experiments), config.tags)
    names = dict.fromkeys(name for history in histories for row in history["train"] for name in row)
    if not names:
        raise UserError(f"no log line yet of {', '.join(config.tags)}: wait for the first")
    further = [name for name in names if name.endswith("_loss") and name not in (*CHARTS, *NOT_SHOWN)]
    charts = {}
    for name, title in [*CHARTS.items(), *zip(further, further, strict=True)]:
        kind = "validation" if name in VALIDATION else "train"
        charts[title] = [  # a run without this loss has a gap
            Line(tag, epochs_of(history, kind), values_of(history, kind, name))
            for tag, history in zip(config.tags, histories, strict=True)
        ]
    config.write("history", line_charts("Learning curves", "epoch", charts))


if __name__ == "__main__":
    run_main(main)
