"""Several devices at work on one batch: shared gradients, and running statistics as one device would have them.

The running statistics of batch normalization move crop after crop. Where several copies of the network each see some of
the crops, every copy starts from the same statistics; afterwards these are put together as if the crops of the second
copy had followed those of the first, and so on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed
from torch import nn

from core.batch_norm import GroupedBatchNorm2d
from core.instances import ClassSpecificInstances
from core.networks import Classifier


class RunningStatistics(NamedTuple):
    """All running statistics of a network.

    Attributes:
        values: `[N]`, every layer's running mean and variance, one after another.
        steps: `[N]`, for each of them, how many batches its layer has followed.
    """

    values: torch.Tensor
    steps: torch.Tensor


def layers_with_stats(network: nn.Module) -> list[nn.Module]:
    """The layers with running statistics, in a fixed order."""
    return [layer for layer in network.modules() if isinstance(layer, (GroupedBatchNorm2d, ClassSpecificInstances))]


def _statistics(network: nn.Module) -> list[torch.Tensor]:
    return [statistic for layer in layers_with_stats(network) for statistic in (layer.running_mean, layer.running_var)]


def read_statistics(network: nn.Module) -> RunningStatistics:
    """A copy of the network's running statistics."""
    values = torch.cat([statistic.flatten() for statistic in _statistics(network)])
    counters = [
        layer.num_batches_tracked.expand(2 * layer.running_mean.numel()) for layer in layers_with_stats(network)
    ]
    return RunningStatistics(values, torch.cat(counters))


@torch.no_grad()
def write_statistics(network: nn.Module, statistics: RunningStatistics) -> None:
    """Set the network's running statistics, in place."""
    places = _statistics(network)
    parts = statistics.values.split([place.numel() for place in places])
    for place, part in zip(places, parts):
        place.data.copy_(part.view_as(place))  # `.data`: see `core.batch_norm.follow`
    counts = statistics.steps.split([2 * layer.running_mean.numel() for layer in layers_with_stats(network)])
    for layer, count in zip(layers_with_stats(network), counts):
        layer.num_batches_tracked.copy_(count[0])


def momenta(network: nn.Module) -> torch.Tensor:
    """`[N]`, the momentum of each running statistic."""
    layers = layers_with_stats(network)
    return torch.cat(
        [layer.running_mean.new_full((2 * layer.running_mean.numel(),), layer.momentum) for layer in layers]
    )


def merge_running_stats(
    before: RunningStatistics, after: Sequence[RunningStatistics], momentum: torch.Tensor
) -> RunningStatistics:
    """What one network would have after the batches of all copies, the first copy's first.

    A copy that follows s batches takes its statistics from r to (1 − momentum)^s · r + c, where c is what it saw. So c
    can be read off, and applied to the statistics that the copies before it left.

    Args:
        before: of all copies alike; after: of each copy, in order; momentum: `[N]`.
    """
    values, steps = after[0]
    for copy in after[1:]:
        followed = copy.steps - before.steps
        kept = (1 - momentum) ** followed
        values = kept * values + (copy.values - kept * before.values)
        steps = steps + followed
    return RunningStatistics(values, steps)


def sync_running_stats(network: Classifier, before: RunningStatistics) -> None:
    """Put the running statistics of all processes together, in place on every one.

    Args:
        network: this process's copy after an iteration; before: its running statistics before.
    """
    mine = read_statistics(network)
    size = torch.distributed.get_world_size()
    values = [torch.empty_like(mine.values) for _ in range(size)]
    steps = [torch.empty_like(mine.steps) for _ in range(size)]
    torch.distributed.all_gather(values, mine.values)
    torch.distributed.all_gather(steps, mine.steps)
    after = [RunningStatistics(*pair) for pair in zip(values, steps)]
    write_statistics(network, merge_running_stats(before, after, momenta(network)))


@torch.no_grad()
def average_gradients(network: nn.Module) -> None:
    """Average the gradients over all processes, in place, in one message.

    After the whole backward pass rather than in the midst of it, as `DistributedDataParallel` would: a step may use the
    network twice, or only parts of it, and this way it need not know that there are other processes.
    """
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    message = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(message)
    message /= torch.distributed.get_world_size()
    parts = message.split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view(gradient.shape) for part, gradient in zip(parts, gradients)])


class CropDataParallel(nn.DataParallel):
    """`nn.DataParallel` for a `Classifier`: each GPU takes whole images, or whole crops with their four tiles.

    The batch is scattered over its first axis, so a crop `[4, 3, h, w]` is never torn apart. The first GPU's images
    alone move the running statistics, as in the official code; the crops of all GPUs do, in order.
    """

    @property
    def memory_format(self) -> torch.memory_format:
        """The network's memory layout."""
        return self.module.memory_format

    def scatter(self, inputs: Sequence, kwargs: dict, device_ids: Sequence[int]) -> tuple[Sequence, Sequence]:
        """Deal the batch out. Where it is too small for all GPUs, some stay idle instead of running on nothing."""
        inputs, kwargs = super().scatter(inputs, kwargs, device_ids)
        busy = sum(bool(part) for part in inputs)
        return inputs[:busy], kwargs[:busy]

    def parallel_apply(self, replicas: Sequence[Classifier], inputs: Sequence, kwargs: Sequence) -> list:
        """Run the replicas side by side; the first shares its running statistics with the network itself."""
        tiles = inputs[0][0].dim() == 5
        if not (tiles and self.module.training):
            return super().parallel_apply(replicas, inputs, kwargs)
        before = read_statistics(self.module)
        outputs = super().parallel_apply(replicas, inputs, kwargs)
        device = before.values.device
        after = [RunningStatistics(*(part.to(device) for part in read_statistics(replica))) for replica in replicas]
        write_statistics(self.module, merge_running_stats(before, after, momenta(self.module)))
        return outputs
