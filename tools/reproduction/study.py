"""Tables and charts of completed runs: means over seeds, differences with their intervals, learning curves."""

import math
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.metrics.bootstrap import paired_bootstrap
from tools.metrics.multilabel import binary_labels
from tools.metrics.scores import read_scores
from tools.metrics.significance import holm
from tools.pictures.charts import MOST_LINES, Line, bar_chart, line_charts
from tools.pictures.figure import write_picture
from tools.reproduction.series import Experiment
from tools.reproduction.tables import Number, Table
from tools.runs.folder import History, best_validation, epochs_of, numbers, read_histories, values_of
from tools.system.errors import UserError
from tools.system.files import provenance, read_object, write_text
from tools.system.text_table import markdown_cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARG_MAX = "cMax"  # the keypoints of the localization that are the arg-max of a class's map
CURVES = (
    ("validation", "map", "validation mAP, %"),
    ("train", "class_loss", "classification loss (class_loss)"),
    ("train", "p_class_loss", "puzzle classification loss (p_class_loss)"),
    ("train", "re_loss", "reconstruction loss (re_loss)"),
    ("validation", "map_scale", "strongest feature of a present class (map_scale)"),
)


@dataclass(frozen=True)
class CompletedRuns:
    """A row of a study: its runs, one per seed."""

    name: str
    keypoints: str  # the row's own, in the localization
    results: list[dict[str, Any]]  # what the evaluations wrote
    class_names: list[str]
    scores: np.ndarray  # [runs, N, V]
    labels: np.ndarray  # [N, V], see `tools.data.annotations`
    histories: list[History]
    usage: list[dict[str, float]]  # see `Experiment.usage`

    @classmethod
    def read(cls, name: str, keypoints: str, runs: list[Experiment]) -> "CompletedRuns":
        """Read the files of finished runs; raise `UserError` if they do not belong together."""
        scored = [read_scores(run.evaluated(".npz")) for run in runs]
        first = scored[0]
        if any(other.ids != first.ids or other.class_names != first.class_names for other in scored):
            raise UserError(f"the runs of {name} were evaluated on different images or classes: choose another --out")
        results = [_read_result(run.evaluated(".json")) for run in runs]
        scores = np.stack([one.scores for one in scored])
        histories = [read_histories(run.files, [run.tag])[0] for run in runs]
        usage = [run.usage() for run in runs]
        return cls(name, keypoints, results, first.class_names, scores, first.labels, histories, usage)

    def values(self, *keys: str) -> list[float]:
        """Return the number that each result has under nested keys; NaN where it is missing."""
        return numbers(reduce(lambda part, key: part.get(key), keys, result) for result in self.results)

    def mean(self, *keys: str) -> Number:
        return Number.of(self.values(*keys))

    def used(self, name: str, unit: float) -> Number:
        """Return a value of the usage, divided by `unit`, mean over the runs."""
        return Number(sum(usage.get(name, math.nan) for usage in self.usage) / len(self.usage) / unit, decimals=1)

    def epochs(self) -> list[str | Number]:
        """Return the mAP of the last epoch, %, the number of the best epoch, and the optimism of choosing it.

        Optimism: the best epoch's mAP on the evaluated images, minus that of the epoch that was chosen on images apart;
        NaN without `--select_split`.
        """
        maps = [values_of(history, "validation", "map") for history in self.histories]
        best = [best_validation(history, self.name) for history in self.histories]
        number = Number(sum(row["epoch"] for row in best) / len(best), decimals=0 if len(best) == 1 else 1)
        # fmax skips NaN, the mAP of a validation without any positive.
        highest = np.array([np.fmax.reduce(of_run) for of_run in maps])
        apart = numbers(row.get("map") if "select_map" in row else None for row in best)
        return [Number.of([of_run[-1] for of_run in maps]), number, Number.of(highest - apart)]

    def curves(self, kind: str, name: str) -> list[Line]:
        """Return a learning curve of each run."""
        return [Line(self.name, epochs_of(one, kind), values_of(one, kind, name)) for one in self.histories]


def _read_result(path: Path) -> dict[str, Any]:
    result = read_object(path)
    if "localisation" in result:  # the key's spelling in earlier results
        result["localization"] = result.pop("localisation")
    if "localization" not in result:
        raise UserError(f"{path} lacks the localization: delete it, and the run is evaluated again")
    means, precisions, localization = (result.get(name) for name in ("means", "average_precision", "localization"))
    parts = (means, precisions, localization, isinstance(localization, dict) and localization.get("over_pairs"))
    if not all(isinstance(part, dict) for part in parts) or not {"mAP", "mAP_VOC2010"} <= means.keys():
        raise UserError(f"{path} is not what an evaluation writes: delete it, and the run is evaluated again")
    return result


@dataclass(frozen=True)
class TableSection:
    """The tables and charts of one comparison of rows with the first of them; `name`: of its files."""

    name: str
    caption: str
    rows: list[CompletedRuns]

    def tables(self) -> dict[str, Table]:
        """Return the tables by suffix of their file names."""
        tables = {"": self._means(), "_per_class": self._per_class()}
        return {**tables, "_localization": self._localization(), "_cost": self._cost()}

    def _means(self) -> Table:
        base, *others = self.rows
        labels, counted = binary_labels(base.labels)
        found = [paired_bootstrap(base.scores, row.scores, labels, counted) for row in others]
        corrected = holm(np.array([one.p_value for one in found]))
        differences = [["–"] * 4]
        for pair, p_value in zip(found, corrected, strict=True):
            points = (pair.difference, pair.interval.low, pair.interval.high)
            difference, low, high = (Number(100 * value, signed=True) for value in points)
            p_values = [Number(value, decimals=3) for value in (pair.p_value, p_value)]
            differences.append([difference, f"{low} … {high}", *p_values])
        rows = []
        for row, difference in zip(self.rows, differences, strict=True):
            means = [row.mean("means", name) for name in ("mAP", "mAP_VOC2010")]
            rows.append([row.name, *means, *row.epochs(), *difference])
        columns = ["", "mAP", "VOC 2010", "last epoch", "best epoch", "optimism", f"mAP − {base.name}", "95 %", "p"]
        return Table(f"{self.caption}: mean average precision, %", [*columns, "p (Holm)"], rows)

    def _per_class(self) -> Table:
        rows = [
            [name, *(row.mean("average_precision", name) for row in self.rows)] for name in self.rows[0].class_names
        ]
        rows.append(["mean", *(row.mean("means", "mAP") for row in self.rows)])
        return Table(f"{self.caption}: average precision, %", ["", *(row.name for row in self.rows)], rows)

    def _localization(self) -> Table:
        def over_pairs(row: CompletedRuns, *columns: str) -> list[Number]:
            return [row.mean("localization", "over_pairs", column) for column in columns]

        first = self.rows[0]
        near = f"within {first.results[0]['localization'].get('tolerance')}"
        rows = []
        for row in self.rows:
            shares = over_pairs(row, row.keypoints, f"{row.keypoints} {near}", ARG_MAX, "energy", "empty")
            rows.append([row.name, *shares, row.mean("localization", "strength")])
        uniform = over_pairs(first, "uniform", f"uniform {near}")
        rows.append(["chance: centre", *over_pairs(first, "centre", f"centre {near}"), "–", "–", "–", "–"])
        rows.append(["chance: uniform", *uniform, uniform[0], uniform[0], "–", "–"])
        columns = ["", "own keypoint in a box", f"{near} px", "map's arg-max in a box", "map's energy in boxes"]
        columns += ["empty maps", "strongest feature"]
        return Table(f"{self.caption}: object-awareness, % of (image, class) pairs", columns, rows)

    def _cost(self) -> Table:
        units = {"training_seconds": 60, "evaluation_seconds": 60, "training_gib": 1}
        rows = [[row.name, *(row.used(name, unit) for name, unit in units.items())] for row in self.rows]
        columns = ["", "training, min", "evaluation, min", "peak memory, GiB"]
        return Table(f"{self.caption}: time and resident memory of a run", columns, rows)

    def charts(self) -> dict[str, "Figure"]:
        """Return the pictures by suffix of their file names."""
        runs = len(self.rows[0].results)
        labels, names = [f"mean of {runs} runs" if runs > 1 else "mAP"] * runs, [row.name for row in self.rows]
        shown = labels, names, [row.values("means", "mAP") for row in self.rows]
        chance = [row.values("chance")[0] for row in self.rows]
        pictures = {"bars": bar_chart(f"{self.caption}: mAP, %", *shown, chance)}
        for start in range(0, len(self.rows), MOST_LINES):  # more curves in one chart could not be told apart
            number = f"_{start // MOST_LINES + 1}" if start else ""
            rows = self.rows[start : start + MOST_LINES]
            lines = {title: [line for row in rows for line in row.curves(kind, name)] for kind, name, title in CURVES}
            pictures[f"curves{number}"] = line_charts(self.caption, "epoch", lines)
        return pictures


def write_study(folder: Path, title: str, sections: list[TableSection]) -> list[Path]:
    """Write all tables (Markdown, CSV, LaTeX), pictures, and a page that shows them; return the page and pictures."""
    page = [f"# {title}\n", *_origin(sections)]
    pictures = []
    for section in sections:
        page.append(f"## {markdown_cell(section.caption)}\n")
        for suffix, table in section.tables().items():
            table.write(folder / f"{section.name}{suffix}")
            page.append(f"{markdown_cell(table.caption)}.\n\n{table.markdown()}")
        for suffix, picture in section.charts().items():
            pictures.append(folder / f"{section.name}_{suffix}{picture.suffix}")
            write_picture(pictures[-1], picture)
            page.append(f"![{section.caption}, {suffix}]({pictures[-1].name})\n")
    write_text(folder / "tables.md", "\n".join(page))
    return [folder / "tables.md", *pictures]


def _origin(sections: list[TableSection]) -> list[str]:
    made, row = provenance(), sections[0].rows[0]
    results = row.results
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    chosen = "the images that it is evaluated on, as in the official code"
    if "select_map" in row.histories[0]["validation"][-1]:
        chosen = "images apart from those that it is evaluated on; optimism: what choosing it on these would add"
    return [
        f"`{made['command']}`\n",
        f"Runs per row: {len(results)}. Evaluated on the {results[0]['images']:,} images of {results[0]['split']}; "
        f"chance {results[0]['chance']:.2f} mAP. Where a row has several runs, values are mean ± standard deviation. "
        f"The best epoch is chosen on {chosen}; "
        '"last epoch" is free of that choice. 95 % and p: over images and runs; p (Holm): over all rows.\n',
        f"Commit {made['commit']}; {versions}.\n",
    ]
