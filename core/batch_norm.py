"""Batch normalisation over groups of images: one crop's four tiles share their statistics, and no other crop's."""

import torch
import torch.nn.functional as F
from torch import nn


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose batch may consist of several groups, each normalised by itself.

    The official code passes one crop (four tiles) at a time through the network, so a crop's batch statistics are
    those of its four tiles. Here all crops pass at once, and this layer keeps them apart. With `replicas` R, each
    crop is split further into R equal parts, as `nn.DataParallel` would deal its tiles out over R GPUs.

    Running statistics move as if crop followed crop, each time with the statistics of the first replica (the only
    one whose buffers `nn.DataParallel` keeps). The usual batch normalisation is the case of one crop, one replica.
    """

    def __init__(self, num_features: int, **keywords):
        super().__init__(num_features, **keywords)
        self.crops = 1
        self.replicas = 1
        # timm joins normalisation, drop-out and activation in one layer; elsewhere both do nothing.
        self.drop = nn.Identity()
        self.act = nn.Identity()

    @classmethod
    def take_over(cls, norm: nn.BatchNorm2d) -> "GroupedBatchNorm2d":
        """The same layer as `norm`, parameters and buffers shared, able to normalise in groups."""
        grouped = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=norm.affine)
        grouped.weight, grouped.bias = norm.weight, norm.bias
        grouped.running_mean, grouped.running_var = norm.running_mean, norm.running_var
        grouped.num_batches_tracked = norm.num_batches_tracked
        grouped.drop = getattr(norm, "drop", grouped.drop)
        grouped.act = getattr(norm, "act", grouped.act)
        return grouped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x `[crops · images, C, h, w]` → the same shape."""
        groups = self.crops * self.replicas
        if not self.training or groups == 1:
            return self.act(self.drop(super().forward(x)))
        if len(x) % groups:
            raise ValueError(f"{len(x)} images do not divide into {self.crops} crops of {self.replicas} replicas")
        self.num_batches_tracked += self.crops
        normalise = self._all_groups_at_once if x.is_cuda else self._group_by_group
        return self.act(self.drop(normalise(x)))

    def _group_by_group(self, x: torch.Tensor) -> torch.Tensor:
        """The library's own kernel on one group after another: on a CPU as fast as one call on the whole batch."""
        parts = x.chunk(self.crops * self.replicas)
        if torch.is_grad_enabled():
            return torch.cat([self._normalise(part, i % self.replicas == 0) for i, part in enumerate(parts)])
        result = torch.empty_like(x)
        for i, (part, place) in enumerate(zip(parts, result.chunk(len(parts)))):
            place.copy_(self._normalise(part, i % self.replicas == 0))
        return result

    def _normalise(self, x: torch.Tensor, first_replica: bool) -> torch.Tensor:
        mean, var = (self.running_mean, self.running_var) if first_replica else (None, None)
        return F.batch_norm(x, mean, var, self.weight, self.bias, True, self.momentum, self.eps)

    def _all_groups_at_once(self, x: torch.Tensor) -> torch.Tensor:
        """Two passes over all groups: on a GPU a launch per group and layer would cost more than the arithmetic."""
        groups = self.crops * self.replicas
        split = x.unflatten(0, (groups, -1))
        count = split[0, :, 0].numel()
        var, mean = torch.var_mean(split.float(), dim=(1, 3, 4), correction=0)
        scale = torch.rsqrt(var + self.eps) * self.weight
        shift = self.bias - mean * scale
        result = torch.addcmul(_spread(shift, x.dtype), split, _spread(scale, x.dtype)).flatten(0, 1)
        with torch.no_grad():
            unbiased = var * (count / max(count - 1, 1))
            follow(self.running_mean, mean[:: self.replicas], self.momentum)
            follow(self.running_var, unbiased[:: self.replicas], self.momentum)
        return result


def _spread(statistics: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`[groups, C]` → `[groups, 1, C, 1, 1]`."""
    return statistics.to(dtype)[:, None, :, None, None]


def follow(running: torch.Tensor, values: torch.Tensor, momentum: float) -> None:
    """Move the running statistic by `values[0]`, `values[1]`, … in turn, in closed form and in place.

    Args:
        running: `[...]`, the running mean or variance.
        values: `[steps, ...]`, what each step saw.
        momentum: the weight of each new value.
    """
    steps = len(values)
    ages = torch.arange(steps - 1, -1, -1, device=values.device, dtype=running.dtype)
    weights = momentum * (1 - momentum) ** ages
    running.mul_((1 - momentum) ** steps).add_(torch.tensordot(weights, values.to(running.dtype), dims=1))


def group_batch_norms(module: nn.Module) -> nn.Module:
    """Replace every `BatchNorm2d` inside `module` by a `GroupedBatchNorm2d` of the same parameters, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, GroupedBatchNorm2d.take_over(child))
        else:
            group_batch_norms(child)
    return module


def set_groups(module: nn.Module, crops: int, replicas: int) -> None:
    """Tell every grouped layer of `module` how its next batch is made up."""
    for layer in module.modules():
        if isinstance(layer, GroupedBatchNorm2d):
            layer.crops, layer.replicas = crops, replicas
