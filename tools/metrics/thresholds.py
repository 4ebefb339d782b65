"""A decision threshold for each class: chosen for a goal on one set of images, measured on another."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

from tools.metrics.bootstrap import PERCENTILES, image_counts
from tools.metrics.multilabel import MEANS, precision_recall
from tools.system.command_line import MOST_FLOAT
from tools.system.errors import UserError, first_few
from tools.system.files import read_json, sha256

DEFAULT = 0.5  # for a class without a positive, about which the images say nothing


class Cuts(NamedTuple):
    """What each possible threshold of one class would predict: the k highest scores, for each k between ties; `[K]`."""

    true: np.ndarray
    found: np.ndarray
    positives: int

    def precision(self) -> np.ndarray:
        return self.true / np.maximum(self.found, 1)

    def recall(self) -> np.ndarray:
        return self.true / self.positives


# By the goal's name: what to maximize over the cuts, given its value; of equal cuts the highest threshold counts.
GOALS: dict[str, Callable[[Cuts, float], np.ndarray]] = {
    "f1": lambda cuts, _: 2 * cuts.true / (cuts.found + cuts.positives),
    # Below the wanted precision or recall, the closest to it; from there on the best of the other one.
    "precision": lambda cuts, least: np.where(cuts.precision() >= least, 1 + cuts.recall(), cuts.precision()),
    "recall": lambda cuts, least: np.where(cuts.recall() >= least, 1 + cuts.precision(), cuts.recall()),
    "cost": lambda cuts, miss: -(cuts.found - cuts.true + miss * (cuts.positives - cuts.true)),
}


@dataclass(frozen=True)
class Goal:
    """What thresholds are chosen for.

    Attributes:
        name, value: "f1"; "precision" or "recall" and the least one wanted; "cost" and the price of a missed positive,
            where that of a wrong prediction is 1.
    """

    name: str
    value: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Goal":
        """Read `f1`, `precision=0.9`, `recall=0.9` or `cost=5`; raise a ValueError for anything else."""
        name, _, value = text.partition("=")
        try:
            number = float(value) if value else 0.0
        except ValueError:
            number = np.nan
        most = MOST_FLOAT if name == "cost" else 1
        if name not in GOALS or bool(value) == (name == "f1") or not 0 <= number <= most:
            raise ValueError("give f1, precision=0…1, recall=0…1 or cost=COST")
        return cls(name, number)

    def __str__(self) -> str:
        return self.name if self.name == "f1" else f"{self.name}={self.value:g}"


def choose_thresholds(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray, goal: Goal) -> np.ndarray:
    """Return the threshold `[V]` of each class that is best for the goal; a score above it predicts the class.

    It is halfway between two neighboring scores. A class without a positive has `DEFAULT`.

    Args:
        scores, labels, counted: `[N, V]`, see `tools.metrics.average_precision`; scores in 0…1.
    """
    columns = zip(scores.T.astype(np.float64), labels.T, counted.T, strict=True)
    return np.array([_threshold(score[use], label[use], goal) for score, label, use in columns])


def _threshold(scores: np.ndarray, labels: np.ndarray, goal: Goal) -> float:
    if not labels.any():
        return DEFAULT
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    found = np.append(0, np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True)) + 1)  # 0: nothing is predicted
    true = np.append(0, labels[order].cumsum())[found]
    best = found[np.argmax(GOALS[goal.name](Cuts(true, found, int(labels.sum())), goal.value))]
    padded = np.concatenate([[1.0], ranked, [-max(ranked[-1], 1e-9)]])  # 0 is below the lowest score
    return float((padded[best] + padded[best + 1]) / 2) if best else 1.0


class Measured(NamedTuple):
    """A class, or a mean over classes or pairs, on images apart: a share in 0…1 and its 95 % interval."""

    value: float
    low: float
    high: float


def measure_classes(predicted: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> list[dict[str, Measured]]:
    """Return precision, recall and F1 of each class with Wilson's intervals, from boolean `[N, V]`.

    F1 = 2 J / (1 + J) rises with J = TP / (TP + FP + FN), a share of images, so J's interval is also that of F1.
    """
    predicted, labels = predicted & counted, labels & counted
    measured = []
    for true, found, positives in zip(*(a.sum(0) for a in (predicted & labels, predicted, labels)), strict=True):
        f1 = Measured(*(2 * share / (1 + share) for share in _share(true, found + positives - true)))
        measured.append({"precision": _share(true, found), "recall": _share(true, positives), "f1": f1})
    return measured


def _share(part: int, whole: int) -> Measured:
    if not whole:
        return Measured(*[float("nan")] * 3)
    interval = binomtest(int(part), int(whole)).proportion_ci(method="wilson")
    return Measured(part / whole, float(interval.low), float(interval.high))


def measure_means(
    predicted: np.ndarray, labels: np.ndarray, counted: np.ndarray, samples: int = 1000, seed: int = 0
) -> dict[str, Measured]:
    """Return CP, CR, CF1, OP, OR and OF1 with percentile bootstrap intervals over images, from boolean `[N, V]`.

    Means over classes are over those with a positive, in each sample.
    """
    arrays = (predicted, labels, counted)
    whole = precision_recall(*arrays)
    drawn = [precision_recall(*arrays, drawn=counts) for counts in image_counts(len(labels), samples, seed)]
    measured = {}
    for name in MEANS:
        values = np.concatenate([getattr(found, name) for found in drawn])
        measured[name] = Measured(float(getattr(whole, name)), *map(float, np.nanpercentile(values, PERCENTILES)))
    return measured


def recorded_thresholds(path: str | None) -> dict[str, str]:
    """Return what tells results with this file of thresholds from those with others."""
    return {"thresholds": path, "thresholds_sha256": sha256(Path(path))} if path else {}


class ClassThresholds(NamedTuple):
    """What a file of `tools.thresholds` says, in the order of the classes asked for."""

    thresholds: np.ndarray  # `[V]`: a class is predicted if sigmoid(logit) is above it
    temperatures: np.ndarray  # `[V]`: sigmoid(logit / temperature) is the calibrated probability


def read_thresholds(path: Path, class_names: list[str]) -> ClassThresholds:
    """Read the thresholds and temperatures of classes, matched by name.

    Raises:
        UserError: the file cannot be read, is not of this kind, or lacks a class.
    """
    content = read_json(path)
    classes = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(classes, dict):
        raise UserError(f"{path} is not a file of python3 -m tools.thresholds: it has no 'classes'")
    if missing := [name for name in class_names if name not in classes]:
        raise UserError(f"{path} has no threshold for {first_few(missing)}")
    try:
        values = [[float(classes[name][key]) for name in class_names] for key in ("threshold", "temperature")]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: a class needs a number for 'threshold' and for 'temperature'") from error
    thresholds, temperatures = np.array(values)
    if not (np.isfinite(values).all() and (temperatures > 0).all()):
        raise UserError(f"{path}: thresholds must be finite, and temperatures above 0")
    return ClassThresholds(thresholds, temperatures)
