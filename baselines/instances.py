"""Baseline: the class-specific instances alone, without a puzzle. It differs from plain in the head."""

from baselines.plain import training_step
from baselines.recipe import RECIPE
from core.strategy import Crops, Strategy
from core.training import train

STRATEGY = Strategy("instances", training_step, teacher=False, crops=Crops.one_per_image, arguments=RECIPE)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
