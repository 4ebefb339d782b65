"""Precision–recall curves."""

from typing import TYPE_CHECKING

import numpy as np

from tools.metrics.average_precision import average_precisions, mean_over_classes
from tools.pictures.charts import MOST_CURVES, Line, curve_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scored = tuple[np.ndarray, np.ndarray, np.ndarray]  # scores, and boolean labels and which of them count, all `[N, V]`


def precision_recall_figure(methods: dict[str, Scored], class_names: list[str], column: str = "screen") -> "Figure":
    """Draw the curves of each class, those of several methods in one chart; for `column` see `WIDTHS`.

    Classes without a positive have none. Of more than `MOST_CURVES` classes, those with the lowest average precision
    of the first method are drawn.
    """
    from sklearn.metrics import precision_recall_curve

    averages = {name: 100 * average_precisions(*scored) for name, scored in methods.items()}
    first = next(iter(averages.values()))
    order = [v for v in np.argsort(first, kind="stable") if not np.isnan(first[v])]
    charts = {}
    for v in sorted(order[:MOST_CURVES]):
        title = f"{class_names[v]} {first[v]:.1f}" if len(methods) == 1 else class_names[v]
        charts[title] = []
        for name, (scores, labels, counted) in methods.items():
            use = counted[:, v]
            precision, recall, _ = precision_recall_curve(labels[use, v], scores[use, v])
            label = f"{name}, mAP {mean_over_classes(averages[name]):.1f}"
            charts[title].append(Line(label, (100 * recall).tolist(), (100 * precision).tolist()))
    shown = f"the {MOST_CURVES} classes with the lowest AP" if len(order) > MOST_CURVES else "each class"
    about = f"Precision and recall of {shown}" + (", with its AP in %" if len(methods) == 1 else "")
    return curve_grid(about, "recall, %", "precision, %", charts, column=column)
