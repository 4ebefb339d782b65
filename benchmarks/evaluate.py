"""Images per second of evaluation, loader included, against the network's bare forward pass and published evaluation.

bare is the forward pass of a batch in the device's memory, evaluation the loop of evaluate_classification.py, published
a copy of the feature map per class, all maps, and average precisions sorted in Python, in contiguous float32.

The first two have the same batch size, precision and memory layout (channels-last), each in its own process. The goal
is at least 1.0 of the bare forward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks import measure
from core.evaluation.folding import folded
from core.evaluation.loading import untrained_network
from core.evaluation.prediction import autocast, predict
from core.networks import ARCHITECTURES
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
    with measure.image_data(parse(Config, __doc__)) as config:
        names = ("bare", "evaluation", "published")[: 3 if config.architecture in ARCHITECTURES else 2]
        results = measure.measured({name: (run, config, name) for name in names})
    ratios = measure.ratios(results, "images_per_second", "evaluation/bare", "evaluation/published")
    measure.save(config, "evaluate", results | measure.print_ratios(ratios))


def run(config: Config, name: str) -> dict:
    device = measure.prepare_device(config, keep_memory=name != "published")
    torch.manual_seed(0)
    return measure.measurement(config, device, action_of(config, name, device), images=config.images)


def action_of(config: Config, name: str, device: torch.device) -> Callable[[], object]:
    """Return what one of the three does with an untrained network."""
    classes, amp = len(read_class_names(config.class_file)), measure.AMP[config.precision]
    dataset = measure.dataset(config, evaluation_transform(config.image_size))
    loader = evaluation_loader(dataset, config.batch_size, config.num_workers)
    if name == "published":
        original = oracle.resnet_classifier(config.architecture, classes).to(device).eval()
        return lambda: published.evaluate(original, loader, device)
    network = untrained_network(config.architecture, classes).to(device).eval()
    if name == "evaluation":
        network = folded(network)
        return lambda: average_precisions(*predict(network, loader, device, amp, silent=True))
    images = torch.randn(config.batch_size, 3, config.image_size, config.image_size)
    images = images.to(device, memory_format=torch.channels_last)

    @torch.no_grad()
    def bare() -> None:
        with autocast(device, amp):
            for done in range(0, config.images, config.batch_size):  # the last batch may be smaller, as in evaluation
                network(images[: config.images - done])

    return bare


if __name__ == "__main__":
    run_main(main)
