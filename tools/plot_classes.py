"""Average precision of every class in the best epoch of one or several runs, as bars.

    python3 -m tools.plot_classes TAG [TAG …]
    python3 -m tools.plot_classes cMax_seed0 cMax_seed1 --seeds --sort --column single --out classes.pdf
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from tools.pictures.charts import bar_chart
from tools.plot_history import Config
from tools.reproduction.tables import Number
from tools.runs.folder import best_validation, numbers
from tools.system.command_line import argument, parse
from tools.system.errors import run_main


@dataclass(frozen=True)
class ClassesConfig(Config):
    sort: bool = argument(False, "the classes with the highest values first (default: in the order of the class file)")


def main() -> None:
    config = parse(ClassesConfig, __doc__)
    best = [best_validation(history, tag) for tag, history in zip(config.tags, config.histories(), strict=True)]
    classes = [[*row.get("average_precision", {}), *row.get("without_positive", [])] for row in best]
    names = list(dict.fromkeys(itertools.chain(*classes)))
    series = {}
    for label, rows in config.groups(best).items():
        note = f"mean of {len(rows)} runs ± standard deviation" if len(rows) > 1 else f"epoch {rows[0]['epoch']}"
        of_runs = [numbers([*map(row.get("average_precision", {}).get, names), row.get("map")]) for row in rows]
        series[f"{label}, {note}"] = [Number.of(values) for values in zip(*of_runs, strict=True)]
    bars = list(zip(*series.values(), strict=True))  # of each class, and of the mean
    # Chance is the share of positives; histories of earlier versions, or of different images, have none in common.
    shares = best[0].get("chance", {}) if all(row.get("chance") == best[0].get("chance") for row in best) else {}
    chance = numbers(map(shares.get, names))
    known = [share for share in chance if share > 0]
    chance.append(sum(known) / len(known) if known else math.nan)
    order = list(range(len(names)))
    if config.sort:
        order.sort(key=lambda v: -np.nan_to_num([bar.mean for bar in bars[v]]).sum())
    order.append(len(names))
    values, deviations = ([[getattr(bar, name) for bar in bars[v]] for v in order] for name in ("mean", "std"))
    shown = [[*names, "mean (mAP)"][v] for v in order], values, deviations, [chance[v] for v in order]
    config.write("classes", bar_chart("Average precision on validation, %", [*series], *shown, column=config.column))


if __name__ == "__main__":
    run_main(main)
