"""Choose a decision threshold for each class, and a temperature that calibrates the probabilities.

    python3 -m tools.thresholds --scores val.npz --for f1 --test test.npz

Both are chosen on --scores and measured on --test, or with --halves on the other half of --scores. The JSON file is for
`--thresholds` of evaluation and inference. See docs/protocols.md.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.data.splits import stratified_split
from tools.metrics.calibration import FIGURES, calibration, fit_temperatures
from tools.metrics.multilabel import MEANS, binary_labels
from tools.metrics.readers import OUT_HELP, ScoreArguments
from tools.metrics.reports import by_class, class_csv, free_base, shown, write_results
from tools.metrics.scores import Scores
from tools.metrics.thresholds import DEFAULT, Goal, choose_thresholds, measure_classes, measure_means
from tools.pictures.charts import Line, line_charts
from tools.pictures.figure import style
from tools.runs.folder import Folder
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, printable, run_main
from tools.system.text_table import fixed_width_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOAL_HELP = "what each threshold is best for: f1, precision=0.9 or recall=0.9 at least, or cost=5 of a miss"
MADE_WITH = ("halves", "difficult", "temperature", "bootstrap", "seed")


@dataclass(frozen=True)
class Config(ScoreArguments):
    scores: Path = argument(help="scores and labels to choose on: .npz, .csv or .json")
    goal: Goal = argument(Goal("f1"), GOAL_HELP, parse=Goal.parse, aliases=("for",))
    test: Path | None = argument(None, "scores and labels to measure on", at_most_one_of="test")
    halves: bool = argument(False, "choose on a stratified half, measure on the other", at_most_one_of="test")
    temperature: str = argument("one", "for all classes, for each, or none", choices=("one", "class", "none"))
    bootstrap: int = argument(1000, "samples for the intervals of the means", least=1)
    seed: int = argument(0, "of everything that is drawn", least=0)
    out: Path | None = argument(None, OUT_HELP, names_file=True)

    @property
    def measured_on(self) -> str:
        name = printable((self.test or self.scores).name)
        if self.halves:
            return f"the other half of {name}"
        return name if self.test else f"the images that they were chosen on ({name})"


def read_sets(config: Config) -> tuple[Scores, Scores]:
    """Return the scores to choose on and those to measure on, with the same classes in the same order."""
    chosen = config.read(config.scores)
    test = config.read(config.test, chosen) if config.test else chosen
    if config.halves and len(chosen.ids) < 2:
        raise UserError(f"{config.scores} holds one image: --halves needs two")
    if config.halves:
        in_test = stratified_split(binary_labels(chosen.labels, config.difficult)[0], 0.5, config.seed)
        chosen, test = chosen.select(~in_test), chosen.select(in_test)
    if not binary_labels(chosen.labels, config.difficult)[0].any():
        raise UserError(f"half of {config.scores} has no positive to choose a threshold for: try another --seed")
    return chosen, test


def choose(config: Config, chosen: Scores, test: Scores) -> tuple[dict[str, np.ndarray], dict, dict]:
    """Return thresholds, temperatures and what they lead to on the other images.

    That is columns `[V]` or, with the ends of an interval, `[V, 3]`; the means; and calibration before and after.
    """
    labels, test_labels = (binary_labels(one.labels, config.difficult) for one in (chosen, test))
    thresholds = choose_thresholds(chosen.probabilities, *labels, config.goal)
    temperatures = ones = np.ones(len(chosen.class_names))
    if config.temperature != "none":
        temperatures = fit_temperatures(chosen.logits, *labels, per_class=config.temperature == "class")
    calibrated: dict[str, Any] = {"chosen on": {}, "measured on": {}}
    for when, temperature in {"before": ones, "after": temperatures}.items():
        calibrated["chosen on"][when] = calibration(chosen.logits / temperature, *labels)
        calibrated["measured on"][when] = calibration(test.logits / temperature, *test_labels)
    decided = {"chosen": test.probabilities > thresholds, "default": test.probabilities > DEFAULT}
    measured = {key: measure_classes(predicted, *test_labels) for key, predicted in decided.items()}
    samples = (config.bootstrap, config.seed)
    means = {key: measure_means(predicted, *test_labels, *samples) for key, predicted in decided.items()}
    columns = {"threshold": thresholds, "temperature": temperatures, **measured["chosen"]}
    columns |= {"f1_default": measured["default"]["f1"], "positives": labels[0].sum(0)}
    return columns, means, calibrated


def picture(calibrated: dict[str, dict[str, Any]]) -> "Figure":
    """Draw the reliability diagrams: share of positives against the predicted probability, in %."""
    charts = {}
    for name, by_time in calibrated.items():
        errors = " → ".join(f"{100 * one['ECE']:.2f}" for one in by_time.values())
        charts[f"{name}, ECE {errors}"] = lines = [Line("perfect", [0, 100], [0, 100])]
        for when, one in by_time.items():
            points = [(100 * one["reliability"][axis]).tolist() for axis in ("confidence", "frequency")]
            lines.append(Line(f"{when} temperature", *points))
    return line_charts("Share of positives, %", "predicted probability, %", charts)


def text_of(config: Config, names: list[str], columns: dict[str, np.ndarray], means: dict, calibrated: dict) -> str:
    """Return the tables to read."""
    table = [("class", "threshold", "precision", "95 %", "recall", "95 %", "F1", "95 %", f"F1 at {DEFAULT}")]
    for v, name in enumerate(names):
        shares = [cell for key in ("precision", "recall", "f1") for cell in _cells(columns[key][v])]
        table.append((name, f"{columns['threshold'][v]:.4f}", *shares, _cells(columns["f1_default"][v])[0]))
    lines = [f"Thresholds for {config.goal}, in % measured on {config.measured_on}", ""]
    lines += [fixed_width_table(table, [15, *[9] * 8]), ""]
    table = [("mean", "chosen", "95 %", f"at {DEFAULT}", "95 %")]
    table += [(name, *_cells(means["chosen"][name]), *_cells(means["default"][name])) for name in MEANS]
    lines += [fixed_width_table(table, (5, 8, 15, 8, 15)), ""]
    for name, when in calibrated.items():
        for kind in FIGURES:
            lines.append(f"{name}: {kind} {when['before'][kind]:.4f}, with temperature {when['after'][kind]:.4f}")
    return "\n".join(lines)


def _cells(measured: np.ndarray) -> tuple[str, str]:
    value, low, high = 100 * measured
    return shown(value), "–" if np.isnan(value) else f"{low:.1f} … {high:.1f}"


def main() -> None:
    config = parse(Config, __doc__)
    chosen, test = read_sets(config)
    names = chosen.class_names
    made_with = {"scores": str(config.scores.resolve()), "goal": str(config.goal), "class_names": names}
    made_with["measured_on"] = str(config.test and config.test.resolve())
    made_with |= {name: getattr(config, name) for name in MADE_WITH}
    base = free_base(Folder().root / "evaluation" / f"{config.scores.stem}_thresholds", made_with, config.out)
    columns, means, calibrated = choose(config, chosen, test)
    text = text_of(config, names, columns, means, calibrated)
    cells = {key: columns[key] for key in ("threshold", "temperature")}
    for key in ("precision", "recall", "f1"):  # with the ends of their intervals
        cells |= dict(zip((key, f"{key}_low", f"{key}_high"), 100 * columns[key].T, strict=True))
    result = {"made_with": made_with, "classes": by_class(names, columns), "means": means, "calibration": calibrated}
    with style(config.column):
        figure = picture(calibrated)
    print("\n".join(write_results(base, text, {"": class_csv(names, cells, {})}, result, {"": figure})))


if __name__ == "__main__":
    run_main(main)
