"""Training one batch on several devices: shared gradients, and running statistics as one device would have them.

The running statistics of batch normalization move crop by crop. If several copies of the network each see some of the
crops, every copy starts from the same statistics; afterwards they are merged as if the crops of the second copy had
followed those of the first, and so on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed
from torch import Tensor, nn

from core.batch_norm import GroupedBatchNorm2d
from core.instances import ClassSpecificInstances
from core.networks import Classifier


class RunningStatistics(NamedTuple):
    values: Tensor  # `[N]`, every layer's running mean and variance, concatenated
    steps: Tensor  # `[N]`, for each of them, how many updates its layer has seen


def _layers_and_buffers(network: nn.Module) -> list[tuple[nn.Module, Tensor]]:
    """Return every running mean and variance with its layer, in a fixed order."""
    layers = [layer for layer in network.modules() if isinstance(layer, (GroupedBatchNorm2d, ClassSpecificInstances))]
    return [(layer, buffer) for layer in layers for buffer in (layer.running_mean, layer.running_var)]


def read_statistics(network: nn.Module) -> RunningStatistics:
    """Return a copy of the network's running statistics."""
    found = _layers_and_buffers(network)
    steps = [layer.num_batches_tracked.expand(buffer.numel()) for layer, buffer in found]
    return RunningStatistics(torch.cat([buffer.flatten() for _, buffer in found]), torch.cat(steps))


@torch.no_grad()
def write_statistics(network: nn.Module, statistics: RunningStatistics) -> None:
    """Set the network's running statistics, in place."""
    found = _layers_and_buffers(network)
    values, steps = (part.split([buffer.numel() for _, buffer in found]) for part in statistics)
    for (layer, buffer), value, count in zip(found, values, steps, strict=True):
        buffer.data.copy_(value.view_as(buffer))  # `.data`: see `core.batch_norm.update_running_stats`
        layer.num_batches_tracked.copy_(count[0])


def momenta(network: nn.Module) -> Tensor:
    """Return the momentum of each running statistic, `[N]`."""
    found = _layers_and_buffers(network)
    return torch.cat([torch.full_like(buffer, layer.momentum).flatten() for layer, buffer in found])


def merge_running_stats(
    before: RunningStatistics, after: Sequence[RunningStatistics], momentum: Tensor
) -> RunningStatistics:
    """Return what one network would have after the batches of all copies, the first copy's first.

    s updates take a statistic from r to (1 − momentum)^s · r + c, where c depends on what the copy saw alone. So c can
    be solved for, and applied to the statistics that the copies before it left. `before` is the same for all copies.
    """
    values, steps = after[0]
    for copy in after[1:]:
        updates = copy.steps - before.steps
        kept = (1 - momentum) ** updates
        values = kept * values + (copy.values - kept * before.values)
        steps = steps + updates
    return RunningStatistics(values, steps)


def sync_running_stats(network: Classifier, before: RunningStatistics) -> None:
    """Merge the running statistics of all processes after an iteration, in place; `before`: this one's before it."""
    gathered = []
    for mine in read_statistics(network):
        gathered.append([torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())])
        torch.distributed.all_gather(gathered[-1], mine)
    after = [RunningStatistics(*of_process) for of_process in zip(*gathered, strict=True)]
    write_statistics(network, merge_running_stats(before, after, momenta(network)))


@torch.no_grad()
def average_gradients(network: nn.Module) -> None:
    """Average the gradients over all processes, in place, in one message.

    After the backward pass, not during it as `DistributedDataParallel` would: a step may use the network twice, or only
    parts of it, and this way it does not have to know that there are other processes.
    """
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    message = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(message)
    message /= torch.distributed.get_world_size()
    parts = message.split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)])


class CropDataParallel(nn.DataParallel):
    """`nn.DataParallel` for a `Classifier`: each GPU takes whole images, or whole crops with their four tiles.

    The batch is scattered over its first axis, so a crop `[4, 3, h, w]` stays whole. Of the images only the first GPU's
    move the running statistics, as in the official code; of the crops those of all GPUs do, in order.
    """

    memory_format = property(lambda self: self.module.memory_format)
    normalization = property(lambda self: self.module.normalization)

    def scatter(self, inputs: Sequence, kwargs: dict, device_ids: Sequence[int]) -> tuple[Sequence, Sequence]:
        """Scatter the batch; GPUs that would receive no sample are skipped."""
        inputs, kwargs = super().scatter(inputs, kwargs, device_ids)
        busy = sum(bool(part) for part in inputs)
        return inputs[:busy], kwargs[:busy]

    def parallel_apply(self, replicas: Sequence[Classifier], inputs: Sequence, kwargs: Sequence) -> list:
        """Run the replicas in parallel; the first shares its running statistics with the network itself."""
        if not self.module.training or inputs[0][0].dim() == 4:  # images
            return super().parallel_apply(replicas, inputs, kwargs)
        before = read_statistics(self.module)
        outputs = super().parallel_apply(replicas, inputs, kwargs)
        device = before.values.device
        after = [RunningStatistics(*(part.to(device) for part in read_statistics(replica))) for replica in replicas]
        write_statistics(self.module, merge_running_stats(before, after, momenta(self.module)))
        return outputs
