"""Choose a decision threshold for each class, and a temperature that calibrates the probabilities.

    python3 -m tools.thresholds --scores val.npz --for f1 --test test.npz

Thresholds and temperature are chosen on --scores and measured on --test, or on the second half of --scores with
--halves. The JSON file is for `evaluate_classification.py --thresholds`. See docs/protocols.md.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from tools.data.devkit import read_class_names
from tools.metrics.calibration import (
    class_calibration_error,
    fit_temperatures,
    negative_log_likelihood,
    reliability,
)
from tools.metrics.multilabel import DIFFICULT, MEANS, above
from tools.metrics.readers import LabeledScores, read_labeled
from tools.metrics.reports import class_csv, write_results
from tools.metrics.thresholds import DEFAULT, Goal, choose_thresholds, measure_classes, measure_means
from tools.pictures.charts import Line, line_charts
from tools.pictures.figure import write_picture
from tools.runs.folder import Folder
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, run_main
from tools.system.files import provenance
from tools.system.text_table import fixed_width_table

GOAL_HELP = "what thresholds are best for, also as --for: f1, precision=0.9, recall=0.9, or cost=5 of a miss"
TEMPERATURES = ("one", "class", "none")


@dataclass(frozen=True)
class Config(Arguments):
    scores: Path = argument(help="scores and labels to choose on: .npz, .csv or .json, see docs/protocols.md")
    goal: Goal = argument(Goal("f1"), GOAL_HELP, parse=Goal.parse, aliases=("for",))
    test: Path | None = argument(None, "scores and labels to measure on", at_most_one_of="test")
    halves: bool = argument(False, "choose on a random half of --scores, measure on the other", at_most_one_of="test")
    temperature: str = argument("one", "for all classes, for each class, or none", choices=TEMPERATURES)
    difficult: str = argument("positive", "what a class shown only as difficult objects is", choices=DIFFICULT)
    class_file: Path | None = argument(None, "class_names of a table that does not name its classes")
    bootstrap: int = argument(1000, "samples for the intervals of the means", least=1)
    seed: int = argument(0, "of the halves and the bootstrap", least=0)
    out: Path | None = argument(None, "result files without suffix (default experiments/evaluation/…_thresholds)")


def read_sets(config: Config) -> tuple[LabeledScores, LabeledScores]:
    """Return the scores to choose on and those to measure on, with the same classes in the same order."""
    names = read_class_names(config.class_file) if config.class_file else None
    chosen = read_labeled(config.scores, names, config.difficult)
    if config.halves:
        order = np.random.default_rng(config.seed).permutation(len(chosen.logits))
        return tuple(chosen.take(np.sort(half)) for half in np.array_split(order, 2))
    if config.test is None:
        return chosen, chosen
    return chosen, read_labeled(config.test, names, config.difficult).with_classes(chosen.class_names, config.test)


def calibration(config: Config, chosen: LabeledScores, test: LabeledScores) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the temperatures `[V]`, and calibration before and after, by set of images."""
    temperatures = np.ones(len(chosen.class_names))
    if config.temperature != "none":
        temperatures = fit_temperatures(chosen.logits, chosen.labels, chosen.counted, config.temperature == "class")
    found = {}
    for name, scored in {"chosen on": chosen, "measured on": test}.items():
        for when, scale in {"before": np.ones_like(temperatures), "after": temperatures}.items():
            logits = scored.logits / scale
            probabilities = expit(logits)
            use, labels = scored.counted, scored.labels
            found.setdefault(name, {})[when] = {
                "reliability": reliability(probabilities[use], labels[use]),
                "ECE": reliability(probabilities[use], labels[use]).error,
                "ECE of classes": class_calibration_error(probabilities, labels, use),
                "negative log-likelihood": negative_log_likelihood(logits[use], labels[use]),
            }
    return temperatures, found


def picture(path: Path, calibrated: dict[str, Any]) -> None:
    """Draw the reliability diagrams: share of positives against the predicted probability, in %."""
    charts = {}
    for name, by_time in calibrated.items():
        lines = [Line("perfect", [0, 100], [0, 100])]
        for when, one in by_time.items():
            known = one["reliability"].count > 0
            x, y = (100 * values[known] for values in (one["reliability"].confidence, one["reliability"].frequency))
            lines.append(Line(f"{when} temperature", x.tolist(), y.tolist()))
        errors = " → ".join(f"{100 * one['ECE']:.2f}" for one in by_time.values())
        charts[f"{name}: positives, % (ECE {errors})"] = lines
    write_picture(path, line_charts("Reliability of the probabilities", "predicted probability, %", charts))


def text_of(config: Config, rows: dict[str, dict], means: dict[str, dict], calibrated: dict[str, Any]) -> str:
    """Return the tables to read."""
    table = [("class", "threshold", "precision", "95 %", "recall", "95 %", "F1", "95 %", "F1 at 0.5")]
    for name, row in rows.items():
        shares = [cell for key in ("precision", "recall", "f1") for cell in _shown(row[key])]
        table.append((name, f"{row['threshold']:.4f}", *shares, _shown(row["f1_default"])[0]))
    lines = [f"Thresholds for {config.goal}, in % measured on {measured_on(config)}", ""]
    lines += [fixed_width_table(table, [15, *[9] * 8]), ""]
    table = [("mean", "chosen", "95 %", f"at {DEFAULT}", "95 %")]
    table += [(name, *_shown(means["chosen"][name]), *_shown(means["default"][name])) for name in MEANS]
    lines += [fixed_width_table(table, (5, 8, 15, 8, 15)), ""]
    for name, by_time in calibrated.items():
        for measure in ("ECE", "ECE of classes", "negative log-likelihood"):
            before, after = (by_time[when][measure] for when in ("before", "after"))
            lines.append(f"{name}: {measure} {before:.4f}, with temperature {after:.4f}")
    return "\n".join(lines)


def table_of(rows: dict[str, dict]) -> str:
    """Return the CSV table: shares and the ends of their intervals in %."""
    columns = {key: np.array([row[key] for row in rows.values()]) for key in ("threshold", "temperature")}
    for key in ("precision", "recall", "f1"):
        shares = 100 * np.array([row[key] for row in rows.values()])
        columns |= {key: shares[:, 0], f"{key}_low": shares[:, 1], f"{key}_high": shares[:, 2]}
    return class_csv(list(rows), columns, {})


def measured_on(config: Config) -> str:
    """Say on which images the figures were measured."""
    if config.halves:
        return f"the other half of {config.scores.name}"
    return config.test.name if config.test else f"the images that they were chosen on ({config.scores.name})"


def _shown(measured: tuple[float, float, float]) -> tuple[str, str]:
    if np.isnan(measured[0]):
        return "–", "–"
    value, low, high = (100 * number for number in measured)
    return f"{value:.2f}", f"{low:.1f} … {high:.1f}"


def main() -> None:
    config = parse(Config, __doc__)
    chosen, test = read_sets(config)
    if not chosen.labels.any():
        raise UserError(f"{config.scores} has no positive label: there is nothing to choose a threshold for")
    thresholds = choose_thresholds(chosen.probabilities, chosen.labels, chosen.counted, config.goal)
    temperatures, calibrated = calibration(config, chosen, test)
    measured, means = {}, {}
    for key, threshold in {"chosen": thresholds, "default": DEFAULT}.items():
        predicted = above(test.probabilities, threshold)
        measured[key] = measure_classes(predicted, test.labels, test.counted)
        means[key] = measure_means(predicted, test.labels, test.counted, config.bootstrap, config.seed)
    rows = {}
    for v, name in enumerate(chosen.class_names):
        rows[name] = {"threshold": thresholds[v], "temperature": temperatures[v], **measured["chosen"][v]}
        rows[name] |= {"f1_default": measured["default"][v]["f1"], "positives": int(chosen.labels[:, v].sum())}
    result = {"goal": str(config.goal), "chosen_on": str(config.scores), "measured_on": measured_on(config)}
    result |= {"difficult": config.difficult, "classes": rows, "means": means, "calibration": calibrated}
    base = config.out or Folder().root / "evaluation" / f"{config.scores.stem}_thresholds"
    text = text_of(config, rows, means, calibrated)
    paths = write_results(base, text, {"": table_of(rows)}, {**result, **provenance()})
    paths.append(base.with_name(f"{base.name}.png"))
    picture(paths[-1], calibrated)
    print(text)
    for path in paths:
        print(f"written: {path}")


if __name__ == "__main__":
    run_main(main)
