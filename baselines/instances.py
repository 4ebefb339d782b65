"""Baseline: the class-specific instances alone, without a puzzle. No image is cut."""

from torch import Tensor

from baselines.recipe import RECIPE, class_loss
from core.networks import Classifier
from core.strategy import Crops, Options, Step, Strategy
from core.training import train


def training_step(
    student: Classifier, teacher: None, images: Tensor, labels: Tensor, crops: Crops, options: Options
) -> Step:
    """Return the class loss of one batch; `core.strategy.Strategy` describes the arguments."""
    logits, _ = student(images)  # [B, V]
    return Step(class_loss(logits, labels, options))


STRATEGY = Strategy("instances", training_step, teacher=False, crops=Crops.one_per_image, arguments=RECIPE)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
