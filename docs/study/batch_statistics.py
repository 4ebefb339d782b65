"""Do noisy batch statistics of the class-specific instances cost accuracy? The mAP of a checkpoint with three kinds:

running: the averages that training left, as every evaluation uses them.
re-estimated: averages over all training images, without augmentation, with the final weights.
of the batch: those of the validation images that are evaluated together, as in training.

If small batches had spoiled the running statistics, the other two would score higher. See docs/study.md.
Run it from the repository's root: python3 -m docs.study.batch_statistics --weights FILE --data_dir DIR
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from core.evaluation.loading import choose_device, trained_network
from core.evaluation.prediction import predict, to_device
from core.networks import Classifier
from tools.data.datasets import VOCClassification
from tools.data.loader import evaluation_loader
from tools.data.transforms import evaluation_transform
from tools.metrics.average_precision import mean_average_precision
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import run_main


@dataclass(frozen=True)
class Config(Arguments):
    """The program's arguments."""

    weights: Path = argument(help="checkpoint with its description beside it")
    data_dir: Path = argument(help="devkit folder")
    train_split: str = argument("Main/train", "list of the training images")
    val_split: str = argument("Main/val", "list of the validation images")
    batch_size: int = argument(16, "images per batch", least=1)


@torch.no_grad()
def re_estimate(network: Classifier, loader: torch.utils.data.DataLoader) -> None:
    """Set the running statistics of the class-specific instances, and only these, to averages over all batches."""
    network.instances.train()
    device = next(network.parameters()).device
    for batch, (images, *_) in enumerate(tqdm(loader, desc="statistics", unit="batch", leave=False)):
        network.instances.momentum = 1 / (batch + 1)  # makes the exponential average a plain one
        network(to_device(images, device, network))
    network.instances.eval()


class WithBatchStatistics(nn.Module):
    """The network in evaluation mode, except that its class-specific instances use the statistics of each batch."""

    def __init__(self, network: Classifier):
        super().__init__()
        self.network = network
        self.memory_format, self.normalization = network.memory_format, network.normalization

    def train(self, mode: bool = True) -> "WithBatchStatistics":
        """Ignore the mode, so that `predict`, which evaluates, does not change it."""
        self.network.eval()
        self.network.instances.train()
        return self

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.network(images)


def main() -> None:
    """Print the mAP with each kind of statistics."""
    config = parse(Config, __doc__)
    device = choose_device("auto")
    network, description = trained_network(config.weights)
    network.to(device)

    def loader(split: str) -> torch.utils.data.DataLoader:
        transform = evaluation_transform(description.image_size)
        dataset = VOCClassification(config.data_dir, split, description.class_names, transform)
        return evaluation_loader(dataset, config.batch_size, num_workers=0)

    def report(name: str, evaluated: nn.Module) -> None:
        scores, labels = predict(evaluated, loader(config.val_split), device)
        print(f"{name:13s} {100 * mean_average_precision(scores, labels):6.2f} mAP", flush=True)

    report("running", network)
    report("of the batch", WithBatchStatistics(network))
    re_estimate(network, loader(config.train_split))
    report("re-estimated", network)


if __name__ == "__main__":
    run_main(main)
