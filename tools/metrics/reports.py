"""Tables of an evaluation and of predictions: text, CSV and JSON; and precision–recall curves."""

import json
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tools.metrics.average_precision import DEFINITIONS, average_precisions, mean_over_classes
from tools.metrics.bootstrap import Interval
from tools.metrics.multilabel import MEANS, TOP, Metrics
from tools.pictures.charts import MOST_CURVES, Line, line_charts
from tools.pictures.figure import write_picture
from tools.system.files import check_writable, provenance, recorded_in_json, result_path, write_json, write_text
from tools.system.text_table import csv_text, fixed_width_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DECIMALS = 4  # of values in % in the CSV
COLUMNS = ("image", "class", "score", "keypoint_row", "keypoint_column")  # of a table of predictions
Scored = tuple[np.ndarray, np.ndarray, np.ndarray]  # scores, boolean labels and which of them count, all `[N, V]`
# The mean of each column of an evaluation.
MEAN_OF = {**{name: f"m{name}" for name in DEFINITIONS}, "chance": "chance"}
for _suffix in ("", f"_top{TOP}"):
    MEAN_OF |= {f"precision{_suffix}": f"CP{_suffix}", f"recall{_suffix}": f"CR{_suffix}"}


def text_report(class_names: list[str], metrics: Metrics, interval: Interval | None, decision: str) -> str:
    """Return the metrics to read: a row for each class, their means, the interval, and the F1 scores.

    `decision` says by what the classes of precision and recall were predicted.
    """
    columns, means = metrics.per_class, metrics.means
    names = (*DEFINITIONS, "precision", "recall", "positives", "chance")
    rows = [("class", *(column.removeprefix("AP_") for column in names))]
    rows += [(name, *(shown(columns[column][row]) for column in names)) for row, name in enumerate(class_names)]
    averages = {column: means[name] for column, name in MEAN_OF.items()} | {"positives": columns["positives"].sum()}
    rows.append(("mean (mAP)", *(shown(averages[column]) for column in names)))
    lines = [fixed_width_table(rows, widths=(15, 9, 9, 9, 9, 9, 10, 8))]
    if interval:
        lines.append(f"95 % interval over images: mAP {interval}")
    for suffix, what in (("", decision), (f"_top{TOP}", f"top {TOP}")):
        lines.append(f"{what:18s}" + "  ".join(f"{name} {shown(means[name + suffix])}" for name in MEANS))
    return "\n".join(lines)


def shown(value: float, decimals: int = 2, missing: str = "–") -> str:
    """Return a count as it is, any other number rounded, and NaN as `missing`."""
    if math.isnan(value):
        return missing
    return str(value) if isinstance(value, np.integer) else f"{value:.{decimals}f}"


def metrics_csv(class_names: list[str], metrics: Metrics) -> str:
    """Return all metrics as CSV, see `class_csv`; the last row's precision and recall are CP and CR."""
    means = {column: metrics.means[name] for column, name in MEAN_OF.items()}
    return class_csv(class_names, metrics.per_class, means)


def class_csv(class_names: list[str], columns: dict[str, np.ndarray], means: dict[str, float]) -> str:
    """Return CSV with a row for each class and one of means, by column; a cell without a value is empty."""
    rows = [[name, *(values[row] for values in columns.values())] for row, name in enumerate(class_names)]
    rows.append(["mean", *(means.get(name, math.nan) for name in columns)])
    cells = [[name, *(shown(value, DECIMALS, missing="") for value in values)] for name, *values in rows]
    return csv_text([["class", *columns], *cells])


def by_class(class_names: list[str], columns: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return the values of columns `[V]` by class and column."""
    return {name: {column: values[row] for column, values in columns.items()} for row, name in enumerate(class_names)}


def free_base(base: Path, made_with: dict[str, Any], out: Path | None = None) -> Path:
    """Return where result files go, without suffix: to `out`, or not over those whose JSON file says other settings.

    A UserError: nothing can be written there; called before results are computed, it costs none.
    """
    if out is None:
        record = result_path(base.with_name(f"{base.name}.json"), made_with, partial(recorded_in_json, key="made_with"))
        out = record.with_suffix("")
    check_writable(out, ".json")
    return out


def write_results(
    base: Path, text: str, tables: dict[str, str], result: dict[str, Any], figures: dict[str, "Figure"] | None = None
) -> list[str]:
    """Write `base`.txt and .json, `base`SUFFIX.csv and .png of `tables` and `figures` by SUFFIX; return what to print.

    Figures for print are .pdf. The command is added to text and JSON. `result` may hold arrays; what is not finite
    becomes null.
    """
    made = provenance()
    contents = {".txt": f"{text}\n\n{made['command']}\n", **{f"{end}.csv": table for end, table in tables.items()}}
    paths = [base.with_name(base.name + suffix) for suffix in (*contents, ".json")]
    for path, content in zip(paths[:-1], contents.values(), strict=True):
        write_text(path, content)
    write_json(paths[-1], json.loads(json.dumps({**result, **made}, default=lambda array: array.tolist())))
    for suffix, figure in (figures or {}).items():
        paths.append(base.with_name(f"{base.name}{suffix}{figure.suffix}"))
        write_picture(paths[-1], figure)
    return [text, *(f"written: {path}" for path in paths)]


def precision_recall_figure(methods: dict[str, Scored], class_names: list[str]) -> "Figure":
    """Draw the curves of each class that has a positive, those of several methods in one chart.

    Of more than `MOST_CURVES` classes, those with the lowest average precision of the first method are drawn.
    """
    from sklearn.metrics import precision_recall_curve

    averages = [100 * average_precisions(*scored) for scored in methods.values()]
    lowest = np.argsort(averages[0])[: min(MOST_CURVES, (~np.isnan(averages[0])).sum())]
    charts: dict[str, list[Line]] = {}
    for v in sorted(lowest):
        lines = charts[f"{class_names[v]} {averages[0][v]:.1f}" if len(methods) == 1 else class_names[v]] = []
        for (name, (scores, labels, counted)), average in zip(methods.items(), averages, strict=True):
            use = counted[:, v]
            precision, recall, _ = precision_recall_curve(labels[use, v], scores[use, v])
            label = f"{name}, mAP {mean_over_classes(average):.1f}" if len(methods) > 1 else ""
            points = [(100 * values[:-1]).tolist() for values in (recall, precision)]  # the last one is not measured
            lines.append(Line(label, *points))
    title = "Precision and recall of each class" + ", and its AP in %" * (len(methods) == 1)
    return line_charts(title, "recall, %", charts, "precision, %")


class Prediction(NamedTuple):
    """A predicted class of an image; its score is in 0…1."""

    name: str
    score: float
    keypoint: tuple[int, int] | None  # (row, column) in pixels of the original image; None without keypoints


def prediction_paths(path: Path) -> tuple[Path, Path]:
    """Return a table's CSV and JSON file; of its name only .csv or .json is a suffix, not the 1 of `run.1`."""
    name = path.stem if path.suffix in (".csv", ".json") else path.name
    return path.with_name(f"{name}.csv"), path.with_name(f"{name}.json")


class PredictionTable:
    """A CSV file with a row for every predicted class, and a JSON file with an entry for every image.

    A context manager: both files are written when it ends without an error, so that readers never see a partial table.
    An image without a predicted class has one row with only its name. `path` is the name of either file, or that
    without suffix; the JSON file says `about` before the images.
    """

    def __init__(self, path: Path, about: dict[str, Any]):
        self.paths = prediction_paths(path)
        self._about = about
        self._rows: list[tuple] = [COLUMNS]
        self._images: list[str] = []

    def __enter__(self) -> "PredictionTable":
        check_writable(self.paths[0])  # an unwritable folder fails now instead of after hours of inference
        return self

    def add(self, image: str, size: tuple[int, int], predictions: list[Prediction], **more: str) -> None:
        """Take in an image's predictions; `size` is (height, width), `more` goes into the JSON file."""
        classes = [{"class": p.name, "score": round(p.score, 6), "keypoint": p.keypoint} for p in predictions]
        entry = {"image": image, "height": size[0], "width": size[1], "classes": classes, **more}
        self._images.append(json.dumps(entry))
        rows = [(image, p.name, f"{p.score:.6f}", *(p.keypoint or ("", ""))) for p in predictions]
        self._rows += rows or [(image, "", "", "", "")]

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None:
            return
        about = [f"\n {json.dumps(name)}: {json.dumps(value)}" for name, value in self._about.items()]
        images = ",".join(f"\n  {entry}" for entry in self._images)
        write_text(self.paths[0], csv_text(self._rows))
        write_text(self.paths[1], "{" + ",".join([*about, f'\n "images": [{images}\n ]']) + "\n}\n")
