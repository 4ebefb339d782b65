"""Batch normalization over groups of images: one crop's four tiles share their statistics, and no other crop's."""

from typing import NamedTuple

import torch
import torch.distributed
import torch.distributed.nn.functional
import torch.nn.functional as F
from torch import nn


class Groups(NamedTuple):
    """How a batch is made up, and what its statistics do.

    Attributes:
        crops: the batch is so many crops, one after another; 1 for ordinary images.
        replicas: each crop (or the batch of images) is so many equal parts with batch statistics of their own.
        follow: whether the running statistics move.
        synchronize: average the batch statistics over the processes of `torch.distributed`.
    """

    crops: int = 1
    replicas: int = 1
    follow: bool = True
    synchronize: bool = False

    @property
    def total(self) -> int:
        """Number of groups that are normalized each by itself."""
        return self.crops * self.replicas


ONE_GROUP = Groups()


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization whose batch may consist of several groups, each normalized by itself.

    The official code passes one crop (four tiles) at a time through the network, so a crop's batch statistics are
    those of its four tiles. Here all crops pass at once, and this layer keeps them apart. With `replicas` R, each
    crop is split further into R equal parts, as `nn.DataParallel` would deal its tiles out over R GPUs.

    Running statistics move as if crop followed crop, each time with the statistics of the first replica (the only
    one whose buffers `nn.DataParallel` keeps). The usual batch normalization is the case of one crop, one replica.
    """

    def __init__(self, num_features: int, **keywords):
        super().__init__(num_features, **keywords)
        self.groups = ONE_GROUP
        # timm joins normalization, drop-out and activation in one layer; elsewhere both do nothing.
        self.drop = nn.Identity()
        self.act = nn.Identity()

    @classmethod
    def from_batch_norm(cls, norm: nn.BatchNorm2d) -> "GroupedBatchNorm2d":
        """The same layer as `norm`, parameters and buffers shared, able to normalize in groups."""
        grouped = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=norm.affine)
        grouped.weight, grouped.bias = norm.weight, norm.bias
        grouped.running_mean, grouped.running_var = norm.running_mean, norm.running_var
        grouped.num_batches_tracked = norm.num_batches_tracked
        grouped.drop = getattr(norm, "drop", grouped.drop)
        grouped.act = getattr(norm, "act", grouped.act)
        return grouped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x `[crops · images, C, h, w]` → the same shape."""
        return self.act(self.drop(self._normalize(x)))

    def _normalize(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        if len(x) % self.groups.total:
            raise ValueError(f"{len(x)} images do not divide into {self.groups.crops} crops of {self.groups.replicas}")
        if self.groups.follow:
            self.num_batches_tracked += self.groups.crops
        if x.is_cuda and self.groups.total > 1 or self.groups.synchronize:
            return self._all_groups_at_once(x)
        return self._group_by_group(x)

    def _group_by_group(self, x: torch.Tensor) -> torch.Tensor:
        """The library's own kernel on one group after another: on a CPU as fast as one call on the whole batch."""
        keywords = (self.groups, self.momentum, self.eps)
        if self.groups.total > 1:
            return _GroupByGroup.apply(x, self.weight, self.bias, self.running_mean, self.running_var, *keywords)
        mean, var = (self.running_mean, self.running_var) if self.groups.follow else (None, None)
        return F.batch_norm(x, mean, var, self.weight, self.bias, True, self.momentum, self.eps)

    def _all_groups_at_once(self, x: torch.Tensor) -> torch.Tensor:
        """Two passes over all groups: on a GPU a launch per group and layer would cost more than the arithmetic."""
        split = x.unflatten(0, (self.groups.total, -1))
        count = split[0, :, 0].numel()
        var, mean = torch.var_mean(split.float(), dim=(1, 3, 4), correction=0)
        if self.groups.synchronize:
            count *= torch.distributed.get_world_size()
            mean, var = average_statistics(mean, var)
        scale = torch.rsqrt(var + self.eps) * self.weight
        shift = self.bias - mean * scale
        result = torch.addcmul(_broadcast(shift, x.dtype), split, _broadcast(scale, x.dtype)).flatten(0, 1)
        if self.groups.follow:
            with torch.no_grad():
                unbiased = var * (count / max(count - 1, 1))
                follow(self.running_mean, mean[:: self.groups.replicas], self.momentum)
                follow(self.running_var, unbiased[:: self.groups.replicas], self.momentum)
        return result


class _GroupByGroup(torch.autograd.Function):
    """Every group through the library's kernel, straight into its place of the result: splitting and joining tensors
    with gradient would copy each activation twice more."""

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, groups, momentum, eps):
        result = torch.empty_like(x)
        means, inverse_stds = (weight.new_empty(groups.total, len(weight)) for _ in range(2))
        for i, (part, place) in enumerate(zip(x.chunk(groups.total), result.chunk(groups.total))):
            follows = groups.follow and i % groups.replicas == 0
            running = (running_mean, running_var) if follows else (None, None)
            out = (place, means[i], inverse_stds[i])
            torch.native_batch_norm(part, weight, bias, *running, True, momentum, eps, out=out)
        ctx.save_for_backward(x, weight, means, inverse_stds)
        ctx.eps = eps
        return result

    @staticmethod
    def backward(ctx, gradient):
        x, weight, means, inverse_stds = ctx.saved_tensors
        of_x, of_weight, of_bias = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
        count = len(means)
        for i, (part, slope, place) in enumerate(zip(x.chunk(count), gradient.chunk(count), of_x.chunk(count))):
            statistics = (None, None, means[i], inverse_stds[i], True, ctx.eps)
            parts = torch.ops.aten.native_batch_norm_backward(slope, part, weight, *statistics, [True, True, True])
            place.copy_(parts[0])
            of_weight += parts[1]
            of_bias += parts[2]
        return of_x, of_weight, of_bias, None, None, None, None, None


def average_statistics(mean: torch.Tensor, var: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance over the batches of all processes, which are equally long.

    Args:
        mean, var: of this process's batch, any shape. The gradient flows through the average.
    """
    size = torch.distributed.get_world_size()
    mean_of_all = torch.distributed.nn.functional.all_reduce(mean) / size
    # The variance about the common mean: no difference of large squares.
    var_of_all = torch.distributed.nn.functional.all_reduce(var + (mean - mean_of_all).square()) / size
    return mean_of_all, var_of_all


def _broadcast(statistics: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
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
    # The library's batch normalization keeps this buffer for its backward pass, though training never reads it there:
    # through `.data`, moving it in between is no error.
    running = running.data
    ages = torch.arange(steps - 1, -1, -1, device=values.device, dtype=running.dtype)
    weights = momentum * (1 - momentum) ** ages
    running.mul_((1 - momentum) ** steps).add_(torch.tensordot(weights, values.to(running.dtype), dims=1))


def group_batch_norms(module: nn.Module) -> nn.Module:
    """Replace every `BatchNorm2d` inside `module` by a `GroupedBatchNorm2d` of the same parameters, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, GroupedBatchNorm2d.from_batch_norm(child))
        else:
            group_batch_norms(child)
    return module


def set_groups(module: nn.Module, groups: Groups) -> None:
    """Tell every grouped layer of `module` how its next batch is made up."""
    for layer in module.modules():
        if isinstance(layer, GroupedBatchNorm2d):
            layer.groups = groups
