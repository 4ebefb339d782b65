"""Batch normalization over groups: the four tiles of a crop share batch statistics; different crops do not.

The official code passes one crop (four tiles) at a time through the network. Here many crops pass at once, which
computes the same numbers if every crop is normalized by itself and the running statistics move as if crop followed
crop. One update with the batch statistic s_i is  r ← (1 − m) · r + m · s_i,  so k updates in a row are, in closed form,

    r ← (1 − m)^k · r  +  m · Σ_{i=1…k} (1 − m)^(k−i) · s_i,        m = 0.1 (momentum),

where s_i is the mean, or the unbiased variance (n / (n − 1) times the batch variance), of the i-th crop.
"""

from typing import NamedTuple

import torch
import torch.distributed
import torch.distributed.nn.functional
import torch.nn.functional as F
from torch import Tensor, nn


class Groups(NamedTuple):
    """How a batch is made up, and what its statistics do."""

    crops: int = 1  # number of crops in the batch, one after another; 1 for ordinary images
    replicas: int = 1  # number of equal parts each crop (or the batch of images) is split into for its batch statistics
    update_running: bool = True  # whether the running statistics move
    synchronize: bool = False  # average the batch statistics over the processes of `torch.distributed`

    @property
    def total(self) -> int:
        """Number of groups, each normalized by itself."""
        return self.crops * self.replicas

    @property
    def updates(self) -> slice:
        """Which of the groups move the running statistics: the first replica of every crop."""
        return slice(0, self.total if self.update_running else 0, self.replicas)


ONE_GROUP = Groups()
OF_GROUP = (1, 3, 4)  # the axes of `[groups, images, C, h, w]` that share statistics


class OneValuePerChannel(ValueError):
    """A group with one value per channel has no variance: one image, or one tile, in a layer that sees 1 × 1 pixels."""


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization of a batch of several groups, each normalized by itself.

    With `replicas` R, each crop is split further into R equal parts, as `nn.DataParallel` would scatter its tiles over
    R GPUs. Running statistics see the first replica only, the one whose buffers `nn.DataParallel` keeps.

    There are two ways to compute the same up to rounding: on a CPU the library's kernel group by group is as fast as
    one call on the whole batch; on a GPU one kernel launch per group and layer would cost more than the computation, so
    all groups are normalized by a few tensor operations at once. docs/performance.md has the figures.
    """

    def __init__(self, num_features: int, **keywords):
        super().__init__(num_features, **keywords)
        self.groups = ONE_GROUP  # how the next batch is made up, see `set_groups`
        # timm joins normalization, dropout and activation in one layer; elsewhere both are identities.
        self.drop, self.act = nn.Identity(), nn.Identity()

    @classmethod
    def from_batch_norm(cls, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> "GroupedBatchNorm2d":
        """Return a layer that shares the parameters and buffers of `norm`."""
        grouped = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=norm.affine)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked", "drop", "act"):
            setattr(grouped, name, getattr(norm, name, getattr(grouped, name)))
        return grouped

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x `[crops · images, C, h, w]`, or as `BatchNorm1d` `[crops · images · n, C]` or `[…, C, n]`."""
        if x.dim() < 4:
            return self.forward(x.reshape(*x.shape[:2], -1, 1)).reshape(x.shape)
        return self.act(self.drop(self._normalize(x) if self.training else super().forward(x)))

    def _normalize(self, x: Tensor) -> Tensor:
        if len(x) % self.groups.total:
            raise ValueError(f"{len(x)} images cannot be split into {self.groups.total} equal groups")
        if x.numel() == x.shape[1] * self.groups.total and not self.groups.synchronize:
            raise OneValuePerChannel("a layer of batch normalization gets one value per channel")
        if self.groups.update_running:
            self.num_batches_tracked += self.groups.crops
        at_once = (x.is_cuda and self.groups.total > 1) or self.groups.synchronize
        return normalize_groups_at_once(self, x) if at_once else normalize_group_by_group(self, x)


def normalize_group_by_group(layer: GroupedBatchNorm2d, x: Tensor) -> Tensor:
    """Normalize with the library's kernel, one group after another; moves the running statistics of `layer`."""
    groups, buffers = layer.groups, (layer.running_mean, layer.running_var)
    if groups.total > 1:
        return _GroupByGroup.apply(x, layer.weight, layer.bias, *buffers, groups, layer.momentum, layer.eps)
    running = buffers if groups.update_running else (None, None)
    return F.batch_norm(x, *running, layer.weight, layer.bias, True, layer.momentum, layer.eps)


def normalize_groups_at_once(layer: GroupedBatchNorm2d, x: Tensor) -> Tensor:
    """Normalize with a few tensor operations over all groups; moves the running statistics of `layer`."""
    groups = layer.groups
    split = x.unflatten(0, (groups.total, -1))  # [groups, images, C, h, w]
    count = split[0, :, 0].numel() * (torch.distributed.get_world_size() if groups.synchronize else 1)
    result, mean, var = _AtOnce.apply(split, layer.weight, layer.bias, layer.eps, groups.synchronize)
    if groups.update_running:
        unbiased = var * (count / max(count - 1, 1))
        update_running_stats(layer.running_mean, mean[groups.updates], layer.momentum)
        update_running_stats(layer.running_var, unbiased[groups.updates], layer.momentum)
    return result.flatten(0, 1)


class _AtOnce(torch.autograd.Function):
    """Normalize `[groups, images, C, h, w]` group by group; return also mean and biased variance `[groups, C]`.

    The backward pass is written out, since autograd's would read and write about twice as many bytes and keep the
    activations once more. Source of its formulas: Ioffe and Szegedy, Batch normalization, ICML 2015, section 3.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps, synchronize):
        var, mean = torch.var_mean(x.float(), OF_GROUP, correction=0)
        if synchronize:
            mean, var = average_statistics(mean, var)
        inverse_std = torch.rsqrt(var + eps)
        scale = inverse_std * weight
        ctx.save_for_backward(x, weight, mean, inverse_std)
        ctx.mark_non_differentiable(mean, var)
        ctx.synchronize = synchronize
        return torch.addcmul(_spread(bias - mean * scale, x), x, _spread(scale, x)), mean, var

    @staticmethod
    def backward(ctx, grad_output, *_):
        x, weight, mean, inverse_std = ctx.saved_tensors
        rounded = mean.to(x.dtype)  # a half-precision x − mean would need a copy of x; what this leaves is made up for
        rest = mean - rounded
        centered = x - _spread(rounded, x)
        sums = grad_output.sum(OF_GROUP, dtype=torch.float32)
        products = (grad_output * centered).sum(OF_GROUP, dtype=torch.float32) - rest * sums  # with x − mean
        grad_weight, grad_bias, count = (products * inverse_std).sum(0), sums.sum(0), x[0, :, 0].numel()
        if ctx.synchronize:
            count *= torch.distributed.get_world_size()
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(products)
        scale = inverse_std * weight
        slope = -scale * inverse_std.square() * products / count
        shift = -scale * sums / count - slope * rest
        grad_x = torch.addcmul(_spread(shift, x), grad_output, _spread(scale, x)).addcmul_(centered, _spread(slope, x))
        return grad_x, grad_weight, grad_bias, None, None


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """Return values `[groups, C]` so that they meet x `[groups, images, C, h, w]`, in its type."""
    return values[:, None, :, None, None].to(x.dtype)


class _GroupByGroup(torch.autograd.Function):
    """Write every group's result straight into its part of the output.

    The short form is six lines: `torch.cat([F.batch_norm(part, …) for part in x.chunk(groups)])`. This one is kept
    because it saves two copies of the activations in memory, and, on a CPU, 0.10 s of an 8.4 s step with a teacher and
    at most 0.22 s of 11.0 s with Max (ResNet-50, 512 px, batch 4, two cores): at most 2 %.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, groups, momentum, eps):
        result = torch.empty_like(x)
        means, inverse_stds = (weight.new_empty(groups.total, len(weight)) for _ in range(2))
        updates = range(groups.total)[groups.updates]
        for i, (part, output) in enumerate(zip(x.chunk(groups.total), result.chunk(groups.total), strict=True)):
            running = (running_mean, running_var) if i in updates else (None, None)
            out = (output, means[i], inverse_stds[i])
            torch.native_batch_norm(part, weight, bias, *running, True, momentum, eps, out=out)
        ctx.save_for_backward(x, weight, means, inverse_stds)
        ctx.eps = eps
        return result

    @staticmethod
    def backward(ctx, grad_output):
        x, weight, means, inverse_stds = ctx.saved_tensors
        grad_input, grad_weight, grad_bias = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
        count = len(means)
        parts = zip(x.chunk(count), grad_output.chunk(count), grad_input.chunk(count), strict=True)
        for i, (part, part_grad, part_grad_input) in enumerate(parts):
            statistics = (None, None, means[i], inverse_stds[i], True, ctx.eps)
            gradients = torch.ops.aten.native_batch_norm_backward(part_grad, part, weight, *statistics, [True] * 3)
            part_grad_input.copy_(gradients[0])
            grad_weight += gradients[1]
            grad_bias += gradients[2]
        return grad_input, grad_weight, grad_bias, None, None, None, None, None


def average_statistics(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance over all processes' batches of equal length, with gradient.

    `mean` and `var`, of any shape, are those of this process's batch.
    """
    size = torch.distributed.get_world_size()
    mean_of_all = torch.distributed.nn.functional.all_reduce(mean) / size
    # The variance about the common mean: no difference of large squares.
    var_of_all = torch.distributed.nn.functional.all_reduce(var + (mean - mean_of_all).square()) / size
    return mean_of_all, var_of_all


def update_running_stats(running: Tensor, values: Tensor, momentum: float) -> None:
    """Move a running statistic by `values[0]`, `values[1]`, … in turn, in closed form and in place (see the top).

    Args:
        running: `[...]`; values: `[steps, ...]`, what each step saw; momentum: the weight of each.
    """
    steps = len(values)
    # The library's batch normalization saves this buffer for its backward pass, though training never reads it there.
    running = running.data  # so that autograd does not mistake this update for an error
    ages = torch.arange(steps - 1, -1, -1, device=values.device, dtype=running.dtype)
    weights = momentum * (1 - momentum) ** ages
    running.mul_((1 - momentum) ** steps).add_(torch.tensordot(weights, values.to(running.dtype), dims=1))


def group_batch_norms(module: nn.Module) -> nn.Module:
    """Replace every `BatchNorm1d` and `BatchNorm2d` inside `module` by a grouped one of its parameters, in place.

    Raises:
        ValueError: another layer has statistics of the batch.
    """
    for name, child in module.named_children():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            setattr(module, name, GroupedBatchNorm2d.from_batch_norm(child))
        elif hasattr(child, "momentum") and getattr(child, "running_var", None) is not None:
            raise ValueError(f"it has {type(child).__name__}, whose statistics cannot be kept apart by crop")
        else:
            group_batch_norms(child)
    return module


def set_groups(module: nn.Module, groups: Groups) -> None:
    """Tell every grouped layer of `module` how its next batch is made up."""
    for layer in module.modules():
        if isinstance(layer, GroupedBatchNorm2d):
            layer.groups = groups
