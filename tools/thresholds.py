"""Choose a decision threshold for each class, and a temperature that calibrates the probabilities.

    python3 -m tools.thresholds --scores val.npz --for f1 --test test.npz

Both are chosen on --scores and measured on --test, or with --halves on the other half of --scores. The JSON file is for
`--thresholds` of evaluation and inference. See docs/protocols.md.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from tools.data.devkit import read_class_names
from tools.metrics.calibration import class_calibration_error, fit_temperatures, negative_log_likelihood, reliability
from tools.metrics.multilabel import MEANS, above
from tools.metrics.readers import LabeledScores, ScoreArguments, read_labeled
from tools.metrics.reports import class_csv, free_base, write_results
from tools.metrics.thresholds import DEFAULT, Goal, choose_thresholds, measure_classes, measure_means
from tools.pictures.charts import Line, line_charts
from tools.pictures.figure import write_picture
from tools.runs.folder import Folder
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, printable, run_main
from tools.system.files import provenance
from tools.system.text_table import fixed_width_table

GOAL_HELP = "what thresholds are best for, also as --for: f1, precision=0.9, recall=0.9, or cost=5 of a miss"
CALIBRATION = ("ECE", "ECE of classes", "negative log-likelihood")


def goal(text: str) -> Goal:
    """Read what thresholds are best for."""
    try:
        return Goal.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a goal: {error}") from error


@dataclass(frozen=True)
class Config(ScoreArguments):
    scores: Path = argument(help="scores and labels to choose on: .npz, .csv or .json")
    goal: Goal = argument(Goal("f1"), GOAL_HELP, parse=goal, aliases=("for",))
    test: Path | None = argument(None, "scores and labels to measure on", at_most_one_of="test")
    halves: bool = argument(False, "choose on a random half of --scores, measure on the other", at_most_one_of="test")
    temperature: str = argument("one", "for all classes, for each, or none", choices=("one", "class", "none"))
    bootstrap: int = argument(1000, "samples for the intervals of the means", least=1)

    @property
    def measured_on(self) -> str:
        name = printable((self.test or self.scores).name)
        if self.halves:
            return f"the other half of {name}"
        return name if self.test else f"the images that they were chosen on ({name})"


def read_sets(config: Config) -> tuple[LabeledScores, LabeledScores]:
    """Return the scores to choose on and those to measure on, with the same classes in the same order."""
    names = read_class_names(config.class_file) if config.class_file else None
    chosen = read_labeled(config.scores, names, config.difficult)
    test = chosen
    if config.halves and len(chosen.ids) < 2:
        raise UserError(f"{config.scores} holds one image: --halves needs two")
    if config.halves:
        order = np.random.default_rng(config.seed).permutation(len(chosen.ids))
        chosen, test = (chosen.select(np.sort(half)) for half in np.array_split(order, 2))
    elif config.test:
        test = read_labeled(config.test, names, config.difficult).with_classes(chosen.class_names, config.test)
    if not chosen.labels.any():
        raise UserError(f"{config.scores} has no positive to choose a threshold for")
    return chosen, test


def calibration(scored: LabeledScores, temperatures: np.ndarray) -> dict[str, Any]:
    """Return how well probabilities are calibrated with these temperatures `[V]`."""
    logits, use, labels = scored.logits / temperatures, scored.counted, scored.labels
    probabilities = expit(logits)
    curve = reliability(probabilities[use], labels[use])
    errors = (curve.error, class_calibration_error(probabilities, labels, use))
    return {
        "reliability": curve._asdict(),
        **dict(zip(CALIBRATION, (*errors, negative_log_likelihood(logits[use], labels[use])), strict=True)),
    }


def picture(path: Path, calibrated: dict[str, dict[str, Any]]) -> None:
    """Draw the reliability diagrams: share of positives against the predicted probability, in %."""
    charts = {}
    for name, by_time in calibrated.items():
        errors = " → ".join(f"{100 * one['ECE']:.2f}" for one in by_time.values())
        charts[f"{name}, ECE {errors}"] = lines = []
        lines.append(Line("perfect", [0, 100], [0, 100]))
        for when, one in by_time.items():
            points = [(100 * one["reliability"][axis]).tolist() for axis in ("confidence", "frequency")]
            lines.append(Line(f"{when} temperature", *points))
    write_picture(path, line_charts("Share of positives, %", "predicted probability, %", charts))


def text_of(config: Config, rows: dict[str, dict], means: dict[str, dict], calibrated: dict[str, Any]) -> str:
    """Return the tables to read."""
    table = [("class", "threshold", "precision", "95 %", "recall", "95 %", "F1", "95 %", f"F1 at {DEFAULT}")]
    for name, row in rows.items():
        shares = [cell for key in ("precision", "recall", "f1") for cell in _shown(row[key])]
        table.append((name, f"{row['threshold']:.4f}", *shares, _shown(row["f1_default"])[0]))
    lines = [f"Thresholds for {config.goal}, in % measured on {config.measured_on}", ""]
    lines += [fixed_width_table(table, [15, *[9] * 8]), ""]
    table = [("mean", "chosen", "95 %", f"at {DEFAULT}", "95 %")]
    table += [(name, *_shown(means["chosen"][name]), *_shown(means["default"][name])) for name in MEANS]
    lines += [fixed_width_table(table, (5, 8, 15, 8, 15)), ""]
    for name, by_time in calibrated.items():
        for kind in CALIBRATION:
            lines.append(f"{name}: {kind} {by_time['before'][kind]:.4f}, with temperature {by_time['after'][kind]:.4f}")
    return "\n".join(lines)


def _shown(measured: tuple[float, float, float]) -> tuple[str, str]:
    value, low, high = (100 * number for number in measured)
    return ("–", "–") if np.isnan(value) else (f"{value:.2f}", f"{low:.1f} … {high:.1f}")


def table_of(rows: dict[str, dict]) -> str:
    """Return the CSV table: shares and the ends of their intervals in %."""
    columns = {key: np.array([row[key] for row in rows.values()]) for key in ("threshold", "temperature")}
    for key in ("precision", "recall", "f1"):
        shares = 100 * np.array([row[key] for row in rows.values()])
        columns |= {key: shares[:, 0], f"{key}_low": shares[:, 1], f"{key}_high": shares[:, 2]}
    return class_csv(list(rows), columns, {})


def main() -> None:
    config = parse(Config, __doc__)
    chosen, test = read_sets(config)
    made_with = {"scores": str(config.scores.resolve()), "goal": str(config.goal), "class_names": chosen.class_names}
    made_with["measured_on"] = str(config.test and config.test.resolve())
    made_with |= {name: getattr(config, name) for name in ("halves", "difficult", "temperature", "bootstrap", "seed")}
    base = free_base(Folder().root / "evaluation" / f"{config.scores.stem}_thresholds", made_with, config.out)
    thresholds = choose_thresholds(chosen.probabilities, chosen.labels, chosen.counted, config.goal)
    temperatures = one = np.ones(len(chosen.class_names))
    if config.temperature != "none":
        per_class = config.temperature == "class"
        temperatures = fit_temperatures(chosen.logits, chosen.labels, chosen.counted, per_class)
    calibrated = {
        name: {"before": calibration(scored, one), "after": calibration(scored, temperatures)}
        for name, scored in {"chosen on": chosen, "measured on": test}.items()
    }
    measured, means = {}, {}
    for key, threshold in {"chosen": thresholds, "default": DEFAULT}.items():
        arrays = (above(test.probabilities, threshold), test.labels, test.counted)
        measured[key], means[key] = measure_classes(*arrays), measure_means(*arrays, config.bootstrap, config.seed)
    rows = {}
    for v, name in enumerate(chosen.class_names):
        rows[name] = {"threshold": thresholds[v], "temperature": temperatures[v], **measured["chosen"][v]}
        rows[name] |= {"f1_default": measured["default"][v]["f1"], "positives": int(chosen.labels[:, v].sum())}
    text, result = text_of(config, rows, means, calibrated), {"made_with": made_with, "classes": rows, "means": means}
    paths = write_results(base, text, {"": table_of(rows)}, {**result, "calibration": calibrated, **provenance()})
    paths.append(base.with_name(f"{base.name}.png"))
    picture(paths[-1], calibrated)
    print("\n".join([text, *(f"written: {path}" for path in paths)]))


if __name__ == "__main__":
    run_main(main)
