"""Bootstrap over images: how much a mean average precision, or the difference of two, depends on the images drawn.

Drawing N of N images with replacement assigns each image a count. Counts do not change ranks, so each class is sorted
once, and a sample costs a few sums.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

SAMPLES_PER_CHUNK = 100  # bounds the memory for the counts of all images
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """A 95 % percentile interval.

    Attributes:
        low, high: its ends.
        samples, seed: how it was drawn.
    """

    low: float
    high: float
    samples: int
    seed: int


@dataclass(frozen=True)
class Difference:
    """How much better a second set of scores is than a first, on the same images.

    Attributes:
        difference: of the mean average precisions, second − first, on the images as they are.
        interval: 95 % of the differences on samples of the images.
        p_value: two-sided: twice the smaller share of samples that favor either side (at least 1 / samples).
    """

    difference: float
    interval: Interval
    p_value: float


def bootstrap_interval(
    scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None, samples: int = 1000, seed: int = 0
) -> Interval:
    """Return the 95 % interval of the mean average precision (not interpolated, in 0…1) over images.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Args:
        scores: `[N, V]`.
        labels, counted: boolean `[N, V]`, see `tools.metrics.average_precision`.
        samples: how often N images are drawn with replacement.
        seed: the same seed draws the same images.
    """
    chunks = _image_counts(len(scores), samples, seed)
    means = np.concatenate([_sample_means(scores, labels, counted, counts) for counts in chunks])
    return Interval(*_percentiles(means), samples, seed)


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    counted: np.ndarray | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Compare two sets of scores of the same images: each sample of images is drawn for both.

    The mean average precision is in 0…1. The interval is far narrower than that of two separate bootstraps, because
    images that are hard for one are hard for the other.

    Args:
        first, second: `[N, V]`, or `[runs, N, V]` of several runs (seeds), whose mean average precisions are averaged.
        labels, counted, samples, seed: see `bootstrap_interval`.
    """

    def difference(counts: np.ndarray) -> np.ndarray:
        return _mean_over_runs(second, labels, counted, counts) - _mean_over_runs(first, labels, counted, counts)

    differences = np.concatenate([difference(counts) for counts in _image_counts(len(labels), samples, seed)])
    (whole,) = difference(np.ones((1, len(labels))))
    smaller = min((differences <= 0).mean(), (differences >= 0).mean())
    p_value = float(min(max(2 * smaller, 1 / samples), 1))
    return Difference(float(whole), Interval(*_percentiles(differences), samples, seed), p_value)


def _mean_over_runs(
    scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None, counts: np.ndarray
) -> np.ndarray:
    """Return `_sample_means`, averaged over the runs if there are several: `[samples, N]` → `[samples]`."""
    runs = scores if scores.ndim == 3 else scores[None]
    return np.mean([_sample_means(run, labels, counted, counts) for run in runs], axis=0)


def _image_counts(images: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each sample draws each image, `[at most SAMPLES_PER_CHUNK, images]` at a time."""
    random = np.random.default_rng(seed)
    for start in range(0, samples, SAMPLES_PER_CHUNK):
        size = min(SAMPLES_PER_CHUNK, samples - start)
        drawn = random.integers(0, images, (size, images)) + images * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * images).reshape(size, images).astype(np.float64)


def _sample_means(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None, counts: np.ndarray) -> np.ndarray:
    """Return the mean average precision of each sample: counts `[samples, N]` → `[samples]`."""
    labels = labels.astype(bool)
    counted = np.ones(labels.shape, bool) if counted is None else counted
    total, classes = np.zeros(len(counts)), np.zeros(len(counts))
    for score, label, use in zip(scores.T, labels.T, counted.T, strict=True):
        if (label & use).any():
            precision, has_positive = _weighted_average_precision(score[use], label[use], counts[:, use])
            total += precision
            classes += has_positive
    return total / np.where(classes > 0, classes, np.nan)


def _weighted_average_precision(
    scores: np.ndarray, labels: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the average precision of one class under each row of counts, and whether a positive was drawn.

    Row by row this is `average_precision_score(labels, scores, sample_weight=counts)` of scikit-learn (0 if no positive
    was drawn), for all rows with one sort:

    >>> from sklearn.metrics import average_precision_score
    >>> scores, labels, counts = np.array([0.9, 0.5, 0.5, 0.2]), np.array([1, 0, 1, 1]), np.array([[1, 3, 0, 2.0]])
    >>> round(average_precision_score(labels, scores, sample_weight=counts[0]), 8)
    0.66666667
    >>> _weighted_average_precision(scores, labels, counts)[0]
    array([0.66666667])
    """
    order = np.argsort(-scores, kind="stable")
    ranked, positive = scores[order], np.flatnonzero(labels[order])
    # Only the ranks of positives enter the sum; images with equal scores share the last rank among them.
    rank = np.searchsorted(-ranked, -ranked[positive], side="right")
    retrieved = counts[:, order].cumsum(1)[:, rank - 1]
    gained = counts[:, order[positive]]
    true = gained.cumsum(1)[:, np.searchsorted(rank, rank, side="right") - 1]
    positives = gained.sum(1)
    area = (gained * true / np.maximum(retrieved, 1)).sum(1)
    return area / np.maximum(positives, 1), positives > 0


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(values, PERCENTILES) if not np.isnan(values).all() else (np.nan, np.nan)
    return float(low), float(high)
