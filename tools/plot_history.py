"""Learning curves of one or several runs in one picture: losses of training and validation, mAP and learning rate.

    python3 -m tools.plot_history TAG [TAG …]
    python3 -m tools.plot_history cMax_seed0 cMax_seed1 --seeds --values class_loss map --column single --out cMax.pdf
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tools.pictures.charts import MOST_LINES, Line, line_charts
from tools.pictures.figure import COLUMN_HELP, WIDTHS, check_picture_path, save_picture
from tools.runs.folder import Folder, History, epochs_of, read_histories, values_of, without_seed
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, run_main

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What may be drawn, in this order. Every other loss, of a strategy of one's own, has a chart too.
TITLES = {
    "class_loss": "classification loss (class_loss)",
    "map": "validation mAP, %",
    "eval_class_loss": "validation: classification loss (eval_class_loss)",
    "re_loss": "reconstruction loss (re_loss)",
    "map_scale": "validation: strongest feature of a present class (map_scale)",
    "learning_rate": "learning rate",
    "loss": "sum of the losses (loss)",
    "p_class_loss": "classification loss of the tiles (p_class_loss)",
}
# With a teacher nothing minimizes p_class_loss: it may rise, and the sum with it, while training is fine.
ON_REQUEST = ("loss", "p_class_loss")
VALIDATION = ("eval_class_loss", "map", "map_scale")
SEEDS_HELP = "runs whose tags differ only in a seed, as x_seed0 and x_seed1, are one: their mean and how far they differ"


@dataclass(frozen=True)
class Config(Arguments):
    """The arguments of both programs that plot runs."""

    tags: list[str] = argument(help="runs, by their --tag", metavar="TAG", positional=True)
    seeds: bool = argument(False, SEEDS_HELP)
    experiments: Path = argument(Path("experiments"), "folder of runs")
    column: str = argument("screen", COLUMN_HELP, choices=WIDTHS)
    out: Path | None = argument(None, "picture to write: .png, .jpg, .pdf or .svg (default: in experiments/pictures)")

    def check(self) -> None:
        if len(set(self.tags)) < len(self.tags):
            raise UserError(f"a tag is given twice: {' '.join(self.tags)}")
        if len(self.groups(self.tags)) > MOST_LINES:
            raise UserError(f"{len(self.tags)} tags: give at most {MOST_LINES}, whose colors can be told apart")
        if self.out:
            check_picture_path(self.out)

    def groups(self, of_runs: Sequence) -> dict[str, list]:
        """Return what belongs to each run, in the order of the tags, by the name of one bar or line."""
        groups: dict[str, list] = {}
        for tag, of_run in zip(self.tags, of_runs, strict=True):
            groups.setdefault(without_seed(tag) if self.seeds else tag, []).append(of_run)
        return groups

    def histories(self) -> list[History]:
        return read_histories(Folder(self.experiments), self.tags)

    def write(self, kind: str, figure: "Figure") -> None:
        made_with = {**asdict(self), "experiments": str(self.experiments.resolve()), "out": None}
        default = Folder(self.experiments).picture(f"{kind}_{'_'.join(self.tags)[:100]}")
        save_picture(self.out, default, figure, made_with)


@dataclass(frozen=True)
class CurvesConfig(Config):
    values: list[str] | None = argument(None, f"charts, by the history's names (default: all but {', '.join(ON_REQUEST)})")


def main() -> None:
    config = parse(CurvesConfig, __doc__)
    histories = config.histories()
    found = dict.fromkeys(name for history in histories for row in history["train"] for name in row)
    if not found:
        raise UserError(f"no log line yet of {', '.join(config.tags)}: wait for the first")
    known = [*TITLES, *(name for name in found if name.endswith("_loss") and name not in TITLES)]
    shown = config.values or [name for name in known if name not in ON_REQUEST]
    charts = {}
    for name in shown:
        if name not in known:
            raise UserError(f"--values {name}: choose from {', '.join(known)}")
        kind = "validation" if name in VALIDATION else "train"
        charts[TITLES.get(name, name)] = [  # a run without this loss has a gap
            Line.mean(f"{label}, mean of {len(runs)} runs" if len(runs) > 1 else label, runs)
            for label, runs in config.groups([curve_of(history, kind, name) for history in histories]).items()
        ]
    config.write("history", line_charts("Learning curves", "epoch", charts, column=config.column))


def curve_of(history: History, kind: str, name: str) -> Line:
    return Line("", epochs_of(history, kind), values_of(history, kind, name))


if __name__ == "__main__":
    run_main(main)
