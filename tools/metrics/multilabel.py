"""Precision, recall and F1 of multi-label predictions, and every metric of an evaluation at once."""

from typing import NamedTuple

import numpy as np

from tools.metrics.average_precision import DEFINITIONS, mean_over_classes

DIFFICULT = ("positive", "negative", "ignore")
TOP = 3
MEANS = ("CP", "CR", "CF1", "OP", "OR", "OF1")


def binary_labels(labels: np.ndarray, difficult: str = "positive") -> tuple[np.ndarray, np.ndarray]:
    """Return multi-hot labels and which pairs count, both boolean `[N, V]`.

    Args:
        labels: `[N, V]`, the devkit's: 1 present, 0 only as difficult objects, −1 absent.
        difficult: what a 0 means: "positive" (the official code), "negative", or "ignore" (the devkit and the server:
            the image does not count for that class).

    >>> [array.tolist() for array in binary_labels(np.array([[1, 0, -1]]), "ignore")]
    [[[True, False, False]], [[True, False, True]]]
    """
    if difficult not in DIFFICULT:
        raise ValueError(f"difficult '{difficult}' is not one of {', '.join(DIFFICULT)}")
    positive = labels >= 0 if difficult == "positive" else labels > 0
    counted = labels != 0 if difficult == "ignore" else np.ones(labels.shape, bool)
    return positive, counted


def above(scores: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Predict the classes that score more than the threshold, one or `[V]`; boolean `[N, V]`."""
    return scores > threshold


def top(scores: np.ndarray, k: int = TOP) -> np.ndarray:
    """Predict the k classes with the highest scores of each image, boolean `[N, V]`; the first classes win ties.

    >>> top(np.array([[0.1, 0.3, 0.1, 0.2]])).astype(int)
    array([[1, 1, 0, 1]])
    """
    predicted = np.zeros(scores.shape, bool)
    np.put_along_axis(predicted, np.argsort(-scores, axis=1, kind="stable")[:, :k], True, 1)
    return predicted


class PrecisionRecall(NamedTuple):
    """How well predictions match labels; precision and recall `[V]` are NaN for a class without a positive."""

    precision: np.ndarray  # TP_v / predicted_v; 0 for a class that is never predicted
    recall: np.ndarray  # TP_v / positives_v
    CP: float  # mean of precision over the classes with a positive
    CR: float  # mean of recall over them
    CF1: float  # 2 · CP · CR / (CP + CR)
    OP: float  # Σ_v TP_v / Σ_v predicted_v, over all classes
    OR: float  # Σ_v TP_v / Σ_v positives_v
    OF1: float  # 2 · OP · OR / (OP + OR)


def precision_recall(predicted: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> PrecisionRecall:
    """Compute precision, recall and their means from boolean `[N, V]`; `counted` tells which pairs count (None: all).

    Reference: Wang et al., CNN-RNN: A Unified Framework for Multi-label Image Classification, CVPR 2016.

    >>> found = precision_recall(np.array([[True, True]]), np.array([[True, False]]))
    >>> found.CP, found.OP, found.OR
    (1.0, 0.5, 1.0)
    """
    if counted is not None:
        predicted, labels = predicted & counted, labels & counted
    true, found, positives = (predicted & labels).sum(0), predicted.sum(0), labels.sum(0)
    precision = np.where(positives > 0, true / np.maximum(found, 1), np.nan)
    recall = np.where(positives > 0, true / np.maximum(positives, 1), np.nan)
    by_class = mean_over_classes(precision), mean_over_classes(recall)
    overall = float(true.sum() / max(found.sum(), 1)), float(true.sum() / max(positives.sum(), 1))
    return PrecisionRecall(precision, recall, *by_class, f1(*by_class), *overall, f1(*overall))


def f1(precision: float, recall: float) -> float:
    """Return the harmonic mean of precision and recall; 0 if both are 0."""
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


class Metrics(NamedTuple):
    """Everything that `all_metrics` computes, by name of the metric, in %; `positives` and `images` are counts."""

    per_class: dict[str, np.ndarray]  # `[V]`, NaN for a class without a positive
    means: dict[str, float]


def all_metrics(
    scores: np.ndarray,
    labels: np.ndarray,
    counted: np.ndarray,
    threshold: float | np.ndarray = 0.5,
    probabilities: np.ndarray | None = None,
) -> Metrics:
    """Compute three average precisions, and precision, recall and F1 at the threshold and for the top 3.

    `chance` is the mean share of positives: the expected average precision of scores that ignore the image.

    Scores `[N, V]` rank; probabilities `[N, V]` in 0…1 are compared with the threshold, one or `[V]` (None: the scores
    themselves). Labels and counted are boolean, see `binary_labels`. Errors: see `average_precisions`.
    """
    labels = labels & counted
    share = np.where(labels.any(0), labels.sum(0) / np.maximum(counted.sum(0), 1), np.nan)
    per_class = {"positives": labels.sum(0), "images": counted.sum(0), "chance": 100 * share}
    means = {"chance": 100 * mean_over_classes(share)}
    for name, definition in DEFINITIONS.items():
        values = definition(scores, labels, counted)
        per_class[name] = 100 * values
        means[f"m{name}"] = 100 * mean_over_classes(values)
    probabilities = scores if probabilities is None else probabilities
    for suffix, predicted in (("", above(probabilities, threshold)), (f"_top{TOP}", top(scores))):
        found = precision_recall(predicted, labels, counted)
        per_class[f"precision{suffix}"] = 100 * found.precision
        per_class[f"recall{suffix}"] = 100 * found.recall
        means |= {f"{name}{suffix}": 100 * getattr(found, name) for name in MEANS}
    return Metrics(per_class, means)
