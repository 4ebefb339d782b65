"""Average precision of multi-label scores."""

import numpy as np
from sklearn.metrics import average_precision_score


def average_precisions(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average precision of each class, not interpolated (scikit-learn's; the official code's metric).

    AP = Σ_n (R_n − R_{n−1}) · P_n over the distinct scores in falling order, with precision P and recall R of what
    scores at least that much.

    Args:
        scores: `[N, V]`, higher is more likely.
        labels: multi-hot `[N, V]`.

    Returns:
        `[V]` in 0…1; NaN for a class without a positive.

    Raises:
        ValueError: scores and labels of different shapes, or a score that is no number (its row is named).
    """
    if scores.shape != labels.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must both be [images, classes]")
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(broken):
        raise ValueError(f"the scores of {len(broken)} images are not finite, first in row {broken[0]}")
    return np.array(
        [average_precision_score(y, s) if y.any() else np.nan for s, y in zip(scores.T, labels.T.astype(bool))]
    )


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean of `average_precisions` over the classes that have a positive; NaN where none has."""
    precisions = average_precisions(scores, labels)
    present = precisions[~np.isnan(precisions)]
    return float(present.mean()) if len(present) else float("nan")
