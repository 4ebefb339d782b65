"""Tables and charts of finished experiments: means over seeds, differences with their intervals, learning curves."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.metrics.bootstrap import Difference, paired_bootstrap
from tools.metrics.multilabel import binary_labels
from tools.metrics.scores import read_scores
from tools.pictures.charts import Line, bar_chart, line_charts
from tools.pictures.figure import write_picture
from tools.reproduction.series import Experiment
from tools.reproduction.tables import Number, Table, write_text
from tools.runs.folder import History, epochs_of, read_histories
from tools.system.errors import UserError
from tools.system.files import provenance, read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = (
    ("validation", "mAP", "validation mAP, %"),
    ("train", "class_loss", "classification loss (class_loss)"),
    ("train", "p_class_loss", "puzzle classification loss (p_class_loss)"),
    ("train", "re_loss", "reconstruction loss (re_loss)"),
)


@dataclass(frozen=True)
class CompletedRuns:
    """A row of a study: its runs, one for each seed.

    Attributes:
        name: in the tables.
        keypoint: which of the localization's keypoints is the row's own.
        results: what the evaluations wrote.
        class_names: V names.
        scores: `[runs, N, V]`, presence: `[N, V]`, see `tools.data.annotations`.
        histories: of the trainings.
        usage: see `Experiment.usage`.
    """

    name: str
    keypoint: str
    results: list[dict[str, Any]]
    class_names: list[str]
    scores: np.ndarray
    presence: np.ndarray
    histories: list[History]
    usage: list[dict[str, float]]

    @classmethod
    def read(cls, name: str, keypoint: str, runs: list[Experiment]) -> "CompletedRuns":
        """Read what finished runs left.

        Raises:
            UserError: files that cannot be read or do not belong together.
        """
        scored = [read_scores(run.result.with_suffix(".npz")) for run in runs]
        first = scored[0]
        if any(other.ids != first.ids or other.class_names != first.class_names for other in scored):
            raise UserError(f"the runs of {name} were evaluated on different images or classes: choose another --out")
        return cls(
            name,
            keypoint,
            [read_json(run.result) for run in runs],
            first.class_names,
            np.stack([one.scores for one in scored]),
            first.labels,
            [read_histories(run.experiments, [run.tag])[0] for run in runs],
            [run.usage() for run in runs],
        )

    def mean(self, metric: str) -> Number:
        """A mean of the evaluation over the runs, as "mAP", in per cent."""
        return Number.of([result["means"][metric] for result in self.results])

    def last(self) -> Number:
        """The validation mAP after the last epoch, whichever was best."""
        return Number.of([history["validation"][-1]["mAP"] for history in self.histories])

    def best_epoch(self) -> Number:
        """The epoch of the evaluated model."""
        epochs = [max(history["validation"], key=lambda row: row["mAP"])["epoch"] for history in self.histories]
        return Number(sum(epochs) / len(epochs), decimals=0 if len(epochs) == 1 else 1)

    def precision(self, class_name: str) -> Number:
        """A class's average precision, in per cent; NaN without a positive."""
        values = [result["average_precision"].get(class_name, math.nan) for result in self.results]
        return Number.of(values)

    def localization(self, column: str) -> Number:
        """A column of the evaluation's localization over (image, class) pairs, in per cent."""
        values = [result["localization"]["over_pairs"][column] for result in self.results]
        return Number.of([math.nan if value is None else value for value in values])

    def strength(self) -> Number:
        """The largest feature of a present class, mean over (image, class) pairs."""
        return Number.of([result["localization"]["strength"] for result in self.results])

    def used(self, name: str, unit: float = 1.0) -> Number:
        """A figure of the usage, divided by `unit`."""
        return Number(sum(usage.get(name, math.nan) for usage in self.usage) / len(self.usage) / unit, decimals=1)


@dataclass(frozen=True)
class TableSection:
    """What belongs to one comparison.

    Attributes:
        name: of its files.
        caption: what is compared.
        rows: at most as many as colors that can be told apart.
        baseline: name of the row that the others are set against.
        peak: which of the localization's keypoints is the arg-max of a map.
    """

    name: str
    caption: str
    rows: list[CompletedRuns]
    baseline: str
    peak: str

    def differences(self) -> dict[str, Difference]:
        """By row, how much better it is than the baseline, by paired bootstrap over images."""
        base = next(row for row in self.rows if row.name == self.baseline)
        labels, counted = binary_labels(base.presence)
        return {
            row.name: paired_bootstrap(base.scores, row.scores, labels, counted)
            for row in self.rows
            if row.name != self.baseline
        }

    def tables(self) -> dict[str, Table]:
        """By suffix of the files' names."""
        return {
            "": self._means(),
            "_per_class": self._per_class(),
            "_localization": self._localization(),
            "_cost": self._cost(),
        }

    def _means(self) -> Table:
        differences = self.differences()
        rows = [
            [row.name, row.mean("mAP"), row.mean("mAP_VOC2010"), row.last(), row.best_epoch()]
            + _compared(differences.get(row.name))
            for row in self.rows
        ]
        columns = ["", "mAP", "VOC 2010", "last epoch", "best epoch", f"mAP − {self.baseline}", "95 %", "p"]
        return Table(f"{self.caption}: mean average precision, per cent", columns, rows)

    def _per_class(self) -> Table:
        names = self.rows[0].class_names
        rows = [[name, *(row.precision(name) for row in self.rows)] for name in names]
        rows.append(["mean", *(row.mean("mAP") for row in self.rows)])
        return Table(f"{self.caption}: average precision, per cent", ["", *(row.name for row in self.rows)], rows)

    def _localization(self) -> Table:
        first = self.rows[0]
        near = f"within {first.results[0]['localization']['tolerance']}"
        rows = []
        for row in self.rows:
            shares = (row.keypoint, f"{row.keypoint} {near}", self.peak, "energy", "empty")
            rows.append([row.name, *map(row.localization, shares), row.strength()])
        centre, uniform = (list(map(first.localization, (name, f"{name} {near}"))) for name in ("centre", "uniform"))
        rows.append(["chance: centre", *centre, "–", "–", "–", "–"])
        rows.append(["chance: uniform", *uniform, uniform[0], uniform[0], "–", "–"])
        columns = ["", "own keypoint in a box", f"{near} px", "map's arg-max in a box", "map's energy in boxes"]
        columns += ["empty maps", "strongest feature"]
        return Table(f"{self.caption}: object-awareness, per cent of (image, class) pairs", columns, rows)

    def _cost(self) -> Table:
        rows = [
            [row.name, row.used("training_seconds", 60), row.used("evaluation_seconds", 60), row.used("training_gib")]
            for row in self.rows
        ]
        columns = ["", "training, min", "evaluation, min", "peak memory, GiB"]
        return Table(f"{self.caption}: time and resident memory of a run", columns, rows)

    def bars(self) -> "Figure":
        """The mAP of every row, a bar for each seed."""
        values = [[result["means"]["mAP"] for result in row.results] for row in self.rows]
        labels = [f"run {number}" for number in range(1, len(values[0]) + 1)]
        return bar_chart(f"{self.caption}: mAP, %", labels, [row.name for row in self.rows], values)

    def curves(self) -> "Figure":
        """Learning curves, averaged over the runs of a row."""
        charts = {title: [_curve(row, kind, name) for row in self.rows] for kind, name, title in CURVES}
        return line_charts(self.caption, "epoch", charts)


def _compared(difference: Difference | None) -> list[str | Number]:
    if difference is None:
        return ["–", "–", "–"]
    low, high = (Number(100 * end, signed=True) for end in (difference.interval.low, difference.interval.high))
    return [Number(100 * difference.difference, signed=True), f"{low} … {high}", Number(difference.p_value, decimals=3)]


def _curve(row: CompletedRuns, kind: str, name: str) -> Line:
    rows = [[float(entry.get(name, "nan")) for entry in history[kind]] for history in row.histories]
    return Line(row.name, epochs_of(row.histories[0], kind), np.mean(rows, axis=0).tolist())


def write_study(folder: Path, title: str, sections: list[TableSection]) -> list[Path]:
    """Write every section's tables (Markdown, CSV, LaTeX) and pictures, and one page with all of them.

    Returns:
        the page and the pictures.
    """
    page = [f"# {title}\n", *_origin(sections)]
    pictures = []
    for section in sections:
        page.append(f"## {section.caption}\n")
        for suffix, table in section.tables().items():
            table.write(folder / f"{section.name}{suffix}")
            page.append(f"{table.caption}.\n\n{table.markdown()}")
        drawings: dict[str, Callable[[], Figure]] = {"bars": section.bars, "curves": section.curves}
        for suffix, draw in drawings.items():
            pictures.append(folder / f"{section.name}_{suffix}.png")
            write_picture(pictures[-1], draw())
            page.append(f"![{section.caption}, {suffix}]({pictures[-1].name})\n")
    write_text(folder / "tables.md", "\n".join(page))
    return [folder / "tables.md", *pictures]


def _origin(sections: list[TableSection]) -> list[str]:
    """What all figures were made with, in lines of the page."""
    made = provenance()
    result = sections[0].rows[0].results[0]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return [
        f"`{made['command']}`\n",
        f"Runs of each row: {len(sections[0].rows[0].results)}. Evaluated on the {result['images']:,} images of "
        f"{result['split']}; chance {result['chance']:.2f} mAP. Where a row has several runs, figures are mean ± "
        "standard deviation. The best epoch is chosen on the images that it is evaluated on, as in the official code; "
        '"last epoch" is free of that choice. 95 % and p: paired bootstrap over images.\n',
        f"Commit {made['commit']}; {versions}.\n",
    ]
