"""Counterpart: the asymmetric loss on the plain head. It differs from plain in the loss (baselines/asymmetric_loss.py).

Paper: Asymmetric Loss For Multi-Label Classification (Ridnik et al., ICCV 2021). Official code: Alibaba-MIIL/ASL.
Its recipe: --optimizer adamw --lr 1e-4 --schedule onecycle --evaluate_ema --augment randaugment --cutout 0.5.
"""

from dataclasses import replace

from baselines import plain
from baselines.recipe import ASL
from core.training import train

STRATEGY = replace(plain.STRATEGY, name="asl", arguments=ASL)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
