"""How far predicted probabilities are from frequencies, and the temperature that brings them closer."""

from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

BINS = 15
TEMPERATURES = (0.05, 20.0)  # bounds of a fitted temperature
FIGURES = ("ECE", "ECE of classes", "negative log-likelihood")


class Reliability(NamedTuple):
    """Pairs of image and class in equal bins of the predicted probability; arrays `[BINS]`, NaN in an empty bin."""

    count: np.ndarray
    confidence: np.ndarray  # mean probability of the bin's pairs
    frequency: np.ndarray  # share of the bin's pairs that are positive

    @property
    def error(self) -> float:
        """Return the expected calibration error Σ count / N · |confidence − frequency|, in 0…1; NaN without pairs.

        Reference: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, for the probability of a class.
        """
        if not self.count.sum():
            return float("nan")
        return float(np.nansum(self.count * np.abs(self.confidence - self.frequency)) / self.count.sum())


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Reliability:
    """Return the reliability of probabilities in 0…1, given boolean labels of the same shape; 1 is in the last bin.

    >>> found = reliability(np.array([0.1, 0.9, 0.9]), np.array([False, True, False]), bins=2)
    >>> found.count, found.frequency, round(found.error, 3)
    (array([1, 2]), array([0. , 0.5]), 0.3)
    """
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    sums = (np.bincount(bin_of, weights=values, minlength=bins) for values in (probabilities, labels))
    return Reliability(count, *(np.where(count, total / np.maximum(count, 1), np.nan) for total in sums))


def class_calibration_error(probabilities: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> float:
    """Return the mean over classes of `Reliability.error`; arrays `[N, V]`, `counted` tells which pairs count."""
    columns = zip(probabilities.T, labels.T, counted.T, strict=True)
    errors = [reliability(probability[use], label[use]).error for probability, label, use in columns]
    return float(np.nanmean(errors)) if not np.isnan(errors).all() else float("nan")


def calibration(logits: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> dict[str, Any]:
    """Return the reliability of the counted pairs, and `FIGURES` of it; arrays `[N, V]`."""
    probabilities = expit(logits)
    curve = reliability(probabilities[counted], labels[counted])
    errors = (curve.error, class_calibration_error(probabilities, labels, counted))
    figures = (*errors, negative_log_likelihood(logits[counted], labels[counted]))
    return {"reliability": curve._asdict(), **dict(zip(FIGURES, figures, strict=True))}


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean over pairs of −log of the probability that sigmoid(logit / temperature) assigns to the label."""
    return float(np.logaddexp(0, np.where(labels, -logits, logits) / temperature).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the T that minimizes `negative_log_likelihood`, within `TEMPERATURES`; 1 if one label is absent.

    The likelihood has one maximum, because it is concave in 1 / T. T above 1 means that the scores are too confident.
    """
    from scipy.optimize import minimize_scalar  # here, because --help need not wait for it

    if labels.all() or not labels.any():
        return 1.0
    signed = np.where(labels, -logits, logits).astype(np.float64)
    loss = lambda log_t: np.logaddexp(0, signed * np.exp(-log_t)).mean()  # noqa: E731
    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def fit_temperatures(logits: np.ndarray, labels: np.ndarray, counted: np.ndarray, per_class: bool) -> np.ndarray:
    """Return a temperature per class `[V]`: one that all pairs share, or each class's own."""
    if not per_class:
        return np.full(logits.shape[1], fit_temperature(logits[counted], labels[counted]))
    columns = zip(logits.T, labels.T, counted.T, strict=True)
    return np.array([fit_temperature(logit[use], label[use]) for logit, label, use in columns])
