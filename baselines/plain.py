"""Baseline: plain fine-tuning. The logits are the CAM branch after global average pooling; nothing is cut."""

import torch

from core.losses import class_loss
from core.training import Crops, Options, Step, main


def training_step(
    student: torch.nn.Module,
    teacher: None,
    images: torch.Tensor,
    labels: torch.Tensor,
    crops: Crops,
    options: Options,
) -> Step:
    """The class loss on one batch.

    Args:
        student: a `Classifier` with head "gap" in train mode; there is no teacher.
        images: `[B, 3, S, S]`; labels: multi-hot `[B, V]`.
        crops, options: of no use here.
    """
    logits, _ = student(images)  # [B, V]

    classification = class_loss(logits, labels)
    nothing = torch.zeros_like(classification)
    no_keypoints = torch.zeros(0, 2, dtype=torch.long, device=images.device)
    return Step(classification, classification, nothing, nothing, no_keypoints)


if __name__ == "__main__":
    main(training_step, __doc__, with_teacher=False, crops_of=Crops.one_per_image, head="gap")
