"""Average precision of every class in the best epoch of one or several runs, as bars.

python3 -m tools.plot_classes TAG [TAG …]
"""

import math

from tools.pictures.charts import bar_chart
from tools.plot_history import Config
from tools.runs.folder import Folder, best_validation, read_histories
from tools.system.command_line import parse
from tools.system.errors import run_main


def main() -> None:
    config = parse(Config, __doc__)
    histories = read_histories(Folder(config.experiments), config.tags)
    best = [best_validation(history, tag) for tag, history in zip(config.tags, histories, strict=True)]
    names = list(dict.fromkeys(name for row in best for name in [*row["average_precision"], *row["without_positive"]]))
    values = [[row["average_precision"].get(name, math.nan) for row in best] for name in names]
    labels = [f"{tag}, epoch {row['epoch']}" for tag, row in zip(config.tags, best, strict=True)]
    means = [row["map"] for row in best]
    figure = bar_chart("Average precision on validation, %", labels, [*names, "mean (mAP)"], [*values, means])
    config.write("classes", figure)


if __name__ == "__main__":
    run_main(main)
