"""Time of crop-wise batch normalization over all of a network's layers, against plain batch normalization.

plain     the library's kernel on the whole batch: other numbers, and the least that can be hoped for
ours      `core.batch_norm.GroupedBatchNorm2d`
joined    the library's kernel crop by crop, results joined: a copy more, with gradient two
var_mean  mean and variance of a view `[crops, 4, C, h, w]`, then one multiplication and addition

Every layer of the architecture normalizes noise of the shape that it has on the tiles; the times of all layers are
added. Without gradient as in the teacher, and with gradient as in Max.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import measure
from core.batch_norm import GroupedBatchNorm2d, Groups
from core.networks import build_backbone
from tools.system.command_line import Parser
from tools.system.errors import run_main

TILES = 4


class Joined(GroupedBatchNorm2d):
    """Crop by crop, results joined."""

    def _normalize(self, x: torch.Tensor) -> torch.Tensor:
        parts = x.chunk(self.groups.total)
        running = (self.running_mean, self.running_var)
        return torch.cat([F.batch_norm(part, *running, self.weight, self.bias, True) for part in parts])


class VarMean(GroupedBatchNorm2d):
    """All crops at once, from library functions."""

    def _normalize(self, x: torch.Tensor) -> torch.Tensor:
        return self._all_groups_at_once(x)


WAYS = {"plain": nn.BatchNorm2d, "ours": GroupedBatchNorm2d, "joined": Joined, "var_mean": VarMean}


def main() -> None:
    """Measure every way on every layer, print the sums and write them as JSON."""
    parser = Parser(description=__doc__)
    measure.add_arguments(parser)
    args = parser.parse_args()
    measure.set_exactness(args.tf32)
    device = measure.one_device(args.device)
    results = {}
    print(f"{args.batch_size} crops, {args.precision}: seconds over all layers, and the ratio to plain")
    for gradient in (False, True):
        sums = dict.fromkeys(WAYS, 0.0)
        for shape, count in shapes(args).items():
            for way, seconds in times(args, shape, gradient, device).items():
                sums[way] += count * seconds
        name = "forward and backward" if gradient else "forward, no gradient"
        results[name] = sums
        print(
            f"{name:22s}", ", ".join(f"{way} {value:.3f} ({value / sums['plain']:.2f})" for way, value in sums.items())
        )
    measure.save(args.output, f"batch_norm_{device.type}_{args.precision}.json", device, vars(args), results)


def shapes(args: argparse.Namespace) -> dict[tuple[int, ...], int]:
    """Shapes `(channels, h, w)` of the layers' inputs on the tiles, and how many layers have each."""
    backbone = build_backbone(args.architecture)[0].eval()
    found: dict[tuple[int, ...], int] = {}

    def note(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        shape = tuple(inputs[0].shape[1:])
        found[shape] = found.get(shape, 0) + 1

    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(note)
    side = args.image_size // 2
    with torch.no_grad():
        backbone(torch.zeros(1, 3, side, side))
    return found


def times(args: argparse.Namespace, shape: tuple[int, ...], gradient: bool, device: torch.device) -> dict[str, float]:
    """Median seconds of each way on one layer; the ways take turns, so that all meet the machine in the same state."""
    dtype = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[args.precision]
    x = torch.randn(TILES * args.batch_size, *shape, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_(gradient)
    slope = torch.randn_like(x) if gradient else None
    layers = {name: way(shape[0]).to(device).train() for name, way in WAYS.items()}
    collected = {name: [] for name in WAYS}
    for name, layer in layers.items():
        if name != "plain":
            layer.groups = Groups(args.batch_size)

    def act(layer: nn.Module) -> None:
        with torch.set_grad_enabled(gradient):
            result = layer(x)
        if gradient:
            x.grad = None
            result.backward(slope)

    for number in range(args.warm_up + args.repeats):
        for name, layer in layers.items():
            (seconds,) = measure.seconds(lambda layer=layer: act(layer), device, 1, 0)
            collected[name] += [seconds] if number >= args.warm_up else []
    return {name: sorted(values)[len(values) // 2] for name, values in collected.items()}


if __name__ == "__main__":
    run_main(main)
