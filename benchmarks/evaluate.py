"""Images per second of evaluation, loader included, against the network's bare forward pass and published evaluation.

bare        the forward pass of a batch in the device's memory, repeated
evaluation  the loop of evaluate_classification.py: read, decode, crop, to the device, normalize, forward pass with
            batch normalization folded into convolutions, scores, average precisions
published   the same images, but a copy of the feature map per class, all maps, and average precisions sorted in
            Python; contiguous memory, float32

The first two with the same batch size, precision and memory layout (channels-last), each in its own process.
"""

import math
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from benchmarks import measure
from core.evaluation.folding import folded
from core.evaluation.loading import make_network
from core.evaluation.prediction import autocast, predict
from core.networks import ARCHITECTURES, Classifier
from tests.helpers import oracle
from tools.data.devkit import read_class_names
from tools.data.loader import evaluation_loader
from tools.data.transforms import evaluation_transform, normalize
from tools.metrics.average_precision import average_precisions
from tools.system.command_line import argument, parse
from tools.system.errors import run_main


@dataclass(frozen=True)
class Config(measure.NetworkArguments, measure.DataArguments):
    images: int = argument(32, "images per repetition; a shorter split is read several times", above=0)
    num_workers: int = argument(4, "loader processes", least=0)


def main() -> None:
    """Measure both, print the ratio and write it as JSON."""
    with measure.image_data(parse(Config, __doc__)) as config:
        actions = (bare, evaluation, published) if config.architecture in ARCHITECTURES else (bare, evaluation)
        results = {action.__name__: measure.run_in_subprocess(action, config) for action in actions}
    for name, result in results.items():
        print(f"{name:10s} {result.get('images_per_second', math.nan):9.1f} images/s {result.get('failed', '')}")
    for other in ("bare", "published"):
        if "seconds" in results["evaluation"] and "seconds" in results.get(other, {}):
            ratio = results[f"evaluation/{other}"] = results[other]["seconds"] / results["evaluation"]["seconds"]
            print(f"evaluation is {ratio:.3f} times as fast as {other}")
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
    network, loader, amp = folded(network), loader_of(config), measure.AMP[config.precision]

    def evaluate() -> None:
        average_precisions(*predict(network, loader, device, amp, silent=True))

    return measure.throughput(config, device, evaluate, config.images)


def published(config: Config) -> dict:
    """Measure the published evaluation."""
    device = measure.prepare_device(config, keep_memory=False)
    network = oracle.resnet_classifier(config.architecture, classes_of(config)).to(device).eval()
    loader = loader_of(config)

    @torch.no_grad()
    def evaluate() -> None:
        scores, labels = [], []
        for images, batch_labels, _ in loader:
            logits, features = network(normalize(images.to(device)).contiguous())
            oracle.make_cam(features)
            scores += torch.sigmoid(logits).tolist()
            labels += batch_labels.tolist()
        for score, label in zip(zip(*scores, strict=True), zip(*labels, strict=True), strict=True):
            precision_in_python(score, label)

    return measure.throughput(config, device, evaluate, config.images)


def precision_in_python(scores: tuple[float, ...], labels: tuple[float, ...]) -> float:
    """Return the average precision of one class."""
    found, total = 0, 0.0
    for rank, (_, label) in enumerate(sorted(zip(scores, labels, strict=True), reverse=True), 1):
        if label:
            found += 1
            total += found / rank
    return total / max(found, 1)


def loader_of(config: Config) -> DataLoader:
    dataset = measure.dataset(config, evaluation_transform(config.image_size))
    return evaluation_loader(dataset, config.batch_size, config.num_workers)


def classes_of(config: Config) -> int:
    return len(read_class_names(config.class_file))


def untrained_network(config: Config) -> tuple[torch.device, Classifier]:
    """Return the device, and on it a network in evaluation mode."""
    device = measure.prepare_device(config)
    torch.manual_seed(0)
    return device, make_network(config.architecture, "none", classes_of(config)).to(device).eval()


if __name__ == "__main__":
    run_main(main)
