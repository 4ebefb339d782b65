"""Time of crop-wise batch normalization over all layers of a network, against plain batch normalization.

plain     the library's kernel on the whole batch: different numbers, and a lower bound of the time
ours      `core.batch_norm.GroupedBatchNorm2d`
joined    the library's kernel crop by crop, results joined: one more copy, with gradient two
var_mean  mean and variance of a view `[crops, 4, C, h, w]`, then one multiplication and addition

Adds the times of all layers, on noise of the shape that each has on the tiles, without gradient and with (as in Max).
"""

import statistics
from collections import Counter
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import measure
from benchmarks.measure import NetworkArguments
from core.batch_norm import GroupedBatchNorm2d, Groups, normalize_groups_at_once, set_groups
from core.networks import TILES
from tools.system.command_line import parse
from tools.system.errors import run_main

TYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # by --precision


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
    config = parse(NetworkArguments, __doc__)
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


def shapes(config: NetworkArguments) -> Counter[tuple[int, ...]]:
    """Return the shapes `(channels, h, w)` of the layers' inputs on the tiles, and how many layers have each."""
    backbone = measure.plain_backbone(config.architecture)[0].eval()
    found = Counter()
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda _, inputs: found.update([tuple(inputs[0].shape[1:])]))
    with torch.no_grad():
        backbone(torch.zeros(1, 3, config.image_size // 2, config.image_size // 2))
    return found


def times(config: NetworkArguments, shape: tuple[int, ...], gradient: bool, device: torch.device) -> dict[str, float]:
    """Return the median seconds of each way on one layer; the ways alternate, so that a drift affects all alike."""
    x = torch.randn(TILES * config.batch_size, *shape, device=device, dtype=TYPES[config.precision])
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_(gradient)
    grad_output = torch.randn_like(x) if gradient else None
    layers = nn.ModuleDict({way: GroupedBatchNorm2d(shape[0]) for way in WAYS}).to(device)
    set_groups(layers, Groups(config.batch_size))

    def run(way: str) -> None:
        with torch.set_grad_enabled(gradient):
            result = WAYS[way](layers[way], x)
        if gradient:
            x.grad = None
            result.backward(grad_output)

    seconds = {way: [] for way in WAYS}
    for _ in range(config.warm_up + config.repeats):
        for way in WAYS:
            seconds[way].append(measure.seconds(partial(run, way), device))
    return {way: statistics.median(values[config.warm_up :]) for way, values in seconds.items()}


if __name__ == "__main__":
    run_main(main)
