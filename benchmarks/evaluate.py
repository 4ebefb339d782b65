"""Images per second of evaluation, loader included, against the network's bare forward pass and published evaluation.

bare        the forward pass of a batch in the device's memory, repeated
evaluation  the loop of evaluate_classification.py: read, decode, crop, to the device, normalize, forward pass with
            batch normalization folded into convolutions, scores, average precisions
published   the same images, but a copy of the feature map per class, all maps, and average precisions sorted in
            Python; contiguous memory, float32

The first two with the same batch size, precision and memory layout (channels-last), each in its own process. The goal
is at least 1.0 of the bare forward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.data import DataLoader

from benchmarks import measure
from core.evaluation.folding import folded
from core.evaluation.loading import untrained_network
from core.evaluation.prediction import autocast, predict
from core.networks import ARCHITECTURES, Classifier
from tests.helpers import oracle, published
from tools.data.devkit import read_class_names
from tools.data.loader import evaluation_loader
from tools.data.transforms import evaluation_transform
from tools.metrics.average_precision import average_precisions
from tools.system.command_line import argument, parse
from tools.system.errors import run_main


@dataclass(frozen=True)
class Config(measure.NetworkArguments, measure.DataArguments):
    images: int = argument(32, "images per repetition; a shorter split is read several times", above=0)
    num_workers: int = argument(4, "loader processes", least=0)


def main() -> None:
    """Measure all, print the ratios and write them as JSON."""
    with measure.image_data(parse(Config, __doc__)) as config:
        names = ACTIONS if config.architecture in ARCHITECTURES else ("bare", "evaluation")
        results = measure.measured({name: (run, config, name) for name in names})
    ratios = measure.ratios(results, "images_per_second", "evaluation/bare", "evaluation/published")
    measure.print_ratios(ratios)
    measure.save(config, "evaluate", results | ratios)


def run(config: Config, name: str) -> dict:
    """Measure one of `ACTIONS`."""
    device = measure.prepare_device(config, keep_memory=name != "published")
    torch.manual_seed(0)
    return measure.measurement(config, device, ACTIONS[name](config, device), images=config.images)


def bare(config: Config, device: torch.device) -> Callable:
    """Pass the batches that evaluation makes: the last may be smaller."""
    network = network_of(config, device)
    images = torch.randn(config.batch_size, 3, config.image_size, config.image_size)
    images = images.to(device, memory_format=torch.channels_last)

    @torch.no_grad()
    def forward() -> None:
        with autocast(device, measure.AMP[config.precision]):
            for done in range(0, config.images, config.batch_size):
                network(images[: config.images - done])

    return forward


def evaluation(config: Config, device: torch.device) -> Callable:
    network, loader = folded(network_of(config, device)), loader_of(config)
    amp = measure.AMP[config.precision]
    return lambda: average_precisions(*predict(network, loader, device, amp, silent=True))


def published_evaluation(config: Config, device: torch.device) -> Callable:
    network = oracle.resnet_classifier(config.architecture, classes_of(config)).to(device).eval()
    return partial(published.evaluate, network, loader_of(config), device)


ACTIONS = {"bare": bare, "evaluation": evaluation, "published": published_evaluation}


def network_of(config: Config, device: torch.device) -> Classifier:
    return untrained_network(config.architecture, classes_of(config)).to(device).eval()


def classes_of(config: Config) -> int:
    return len(read_class_names(config.class_file))


def loader_of(config: Config) -> DataLoader:
    dataset = measure.dataset(config, evaluation_transform(config.image_size))
    return evaluation_loader(dataset, config.batch_size, config.num_workers)


if __name__ == "__main__":
    run_main(main)
