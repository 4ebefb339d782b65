"""Comparison of several methods on the same images: corrected p-values, ranks, and the classes that differ."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import ndtr, ndtri

from tools.metrics import bootstrap
from tools.metrics.bootstrap import Difference, Interval, Jackknife

POWER = 0.8


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return p-values `[K]` corrected for K comparisons by Holm's step-down method.

    The k-th smallest, from 0, is multiplied by K − k; none is below a smaller one's.

    Reference: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.

    >>> holm(np.array([0.01, 0.04, 0.03]))
    array([0.03, 0.06, 0.06])
    """
    order = np.argsort(p_values, kind="stable")
    stepped = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return corrected


def smallest_difference(moved: np.ndarray, standard_error: float, level: float = 0.05, power: float = POWER) -> float:
    """Return the true difference that a two-sided test at `level` detects with probability `power`.

    The test's bound is that of `moved`, by how much samples move the difference. Their own standard deviation would be
    without bound for two or three runs, whose samples are from Student's t.
    """
    return float(np.quantile(np.abs(moved), 1 - level) + standard_error * ndtri(power))


@dataclass(frozen=True)
class Method:
    """A method's mean average precision, in 0…1, and its rank among the methods (1: best) over samples."""

    mean: float
    interval: Interval
    rank: int
    ranks: tuple[int, int]  # 95 % of the samples lie in it
    best: float  # share of the samples in which it is the best


@dataclass(frozen=True)
class Pair:
    """Two methods, by index."""

    first: int
    second: int
    difference: Difference  # second − first
    corrected: float  # p-value, by Holm over all pairs
    smallest: float  # difference that these images and runs can show
    classes: np.ndarray  # `[V]`: difference of average precisions; NaN for a class without a positive
    class_p_values: np.ndarray  # `[V]`, by Holm over classes; NaN for a class with fewer than two positives


def compare(
    methods: list[np.ndarray], labels: np.ndarray, counted: np.ndarray, samples: int = 1000, seed: int = 0
) -> tuple[list[Method], list[Pair]]:
    """Compare methods on samples of the images, and of the runs if there are several.

    Args:
        methods: of each `[runs, N, V]`, what ranks the images.
        labels, counted: `[N, V]`, boolean, see `tools.metrics.average_precision`.
    """
    runs = [[bootstrap.jackknife(scores, labels, counted) for scores in method] for method in methods]
    drawn = bootstrap.resampled_runs(runs, samples, seed)
    ranks = 1 + (drawn[None] > drawn[:, None]).sum(1)  # equal ones share a rank
    summaries = []
    for values, rank, method in zip(drawn, ranks, runs, strict=True):
        mean, bias = float(values[0]), float(np.mean([run.bias for run in method]))
        contributions = np.mean([run.contributions for run in method], axis=0)
        interval = bootstrap.interval_around(mean, bias, contributions, values[1:] - mean)
        low, high = np.percentile(rank[1:], bootstrap.PERCENTILES, method="nearest")
        best = float((rank[1:] == 1).mean())
        summaries.append(Method(mean, interval, int(rank[0]), (int(low), int(high)), best))
    pairs = list(combinations(range(len(methods)), 2))
    found = [bootstrap.difference(drawn[first], drawn[second]) for first, second in pairs]
    corrected = holm(np.array([one.p_value for one in found]))
    comparisons = []
    for (first, second), one, p_value in zip(pairs, found, corrected, strict=True):
        moved = (drawn[second] - drawn[first])[1:] - one.difference
        smallest = smallest_difference(moved, _standard_error(runs[first], runs[second]))
        of_classes = _classes(runs[first], runs[second])
        comparisons.append(Pair(first, second, one, float(p_value), smallest, *of_classes))
    return summaries, comparisons


def _standard_error(first: list[Jackknife], second: list[Jackknife]) -> float:
    """Return that of the difference of the methods' figures, over images and over runs."""
    of_images = [np.mean([run.contributions for run in runs], 0) for runs in (first, second)]
    variance = ((of_images[1] - of_images[0]) ** 2).sum() / len(of_images[0]) ** 2
    several = [[run.mean for run in runs] for runs in (first, second) if len(runs) > 1]
    return float(np.sqrt(variance + sum(np.var(means, ddof=1) / len(means) for means in several)))


def _classes(first: list[Jackknife], second: list[Jackknife]) -> tuple[np.ndarray, np.ndarray]:
    """Return the difference of each class `[V]` and its p-value by Holm, over images for these runs."""
    precision = [np.mean([run.precisions for run in runs], 0) for runs in (first, second)]
    contribution = [np.mean([run.class_contributions for run in runs], 0) for runs in (first, second)]
    whole, parts = precision[1] - precision[0], contribution[1] - contribution[0]
    error = np.sqrt((parts.astype(np.float64) ** 2).sum(0)) / len(parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_values = np.where(error > 0, 2 * ndtr(-np.abs(whole) / error), np.where(whole == 0, 1.0, 0.0))
    p_values[np.isnan(error)] = np.nan
    known = ~np.isnan(p_values)
    p_values[known] = holm(p_values[known])
    return whole, p_values
