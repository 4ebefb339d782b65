"""Average precision of multi-label scores, in the three ways that the field computes it.

Each takes `counted`, which leaves (image, class) pairs out: the devkit's rule for classes that an image shows only as
difficult objects. The three differ by whole points on the same scores, so a figure needs its definition beside it.
"""

import numpy as np
from sklearn.metrics import average_precision_score


def average_precisions(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Average precision of each class, not interpolated (scikit-learn's; the official code's metric).

    AP = Σ_n (R_n − R_{n−1}) · P_n over the distinct scores in falling order, with precision P and recall R of what
    scores at least that much.

    Args:
        scores: `[N, V]`, higher is more likely.
        labels: multi-hot `[N, V]`.
        counted: boolean `[N, V]`, which pairs count; None counts all.

    Returns:
        `[V]` in 0…1; NaN for a class without a positive.

    Raises:
        ValueError: arrays of different shapes, or a score that is no number (its row is named).
    """
    labels, counted = _checked(scores, labels, counted)
    return np.array(
        [
            average_precision_score(label[use], score[use]) if label.any() else np.nan
            for score, label, use in zip(scores.T, labels.T, counted.T)
        ]
    )


def voc2010_average_precisions(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Average precision as the VOC devkit computes it since 2010, and the test server does.

    The area under precision as a function of recall after each precision has been raised to the highest at the same or
    a greater recall (monotone envelope), all points. Images are ranked one by one, as the devkit ranks them: equal
    scores stay in the order of the rows.

    Args, returns and raises: see `average_precisions`.
    """
    labels, counted = _checked(scores, labels, counted)
    true, precision = _ranked(scores, labels, counted)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(true, axis=0, prepend=0)
    return _per_positive((steps * envelope).sum(0), labels)


def voc2007_average_precisions(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Average precision as the VOC devkit computed it until 2009: 11 points.

    The mean over the recalls 0, 0.1, … 1 of the highest precision at that recall or a greater one, with the ranks of
    `voc2010_average_precisions`. Recall is compared in whole numbers, so that no point is lost to rounding.

    Args, returns and raises: see `average_precisions`.
    """
    labels, counted = _checked(scores, labels, counted)
    true, precision = _ranked(scores, labels, counted)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    positives = labels.sum(0)
    columns = np.arange(labels.shape[1])
    total = np.zeros(labels.shape[1])
    for tenth in range(11):
        first = (10 * true >= tenth * positives).argmax(0)  # true rises to positives, so there always is one
        total += envelope[first, columns]
    return np.where(positives > 0, total / 11, np.nan)


def mean_over_classes(values: np.ndarray) -> float:
    """Mean of the values that are numbers (the classes with a positive); NaN where there is none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


def mean_average_precision(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> float:
    """Mean of `average_precisions` over the classes that have a positive; NaN where none has."""
    return mean_over_classes(average_precisions(scores, labels, counted))


def _checked(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Labels (of counted pairs only) and counted, both boolean `[N, V]`."""
    counted = np.ones(labels.shape, bool) if counted is None else counted
    if not scores.shape == labels.shape == counted.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must both be [images, classes]")
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(broken):
        raise ValueError(f"the scores of {len(broken)} images are not finite, first in row {broken[0]}")
    return labels.astype(bool) & counted, counted


def _ranked(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True positives and precision among the n best-ranked images of each class, both `[N, V]`."""
    order = np.argsort(-scores, axis=0, kind="stable")
    true = np.take_along_axis(labels, order, 0).cumsum(0)
    retrieved = np.take_along_axis(counted, order, 0).cumsum(0)
    return true, true / np.maximum(retrieved, 1)


def _per_positive(total: np.ndarray, labels: np.ndarray) -> np.ndarray:
    positives = labels.sum(0)
    return np.where(positives > 0, total / np.maximum(positives, 1), np.nan)
