"""A decision threshold for each class: chosen for a goal on one set of images, measured on another."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from tools.metrics.bootstrap import PERCENTILES, image_counts
from tools.metrics.multilabel import MEANS, precision_recall
from tools.system.command_line import MOST_FLOAT
from tools.system.errors import UserError, first_few, quoted
from tools.system.files import read_object, sha256

DEFAULT = 0.5  # for a class without a positive, about which the images say nothing


@dataclass(frozen=True)
class Goal:
    """What thresholds are chosen for."""

    name: str  # "f1", "precision", "recall" or "cost"
    value: float = 0.0  # least precision or recall wanted, or price of a missed positive if a wrong prediction costs 1

    @classmethod
    def parse(cls, text: str) -> "Goal":
        """Read `f1`, `precision=0.9`, `recall=0.9` or `cost=5`; raise a UserError for anything else."""
        name, _, value = text.partition("=")
        try:
            number = float(value) if value else 0.0
        except ValueError:
            number = np.nan
        most = {"f1": 1, "precision": 1, "recall": 1, "cost": MOST_FLOAT}.get(name, -1)
        if bool(value) == (name == "f1") or not 0 <= number <= most:
            raise UserError(f"--for {quoted(text)} is not a goal: give f1, precision=0…1, recall=0…1 or cost=COST")
        return cls(name, number)

    def __str__(self) -> str:
        return self.name if self.name == "f1" else f"{self.name}={self.value:g}"

    def value_of(self, true: np.ndarray, found: np.ndarray, positives: int) -> np.ndarray:
        """Return how good predictions are, larger is better, from true positives and predictions `[K]`."""
        if self.name == "f1":
            return 2 * true / (found + positives)
        if self.name == "cost":
            return -(found - true + self.value * (positives - true))
        precision, recall = true / np.maximum(found, 1), true / positives
        wanted, other = (precision, recall) if self.name == "precision" else (recall, precision)
        # Below the wanted share, the closest to it; from there on the best of the other one.
        return np.where(wanted >= self.value, 1 + other, wanted)


def choose_thresholds(scores: np.ndarray, labels: np.ndarray, counted: np.ndarray, goal: Goal) -> np.ndarray:
    """Return the threshold `[V]` of each class that is best for the goal; a score above it predicts the class.

    It is halfway between two neighboring scores; of equally good ones the highest. A class without a positive has
    `DEFAULT`. Arrays are `[N, V]`, see `tools.metrics.average_precision`; scores in 0…1.
    """
    columns = zip(scores.T.astype(np.float64), labels.T, counted.T, strict=True)
    return np.array([_threshold(score[use], label[use], goal) for score, label, use in columns])


def _threshold(scores: np.ndarray, labels: np.ndarray, goal: Goal) -> float:
    if not labels.any():
        return DEFAULT
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # The k highest scores, for each k between ties; for 0 nothing is predicted.
    found = np.append(0, np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True)) + 1)
    true = np.append(0, labels[order].cumsum())[found]
    best = found[np.argmax(goal.value_of(true, found, int(labels.sum())))]
    padded = np.concatenate([[1.0], ranked, [-max(ranked[-1], 1e-9)]])  # 0 is below the lowest score
    return float((padded[best] + padded[best + 1]) / 2) if best else 1.0


def measure_classes(predicted: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> dict[str, np.ndarray]:
    """Return "precision", "recall" and "f1" of each class with the ends of Wilson's 95 % intervals, `[V, 3]` in 0…1.

    F1 = 2 J / (1 + J) rises with J = TP / (TP + FP + FN), a share of images, so J's interval is also that of F1. Arrays
    are boolean `[N, V]`.
    """
    predicted, labels = predicted & counted, labels & counted
    true, found, positives = (array.sum(0) for array in (predicted & labels, predicted, labels))
    union = wilson(true, found + positives - true)
    return {"precision": wilson(true, found), "recall": wilson(true, positives), "f1": 2 * union / (1 + union)}


def wilson(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole and the ends of its 95 % interval, `[V, 3]`; NaN where `whole` is 0.

    Reference: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.

    >>> wilson(np.array([8]), np.array([10])).round(3)
    array([[0.8  , 0.49 , 0.943]])
    """
    z = ndtri(0.975)
    whole = np.where(whole > 0, whole, np.nan)
    share = part / whole
    middle, half = share + z**2 / (2 * whole), z * np.sqrt(share * (1 - share) / whole + (z / (2 * whole)) ** 2)
    low, high = ((middle + sign * half) / (1 + z**2 / whole) for sign in (-1, 1))
    return np.stack([share, low, high], axis=-1).clip(0, 1)  # rounding


def measure_means(
    predicted: np.ndarray, labels: np.ndarray, counted: np.ndarray, samples: int = 1000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return CP, CR, CF1, OP, OR and OF1 with the ends of percentile bootstrap intervals over images, `[3]`.

    Means over classes are over those with a positive, in each sample. Arrays are boolean `[N, V]`.
    """
    arrays = (predicted, labels, counted)
    whole = precision_recall(*arrays)
    drawn = [precision_recall(*arrays, drawn=counts) for counts in image_counts(len(labels), samples, seed)]
    measured = {}
    for name in MEANS:
        values = np.concatenate([getattr(found, name) for found in drawn])
        measured[name] = np.append(getattr(whole, name), np.nanpercentile(values, PERCENTILES))
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

    A UserError: the file cannot be read, is not of this kind, or lacks a class.
    """
    classes = read_object(path).get("classes")
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
