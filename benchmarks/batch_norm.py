"""Time of crop-wise batch normalization over all layers of a network, against plain batch normalization.

plain     the library's kernel on the whole batch: different numbers, and a lower bound of the time
ours      `core.batch_norm.GroupedBatchNorm2d`
joined    the library's kernel crop by crop, results joined: one more copy, with gradient two
var_mean  mean and variance of a view `[crops, 4, C, h, w]`, then one multiplication and addition

Every layer of the architecture normalizes noise of the shape that it has on the tiles; the times of all layers are
added. Without gradient as in the teacher, and with gradient as in Max.
"""

import statistics
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import measure
from core.batch_norm import GroupedBatchNorm2d, Groups, normalize_groups_at_once
from core.networks import TILES
from tools.system.command_line import argument, parse
from tools.system.errors import run_main

TYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Config(measure.NetworkArguments):
    batch_size: int = argument(4, "crops per batch, four tiles each", above=0)


def joined(layer: GroupedBatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """Normalize crop by crop and join the results."""
    parameters = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    return torch.cat([F.batch_norm(part, *parameters, True) for part in x.chunk(layer.groups.total)])


WAYS = {
    "plain": nn.BatchNorm2d.forward,
    "ours": GroupedBatchNorm2d.forward,
    "joined": joined,
    "var_mean": normalize_groups_at_once,
}


def main() -> None:
    """Measure every way on every layer, print the sums and write them as JSON."""
    config = parse(Config, __doc__)
    device = measure.prepare_device(config)
    results = {}
    print(f"{config.batch_size} crops, {config.precision}: seconds over all layers, and the ratio to plain")
    for name, gradient in (("forward, no gradient", False), ("forward and backward", True)):
        sums = dict.fromkeys(WAYS, 0.0)
        for shape, count in shapes(config).items():
            for way, seconds in times(config, shape, gradient, device).items():
                sums[way] += count * seconds
        results[name] = sums
        cells = [f"{way} {value:.3f} ({value / sums['plain']:.2f})" for way, value in sums.items()]
        print(f"{name:22s} {', '.join(cells)}")
    measure.save(config, f"batch_norm_{device.type}_{config.precision}.json", device, results)


def shapes(config: Config) -> Counter[tuple[int, ...]]:
    """Return the shapes `(channels, h, w)` of the layers' inputs on the tiles, and how many layers have each."""
    backbone = measure.plain_backbone(config.architecture)[0].eval()
    found = Counter()
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda _, inputs: found.update([tuple(inputs[0].shape[1:])]))
    with torch.no_grad():
        backbone(torch.zeros(1, 3, config.image_size // 2, config.image_size // 2))
    return found


def times(config: Config, shape: tuple[int, ...], gradient: bool, device: torch.device) -> dict[str, float]:
    """Return the median seconds of each way on one layer; the ways alternate, so that a drift affects all alike."""
    x = torch.randn(TILES * config.batch_size, *shape, device=device, dtype=TYPES[config.precision])
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_(gradient)
    grad_output = torch.randn_like(x) if gradient else None
    layers = {way: GroupedBatchNorm2d(shape[0]).to(device).train() for way in WAYS}
    for layer in layers.values():
        layer.groups = Groups(config.batch_size)

    def run(way: str) -> None:
        with torch.set_grad_enabled(gradient):
            result = WAYS[way](layers[way], x)
        if gradient:
            x.grad = None
            result.backward(grad_output)

    rounds = [
        {way: measure.seconds(lambda way=way: run(way), device) for way in WAYS}
        for _ in range(config.warm_up + config.repeats)
    ]
    return {way: statistics.median(timed[way] for timed in rounds[config.warm_up :]) for way in WAYS}


if __name__ == "__main__":
    run_main(main)
