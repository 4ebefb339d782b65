"""Counterpart: ML-Decoder, queries that attend to the feature map. It differs from plain in the head, and uses asl.

Paper: ML-Decoder: Scalable and Versatile Classification Head (Ridnik et al., WACV 2023). Official code:
Alibaba-MIIL/ML_Decoder. Its recipe is that of ASL: see baselines/asl.py.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines import plain
from baselines.recipe import ASL
from core.strategy import Argument
from core.training import train


class MLDecoder(nn.Module):
    """A decoder layer without self-attention, from fixed random queries, one per group of classes, to their logits.

    The features, from which CAMs are made, are the attention of the group's query, mean over the attention's heads.

    Args:
        channels, num_classes: D, V.
        groups: number of queries G, at most V; 0: one per class, at most 100.
        width: of the decoder, E, divisible by 8.
    """

    def __init__(self, channels: int, num_classes: int, groups: int = 0, width: int = 768):
        super().__init__()
        groups = min(groups or 100, num_classes)
        self.num_classes, self.group_size = num_classes, math.ceil(num_classes / groups)
        self.register_buffer("queries", torch.randn(groups, width))  # not trained
        self.embedding = nn.Linear(channels, width)
        self.attention = nn.MultiheadAttention(width, num_heads=8, dropout=0.1, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, 2048), nn.Linear(2048, width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.1)
        self.group_weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(groups, width, self.group_size)))
        self.group_bias = nn.Parameter(torch.zeros(num_classes))

    @property
    def per_class(self) -> tuple[str, ...]:
        """The tensors with one row per class; none if classes share queries."""
        return ("queries", "group_weight", "group_bias") if self.group_size == 1 else ()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits `[B, V]` and features `[B, V, h, w]` of x `[B, D, h, w]`."""
        pixels = F.relu(self.embedding(x.flatten(2).transpose(1, 2)))  # [B, hw, E]
        q = self.queries.expand(x.shape[0], -1, -1)  # [B, G, E]; not len(x), which an export would fix
        q = self.norm1(q + self.dropout(q))
        attended, attention = self.attention(q, pixels, pixels)  # [B, G, E], [B, G, hw]
        q = self.norm2(q + self.dropout(attended))
        q = self.norm3(q + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(q))))))
        logits = torch.einsum("bge,gek->bgk", q, self.group_weight).flatten(1)
        maps = attention.repeat_interleave(self.group_size, 1).unflatten(2, x.shape[-2:])
        return logits[:, : self.num_classes].float() + self.group_bias, maps[:, : self.num_classes]


STRATEGY = replace(
    plain.STRATEGY,
    name="ml_decoder",
    head=lambda channels, classes, options: MLDecoder(channels, classes, options.num_of_groups),
    arguments={
        **ASL,
        "num_of_groups": Argument(0, "queries, each for a group of classes; 0: one per class, at most 100", least=0),
    },
)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
