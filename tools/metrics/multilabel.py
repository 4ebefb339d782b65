"""Precision, recall and F1 of multi-label predictions, and every metric of an evaluation in one table."""

from dataclasses import dataclass, field

import numpy as np

from tools.metrics.average_precision import (
    average_precisions,
    mean_over_classes,
    voc2007_average_precisions,
    voc2010_average_precisions,
)

DIFFICULT = ("positive", "negative", "ignore")


TOP = 3


def labels_of(presence: np.ndarray, difficult: str = "positive") -> tuple[np.ndarray, np.ndarray]:
    """Labels, and which of them count.

    Args:
        presence: `[N, V]` as in the devkit's lists of one class: 1 present, 0 only as difficult objects, −1 absent.
        difficult: what a 0 is: "positive" (the official code), "negative", or "ignore" (the devkit and the server:
            the image does not count for that class).

    Returns:
        multi-hot labels and `counted`, both boolean `[N, V]`.
    """
    if difficult not in DIFFICULT:
        raise ValueError(f"difficult '{difficult}' is none of {', '.join(DIFFICULT)}")
    labels = presence >= 0 if difficult == "positive" else presence > 0
    counted = presence != 0 if difficult == "ignore" else np.ones(presence.shape, bool)
    return labels, counted


def above(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Predictions `[N, V]`: what scores more than the threshold."""
    return scores > threshold


def top(scores: np.ndarray, k: int = TOP) -> np.ndarray:
    """Predictions `[N, V]`: each image's k highest scores, whatever they are; of equal ones the first classes."""
    chosen = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    predicted = np.zeros(scores.shape, bool)
    np.put_along_axis(predicted, chosen, True, 1)
    return predicted


@dataclass(frozen=True)
class PrecisionRecall:
    """How predictions and labels agree.

    Attributes:
        precision: `[V]`, TP_v / predicted_v; 0 for a class that is never predicted.
        recall: `[V]`, TP_v / positives_v. Like precision, NaN for a class without a positive.
        CP, CR: means of precision and recall over the classes with a positive.
        CF1: 2 · CP · CR / (CP + CR).
        OP, OR: Σ_v TP_v / Σ_v predicted_v and Σ_v TP_v / Σ_v positives_v, over all classes.
        OF1: 2 · OP · OR / (OP + OR).
    """

    precision: np.ndarray
    recall: np.ndarray
    CP: float
    CR: float
    CF1: float
    OP: float
    OR: float
    OF1: float


def precision_recall(predicted: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> PrecisionRecall:
    """CP, CR, CF1, OP, OR and OF1 (the field's names), and precision and recall of each class.

    Args:
        predicted, labels: boolean `[N, V]`.
        counted: boolean `[N, V]`, which pairs count; None counts all.
    """
    if counted is not None:
        predicted, labels = predicted & counted, labels & counted
    true, found, positives = ((predicted & labels).sum(0), predicted.sum(0), labels.sum(0))
    precision = np.where(positives > 0, true / np.maximum(found, 1), np.nan)
    recall = np.where(positives > 0, true / np.maximum(positives, 1), np.nan)
    cp, cr = mean_over_classes(precision), mean_over_classes(recall)
    op, orc = true.sum() / max(found.sum(), 1), true.sum() / max(positives.sum(), 1)
    return PrecisionRecall(precision, recall, cp, cr, f1(cp, cr), float(op), float(orc), f1(op, orc))


def f1(precision: float, recall: float) -> float:
    """Harmonic mean of precision and recall; 0 where both are 0."""
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


@dataclass(frozen=True)
class Metrics:
    """Everything that scores and labels give, in per cent.

    Attributes:
        per_class: by name of the metric, `[V]`, NaN for a class without a positive; and the counts `positives` and
            `images` (those that count).
        means: by name of the metric, one number.
    """

    per_class: dict[str, np.ndarray] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)


def all_metrics(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray, threshold: float = 0.5) -> Metrics:
    """Three average precisions, and precision, recall and F1 at the threshold and for the top 3.

    `chance` is the mean share of positives: the average precision to expect of scores that ignore the image.

    Args:
        scores: `[N, V]` in 0…1; labels, counted: boolean `[N, V]`, see `labels_of`.

    Raises:
        ValueError: see `average_precisions`.
    """
    labels = labels & counted
    averages = {
        "AP": average_precisions(scores, labels, counted),
        "AP_VOC2010": voc2010_average_precisions(scores, labels, counted),
        "AP_VOC2007": voc2007_average_precisions(scores, labels, counted),
    }
    share = np.where(labels.any(0), labels.sum(0) / np.maximum(counted.sum(0), 1), np.nan)
    per_class = {"positives": labels.sum(0), "images": counted.sum(0), "chance": 100 * share}
    per_class |= {name: 100 * values for name, values in averages.items()}
    means = {"chance": 100 * mean_over_classes(share)}
    means |= {f"m{name}": 100 * mean_over_classes(values) for name, values in averages.items()}
    for suffix, predicted in (("", above(scores, threshold)), (f"_top{TOP}", top(scores))):
        found = precision_recall(predicted, labels, counted)
        per_class |= {f"precision{suffix}": 100 * found.precision, f"recall{suffix}": 100 * found.recall}
        means |= {f"{name}{suffix}": 100 * getattr(found, name) for name in ("CP", "CR", "CF1", "OP", "OR", "OF1")}
    return Metrics(per_class, means)
