"""The training loop: the one room of `core` that joins the method with files, arguments and screens."""

from core.training.loop import main
from core.training.step import Crops, Options, Step

__all__ = ["Crops", "Options", "Step", "main"]
