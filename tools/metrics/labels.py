"""Which classes occur together, which are taken for each other, and which labels the scores contradict.

A network agrees with wrong labels that it was trained on, so the scores should be those of images apart from training:
a validation split, or the held-out parts of several folds.
"""

from typing import TYPE_CHECKING

import numpy as np

from tools.metrics.reports import shown
from tools.metrics.scores import Scores
from tools.pictures.charts import matrix_charts
from tools.system.errors import first_few
from tools.system.text_table import csv_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LISTED = 5  # of each kind in the text
TOGETHER = "% of the row's images that show the column's"


def co_occurrence(labels: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how often classes occur together, both `[V, V]`, from boolean `[N, V]`.

    The first is the number of images that show both classes, and on the diagonal that of the class. The second is, for
    row v and column w, the share of the images of v that show w, among those that count for w; NaN without one.

    >>> counts, shares = co_occurrence(np.array([[True, True], [True, False]]), np.ones((2, 2), bool))
    >>> counts.tolist(), shares.tolist()
    ([[2, 1], [1, 1]], [[1.0, 0.5], [1.0, 1.0]])
    """
    present = (labels & counted).astype(np.float64)
    both, images = present.T @ present, present.T @ counted
    return both.astype(int), np.where(images > 0, both / np.maximum(images, 1), np.nan)


def confusion(predicted: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return in how many images class v is present but not predicted while class w is absent but predicted.

    int `[V, V]`, row v and column w, from boolean `[N, V]`; pairs that do not count are neither. An image of several
    such v and w counts once for each of their combinations. The diagonal is 0.

    >>> confusion(np.array([[False, True]]), np.array([[True, False]]), np.ones((1, 2), bool)).tolist()
    [[0, 1], [0, 0]]
    """
    missed, wrong = labels & ~predicted & counted, ~labels & predicted & counted
    return (missed.T.astype(np.float64) @ wrong).astype(int)


def suspicious_labels(
    scores: np.ndarray, labels: np.ndarray, counted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, columns and thresholds `[S]` of the pairs whose label the scores contradict, the clearest first.

    The rule of confident learning for each class: its two thresholds are the mean score of the images labeled present
    and of those labeled absent. An absent label is suspicious if the score reaches the first, and a present one if it
    is at most the second; the margin to this threshold ranks them. A class whose first threshold is not above the
    second, or that lacks one of them, has no suspicious label: its scores say nothing. Arrays are `[N, V]`: scores in
    0…1, labels and counted boolean.

    Reference: Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 2021.
    """
    sides = (labels & counted, ~labels & counted)
    high, low = (np.where(side.any(0), (scores * side).sum(0) / np.maximum(side.sum(0), 1), np.nan) for side in sides)
    margins = np.where(labels, low - scores, scores - high)
    rows, columns = np.nonzero((margins >= 0) & counted & (high > low))
    order = np.argsort(-margins[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    return rows, columns, np.where(labels[rows, columns], low[columns], high[columns])


def suspicious_table(scored: Scores, labels: np.ndarray, counted: np.ndarray) -> list[list]:
    """Return the names of columns, and a row for each of `suspicious_labels`."""
    scores, rows = scored.probabilities, [["image", "class", "label", "score", "threshold"]]
    for row, v, threshold in zip(*suspicious_labels(scores, labels, counted), strict=True):
        label = "present" if labels[row, v] else "absent"
        rows.append([scored.ids[row], scored.class_names[v], label, float(scores[row, v]), float(threshold)])
    return rows


def label_report(
    scored: Scores, labels: np.ndarray, counted: np.ndarray, predicted: np.ndarray
) -> tuple[str, str, str, "Figure"]:
    """Return what to read, CSV of the suspicious labels and of all pairs of classes, and a figure of the latter."""
    names = scored.class_names
    both, shares = co_occurrence(labels, counted)
    confused = confusion(predicted, labels, counted)
    columns, *found = suspicious_table(scored, labels, counted)
    suspicious = [(*texts, f"{score:.4f}", f"{threshold:.4f}") for *texts, score, threshold in found]
    pairs = [("class", "other", "images_of_both", "percent_of_class", "missed_while_other_predicted")]
    others = ~np.eye(len(names), dtype=bool)
    for v, w in np.argwhere(others):
        pairs.append((names[v], names[w], both[v, w], shown(100 * shares[v, w], 4, missing=""), confused[v, w]))

    def most(values: np.ndarray, form: str) -> str:
        order = sorted(np.argwhere(others & (values > 0)).tolist(), key=lambda pair: -values[tuple(pair)])
        listed = [form.format(names[v], names[w], values[v, w]) for v, w in order[:LISTED]]
        return ", ".join(listed) or "none"

    listed = [f"{image} {name} {label} ({score})" for image, name, label, score, _ in suspicious]
    lines = [f"suspicious labels: {len(listed):,} of {counted.sum():,} labels"]
    lines[0] += f": {first_few(listed, LISTED)}" if listed else ""
    lines.append(f"classes that occur together: {most(100 * shares, '{1} in {2:.0f} % of {0}')}")
    lines.append(f"missed while another is predicted: {most(confused, '{0} for {1} ({2})')}")
    charts = {TOGETHER: 100 * shares, "images: row's class missed, column's predicted": confused.astype(float)}
    figure = matrix_charts("Classes that occur together or are confused", names, charts)
    return "\n".join(lines), csv_text([columns, *suspicious]), csv_text(pairs), figure
