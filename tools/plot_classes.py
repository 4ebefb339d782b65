"""Average precision of every class in the best epoch of one or several runs, as bars.

python3 -m tools.plot_classes TAG [TAG …]
python3 -m tools.plot_classes cMax_seed0 cMax_seed1 --seeds --column single --out classes.pdf
"""

import numpy as np

from tools.pictures.charts import bar_chart
from tools.plot_history import RunsConfig
from tools.runs.folder import Folder, best_validation, numbers, read_histories
from tools.system.command_line import parse
from tools.system.errors import run_main


def main() -> None:
    config = parse(RunsConfig, __doc__)
    histories = read_histories(Folder(config.experiments), config.tags)
    best = [best_validation(history, tag) for tag, history in zip(config.tags, histories, strict=True)]
    precisions = [row.get("average_precision", {}) for row in best]
    classes = [[*found, *row.get("without_positive", [])] for found, row in zip(precisions, best, strict=True)]
    names = list(dict.fromkeys(name for of_run in classes for name in of_run))
    values = [numbers(found.get(name) for found in precisions) for name in names]
    epochs = [f"{tag}, epoch {row['epoch']}" for tag, row in zip(config.tags, best, strict=True)]
    means = numbers(row.get("map") for row in best)
    shares = best[0].get("chance", {})  # runs of a figure have the same split; earlier versions did not note it
    chance = numbers(shares.get(name) or None for name in names)
    present = [share for share in chance if share > 0]
    chance.append(np.mean(present or np.nan))
    shown = config.labels() if config.seeds else epochs, [*names, "mean (mAP)"], [*values, means], chance
    config.draw_runs("classes", bar_chart, "Average precision on validation, %", *shown)


if __name__ == "__main__":
    run_main(main)
