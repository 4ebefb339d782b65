"""Learning curves of one or several runs in one picture: losses of training and validation, mAP and learning rate.

python3 -m tools.plot_history TAG [TAG …]
python3 -m tools.plot_history cMax_seed0 cMax_seed1 --seeds --values class_loss map --column single --out cMax.pdf
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.pictures.charts import MOST_LINES, TITLES, further_losses, learning_curves, line_charts
from tools.pictures.figure import FigureArguments
from tools.runs.folder import SEED, Folder, read_histories
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, run_main

# With a teacher nothing minimizes p_class_loss: it may rise, and the sum with it, while training is fine.
ON_REQUEST = ("loss", "p_class_loss")
SEEDS = "runs whose tags differ only in a seed, as x_seed0 and x_seed1, are one: their mean and how far they differ"


@dataclass(frozen=True)
class RunsConfig(FigureArguments):
    """The arguments of both programs that plot runs."""

    tags: list[str] = argument(help=f"runs, by their --tag; at most {MOST_LINES}", metavar="TAG", positional=True)
    seeds: bool = argument(False, SEEDS)
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
    if not any(history["train"] for history in histories):
        raise UserError(f"no log line yet of {', '.join(config.tags)}: wait for the first")
    known = [*TITLES, *further_losses(histories)]
    names = config.values or [name for name in known if name not in ON_REQUEST]
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"--values {unknown[0]}: choose from {', '.join(known)}")
    labels = config.labels()
    title = f"Learning curves of {labels[0]}" if len({*labels}) == 1 else "Learning curves"
    charts = learning_curves([*zip(labels, histories, strict=True)], names)
    config.draw_runs("history", line_charts, title, "epoch", charts)


if __name__ == "__main__":
    run_main(main)
