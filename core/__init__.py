"""Object-aware self-supervised multi-label classification: the method, its training and its evaluation.

The names below are the public surface; `from core import Classifier` loads only what it needs.
"""

import importlib

_PUBLIC = {
    "Argument": "core.strategy",
    "Classifier": "core.networks",
    "Crops": "core.strategy",
    "Options": "core.strategy",
    "Step": "core.strategy",
    "Strategy": "core.strategy",
    "UserError": "tools.system.errors",
    "load_classifier": "core.evaluation.classifier",
    "load_weights": "core.weights",
    "predict": "core.evaluation.prediction",
    "preprocess": "tools.data.datasets",
    "train": "core.training",
    "trained_network": "core.evaluation.loading",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'core' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
