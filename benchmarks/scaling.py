"""How time and memory grow: of a training step with the size of its input, and of evaluation with the images.

A step of cTopk-w (see benchmarks.step, ours) changes in one of image size, batch size, number of classes and classes
per image; the others are those of the arguments. Evaluation measures synthetic scores: all metrics, the bootstrap's
1,000 samples, and the tables. Each measurement has its own process. Writes JSON, and a picture of the steps beside it.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from benchmarks import measure, step
from tools.metrics.bootstrap import bootstrap_interval
from tools.metrics.multilabel import all_metrics
from tools.metrics.reports import metrics_csv, text_report
from tools.pictures.charts import Line, line_charts
from tools.pictures.figure import write_picture
from tools.system.command_line import argument, parse
from tools.system.errors import run_main

STRATEGY = "cTopk_w"
STEPS = {  # by name of what changes: its values
    "image_size": (256, 384, 512, 640),
    "batch_size": (1, 2, 4, 8),
    "classes": (20, 80, 500),
    "labels": (1, 3, 10),
}
IMAGES, CLASSES = (1_000, 10_000, 100_000), (20, 80)
PARTS = ("metrics", "bootstrap", "tables")
QUICK = ({"image_size": (32,), "labels": (1, 3)}, (100, 200), (5,))  # to try it out


@dataclass(frozen=True)
class Config(measure.NetworkArguments):
    quick: bool = argument(False, "few small sizes: to try it out")


def main() -> None:
    config = parse(Config, __doc__)
    changes, images, classes = QUICK if config.quick else (STEPS, IMAGES, CLASSES)
    steps = {name: steps_over(config, name, values) for name, values in changes.items()}
    evaluation = {}
    for count, part in itertools.product(classes, PARTS):
        title = f"{part}, {count} classes"
        calls = {str(size): (run_part, config, part, size, count) for size in images}
        evaluation[title] = measure.measured(calls, f"{title}, images")
    path = measure.save(config, "scaling", {"steps": steps, "evaluation": evaluation})
    write_picture(path.with_suffix(".png"), figure_of_steps(steps))


def steps_over(config: Config, name: str, values: tuple[int, ...]) -> dict[str, dict]:
    """Measure a step at each value of what changes."""
    shared = {item.name: getattr(config, item.name) for item in fields(measure.NetworkArguments)}
    whole = step.Config(**shared, figures=("ours",))
    cases = {value: replace(whole, **{name: (value,) if name == "labels" else value}) for value in values}
    calls = {str(value): (step.run_figure, case, "ours", STRATEGY) for value, case in cases.items()}
    return measure.measured(calls, f"step, {name}")


def run_part(config: Config, part: str, images: int, classes: int) -> dict[str, Any]:
    """Measure one of `PARTS` on synthetic scores; `memory_before` is what imports and scores alone take."""
    random = np.random.default_rng(0)
    labels = random.random((images, classes)) < 0.08  # VOC's share of positives
    labels[0] = True
    scores = random.random((images, classes), dtype=np.float32) * 0.7 + 0.3 * labels
    counted, names = np.ones_like(labels), [f"class {index}" for index in range(classes)]
    metrics = all_metrics(scores, labels, counted) if part == "tables" else None
    actions: dict[str, Callable] = {
        "metrics": lambda: all_metrics(scores, labels, counted),
        "bootstrap": lambda: bootstrap_interval(scores, labels, counted),
        "tables": lambda: (text_report(names, metrics, None, "threshold 0.5"), metrics_csv(names, metrics)),
    }
    before = measure.peak_memory(measure.CPU)
    return measure.measurement(config, measure.CPU, actions[part], memory_before=before)


def figure_of_steps(steps: dict[str, dict[str, Any]]) -> Any:
    """Draw seconds and memory of the steps over what changes, all relative to its first value."""
    charts = {}
    for key in ("seconds", "peak_memory"):
        charts[f"{key.replace('_', ' ')}, times the first"] = curves = []
        for name, cases in steps.items():
            values = [case.get(key) or math.nan for case in cases.values()]
            x = [float(value) / float(next(iter(cases))) for value in cases]
            curves.append(Line(name.replace("_", " "), x, [value / values[0] for value in values]))
    return line_charts(f"A step of {STRATEGY}", "value, times the first", charts)


if __name__ == "__main__":
    run_main(main)
