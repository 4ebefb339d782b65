"""Average precision of multi-label scores, in the three ways that the field computes it.

Each function takes `counted`, which leaves out (image, class) pairs: the devkit's rule for classes that an image shows
only as difficult objects. The three differ by whole points on the same scores, so report a number with its definition.
"""

import numpy as np
from sklearn.metrics import average_precision_score


def average_precisions(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Return the average precision of each class, not interpolated (scikit-learn's; the official code's metric).

    AP = Σ_n (R_n − R_{n−1}) · P_n over the distinct scores in decreasing order, where P_n and R_n are precision and
    recall of all images that score at least the n-th.

    Args:
        scores: `[N, V]`, higher is more likely.
        labels: multi-hot `[N, V]`.
        counted: boolean `[N, V]`, which pairs count; None counts all.

    Returns:
        `[V]` in 0…1; NaN for a class without a positive.

    Raises:
        ValueError: the shapes differ, or a score is not finite (its row is named).

    >>> average_precisions(np.array([[0.9], [0.8], [0.8], [0.1]]), np.array([[1], [0], [1], [0]]))
    array([0.83333333])
    """
    labels, counted = _checked(scores, labels, counted)
    return np.array(
        [
            average_precision_score(label[use], score[use]) if label.any() else np.nan
            for score, label, use in zip(scores.T, labels.T, counted.T, strict=True)
        ]
    )


def voc2010_average_precisions(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Return the average precisions of the VOC devkit since 2010, which are the test server's.

    The area under precision as a function of recall, after each precision has been raised to the highest at the same
    or a greater recall (monotone envelope), over all points. Images are ranked one by one, as in the devkit: equal
    scores keep the order of the rows.

    Reference: Everingham and Winn, The PASCAL VOC 2012 Challenge Development Kit.

    Args, returns and raises: see `average_precisions`.

    >>> voc2010_average_precisions(np.array([[0.9], [0.8], [0.8], [0.1]]), np.array([[1], [0], [1], [0]]))
    array([0.83333333])
    """
    labels, counted = _checked(scores, labels, counted)
    true, envelope = _true_and_envelope(scores, labels, counted)
    steps = np.diff(true, axis=0, prepend=0)
    positives = labels.sum(0)
    return np.where(positives > 0, (steps * envelope).sum(0) / np.maximum(positives, 1), np.nan)


def voc2007_average_precisions(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Return the average precisions of the VOC devkit until 2009: 11 points.

    The mean over the recalls 0, 0.1, …, 1 of the highest precision at that recall or a greater one, with the ranks of
    `voc2010_average_precisions`. Recalls are compared as integers, so that rounding loses no point.

    Reference: Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010.

    Args, returns and raises: see `average_precisions`.

    >>> voc2007_average_precisions(np.array([[0.9], [0.8], [0.8], [0.1]]), np.array([[1], [0], [1], [0]]))
    array([0.84848485])
    """
    labels, counted = _checked(scores, labels, counted)
    true, envelope = _true_and_envelope(scores, labels, counted)
    positives = labels.sum(0)
    columns = np.arange(labels.shape[1])
    total = np.zeros(labels.shape[1])
    for tenth in range(11):
        first = (10 * true >= tenth * positives).argmax(0)  # exists, because `true` rises to `positives`
        total += envelope[first, columns]
    return np.where(positives > 0, total / 11, np.nan)


def mean_over_classes(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN (classes with a positive); NaN if all are."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


def mean_average_precision(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> float:
    """Return the mean of `average_precisions` over the classes with a positive; NaN if there is none."""
    return mean_over_classes(average_precisions(scores, labels, counted))


def _checked(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of the counted pairs, and which pairs count, both boolean `[N, V]`."""
    counted = np.ones(labels.shape, bool) if counted is None else counted
    if not scores.shape == labels.shape == counted.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must both be [images, classes]")
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(broken):
        raise ValueError(f"the scores of {len(broken)} images are not finite, first in row {broken[0]}")
    return labels.astype(bool) & counted, counted


def _true_and_envelope(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return true positives among the n best images of each class, and the highest precision from n on: `[N, V]`."""
    order = np.argsort(-scores, axis=0, kind="stable")
    true = np.take_along_axis(labels, order, 0).cumsum(0)
    retrieved = np.take_along_axis(counted, order, 0).cumsum(0)
    precision = true / np.maximum(retrieved, 1)
    return true, np.maximum.accumulate(precision[::-1])[::-1]
