"""Learning curves of one or several runs in one picture: losses, mAP and learning rate.

python3 -m tools.plot_history TAG [TAG …]
"""

from dataclasses import dataclass
from pathlib import Path

from tools.pictures.charts import MOST_LINES, Line, line_charts
from tools.pictures.figure import check_picture_path, write_picture
from tools.runs.folder import Folder, epochs_of, read_histories
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, run_main

CHARTS = (
    ("train", "loss", "loss"),
    ("train", "re_loss", "reconstruction loss (re_loss)"),
    ("validation", "mAP", "validation mAP, %"),
    ("train", "lr", "learning rate"),
)


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

    def picture(self, kind: str) -> Path:
        """Return the file to write."""
        return self.out or Folder(self.experiments).picture(f"{kind}_{'_'.join(self.tags)[:100]}")


def main() -> None:
    config = parse(Config, __doc__)
    histories = read_histories(Folder(config.experiments), config.tags)
    if not any(history["train"] for history in histories):
        raise UserError(f"no log line yet of {', '.join(config.tags)}: wait for the first")
    charts = {}
    for kind, name, title in CHARTS:
        charts[title] = [
            Line(tag, epochs_of(history, kind), [float(row.get(name, "nan")) for row in history[kind]])
            for tag, history in zip(config.tags, histories, strict=True)
        ]
    write_picture(config.picture("history"), line_charts("Learning curves", "epoch", charts))
    print(f"written: {config.picture('history')}")


if __name__ == "__main__":
    run_main(main)
