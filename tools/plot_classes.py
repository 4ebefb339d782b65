"""Average precision of every class, of one or several runs, as bars; of each run its best epoch.

python3 -m tools.plot_classes TAG [TAG …]
"""

import argparse
from pathlib import Path

from tools.pictures.charts import bar_chart, page_of
from tools.pictures.panels import check_picture_path, write_picture
from tools.runs.folder import best_validation, read_histories
from tools.system.command_line import Parser
from tools.system.errors import run_main

MOST_ROWS = 12  # in one column


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("tags", nargs="+", metavar="TAG", help="runs, by their --tag; at most eight")
    parser.add_argument("--experiments", type=Path, default="experiments", help="folder of runs (default experiments)")
    parser.add_argument("--out", type=Path, help="picture to write (default experiments/pictures/classes_TAGS.png)")
    return parser.parse_args()


def main() -> None:
    """Draw the bars."""
    args = parse_arguments()
    out = args.out or args.experiments / "pictures" / f"classes_{'_'.join(args.tags)[:100]}.png"
    check_picture_path(out)
    histories = read_histories(args.experiments, args.tags)
    best = [best_validation(history, tag) for tag, history in zip(args.tags, histories)]
    names = list(dict.fromkeys(name for row in best for name in [*row["average_precision"], *row["without_positive"]]))
    precisions = [[row["average_precision"].get(name, float("nan")) for row in best] for name in names]
    rows, values = [*names, "mean (mAP)"], [*precisions, [row["mAP"] for row in best]]
    half = len(rows) if len(rows) <= MOST_ROWS else (len(rows) + 1) // 2
    charts = [bar_chart(rows[i : i + half], values[i : i + half], limit=100) for i in range(0, len(rows), half)]
    labels = [f"{tag}, epoch {row['epoch']}" for tag, row in zip(args.tags, best)]
    write_picture(out, page_of("Average precision on validation, per cent", labels, [charts]))
    print(f"written: {out}")


if __name__ == "__main__":
    run_main(main)
