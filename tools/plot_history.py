"""Learning curves of one or several runs in one picture: losses, mAP and learning rate.

python3 -m tools.plot_history TAG [TAG …]
"""

import argparse
from pathlib import Path

from tools.pictures.charts import Line, line_chart, page_of
from tools.pictures.panels import check_picture_path, write_picture
from tools.runs.folder import History, epochs_of, read_histories
from tools.system.command_line import Parser
from tools.system.errors import UserError, run_main

CHARTS = (
    ("train", "loss", "loss"),
    ("train", "re_loss", "reconstruction loss (re_loss)"),
    ("validation", "mAP", "validation mAP, per cent"),
    ("train", "lr", "learning rate"),
)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("tags", nargs="+", metavar="TAG", help="runs, by their --tag; at most eight")
    parser.add_argument("--experiments", type=Path, default="experiments", help="folder of runs (default experiments)")
    parser.add_argument("--out", type=Path, help="picture to write (default experiments/pictures/history_TAGS.png)")
    return parser.parse_args()


def lines_of(histories: list[History], tags: list[str], kind: str, name: str) -> list[Line]:
    """A curve of each run."""
    return [
        Line(tag, epochs_of(history, kind), [float(row.get(name, "nan")) for row in history[kind]])
        for tag, history in zip(tags, histories)
    ]


def main() -> None:
    """Draw the curves."""
    args = parse_arguments()
    out = args.out or args.experiments / "pictures" / f"history_{'_'.join(args.tags)[:100]}.png"
    check_picture_path(out)
    histories = read_histories(args.experiments, args.tags)
    if not any(history["train"] for history in histories):
        raise UserError(f"no log line yet of {', '.join(args.tags)}: wait for the first")
    charts = [line_chart(title, "epoch", lines_of(histories, args.tags, kind, name)) for kind, name, title in CHARTS]
    write_picture(out, page_of("Learning curves", args.tags, [charts[:2], charts[2:]]))
    print(f"written: {out}")


if __name__ == "__main__":
    run_main(main)
