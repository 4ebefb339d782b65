"""A strategy as a user would declare it, for the tests: a keypoint and an argument of its own, and further losses."""

import torch

from core.keypoints import centre_keypoints
from core.losses import class_loss
from core.strategy import Argument, Options, Step, Strategy
from core.training import train

AREA_WEIGHT = 2.0


def middle(cams: torch.Tensor, image_size: int, options: Options) -> torch.Tensor:
    return centre_keypoints(len(cams), image_size, cams.device)


def training_step(student, teacher, images, labels, crops, options) -> Step:
    logits, features = student(images)
    classification = class_loss(logits, labels)
    size_loss = options.pull * logits.square().mean()  # a mean over images, as it enters `loss`
    maps = features[crops.image, crops.label]  # [crops, n, n]
    area_loss = maps.square().mean((1, 2)).sum() / max(len(maps), 1)  # a mean over crops, without its weight
    return Step(
        classification + size_loss + AREA_WEIGHT * area_loss,
        classification,
        image_losses={"size_loss": size_loss},
        crop_losses={"area_loss": area_loss},
    )


STRATEGY = Strategy(
    "own",
    training_step,
    teacher=False,
    keypoints=middle,
    arguments={"pull": Argument(0.25, "weight of the size loss, factor", least=0)},
)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
