"""Time of crop-wise batch normalization over all layers of a network, against plain batch normalization.

plain     the library's kernel on the whole batch: different numbers, and a lower bound of the time
ours      `core.batch_norm.GroupedBatchNorm2d`, which chooses one of the next two by the device
crops     the library's kernel crop by crop, written straight into the crop's part of the output (ours on a CPU)
at_once   a few tensor operations on a view `[crops, 4, C, h, w]`, with a backward pass of its own (ours on a GPU)
view      the library's kernel once, on contiguous `[4, crops · C, h, w]`: a crop's channel is a channel of its own; its
          batch has to be ordered tile by tile, and its layout is not ours

Adds the times of all layers, on noise of the shape that each has on the tiles, without gradient and with (as in Max).
Counts the bytes that the tensor operations of a way read and write, in those of its input; the least is 3 without
gradient (read for the statistics, read again and write) and 8 with (for the gradient read twice both, and write).
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import measure
from core import batch_norm
from core.batch_norm import GroupedBatchNorm2d, Groups
from core.evaluation.loading import untrained_network
from core.networks import TILES
from tools.system.command_line import parse
from tools.system.errors import run_main

TYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # by --precision


def view(layer: GroupedBatchNorm2d, x: Tensor) -> Tensor:
    """Normalize contiguous x `[4 · crops, C, h, w]`, ordered tile by tile, in one call."""
    crops = layer.groups.total
    parameters = (parameter.repeat(crops) for parameter in (layer.weight, layer.bias))
    channels = x.view(-1, crops * x.shape[1], *x.shape[2:])  # [4, crops · C, h, w]
    mean, var = (statistic.repeat(crops) for statistic in (layer.running_mean, layer.running_var))
    result = F.batch_norm(channels, mean, var, *parameters, True, layer.momentum, layer.eps)
    with torch.no_grad():  # each crop's copy has moved from where all started
        for running, moved in ((layer.running_mean, mean), (layer.running_var, var)):
            seen = (moved.view(crops, -1) - (1 - layer.momentum) * running) / layer.momentum
            batch_norm.update_running_stats(running, seen, layer.momentum)
    return result.view_as(x)


WAYS: dict[str, Callable[[GroupedBatchNorm2d, Tensor], Tensor]] = {
    "plain": nn.BatchNorm2d.forward,
    "ours": GroupedBatchNorm2d.forward,
    "crops": batch_norm.normalize_group_by_group,
    "at_once": batch_norm.normalize_groups_at_once,
    "view": view,
}


@dataclass(frozen=True)
class Config(measure.NetworkArguments):
    ways: tuple[str, ...] = measure.names_argument(WAYS)


def main() -> None:
    config = parse(Config, __doc__)
    device, results = measure.prepare_device(config), {}
    print(f"{config.batch_size} crops, {config.precision}: seconds over all layers, ratio to plain, bytes moved")
    for name, gradient, least in (("forward, no gradient", False, 3), ("forward and backward", True, 8)):
        moved = {way: bytes_moved(way, config.precision, gradient, device) for way in config.ways}
        sums = Counter()
        for shape, count in shapes(config).items():
            for way in config.ways:
                action = action_of(way, config.batch_size, shape, config.precision, gradient, device)
                sums[way] += count * measure.measurement(config, device, action)["seconds"]
        results[name] = {"seconds": sums, "bytes_moved": moved | {"least": least}}
        for way, value in sums.items():
            ratio = value / sums.get("plain", math.nan)
            print(f"{name:22s} {way:9s} {value:8.4f} {ratio:6.2f} {moved[way]:6.1f}", flush=True)
    measure.save(config, "batch_norm", results)


def shapes(config: Config) -> Counter[tuple[int, ...]]:
    """Return the shapes `(channels, h, w)` of the layers' inputs on the tiles, and how many layers have each."""
    backbone = untrained_network(config.architecture, 1).backbone.eval()
    found = Counter()
    for layer in backbone.modules():
        if isinstance(layer, GroupedBatchNorm2d):
            layer.register_forward_pre_hook(lambda _, inputs: found.update([tuple(inputs[0].shape[1:])]))
    with torch.no_grad():
        backbone(torch.zeros(1, 3, config.image_size // 2, config.image_size // 2))
    return found


def action_of(
    way: str, crops: int, shape: tuple[int, ...], precision: str, gradient: bool, device: torch.device
) -> Callable[[], Tensor]:
    """Return what a way does to a layer's input on the tiles of some crops, `[4 · crops, *shape]`, in its layout.

    The action returns the gradient of the input or, without gradient, the output.
    """
    layer = GroupedBatchNorm2d(shape[0]).to(device)
    layer.groups = Groups(crops)
    layout = torch.contiguous_format if way == "view" else torch.channels_last
    noise = torch.randn(2, TILES * crops, *shape, device=device, dtype=TYPES[precision])
    x, grad_output = (tensor.clone(memory_format=layout) for tensor in noise)
    x.requires_grad_(gradient)

    def action() -> Tensor:
        with torch.set_grad_enabled(gradient):
            result = WAYS[way](layer, x)
        return torch.autograd.grad(result, (x, layer.weight), grad_output)[0] if gradient else result

    return action


def bytes_moved(way: str, precision: str, gradient: bool, device: torch.device) -> float:
    """Return the bytes that the operations of a way read and write on a small input, in those of the input."""
    action = action_of(way, 3, (16, 32, 32), precision, gradient, device)
    with BytesMoved() as moved:
        size = action().nbytes
    return moved.total / size


class BytesMoved(TorchDispatchMode):
    """Add up the bytes of the tensors that operations read and write."""

    total = 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        result = operation(*arguments, **(keywords or {}))
        name = operation.overloadpacket.__name__
        if not (operation.is_view or name.startswith(("empty", "new_empty", "detach"))):
            # Batch normalization reads its input for the statistics, and again to normalize it.
            read = arguments[1:] if name == "copy_" else arguments
            self.total += (2 if "batch_norm" in name else 1) * _bytes_of(read) + _bytes_of(result)
        return result


def _bytes_of(values: Any) -> int:
    """Return the bytes of all tensors in `values`; what is broadcast counts once."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    stored = ([size for size, step in zip(x.shape, x.stride(), strict=True) if step] for x in tensors)
    return sum(x.element_size() * math.prod(sizes) for x, sizes in zip(tensors, stored, strict=True))


if __name__ == "__main__":
    run_main(main)
