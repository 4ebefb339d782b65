"""The teacher: an exponential moving average of the student.

torch's `AveragedModel` and timm's `ModelEmaV3` also copy the student's buffers into the teacher. Here, as in the
official code, the teacher's running statistics are its own: the golden numbers `ema_buffers_after` hold this.
"""

import copy

import torch
from torch import nn


def make_teacher(student: nn.Module) -> nn.Module:
    """Return a copy of the student that no gradient reaches. It stays in train mode: its tiles use batch statistics."""
    return copy.deepcopy(student).requires_grad_(False).train()


@torch.no_grad()
def update_teacher(
    teacher: nn.Module, student: nn.Module, iteration: int, alpha_ema: float, buffers: bool = False
) -> None:
    """Move the teacher's parameters toward the student's, in place; buffers stay the teacher's own.

    Args:
        teacher, student: networks of the same parameters.
        iteration: t, counted from 0; the weight of the past is min(1 − 1/(t+1), alpha_ema), so the first step copies.
        alpha_ema: the weight of the past in the long run.
        buffers: move the running statistics too, for an average that is evaluated and sees no image itself.
    """
    past = min(1 - 1 / (iteration + 1), alpha_ema)
    mine, theirs = list(teacher.parameters()), list(student.parameters())
    if buffers:
        mine += [buffer for buffer in teacher.buffers() if buffer.is_floating_point()]
        theirs += [buffer for buffer in student.buffers() if buffer.is_floating_point()]
    torch._foreach_mul_(mine, past)
    torch._foreach_add_(mine, theirs, alpha=1 - past)
