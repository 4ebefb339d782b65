"""Counterpart: class-specific residual attention. It differs from plain in the head.

Paper: Residual Attention: A Simple but Effective Method for Multi-Label Recognition (Zhu and Wu, ICCV 2021). Official
code: Kevinz-code/CSRA. Its recipe: --lr 0.01 --momentum 0.9 --nesterov False --warmup_epoch 2 --max_epoch 30.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, inf, nn

from baselines import plain
from baselines.recipe import RECIPE
from core.strategy import Argument
from core.training import train

# By the number of heads; infinity takes the maximum.
TEMPERATURES = {1: (1,), 2: (1, inf), 4: (1, 2, 4, inf), 6: (1, 2, 3, 4, 5, inf), 8: (1, 2, 3, 4, 5, 6, 7, inf)}


class CSRA(nn.Module):
    """Sum over heads of the mean score and λ · the mean with the softmax of temperature · score as weights.

    A score is w · x / ‖w‖ at each position; every head has its own w `[V, D]`. The features are the scores' sum over
    heads: with λ = 0 its mean over positions is the logit.
    """

    per_class = ("weight",)

    def __init__(self, channels: int, num_classes: int, temperatures: tuple[float, ...] = (1.0,), lam: float = 0.1):
        super().__init__()
        self.temperatures, self.lam = temperatures, lam
        bound = channels**-0.5  # nn.Conv2d's default
        self.weight = nn.Parameter(torch.empty(num_classes, len(temperatures), channels).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits `[B, V]` and features `[B, V, h, w]` of x `[B, D, h, w]`; scores are `[B, V, heads, h, w]`."""
        directions = F.normalize(self.weight, dim=2).flatten(0, 1)
        scores = F.conv2d(x, directions[:, :, None, None]).float().unflatten(1, self.weight.shape[:2])
        logits = 0
        for score, temperature in zip(scores.flatten(3).unbind(2), self.temperatures, strict=True):  # [B, V, hw]
            attended = score.amax(2) if temperature == inf else (score * (temperature * score).softmax(2)).sum(2)
            logits = logits + (score.mean(2) + self.lam * attended)  # [B, V]
        return logits, scores.sum(2)


STRATEGY = replace(
    plain.STRATEGY,
    name="csra",
    head=lambda channels, classes, options: CSRA(channels, classes, TEMPERATURES[options.num_heads], options.lam),
    arguments={
        **RECIPE,
        "num_heads": Argument(1, "number of heads", choices=tuple(TEMPERATURES)),
        "lam": Argument(0.1, "weight λ of the attention", least=0),
    },
)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
