"""Are the batch statistics of the class-specific instances to blame? The mAP of a checkpoint with three kinds of them.

running: what training left, as every evaluation takes them.
re-estimated: averages over all training images, not augmented, with the finished weights.
of the batch: those of the validation images that are evaluated together, as in training.

If small batches had spoilt the running statistics, the other two would score higher. See docs/study.md.
"""

from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from core.evaluation.loading import choose_device, trained_network
from core.evaluation.prediction import predict, to_device
from tools.data.datasets import VOCClassification
from tools.data.loader import evaluation_loader
from tools.data.transforms import evaluation_transform
from tools.metrics.average_precision import mean_average_precision
from tools.system.command_line import Parser
from tools.system.errors import UserError, run_main


def estimate_again(network: nn.Module, loader: torch.utils.data.DataLoader) -> None:
    """Set the running statistics of the class-specific instances, and theirs alone, to averages over all batches."""
    network.instances.train()
    device = next(network.parameters()).device
    with torch.no_grad():
        for batch, (images, _, _) in enumerate(tqdm(loader, desc="statistics", unit="batch", leave=False)):
            network.instances.momentum = 1 / (batch + 1)
            network(to_device(images, device, network.memory_format))
    network.instances.eval()


class OfTheBatch(nn.Module):
    """The network with the batch statistics of its class-specific instances, all else in evaluation mode."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.memory_format = network, network.memory_format

    def train(self, mode: bool = True) -> "OfTheBatch":
        """Whatever the mode, the same."""
        self.network.eval()
        self.network.instances.train()
        return self

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.network(images)


def main() -> None:
    """Print three lines."""
    parser = Parser(description=__doc__)
    parser.add_argument("--weights", required=True, type=Path, help="checkpoint with its description beside it")
    parser.add_argument("--data_dir", required=True, help="devkit folder")
    parser.add_argument("--train_split", default="Main/train", help="list of the training images")
    parser.add_argument("--val_split", default="Main/val", help="list of the validation images")
    parser.add_argument("--batch_size", type=int, default=16, help="images of a batch")
    args = parser.parse_args()
    if args.batch_size < 1:
        raise UserError(f"--batch_size {args.batch_size}: must be 1 or more")
    device = choose_device("auto")
    network, description = trained_network(args.weights)
    network.to(device)
    transform = evaluation_transform(description["image_size"])

    def loader(split: str) -> torch.utils.data.DataLoader:
        dataset = VOCClassification(args.data_dir, split, description["class_names"], transform)
        return evaluation_loader(dataset, args.batch_size, num_workers=0)

    def report(name: str, evaluated: nn.Module) -> None:
        scores, labels = predict(evaluated, loader(args.val_split), device)
        print(f"{name:13s} {100 * mean_average_precision(scores, labels):6.2f} mAP", flush=True)

    report("running", network)
    report("of the batch", OfTheBatch(network))
    estimate_again(network, loader(args.train_split))
    report("re-estimated", network)


if __name__ == "__main__":
    run_main(main)
