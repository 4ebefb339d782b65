"""Counterpart: global maximum instead of average pooling of the CAM branch. It differs from plain in the head.

Paper: Is Object Localization for Free? (Oquab et al., CVPR 2015). Official code: none for PyTorch.
"""

from dataclasses import replace

from baselines import plain
from core.training import train

STRATEGY = replace(plain.STRATEGY, name="max_pool", head="max")

if __name__ == "__main__":
    train(STRATEGY, __doc__)
