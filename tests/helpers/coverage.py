"""How often intervals cover what they are meant to: simulated studies on label tables of several kinds.

    python3 -m tests.helpers.coverage --studies 500

A population has classes of different difficulty and images that are hard for all classes. A study draws images from it,
with new labels and scores, and measures mAP and its interval. Two truths are compared: the mAP of unlimited images, and
the mean mAP of all studies of this size.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tools.metrics.bootstrap import bootstrap_interval, jackknife, paired_bootstrap
from tools.metrics.multilabel import MEANS
from tools.metrics.thresholds import measure_means

# Images per class of VOC 2012's segmentation val set, of 1,449.
VOC_VAL = (90, 79, 103, 72, 96, 74, 127, 119, 123, 71, 75, 128, 79, 76, 445, 87, 63, 107, 84, 74)
UNLIMITED = 200_000


class Table(NamedTuple):
    """A kind of study: images, share of images per class, and how far positives lie above negatives (weak, strong)."""

    images: int
    shares: tuple[float, ...]
    separation: tuple[float, float] = (1.0, 2.2)


VOC = tuple(count / 1449 for count in VOC_VAL)
TABLES = {
    "VOC val": Table(1449, VOC),
    "VOC val, good": Table(1449, VOC, (2.2, 3.8)),
    "VOC val, weak": Table(1449, VOC, (0.3, 1.2)),
    "400 images": Table(400, VOC),
    "100 images": Table(100, VOC),
    "100 images, good": Table(100, VOC, (2.2, 3.8)),
    "100 images, 5 classes": Table(100, (0.1, 0.15, 0.2, 0.3, 0.4)),
    "60 images, 5 classes": Table(60, (0.1, 0.15, 0.2, 0.3, 0.4)),
}


def population(table: Table, seed: int = 1) -> Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]:
    """Return a function that draws scores and labels `[images, V]`."""
    separation = np.random.default_rng(seed).uniform(*table.separation, len(table.shares))

    def draw(images: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        labels = random.random((images, len(separation))) < table.shares
        hardness = random.standard_normal((images, 1))
        center = separation * (labels + 0.2 * hardness * (1 - 2 * labels))
        return center + random.standard_normal(labels.shape), labels

    return draw


def unlimited(draw: Callable) -> float:
    """Return the mAP of unlimited images, as nearly as 200,000 of them tell it."""
    scores, labels = draw(UNLIMITED, np.random.default_rng(0))
    parts = [jackknife(scores[:, v : v + 1], labels[:, v : v + 1]).mean for v in range(labels.shape[1])]
    return float(np.mean(parts))


def coverage(table: Table, studies: int, samples: int = 400) -> dict[str, float]:
    """Return the share of intervals that hold the mAP of unlimited images, and that of such studies on average."""
    draw, random = population(table), np.random.default_rng(2)
    truth, figures, ends = unlimited(draw), [], []
    for study in range(studies):
        scores, labels = draw(table.images, random)
        found = bootstrap_interval(scores, labels, samples=samples, seed=study)
        figures.append(jackknife(scores, labels).mean)
        ends.append((found.low, found.high))
    low, high = np.array(ends).T
    mean = np.mean(figures)
    truths = {"unlimited": truth, "average": mean}
    shares = {name: float(((low <= one) & (one <= high)).mean()) for name, one in truths.items()}
    return shares | {"truth": truth, "mean": mean, "deviation": np.std(figures), "width": (high - low).mean()}


def percentile_coverage(table: Table, studies: int, samples: int = 200) -> dict[str, float]:
    """Return the same for the percentiles of mAP on images drawn with replacement, the interval of before."""
    draw, random = population(table), np.random.default_rng(2)
    truth, figures, ends = unlimited(draw), [], []
    for _ in range(studies):
        scores, labels = draw(table.images, random)
        rows = random.integers(0, table.images, (samples, table.images))
        drawn = [jackknife(scores[sample], labels[sample]).mean for sample in rows]
        figures.append(jackknife(scores, labels).mean)
        ends.append(np.percentile(drawn, (2.5, 97.5)))
    low, high = np.array(ends).T
    truths = {"unlimited": truth, "average": np.mean(figures)}
    return {name: float(((low <= one) & (one <= high)).mean()) for name, one in truths.items()}


def difference_coverage(table: Table, studies: int, samples: int = 400, gain: float = 0.0) -> dict[str, float]:
    """Return the same for the difference of two methods, and how often p ≤ 0.05 ("rejected")."""
    draw, random = population(table), np.random.default_rng(3)
    found = []
    for study in range(studies):
        scores, labels = draw(table.images, random)
        pair = [scores + 0.7 * random.standard_normal(scores.shape) + shift * labels for shift in (0, gain)]
        found.append(paired_bootstrap(*pair, labels, samples=samples, seed=study))
    mean = np.mean([one.difference for one in found])
    covered = [one.interval.low <= mean <= one.interval.high for one in found]
    return {"average": np.mean(covered), "mean": mean, "rejected": np.mean([one.p_value <= 0.05 for one in found])}


def means_coverage(table: Table, studies: int, samples: int = 300) -> dict[str, float]:
    """Return how often the intervals of CP, CR, CF1, OP, OR and OF1 at a fixed threshold hold their averages."""
    draw, random = population(table), np.random.default_rng(5)
    found = []
    for study in range(studies):
        scores, labels = draw(table.images, random)
        means = measure_means(scores > 1.2, labels, np.ones_like(labels), samples, seed=study)
        found.append([means[name] for name in MEANS])
    values, low, high = np.array(found).transpose(2, 0, 1)
    average = values.mean(0)
    return dict(zip(MEANS, ((low <= average) & (average <= high)).mean(0).tolist(), strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=500)
    studies = parser.parse_args().studies
    for name, table in TABLES.items():
        rows = {"interval": coverage(table, studies)}
        rows |= {f"pair, gain {gain}": difference_coverage(table, studies, gain=gain) for gain in (0, 0.3)}
        rows["means"] = means_coverage(table, studies)
        if table.images <= 400:
            rows["percentiles"] = percentile_coverage(table, studies // 5)
        for kind, found in rows.items():
            shown = "  ".join(f"{key} {100 * value:.1f}" for key, value in found.items())
            print(f"{name:24s}{kind:16s}{shown}", flush=True)
