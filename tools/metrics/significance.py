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


def smallest_difference(moved: np.ndarray, standard_error: float) -> float:
    """Return the true difference that a two-sided test at a level of 0.05 detects with probability `POWER`.

    The test's bound is that of `moved`, by how much samples move the difference. Their own standard deviation would be
    without bound for two or three runs, whose samples are from Student's t.
    """
    return float(np.quantile(np.abs(moved), 0.95) + standard_error * ndtri(POWER))


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


def mean_of_runs(runs: list[Jackknife]) -> Jackknife:
    """Return the mean of each part."""
    return Jackknife(*(np.mean(parts, axis=0) for parts in zip(*runs, strict=True)))


def compare(
    methods: list[np.ndarray], labels: np.ndarray, counted: np.ndarray, samples: int = 1000, seed: int = 0
) -> tuple[list[Method], list[Pair]]:
    """Compare methods on samples of the images, and of the runs if there are several.

    `methods` are the scores of each `[runs, N, V]`; for boolean labels and counted see
    `tools.metrics.average_precision`.
    """
    runs = [[bootstrap.jackknife(scores, labels, counted) for scores in method] for method in methods]
    means = [mean_of_runs(method) for method in runs]
    drawn = bootstrap.resampled_runs(runs, samples, seed)
    ranks = 1 + (drawn[None] > drawn[:, None]).sum(1)  # equal ones share a rank
    summaries = []
    for values, rank, method in zip(drawn, ranks, means, strict=True):
        mean = float(values[0])
        interval = bootstrap.interval_around(mean, float(method.bias), method.contributions, values[1:] - mean)
        low, high = np.percentile(rank[1:], bootstrap.PERCENTILES, method="nearest")
        best = float((rank[1:] == 1).mean())
        summaries.append(Method(mean, interval, int(rank[0]), (int(low), int(high)), best))
    pairs = list(combinations(range(len(methods)), 2))
    found = [bootstrap.difference(drawn[first], drawn[second]) for first, second in pairs]
    corrected = holm(np.array([one.p_value for one in found]))
    # The variance of a mean over runs; one run says nothing of it.
    of_runs = [np.var([run.mean for run in one], ddof=1) / len(one) if len(one) > 1 else 0.0 for one in runs]
    comparisons = []
    for (first, second), one, p_value in zip(pairs, found, corrected, strict=True):
        moved = (drawn[second] - drawn[first])[1:] - one.difference
        parts = means[second].contributions - means[first].contributions
        variance = (parts**2).sum() / len(parts) ** 2 + (of_runs[first] + of_runs[second])
        smallest = smallest_difference(moved, float(np.sqrt(variance)))
        of_classes = _classes(means[first], means[second])
        comparisons.append(Pair(first, second, one, float(p_value), smallest, *of_classes))
    return summaries, comparisons


def _classes(first: Jackknife, second: Jackknife) -> tuple[np.ndarray, np.ndarray]:
    """Return the difference of each class `[V]` and its p-value by Holm, over images for these runs."""
    whole, parts = second.precisions - first.precisions, second.class_contributions - first.class_contributions
    error = np.sqrt((parts.astype(np.float64) ** 2).sum(0)) / len(parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_values = np.where(error > 0, 2 * ndtr(-np.abs(whole) / error), np.where(whole == 0, 1.0, 0.0))
    p_values[np.isnan(error)] = np.nan
    known = ~np.isnan(p_values)
    p_values[known] = holm(p_values[known])
    return whole, p_values
