"""Bootstrap over images: how far a mean average precision, or the difference of two, depends on the images drawn.

Drawing N of N images with replacement gives each a count. Ranks do not change with counts, so every class is sorted
once, and a sample costs a few sums.
"""

from dataclasses import dataclass

import numpy as np

SAMPLES_AT_ONCE = 100  # of which the counts of all images are in memory


COVERED = (2.5, 97.5)  # percentiles: a 95 % interval


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


def bootstrap_interval(
    scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None, samples: int = 1000, seed: int = 0
) -> Interval:
    """95 % interval of the mean average precision (not interpolated, in 0…1) over images.

    Args:
        scores: `[N, V]`; labels, counted: boolean `[N, V]`, see `tools.metrics.average_precision`.
        samples: how often N images are drawn with replacement; the same seed draws the same.
    """
    means = np.concatenate([_means(scores, labels, counted, counts) for counts in _counts(len(scores), samples, seed)])
    return Interval(*_percentiles(means), samples, seed)


@dataclass(frozen=True)
class Difference:
    """How much better a second set of scores is than a first, on the same images.

    Attributes:
        difference: of the mean average precisions, second − first, on the images as they are.
        interval: 95 % of the differences on samples of the images.
        p_value: two-sided: twice the smaller of the shares of samples that favor either (at least 1 / samples).
    """

    difference: float
    interval: Interval
    p_value: float


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
    an image that is hard for the one is hard for the other.

    Args:
        first, second: `[N, V]`, or `[runs, N, V]` of several runs (seeds), whose mean average precisions are averaged.
        labels, counted: boolean `[N, V]`, see `tools.metrics.average_precision`.
        samples: how often N images are drawn with replacement; the same seed draws the same.
    """

    def difference(counts: np.ndarray) -> np.ndarray:
        return _run_means(second, labels, counted, counts) - _run_means(first, labels, counted, counts)

    differences = np.concatenate([difference(counts) for counts in _counts(len(labels), samples, seed)])
    whole = difference(np.ones((1, len(labels))))
    smaller = min((differences <= 0).mean(), (differences >= 0).mean())
    p_value = float(min(max(2 * smaller, 1 / samples), 1))
    return Difference(float(whole[0]), Interval(*_percentiles(differences), samples, seed), p_value)


def _run_means(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None, counts: np.ndarray) -> np.ndarray:
    """`_means`, averaged over runs where there are several: `[samples, N]` → `[samples]`."""
    runs = scores if scores.ndim == 3 else scores[None]
    return np.mean([_means(run, labels, counted, counts) for run in runs], axis=0)


def _counts(images: int, samples: int, seed: int):
    """How often each image is drawn, `[at most SAMPLES_AT_ONCE, images]` at a time."""
    random = np.random.default_rng(seed)
    for start in range(0, samples, SAMPLES_AT_ONCE):
        some = min(SAMPLES_AT_ONCE, samples - start)
        drawn = random.integers(0, images, (some, images)) + images * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * images).reshape(some, images).astype(np.float64)


def _means(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None, counts: np.ndarray) -> np.ndarray:
    """Mean average precision under each row of counts: `[samples, N]` → `[samples]`."""
    labels = labels.astype(bool)
    counted = np.ones(labels.shape, bool) if counted is None else counted
    total, classes = np.zeros(len(counts)), np.zeros(len(counts))
    for score, label, use in zip(scores.T, labels.T, counted.T):
        if (label & use).any():
            precision, has_positive = _weighted_average_precision(score[use], label[use], counts[:, use])
            total += precision
            classes += has_positive
    return total / np.where(classes > 0, classes, np.nan)


def _weighted_average_precision(
    scores: np.ndarray, labels: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Average precision of one class under each row of counts (0 without a positive), and whether it has a positive."""
    order = np.argsort(-scores, kind="stable")
    ranked, positive = scores[order], np.flatnonzero(labels[order])
    # Only ranks that hold a positive add to the sum; of equal scores all belong to the same rank.
    rank = np.searchsorted(-ranked, -ranked[positive], side="right")
    retrieved = counts[:, order].cumsum(1)[:, rank - 1]
    gained = counts[:, order[positive]]
    true = gained.cumsum(1)[:, np.searchsorted(rank, rank, side="right") - 1]
    positives = gained.sum(1)
    area = (gained * true / np.maximum(retrieved, 1)).sum(1)
    return area / np.maximum(positives, 1), positives > 0


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(values, COVERED) if not np.isnan(values).all() else (np.nan, np.nan)
    return float(low), float(high)
