"""Average precision of multi-label scores, in the three ways that the field computes it.

The three differ by whole points on the same scores, so report a number with its definition. Each function takes scores
`[N, V]` (higher is more likely), multi-hot labels `[N, V]` and boolean `counted` `[N, V]`: False leaves a pair out, as
the devkit does for classes that an image shows only as difficult objects; None counts all pairs.
"""

import numpy as np


def average_precisions(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Return the average precision of each class, not interpolated (scikit-learn's; the official code's metric).

    AP = Σ_n (R_n − R_{n−1}) · P_n over the distinct scores in decreasing order, where P_n and R_n are precision and
    recall of all images that score at least the n-th. `[V]` in 0…1; NaN for a class without a positive.

    Equal scores count as one step, so the order of the images does not matter. The official code takes equal scores in
    the order in which an unstable sort leaves them: its value depends on the list's order where scores are equal.

    Raises:
        ValueError: the shapes differ, or a score is not finite (its row is named).

    >>> average_precisions(np.array([[0.9], [0.8], [0.8], [0.1]]), np.array([[1], [0], [1], [0]]))
    array([0.83333333])
    """
    from sklearn.metrics import average_precision_score  # here, so that --help need not wait for it

    labels, counted = _checked(scores, labels, counted)
    return np.array(
        [
            average_precision_score(label[use], score[use]) if label.any() else np.nan
            for score, label, use in zip(scores.T, labels.T, counted.T, strict=True)
        ]
    )


def voc2010_average_precisions(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Return the average precisions of the VOC devkit since 2010, which are the server's; see `average_precisions`.

    The area under precision as a function of recall, after each precision has been raised to the highest at the same
    or a greater recall (monotone envelope). Images are ranked one by one: equal scores keep the order of the rows.

    Reference: Everingham and Winn, The PASCAL VOC 2012 Challenge Development Kit.
    """
    true, envelope, positives = _envelope(scores, labels, counted)
    area = (np.diff(true, axis=0, prepend=0) * envelope).sum(0)
    return np.where(positives > 0, area / np.maximum(positives, 1), np.nan)


def voc2007_average_precisions(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Return the average precisions of the VOC devkit until 2009: 11 points; see `average_precisions`.

    The mean over the recalls 0, 0.1, …, 1 of the highest precision at that recall or a greater one, with the ranks of
    `voc2010_average_precisions`.

    Reference: Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010.

    >>> voc2007_average_precisions(np.array([[0.9], [0.8], [0.8], [0.1]]), np.array([[1], [0], [1], [0]]))
    array([0.84848485])
    """
    true, envelope, positives = _envelope(scores, labels, counted)
    total = np.zeros(len(positives))
    for tenth in range(11):
        first = (10 * true >= tenth * positives).argmax(0)  # integers: rounding loses no point; `true` reaches them all
        total += envelope[first, np.arange(len(positives))]
    return np.where(positives > 0, total / 11, np.nan)


DEFINITIONS = {
    "AP": average_precisions,
    "AP_VOC2010": voc2010_average_precisions,
    "AP_VOC2007": voc2007_average_precisions,
}


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


def _envelope(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Return true positives among the n best images and the highest precision from n on `[N, V]`; positives `[V]`."""
    labels, counted = _checked(scores, labels, counted)
    order = np.argsort(-scores, axis=0, kind="stable")
    true = np.take_along_axis(labels, order, 0).cumsum(0)
    precision = true / np.maximum(np.take_along_axis(counted, order, 0).cumsum(0), 1)
    return true, np.maximum.accumulate(precision[::-1])[::-1], labels.sum(0)
