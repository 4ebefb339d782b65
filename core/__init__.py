"""Object-aware self-supervised multi-label classification: the method, its training and its evaluation.

The names below are the public surface; `from core import Classifier` loads only what it needs.
"""

import importlib

_PUBLIC = dict.fromkeys(("Argument", "Crops", "Options", "Step", "Strategy"), "core.strategy")
_PUBLIC |= {"Classifier": "core.networks", "load_weights": "core.weights", "train": "core.training"}
_PUBLIC |= {"predict": "core.evaluation.prediction", "trained_network": "core.evaluation.loading"}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'core' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
