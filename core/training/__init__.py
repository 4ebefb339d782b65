"""The training loop: it joins a strategy with data, devices and files."""

from core.training.loop import train

__all__ = ["train"]
