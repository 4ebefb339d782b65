"""Tables and charts of completed runs: means over seeds, differences with their intervals, learning curves."""

import math
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.metrics.bootstrap import paired_bootstrap
from tools.metrics.multilabel import binary_labels
from tools.metrics.scores import read_scores
from tools.metrics.significance import holm
from tools.pictures.charts import MOST_LINES, bar_chart, further_losses, learning_curves, line_charts
from tools.pictures.figure import write_picture
from tools.reproduction.series import Experiment
from tools.reproduction.tables import Column, Number, Table
from tools.runs.folder import History, best_validation, numbers, read_histories, values_of
from tools.system.errors import UserError
from tools.system.files import provenance, read_object, write_text
from tools.system.text_table import markdown_cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGNIFICANT = 0.05
ARG_MAX = "cMax"  # the keypoints of the localization that are the arg-max of a class's map
CURVES = ("map", "class_loss", "p_class_loss", "re_loss", "map_scale")


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
        return numbers(reduce(lambda part, key: (part or {}).get(key), keys, result) for result in self.results)

    def mean(self, *keys: str) -> Number:
        return Number.of(self.values(*keys))

    def used(self, name: str, unit: float) -> Number:
        """Return a value of the usage, divided by `unit`."""
        return Number.of([usage.get(name, math.nan) / unit for usage in self.usage])

    def epochs(self) -> list[Number]:
        """Return the mAP of the last epoch, %, the number of the best epoch, and the optimism of choosing it.

        Optimism: the best epoch's mAP on the evaluated images, minus that of the epoch that was chosen on images apart;
        NaN without `--select_split`.
        """
        maps = [values_of(history, "validation", "map") for history in self.histories]
        best = [best_validation(history, self.name) for history in self.histories]
        # fmax skips NaN, the mAP of a validation without any positive.
        highest = np.array([np.fmax.reduce(of_run) for of_run in maps])
        apart = numbers(row.get("map") if "select_map" in row else None for row in best)
        last, chosen = [of_run[-1] for of_run in maps], [row["epoch"] for row in best]
        return [Number.of(values) for values in (last, chosen, highest - apart)]


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

    def _table(self, what: str, columns: list[Column], note: str = "", references: tuple[str, ...] = ()) -> Table:
        """Return a table whose caption says of how many seeds the values are, and of which images."""
        first = self.rows[0]
        spread = " ± standard deviation" if columns[0].spread else ""
        seeds = f"mean{spread} of {len(first.results)} seeds" if len(first.results) > 1 else "one seed"
        images = f"evaluated on {len(first.labels):,} images of {first.results[0].get('split')}"
        best = " Best in bold." if any(column.best for column in columns) else ""
        names = [*(row.name for row in self.rows), *references]
        return Table(f"{self.caption}: {what} ({seeds}, {images}).{best}{note}", names, columns, len(references))

    def _means(self) -> Table:
        base, *others = self.rows
        labels, counted = binary_labels(base.labels)
        found = [paired_bootstrap(base.scores, row.scores, labels, counted) for row in others]
        corrected = holm(np.array([one.p_value for one in found]))
        ends = [(100 * one.interval.low, 100 * one.interval.high) for one in found]
        differences = [Number(100 * one.difference, math.nan, *both) for one, both in zip(found, ends, strict=True)]
        significant = frozenset(row for row, p_value in enumerate(corrected, 1) if p_value < SIGNIFICANT)
        last, epoch, optimism = zip(*(row.epochs() for row in self.rows), strict=True)
        columns = [
            Column("mAP", [row.mean("means", "mAP") for row in self.rows], max, marked=significant),
            Column("VOC 2010", [row.mean("means", "mAP_VOC2010") for row in self.rows], max),
            Column("last epoch", last, max),
            Column("best epoch", epoch, form=".1f" if len(base.results) > 1 else ".0f"),
            Column("optimism", optimism),
            Column("difference", [Number(), *differences], form="+.2f"),
            Column("p", [Number(), *(Number(one.p_value) for one in found)], form=".3f"),
            Column("p (Holm)", [Number(), *map(Number, corrected)], form=".3f"),
        ]
        drawn = "images and seeds" if len(base.results) > 1 else "images"
        note = f" Difference from {base.name} with its 95 % interval, and p: paired bootstrap over {drawn}; p (Holm): "
        note += f"over all rows; †: p (Holm) < {SIGNIFICANT}."
        return self._table("mean average precision of the best and of the last epoch, %", columns, note)

    def _per_class(self) -> Table:
        keys = {name: ("average_precision", name) for name in self.rows[0].class_names}
        columns = [
            Column(title, [row.mean(*key) for row in self.rows], max, form=".1f", spread=False)
            for title, key in [*keys.items(), ("mean", ("means", "mAP"))]
        ]
        return self._table("average precision of the best epoch, %", columns)

    def _localization(self) -> Table:
        first = self.rows[0]
        near = f"within {first.results[0]['localization'].get('tolerance')}"
        points = [*self.rows, *(replace(first, keypoints=name) for name in ("centre", "uniform"))]
        pairs, maps = ("localization", "over_pairs"), ("localization", "maps")
        columns = [
            Column("own keypoint in a box", [row.mean(*pairs, row.keypoints) for row in points], max),
            Column(f"{near} px", [row.mean(*pairs, f"{row.keypoints} {near}") for row in points], max),
        ]
        for title, better, own, *chance in (  # where our rows, the centre and uniform chance have it; (): nowhere
            ("map's arg-max in a box", max, (*pairs, ARG_MAX), (), (*pairs, "uniform")),
            ("map's energy in boxes", max, (*pairs, "energy"), (), (*pairs, "uniform")),
            ("empty maps", min, (*pairs, "empty"), (), ()),
            ("MaxBoxAccV2", max, (*maps, "CAM", "MaxBoxAccV2"), (*maps, "centre", "MaxBoxAccV2"), ()),
            ("strongest feature", None, ("localization", "strength"), (), ()),
        ):
            numbers = [row.mean(*own) for row in self.rows] + [first.mean(*path) for path in chance]
            columns.append(Column(title, numbers, better))
        chance = ("chance: centre", "chance: uniform")
        return self._table("object-awareness, % of (image, class) pairs", columns, references=chance)

    def _cost(self) -> Table:
        units = {"training, min": ("training_seconds", 60), "evaluation, min": ("evaluation_seconds", 60)}
        units |= {"peak memory, GiB": ("training_gib", 1)}
        columns = [Column(title, [row.used(*key) for row in self.rows], form=".1f") for title, key in units.items()]
        return self._table("time and resident memory of a run", columns)

    def charts(self) -> dict[str, "Figure"]:
        """Return the pictures by suffix of their file names."""
        runs = len(self.rows[0].results)
        labels, names = [f"mean of {runs} runs" if runs > 1 else "mAP"] * runs, [row.name for row in self.rows]
        shown = labels, names, [row.values("means", "mAP") for row in self.rows]
        chance = [row.values("chance")[0] for row in self.rows]
        pictures = {"bars": bar_chart(f"{self.caption}: mAP, %", *shown, chance)}
        for start in range(0, len(self.rows), MOST_LINES):  # more curves in one chart could not be told apart
            number = f"_{start // MOST_LINES + 1}" if start else ""
            shown = [(row.name, one) for row in self.rows[start : start + MOST_LINES] for one in row.histories]
            values = [*CURVES, *sorted(further_losses(history for _, history in shown))]
            pictures[f"curves{number}"] = line_charts(self.caption, "epoch", learning_curves(shown, values))
        return pictures


def write_study(folder: Path, title: str, sections: list[TableSection]) -> list[str]:
    """Write all tables (Markdown, CSV, LaTeX), pictures, and a page that shows them; return what to print."""
    page = [f"# {title}\n", *_origin(sections)]
    written, shown = [folder / "tables.md"], []
    for section in sections:
        page.append(f"## {markdown_cell(section.caption)}\n")
        tables = section.tables()
        shown += ["", tables[""].caption, tables[""].text()]
        for suffix, table in tables.items():
            table.write(folder / f"{section.name}{suffix}")
            page.append(f"{markdown_cell(table.caption)}\n\n{table.markdown()}")
        for suffix, picture in section.charts().items():
            written.append(folder / f"{section.name}_{suffix}{picture.suffix}")
            write_picture(written[-1], picture)
            page.append(f"![{section.caption}, {suffix}]({written[-1].name})\n")
    write_text(written[0], "\n".join(page))
    return [*(f"written: {path}" for path in written), *shown]


def _origin(sections: list[TableSection]) -> list[str]:
    made, row = provenance(), sections[0].rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    chosen = "the images that it is evaluated on, as in the official code"
    if "select_map" in row.histories[0]["validation"][-1]:
        chosen = "images apart from those that it is evaluated on; optimism: what choosing it on these would add"
    chance = f"Chance is {row.results[0]['chance']:.2f} mAP."
    choice = f"{chance} The best epoch is chosen on {chosen}; the last is free of that choice.\n"
    return [f"`{made['command']}`\n", choice, f"Commit {made['commit']}; {versions}.\n"]
