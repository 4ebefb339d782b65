"""The training loop: the one room of `core` that joins the method with files, arguments and screens."""

from core.strategy import Crops, Options, Step
from core.training.loop import main

__all__ = ["Crops", "Options", "Step", "main"]
