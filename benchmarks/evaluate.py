"""Images per second of evaluation, loader included, against the network's bare forward pass.

bare        the forward pass of a batch in the device's memory, repeated
evaluation  the loop of evaluate_classification.py over as many images of a data set: files read, decoded and cropped,
            batches to the device, normalization, forward pass, scores back to the host

Both in evaluation mode, without gradient, at the same batch size, precision and memory layout (channels-last). Every
measurement has a process of its own.
"""

import math
from collections.abc import Callable
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
        results = {name: measure.run_in_subprocess(function, config) for name, function in MEASURES.items()}
    for name, result in results.items():
        print(f"{name:10s} {result.get('images_per_second', math.nan):9.1f} images/s {result.get('failed', '')}")
    if all("seconds" in result for result in results.values()):
        results["evaluation/bare"] = results["bare"]["seconds"] / results["evaluation"]["seconds"]
        print(f"evaluation reaches {results['evaluation/bare']:.3f} of the bare forward pass")
    device = measure.prepare_device(config)
    measure.save(config, f"evaluate_{device.type}_{config.precision}.json", device, results)


def bare(config: Config) -> dict:
    """Time the forward pass alone, in the batches that evaluation makes: the last may be smaller."""
    device = measure.prepare_device(config)
    network = untrained_network(config, device)
    images = torch.randn(config.batch_size, 3, config.image_size, config.image_size)
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    full_batches, rest = divmod(config.images, config.batch_size)

    @torch.no_grad()
    def forward() -> None:
        with autocast(device, measure.AMP[config.precision]):
            for count in [config.batch_size] * full_batches + [rest] * (rest > 0):
                network(images[:count])

    return timed(config, device, forward)


def evaluation(config: Config) -> dict:
    """Time the loop of evaluate_classification.py."""
    device = measure.prepare_device(config)
    network = untrained_network(config, device)
    dataset = measure.dataset(config, evaluation_transform(config.image_size))
    loader = evaluation_loader(dataset, config.batch_size, config.num_workers)
    return timed(config, device, lambda: predict(network, loader, device, measure.AMP[config.precision], silent=True))


def untrained_network(config: Config, device: torch.device) -> Classifier:
    """Return a network in evaluation mode."""
    torch.manual_seed(0)
    return make_network(config.architecture, "none", len(read_class_names(config.class_file))).to(device).eval()


def timed(config: Config, device: torch.device, action: Callable) -> dict:
    """Return the measurement of `action`, which takes `config.images` images."""
    result = measure.measurement(config, device, action, images=config.images)
    return result | {"images_per_second": config.images / result["seconds"]}


MEASURES = {"bare": bare, "evaluation": evaluation}


if __name__ == "__main__":
    run_main(main)
