"""Which families of timm's networks work here: a Markdown table, docs/backbones.md's with --output.

Of each family, a module of timm, the smallest network is tried with random weights on the CPU: it is accepted or refused
as the training scripts do; the maps of a crop's tiles must not depend on the other crops; one iteration of cTopk-w must
have a finite loss and gradient; the maps must have stride 16. Nothing is downloaded.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import nn

from core.evaluation.loading import check_image_size, untrained_network
from core.networks import OUTPUT_STRIDE, TILES, Classifier
from core.training.config import config_class
from core.training.trainer import Trainer
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, run_main
from tools.system.files import write_text
from tools.system.text_table import markdown_cell
from train_classification_with_puzzle_cTopk_w_ema import STRATEGY

COLUMNS = ("family", "smallest network", "million parameters", "D", "stride", "normalization", "works")
CLASSES = 2


@dataclass(frozen=True)
class Config(Arguments):
    families: str = argument("", "families of timm, with commas (default: all)")
    image_size: int = argument(96, "side in pixels, divisible by 32", above=0)
    output: Path | None = argument(None, "page whose table, at its end, is replaced", metavar="FILE")

    def check(self) -> None:
        check_image_size(self.image_size)
        if unknown := [name for name in self.families.split(",") if name not in ("", *timm.list_modules())]:
            raise UserError(f"--families {unknown[0]}: choose from {', '.join(timm.list_modules())}")


def main() -> None:
    """Print the table's rows, one after another, and write them."""
    config = parse(Config, __doc__)
    lines = [table_row(COLUMNS), table_row(["---"] * len(COLUMNS))]
    print(*lines, sep="\n", flush=True)
    for family in config.families.split(",") if config.families else timm.list_modules():
        name, parameters, stride = smallest_network(family)
        lines.append(table_row([family, name, f"{parameters / 1e6:.1f}", *findings(name, stride, config.image_size)]))
        print(lines[-1], flush=True)
    if config.output is not None:
        text = config.output.read_text(encoding="utf-8").split(lines[0])[0]
        write_text(config.output, text + "\n".join([*lines, ""]))


def smallest_network(family: str) -> tuple[str, int, int]:
    """Return name, number of parameters, and stride of the last map of the smallest network that is not timm's test."""
    found = []
    for name in timm.list_models(module=family, exclude_filters="test_*"):
        with suppress(Exception), torch.device("meta"):  # without memory, which not every network allows
            network = timm.create_model(name)
            stride = network.feature_info[-1]["reduction"]
            found.append((sum(parameter.numel() for parameter in network.parameters()), name, stride))
    parameters, name, stride = min(found)
    return name, parameters, stride


def findings(name: str, stride: int, image_size: int) -> list[str]:
    """Return the cells of a network from D on."""
    try:
        torch.manual_seed(0)
        network = untrained_network(f"timm/{name}", CLASSES)
    except UserError as error:
        return ["–", f"{stride}", "–", f"no: {markdown_cell(str(error).split(': ', 2)[-1])}"]
    how = "resized" if network.backbone.stride != OUTPUT_STRIDE else "dilated"
    strides = f"{stride}" if stride == OUTPUT_STRIDE else f"{stride} → {OUTPUT_STRIDE}, {how}"
    kinds = {type(layer).__name__.removeprefix("Grouped") for layer in network.backbone.modules()}
    norms = ", ".join(sorted(kind for kind in kinds if "norm" in kind.lower()))
    return [f"{network.classifier.in_channels}", strides, norms, problem_of(network, image_size) or "yes"]


def problem_of(network: Classifier, image_size: int) -> str:
    """Return what does not work with an accepted network; "" if all does."""
    for layer in network.modules():  # chance would tell a crop's own maps from those beside another crop
        if isinstance(layer, nn.Dropout) or hasattr(layer, "drop_prob"):
            layer.p = layer.drop_prob = 0.0
    images = torch.randn(2, 3, image_size, image_size)
    tiles = torch.randn(2, TILES, 3, image_size // 2, image_size // 2)
    try:
        together, alone = network(tiles)[1][:1], network(tiles[:1])[1]
        if not torch.allclose(together, alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max())):
            return "no: the maps of a crop depend on other crops"
        settings = {"image_size": image_size, "batch_size": len(images), "max_epoch": 2, "lr": 1e-4}
        trainer = Trainer(network, STRATEGY, config_class(STRATEGY)(data_dir="", tag="backbones", **settings), 1)
        trainer.iteration = 1  # where the reconstruction loss has its full weight
        if not trainer.iterate(images, torch.eye(CLASSES))[1]:
            return "no: loss or gradient are not finite"
        cells = network.eval()(images)[1].shape[2:]
    except Exception as error:  # whatever a network of timm raises
        return f"no: {markdown_cell(f'{type(error).__name__}: {error}')}"
    return "" if cells == (image_size // OUTPUT_STRIDE,) * 2 else f"no: maps of {cells} cells"


def table_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    run_main(main)
