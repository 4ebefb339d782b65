"""Counterpart: global maximum instead of average pooling of the CAM branch. It differs from plain in the head.

Paper: Is Object Localization for Free? (Oquab et al., CVPR 2015). Official code: none for PyTorch.
"""

from baselines.plain import training_step
from baselines.recipe import RECIPE
from core.strategy import Crops, Strategy
from core.training import train

STRATEGY = Strategy("max_pool", training_step, teacher=False, crops=Crops.one_per_image, head="max", arguments=RECIPE)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
