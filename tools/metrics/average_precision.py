"""Average precision of multi-label scores, in the three ways that the field computes it.

The three differ by whole points on the same scores, so report a number with its definition. Each function takes scores
`[N, V]` (higher is more likely), multi-hot labels `[N, V]` and boolean `counted` `[N, V]`: False leaves a pair out, as
the devkit does for classes that an image shows only as difficult objects; None counts all pairs.
"""

from collections.abc import Callable

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
    return _of_classes(lambda ranks, last: precisions_at(last).mean(), scores, labels, counted)


def voc2010_average_precisions(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Return the average precisions of the VOC devkit since 2010, which are the server's; see `average_precisions`.

    The area under precision as a function of recall, after each precision has been raised to the highest at the same
    or a greater recall (monotone envelope). Images are ranked one by one: equal scores keep the order of the rows.

    Reference: Everingham and Winn, The PASCAL VOC 2012 Challenge Development Kit.
    """
    return _of_classes(lambda ranks, last: precisions_at(ranks, envelope=True).mean(), scores, labels, counted)


def voc2007_average_precisions(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Return the average precisions of the VOC devkit until 2009: 11 points; see `average_precisions`.

    The mean over the recalls 0, 0.1, …, 1 of the highest precision at that recall or a greater one, with the ranks of
    `voc2010_average_precisions`.

    Reference: Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010.

    >>> voc2007_average_precisions(np.array([[0.9], [0.8], [0.8], [0.1]]), np.array([[1], [0], [1], [0]]))
    array([0.84848485])
    """

    def of_class(ranks: np.ndarray, _: np.ndarray) -> float:
        # The first positive that reaches the recall n / 10, in integers: rounding loses no point.
        first = np.maximum(-(-np.arange(11) * len(ranks) // 10), 1) - 1
        return precisions_at(ranks, envelope=True)[first].mean()

    return _of_classes(of_class, scores, labels, counted)


DEFINITIONS = {
    "AP": average_precisions,
    "AP_VOC2010": voc2010_average_precisions,
    "AP_VOC2007": voc2007_average_precisions,
}


def precisions_at(ranks: np.ndarray, envelope: bool = False) -> np.ndarray:
    """Return the precision at the rank of each positive `[P]`; their mean is an average precision.

    Args:
        ranks: of the positives `[P]` among the counted images, from 1, ascending; equal ranks count at once.
        envelope: whether each precision is first raised to the highest at the same or a later rank.

    >>> precisions_at(np.array([1, 4])), precisions_at(np.array([2, 3]), envelope=True)
    (array([1. , 0.5]), array([0.66666667, 0.66666667]))
    """
    precision = np.searchsorted(ranks, ranks, "right") / ranks
    return np.maximum.accumulate(precision[::-1])[::-1] if envelope else precision


def mean_over_classes(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN (classes with a positive); NaN if all are."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


def mean_average_precision(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> float:
    """Return the mean of `average_precisions` over the classes with a positive; NaN if there is none."""
    return mean_over_classes(average_precisions(scores, labels, counted))


def _of_classes(definition: Callable, scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
    """Return `definition` of the positives' ranks, one by one and with equal scores at their last rank, by class."""
    counted = np.ones(labels.shape, bool) if counted is None else counted
    if not scores.shape == labels.shape == counted.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must both be [images, classes]")
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(broken):
        raise ValueError(f"the scores of {len(broken)} images are not finite, first in row {broken[0]}")
    found = np.full(scores.shape[1], np.nan)
    for v, (score, label, use) in enumerate(zip(scores.T, labels.astype(bool).T, counted.T, strict=True)):
        order = np.argsort(-score[use], kind="stable")
        falling, places = -score[use][order], np.flatnonzero(label[use][order])
        if len(places):
            found[v] = definition(places + 1, np.searchsorted(falling, falling[places], "right"))
    return found
