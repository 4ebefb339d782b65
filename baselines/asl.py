"""Counterpart: the asymmetric loss on the plain head. It differs from plain in the loss (baselines/asymmetric_loss.py).

Paper: Asymmetric Loss For Multi-Label Classification (Ridnik et al., ICCV 2021). Official code: Alibaba-MIIL/ASL.
Its recipe: --optimizer adamw --lr 1e-4 --schedule onecycle --evaluate_ema --augment randaugment.
"""

from baselines.plain import training_step
from baselines.recipe import ASL
from core.strategy import Crops, Strategy
from core.training import train

STRATEGY = Strategy("asl", training_step, teacher=False, crops=Crops.one_per_image, head="gap", arguments=ASL)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
