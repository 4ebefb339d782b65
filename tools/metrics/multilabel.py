"""Precision, recall and F1 of multi-label predictions, and every metric of an evaluation at once."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tools.metrics.average_precision import DEFINITIONS, mean_over_classes

DIFFICULT = ("positive", "negative", "ignore")
TOP = 3
MEANS = ("CP", "CR", "CF1", "OP", "OR", "OF1")
NAN = float("nan")


def binary_labels(labels: np.ndarray, difficult: str = "positive") -> tuple[np.ndarray, np.ndarray]:
    """Return multi-hot labels and which pairs count, both boolean `[N, V]`; no label is True that does not count.

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


def marked(scores: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return boolean `[N, V]`, True in each row's columns `[N, k]`."""
    predicted = np.zeros(scores.shape, bool)
    np.put_along_axis(predicted, columns, True, 1)
    return predicted


def top(scores: np.ndarray, k: int = TOP) -> np.ndarray:
    """Predict the k classes with the highest scores of each image, boolean `[N, V]`; the first classes win ties.

    >>> top(np.array([[0.1, 0.3, 0.1, 0.2]])).astype(int)
    array([[1, 1, 0, 1]])
    """
    return marked(scores, np.argsort(-scores, axis=1, kind="stable")[:, :k])


@dataclass(frozen=True)
class Counting:
    """How CP, CR, CF1, OP, OR and OF1 are computed: code bases differ in all of it, see `tools.metrics.protocols`."""

    difficult: str = "positive"  # what a class shown only as difficult objects counts as, see `binary_labels`
    threshold: float = 0.5  # a class whose ranked score is at least this one is predicted
    strict: bool = False  # only a higher score is
    three: str | None = None  # a key of `protocols.THREES`; None: there is no top 3
    three_above: bool = True  # of the three, only those that reach the threshold
    only_present: bool = False  # CP and CR are over the classes with a positive
    never_predicted: float = 0.0  # precision of a class that is never predicted
    never_adds: int = 0  # what such a class adds to the number of predictions in OP
    no_positive: float = 0.0  # recall of a class without a positive
    nothing: float = 0.0  # OP if nothing is predicted
    zeros: float = NAN  # F1 if precision and recall are 0
    mean_f1: bool = False  # CF1 is the mean of the classes' F1, not the harmonic mean of CP and CR


OURS = Counting(strict=True, only_present=True, no_positive=NAN, zeros=0.0)


class PrecisionRecall(NamedTuple):
    """How well predictions match labels. By `OURS`, both are NaN for a class without a positive.

    On samples of the images all have a further first axis.
    """

    precision: np.ndarray  # `[V]`: TP_v / predicted_v; 0 for a class that is never predicted
    recall: np.ndarray  # `[V]`: TP_v / positives_v
    CP: np.ndarray  # mean of precision over the classes with a positive
    CR: np.ndarray  # mean of recall over them
    CF1: np.ndarray  # 2 · CP · CR / (CP + CR)
    OP: np.ndarray  # Σ_v TP_v / Σ_v predicted_v, over all classes
    OR: np.ndarray  # Σ_v TP_v / Σ_v positives_v
    OF1: np.ndarray  # 2 · OP · OR / (OP + OR)


def precision_recall(
    predicted: np.ndarray,
    labels: np.ndarray,
    counted: np.ndarray | None = None,
    rule: Counting = OURS,
    drawn: np.ndarray | None = None,
) -> PrecisionRecall:
    """Compute precision, recall and their means from boolean `[N, V]`; `counted` tells which pairs count (None: all).

    `drawn` `[samples, N]` is how often each sample of the images holds each; None: the images as they are.

    Reference: Wang et al., CNN-RNN: A Unified Framework for Multi-label Image Classification, CVPR 2016.

    >>> found = precision_recall(np.array([[True, True]]), np.array([[True, False]]))
    >>> float(found.CP), float(found.OP), float(found.OR)
    (1.0, 0.5, 1.0)
    """
    if counted is not None:
        predicted, labels = predicted & counted, labels & counted
    arrays = (predicted & labels, predicted, labels)
    true, found, positives = (array.sum(0) if drawn is None else drawn @ array.astype(np.float32) for array in arrays)
    precision = np.where(found > 0, true / np.maximum(found, 1), rule.never_predicted)
    recall = np.where(positives > 0, true / np.maximum(positives, 1), rule.no_positive)
    if rule.only_present:
        present = (positives > 0).sum(-1)
        precision = np.where(positives > 0, precision, NAN)
        CP, CR = (np.nansum(values, -1) / np.where(present > 0, present, NAN) for values in (precision, recall))
    else:
        CP, CR = precision.mean(-1), recall.mean(-1)
    predictions, whole = found.sum(-1) + rule.never_adds * (found == 0).sum(-1), positives.sum(-1)
    OP = np.where(predictions > 0, true.sum(-1) / np.maximum(predictions, 1), rule.nothing)
    OR = np.where(whole > 0, true.sum(-1) / np.maximum(whole, 1), NAN)
    CF1 = f1(precision, recall).mean(-1) if rule.mean_f1 else f1(CP, CR, rule.zeros)
    return PrecisionRecall(precision, recall, CP, CR, CF1, OP, OR, f1(OP, OR, rule.zeros))


def f1(precision: np.ndarray, recall: np.ndarray, zeros: float = 0.0) -> np.ndarray:
    """Return the harmonic mean of precision and recall; `zeros` where both are 0."""
    total = precision + recall
    return np.where(total == 0, zeros, 2 * precision * recall / np.where(total == 0, 1, total))


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
    predicted = (scores if probabilities is None else probabilities) > threshold
    for suffix, chosen in (("", predicted), (f"_top{TOP}", top(scores))):
        found = precision_recall(chosen, labels, counted)
        per_class[f"precision{suffix}"] = 100 * found.precision
        per_class[f"recall{suffix}"] = 100 * found.recall
        means |= {f"{name}{suffix}": 100 * float(getattr(found, name)) for name in MEANS}
    return Metrics(per_class, means)
