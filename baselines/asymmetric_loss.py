"""The asymmetric loss: easy negatives, most of all labels, count less than positives.

Paper: Asymmetric Loss For Multi-Label Classification (Ridnik et al., ICCV 2021). Official code: Alibaba-MIIL/ASL,
`src/loss_functions/losses.py`, `AsymmetricLoss`.
"""

import torch
from torch import Tensor

EPSILON = 1e-8  # probabilities below it count as it, without gradient


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    gamma_neg: float = 4.0,
    gamma_pos: float = 0.0,
    clip: float = 0.05,
    constant_focus: bool = True,
) -> Tensor:
    """Return the loss of each image and class, −(1 − q)^γ · log q, where q is the probability of the right answer.

    The order of operations is the official code's, because float32 rounds 1 − p. Defaults are its training script's.

    Args:
        logits: `[N, V]`; targets: multi-hot `[N, V]`.
        gamma_neg, gamma_pos: γ of negatives and positives; 0 for both is the binary cross-entropy.
        clip: added to the probability of a negative, at most 1: negatives with p below it are ignored.
        constant_focus: no gradient flows through (1 − q)^γ.

    Returns:
        `[N, V]`, float32; the official code returns its sum.
    """
    p = torch.sigmoid(logits.float())
    right = torch.where(targets > 0, p, (1 - p + clip).clamp(max=1))
    gamma = torch.where(targets > 0, gamma_pos, gamma_neg)
    focus = (1 - (right.detach() if constant_focus else right)) ** gamma
    return -right.clamp(min=EPSILON).log() * focus
