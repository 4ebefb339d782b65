"""How time and memory grow: of a training step with the size of its input, and of evaluation with the images.

A step of cTopk-w (see benchmarks.step, ours) changes in one of image size, batch size, number of classes and classes
per image; the others are those of the arguments. Evaluation measures synthetic scores: all metrics, the bootstrap's
1,000 samples, and the tables. Each measurement has its own process. Writes JSON, and a picture of the steps beside it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

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
SHOWN_POSITIVE = 0.08  # share of the synthetic labels: VOC's


@dataclass(frozen=True)
class Config(measure.NetworkArguments):
    quick: bool = argument(False, "few small sizes: to try it out")
    skip: str = argument("", "leave out one half", choices=("", "steps", "evaluation"))


def main() -> None:
    """Measure, print a line for each measurement, and write JSON and picture."""
    config = parse(Config, __doc__)
    device = measure.prepare_device(config)
    changes, images, classes = QUICK if config.quick else (STEPS, IMAGES, CLASSES)
    results: dict[str, Any] = {"steps": {}, "evaluation": {}}
    for name, values in changes.items() if config.skip != "steps" else ():
        results["steps"][name] = {str(value): step_with(config, name, value) for value in values}
    for count in classes if config.skip != "evaluation" else ():
        for part in PARTS:
            cases = {str(size): of_evaluation(config, part, size, count) for size in images}
            results["evaluation"][f"{part}, {count} classes"] = cases
    path = measure.save(config, f"scaling_{device.type}_{config.precision}.json", device, results)
    if results["steps"]:
        picture = path.with_suffix(".png")
        write_picture(picture, figure_of_steps(results["steps"]))
        print(f"written: {picture}")


def step_with(config: Config, name: str, value: int) -> dict[str, Any]:
    """Measure a step in which one thing is changed."""
    shared = {key: value for key, value in vars(config).items() if key not in ("quick", "skip", "output")}
    changed = {name: (value,) if name == "labels" else value}
    case = replace(step.Config(**shared, figures=("ours",)), **changed)
    return reported(f"step, {name} {value}", measure.run_in_subprocess(step.run_figure, case, "ours", STRATEGY))


def of_evaluation(config: Config, part: str, images: int, classes: int) -> dict[str, Any]:
    """Measure a part of what evaluation computes from scores."""
    name = f"{part}, {images:,} images, {classes} classes"
    return reported(name, measure.run_in_subprocess(run_part, config, part, images, classes))


def run_part(config: Config, part: str, images: int, classes: int) -> dict[str, Any]:
    """Measure one of `PARTS` on synthetic scores; `memory_before` is what imports and scores alone take."""
    random = np.random.default_rng(0)
    labels = random.random((images, classes)) < SHOWN_POSITIVE
    labels[0] = True
    scores = random.random((images, classes), dtype=np.float32) * 0.7 + 0.3 * labels
    counted, names = np.ones_like(labels), [f"class {index}" for index in range(classes)]
    metrics = all_metrics(scores, labels, counted) if part == "tables" else None
    actions: dict[str, Callable] = {
        "metrics": lambda: all_metrics(scores, labels, counted),
        "bootstrap": lambda: bootstrap_interval(scores, labels, counted),
        "tables": lambda: (text_report(names, metrics, None, "threshold 0.5"), metrics_csv(names, metrics)),
    }
    cpu = torch.device("cpu")
    before = measure.peak_memory(cpu)
    return measure.measurement(config, cpu, actions[part], memory_before=before)


def reported(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Print a measurement as one line, and return it."""
    seconds, memory = result.get("seconds"), result.get("peak_memory")
    cells = f"{measure.cell(seconds, '9.4f')} s {measure.cell(memory, '7.0f', measure.MEBIBYTE)} MiB"
    print(f"{name:45s} {cells} {result.get('failed', '')}", flush=True)
    return result


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
