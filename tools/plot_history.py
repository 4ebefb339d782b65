"""Learning curves of one or several runs in one picture: losses of training and validation, mAP and learning rate.

python3 -m tools.plot_history TAG [TAG …]
python3 -m tools.plot_history cMax_seed0 cMax_seed1 --seeds --values class_loss map --column single --out cMax.pdf
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.pictures.charts import MOST_LINES, Line, line_charts
from tools.pictures.figure import FigureArguments
from tools.runs.folder import SEED, Folder, epochs_of, read_histories, values_of
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, run_main

TITLES = {
    "class_loss": "classification loss (class_loss)",
    "map": "validation mAP, %",
    "eval_class_loss": "validation: classification loss (eval_class_loss)",
    "re_loss": "reconstruction loss (re_loss)",
    "map_scale": "strongest feature of a present class (map_scale)",
    "learning_rate": "learning rate",
    "loss": "weighted sum of the losses (loss)",
    "p_class_loss": "classification loss of the tiles (p_class_loss)",
}
# With a teacher nothing minimizes p_class_loss: it may rise, and the sum with it, while training is fine.
ON_REQUEST = ("loss", "p_class_loss")
VALIDATION = ("eval_class_loss", "map", "map_scale")
SEEDS_HELP = (
    "runs whose tags differ only in a seed, as x_seed0 and x_seed1, are one: their mean and how far they differ"
)


@dataclass(frozen=True)
class RunsConfig(FigureArguments):
    """The arguments of both programs that plot runs."""

    tags: list[str] = argument(help=f"runs, by their --tag; at most {MOST_LINES}", metavar="TAG", positional=True)
    seeds: bool = argument(False, SEEDS_HELP)
    experiments: Path = argument(Path("experiments"), "folder of runs")

    def labels(self) -> list[str]:
        """Return the name of each run's line or bar; runs of the same name are one."""
        return [SEED.sub("", tag) if self.seeds else tag for tag in self.tags]

    def draw_runs(self, kind: str, *chart: Any) -> None:
        self.draw(Folder(self.experiments).picture(f"{kind}_{'_'.join(self.tags)[:100]}"), *chart)


@dataclass(frozen=True)
class Config(RunsConfig):
    values: list[str] | None = argument(None, f"charts, by the history's names (default: not {', '.join(ON_REQUEST)})")


def main() -> None:
    config = parse(Config, __doc__)
    histories = read_histories(Folder(config.experiments), config.tags)
    names = dict.fromkeys(name for history in histories for row in history["train"] for name in row)
    if not names:
        raise UserError(f"no log line yet of {', '.join(config.tags)}: wait for the first")
    # Every other loss, of a strategy of one's own, has a chart too.
    known = [*TITLES, *(name for name in names if name.endswith("_loss") and name not in TITLES)]
    charts = {}
    for name in config.values or [name for name in known if name not in ON_REQUEST]:
        if name not in known:
            raise UserError(f"--values {name}: choose from {', '.join(known)}")
        kind = "validation" if name in VALIDATION else "train"
        charts[TITLES.get(name, name)] = [  # a run without this loss has a gap
            Line(label, epochs_of(history, kind), values_of(history, kind, name))
            for label, history in zip(config.labels(), histories, strict=True)
        ]
    labels = {*config.labels()}
    title = f"Learning curves of {labels.pop()}" if len(labels) == 1 else "Learning curves"
    config.draw_runs("history", line_charts, title, "epoch", charts)


if __name__ == "__main__":
    run_main(main)
