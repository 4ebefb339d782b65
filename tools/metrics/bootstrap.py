"""How much a mean average precision, or the difference of two, depends on the images drawn.

Drawing images with replacement repeats positives, which raises average precision, and loses the only positives of small
classes; the plain bootstrap of mAP therefore lies above its figure. Here the jackknife, computed exactly, says how much
each image contributes, and the bootstrap resamples these contributions: nothing is repeated or lost, the distribution
is centered at the figure, and a sample costs one product.

References: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 11 and 20; docs/protocols.md has the
coverage by simulation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtri, stdtrit

from tools.metrics.average_precision import mean_over_classes

SAMPLES_PER_CHUNK = 100  # bounds the memory for the counts of all images
PERCENTILES = (2.5, 97.5)


class Jackknife(NamedTuple):
    """What leaving out each image does to average precisions and to their mean.

    Contributions average to 0 over the images, and the mean of N drawn ones is how far the figure moves.
    """

    mean: float  # mean average precision, over the classes with a positive
    contributions: np.ndarray  # `[N]`, to the mean
    bias: float  # of the mean: its expectation minus its value on unlimited images, to first order in 1 / N
    precisions: np.ndarray  # `[V]`, NaN for a class without a positive
    class_contributions: np.ndarray  # float32 `[N, V]`, NaN for a class with fewer than two positives


@dataclass(frozen=True)
class Interval:
    """The ends of a 95 % interval; as text in %."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.low:.2f} … {100 * self.high:.2f}"


@dataclass(frozen=True)
class Difference:
    """How much better a second set of scores is than a first, on the same images."""

    difference: float  # of the mean average precisions, second − first, on the images as they are
    interval: Interval  # of the difference over images, and over runs if there are several
    p_value: float  # two-sided: share of samples at least as far from their center as the difference from 0


def jackknife(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None) -> Jackknife:
    """Leave out every image in turn, in closed form: each class is sorted once.

    A class without its only positive leaves the mean, as it does when `mean_average_precision` is computed again.
    Arrays are `[N, V]`, the last two boolean, see `tools.metrics.average_precision`.
    """
    labels = labels.astype(bool)
    counted = np.ones(labels.shape, bool) if counted is None else counted
    images, classes = labels.shape
    whole, without = np.full(classes, np.nan), np.full(labels.shape, np.nan)
    for v, (score, label, use) in enumerate(zip(scores.T, (labels & counted).T, counted.T, strict=True)):
        if label.any():
            whole[v], without[use, v] = _leave_one_out(score[use], label[use])
            without[~use, v] = whole[v]
    mean = mean_over_classes(whole)
    # An image that holds the last positive of every class leaves nothing to average, and the mean as it is.
    remaining = np.isfinite(without).sum(1)
    means = np.where(remaining > 0, np.nansum(without, 1) / np.maximum(remaining, 1), mean)
    of_classes = ((images - 1) * (without.mean(0) - without)).astype(np.float32)
    bias = float((images - 1) * (means.mean() - mean))
    return Jackknife(mean, (images - 1) * (means.mean() - means), bias, whole, of_classes)


def _leave_one_out(scores: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Return a class's average precision (scikit-learn's), and what it is without each image `[N]`.

    Without a negative, the rank of every positive that does not score higher falls by one; without a positive, so do
    its rank and the number of true ones, and its own precision leaves the mean.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, positive = scores[order], labels[order].astype(np.float64)
    last = np.searchsorted(-ranked, -ranked, "right")  # equal scores share the last rank among them
    first = np.searchsorted(-ranked, -ranked, "left")
    true, total = positive.cumsum()[last - 1], positive.sum()
    others = np.maximum(last - 1, 1)
    parts = (true / last, true / others, (true - 1) / others)
    sums = [np.append(0, (positive * part).cumsum()) for part in parts]
    kept, without_negative, without_positive = (total_of[first] for total_of in sums)
    negative = kept + sums[1][-1] - without_negative
    own = kept + sums[2][-1] - without_positive - parts[2]
    result = np.empty(len(scores))
    fewer = own / (total - 1) if total > 1 else np.full(len(scores), np.nan)
    result[order] = np.where(positive > 0, fewer, negative / total)
    return float(sums[0][-1] / total), result


def image_counts(images: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each sample draws each image, `[at most SAMPLES_PER_CHUNK, images]` at a time."""
    random = np.random.default_rng(seed)
    for start in range(0, samples, SAMPLES_PER_CHUNK):
        size = min(SAMPLES_PER_CHUNK, samples - start)
        drawn = random.integers(0, images, (size, images)) + images * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * images).reshape(size, images).astype(np.float32)


def resampled(contributions: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Return how far figures move on samples of the images: contributions `[N, K]` → `[samples, K]`."""
    images = len(contributions)
    return np.concatenate([counts @ contributions for counts in image_counts(images, samples, seed)]) / images


def bootstrap_interval(
    scores: np.ndarray, labels: np.ndarray, counted: np.ndarray | None = None, samples: int = 1000, seed: int = 0
) -> Interval:
    """Return the 95 % interval of the mean average precision (not interpolated, in 0…1) over images.

    It is meant to hold the figure that as many other images would have on average, and the lower one that unlimited
    images would have, see `interval_around`.

    Args:
        scores, labels, counted: see `jackknife`.
        samples, seed: how often N images are drawn with replacement; the same seed draws the same images.
    """
    found = jackknife(scores, labels, counted)
    moved = resampled(found.contributions[:, None], samples, seed)[:, 0]
    return interval_around(found.mean, found.bias, found.contributions, moved)


def interval_around(mean: float, bias: float, contributions: np.ndarray, moved: np.ndarray) -> Interval:
    """Return the interval of a mean that samples of the images have `moved` by `[samples]`.

    Its low end is corrected for the jackknife's bias. Ends are on the scale of log-odds, because a figure close to 0 or
    1 can move farther away from there than toward it. Both are wider by Student's t, because the spread of
    `contributions` `[N]` is an estimate: its degrees of freedom are those of a χ² of the same mean and variance
    (Satterthwaite), 2 N / (kurtosis − 1).
    """
    squares = contributions**2
    freedom = 2 * squares.sum() ** 2 / max(((squares - squares.mean()) ** 2).sum(), 1e-12)
    wider = stdtrit(max(freedom, 1), 0.975) / ndtri(0.975)
    down, up = wider * np.percentile(moved, PERCENTILES)
    return Interval(_moved(max(mean - max(bias, 0), mean / 10), down), _moved(mean, up))


def _moved(value: float, by: float) -> float:
    """Return where a figure in 0…1 moves if its log-odds move by as much as `by` changes them; by 2 at most."""
    if not 0 < value < 1:
        return value
    return float(expit(logit(value) + by / max(value * (1 - value), abs(by) / 2)))


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    counted: np.ndarray | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Compare two sets of scores of the same images: each sample of images is drawn for both.

    The interval is far narrower than that of two separate bootstraps, because images that are hard for one are hard for
    the other. Of several runs, each sample varies their mean too, see `resampled_runs`.

    Args:
        first, second: `[N, V]`, or `[runs, N, V]` of several runs (seeds), whose mean average precisions are averaged.
        labels, counted, samples, seed: see `bootstrap_interval`.
    """
    sides = [scores if scores.ndim == 3 else scores[None] for scores in (first, second)]
    runs = [[jackknife(run, labels, counted) for run in side] for side in sides]
    return difference(*resampled_runs(runs, samples, seed))


def resampled_runs(methods: list[list[Jackknife]], samples: int, seed: int) -> np.ndarray:
    """Return each method's mean average precision on samples of the images and of its runs, `[methods, 1 + samples]`.

    The first column is the figure itself. All methods see the same images. The part of the runs is drawn from Student's
    t, whose width is that of the runs' means: drawing among two or three runs would show too little of it.
    """
    contributions = [np.mean([run.contributions for run in runs], axis=0) for runs in methods]
    random, rows = np.random.default_rng((seed, 1)), []
    for runs, moved in zip(methods, resampled(np.stack(contributions, 1), samples, seed).T, strict=True):
        means, size = [run.mean for run in runs], len(runs)
        if size > 1:
            moved = moved + random.standard_t(size - 1, samples) * np.std(means, ddof=1) / np.sqrt(size)
        rows.append(np.mean(means) + np.append(0, moved))
    return np.stack(rows)


def difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Compare two rows of `resampled_runs`."""
    whole, drawn = second[0] - first[0], second[1:] - first[1:]
    far = (np.abs(drawn - whole) >= abs(whole)).mean()
    p_value = float(max(far, 1 / len(drawn)))
    return Difference(float(whole), Interval(*map(float, np.percentile(drawn, PERCENTILES))), p_value)
