"""Images per second of evaluation, loader included, against the network's bare forward pass.

bare        the forward pass of a batch in the device's memory, repeated
evaluation  the loop of evaluate_classification.py: read, decode, crop, to the device, normalize, forward pass, scores

Both with the same batch size, precision and memory layout (channels-last), each in its own process.
"""

import math
from dataclasses import dataclass

import torch

from benchmarks import measure
from core.evaluation.loading import make_network
from core.evaluation.prediction import autocast, predict
from core.networks import Classifier
from tools.data.devkit import read_class_names
from tools.data.loader import evaluation_loader
from tools.data.transforms import evaluation_transform
from tools.system.command_line import argument, parse
from tools.system.errors import run_main


@dataclass(frozen=True)
class Config(measure.NetworkArguments, measure.DataArguments):
    images: int = argument(32, "images per repetition; a shorter split is read several times", above=0)
    num_workers: int = argument(4, "loader processes", least=0)


def main() -> None:
    """Measure both, print the ratio and write it as JSON."""
    with measure.image_data(parse(Config, __doc__)) as config:
        results = {action.__name__: measure.run_in_subprocess(action, config) for action in (bare, evaluation)}
    for name, result in results.items():
        print(f"{name:10s} {result.get('images_per_second', math.nan):9.1f} images/s {result.get('failed', '')}")
    if all("seconds" in result for result in results.values()):
        results["evaluation/bare"] = results["bare"]["seconds"] / results["evaluation"]["seconds"]
        print(f"evaluation reaches {results['evaluation/bare']:.3f} of the bare forward pass")
    device = measure.prepare_device(config)
    measure.save(config, f"evaluate_{device.type}_{config.precision}.json", device, results)


def bare(config: Config) -> dict:
    """Measure the forward pass alone, in the batches that evaluation makes: the last may be smaller."""
    device, network = untrained_network(config)
    images = torch.randn(config.batch_size, 3, config.image_size, config.image_size)
    images = images.to(device).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward() -> None:
        with autocast(device, measure.AMP[config.precision]):
            for done in range(0, config.images, config.batch_size):
                network(images[: config.images - done])

    return measure.throughput(config, device, forward, config.images)


def evaluation(config: Config) -> dict:
    """Measure the loop of evaluate_classification.py."""
    device, network = untrained_network(config)
    dataset = measure.dataset(config, evaluation_transform(config.image_size))
    loader = evaluation_loader(dataset, config.batch_size, config.num_workers)
    amp = measure.AMP[config.precision]
    return measure.throughput(config, device, lambda: predict(network, loader, device, amp, silent=True), config.images)


def untrained_network(config: Config) -> tuple[torch.device, Classifier]:
    """Return the device, and on it a network in evaluation mode."""
    device = measure.prepare_device(config)
    torch.manual_seed(0)
    classes = len(read_class_names(config.class_file))
    return device, make_network(config.architecture, "none", classes).to(device).eval()


if __name__ == "__main__":
    run_main(main)
