"""Baseline: Puzzle-CAM's cut with an EMA teacher. Every image is cut at its centre, once per present class.

It differs from cMax in the keypoint alone, and from centre in the teacher and the crops. Paper of the cut: Puzzle-CAM
(ICIP 2021).
"""

from dataclasses import replace

from baselines import centre
from core.strategy import Crops
from core.training import train

STRATEGY = replace(centre.STRATEGY, name="centre", teacher=True, crops=Crops.one_per_class)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
