"""Do noisy batch statistics of the class-specific instances cost accuracy? The mAP of a checkpoint with three kinds:

running: the averages that training left, as every evaluation uses them.
of the batch: those of the validation images that are evaluated together, as in training.
re-estimated: averages over all training images, without augmentation, with the final weights.

If small batches had spoiled the running statistics, the other two would score higher. See docs/study.md.
Run it from the repository's root: python3 -m docs.study.batch_statistics --weights FILE --data_dir DIR
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from core.evaluation.loading import choose_device, trained_network
from core.evaluation.prediction import to_device
from tools.data.datasets import VOCClassification
from tools.data.loader import evaluation_loader
from tools.data.transforms import evaluation_transform
from tools.metrics.average_precision import mean_average_precision
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import run_main


@dataclass(frozen=True)
class Config(Arguments):
    weights: Path = argument(help="checkpoint with its description beside it")
    data_dir: Path = argument(help="devkit folder")
    train_split: str = argument("Main/train", "list of the training images")
    val_split: str = argument("Main/val", "list of the validation images")
    batch_size: int = argument(16, "images per batch", least=1)


@torch.no_grad()
def main() -> None:
    config = parse(Config, __doc__)
    device = choose_device("auto")
    network, description = trained_network(config.weights)
    network.to(device).eval()

    def loader(split: str) -> DataLoader:
        transform = evaluation_transform(description.image_size)
        dataset = VOCClassification(config.data_dir, split, description.class_names, transform)
        return evaluation_loader(dataset, config.batch_size, num_workers=0)

    def report(name: str) -> None:
        logits, labels = [], []
        for images, batch_labels, _ in tqdm(loader(config.val_split), name, unit="batch", leave=False):
            logits.append(network(to_device(images, device, network))[0].cpu())
            labels.append(batch_labels)
        mean = mean_average_precision(torch.cat(logits).numpy(), torch.cat(labels).numpy())
        print(f"{name:13s} {100 * mean:6.2f} mAP", flush=True)

    report("running")
    network.instances.train()
    report("of the batch")
    for number, (images, *_) in enumerate(tqdm(loader(config.train_split), "statistics", unit="batch", leave=False)):
        network.instances.momentum = 1 / (number + 1)  # makes the exponential average a plain one
        network(to_device(images, device, network))
    network.instances.eval()
    report("re-estimated")


if __name__ == "__main__":
    run_main(main)
