"""Which families of timm's networks work here: a Markdown table, that of docs/backbones.md with --output.

The smallest network of each family, a module of timm, is tried with random weights on the CPU. It works if it is not
refused, the maps of a crop's tiles do not depend on other crops, the loss and the gradient of an iteration of cTopk-w
are finite, and the maps have stride 16. Nothing is downloaded.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import nn

from benchmarks import measure
from core.evaluation.loading import check_image_size, untrained_network
from core.networks import OUTPUT_STRIDE, TILES, Classifier
from core.training.config import config_class
from core.training.trainer import Trainer
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, run_main
from tools.system.files import write_text
from tools.system.text_table import markdown_cell
from train_classification_with_puzzle_cTopk_w_ema import STRATEGY

HEAD = "| family | smallest network | million parameters | D | stride | normalization | works |"
CLASSES = 2


@dataclass(frozen=True)
class Config(Arguments):
    families: tuple[str, ...] = measure.names_argument(timm.list_modules())
    image_size: int = argument(96, "side in pixels, divisible by 32", above=0)
    output: Path | None = argument(None, "page whose table, at its end, is replaced", metavar="FILE")

    def check(self) -> None:
        check_image_size(self.image_size)


def main() -> None:
    config = parse(Config, __doc__)
    lines = [HEAD, "|---" * HEAD.count(" | ") + "|---|"]
    print(*lines, sep="\n")
    for family in config.families:
        # A process of its own, which inherits the imports, because libraries may crash.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
            try:
                cells = executor.submit(findings, family, config.image_size).result()
            except BrokenProcessPool:
                cells = [*"–––––", "no: the process died"]
        lines.append(f"| {' | '.join(map(markdown_cell, (family, *cells)))} |")
        print(lines[-1], flush=True)
    if config.output is not None:
        text = config.output.read_text(encoding="utf-8").split(HEAD)[0]
        write_text(config.output, "\n".join([text.rstrip(), "", *lines, ""]))


def smallest_network(family: str) -> tuple[str, int, int]:
    """Return name, number of parameters and stride of the smallest network of a family, timm's own tests apart."""
    found = []
    for name in timm.list_models(module=family, exclude_filters="test_*"):
        with suppress(Exception), torch.device("meta"):  # without memory, which not every network allows
            network = timm.create_model(name)
            size = sum(parameter.numel() for parameter in network.parameters())
            found.append((size, name, network.feature_info[-1]["reduction"]))
    size, name, stride = min(found)
    return name, size, stride


def findings(family: str, image_size: int) -> list[str]:
    """Return the cells of a family's row."""
    name, size, stride = smallest_network(family)
    about = [name, f"{size / 1e6:.1f}"]
    torch.manual_seed(0)
    try:
        network = untrained_network(f"timm/{name}", CLASSES)
    except UserError as error:
        return [*about, "–", f"{stride}", "–", f"no: {str(error).split(': ', 2)[-1]}"]
    how = "dilated" if network.backbone.stride == OUTPUT_STRIDE else "resized"
    strides = f"{stride}" if stride == OUTPUT_STRIDE else f"{stride} → {OUTPUT_STRIDE}, {how}"
    layers = [layer for layer in network.backbone.modules() if list(layer.parameters(recurse=False))]
    kinds = {type(layer).__name__.removeprefix("Grouped") for layer in layers}
    norms = ", ".join(sorted(kind for kind in kinds if "norm" in kind.lower()))
    try:
        works = tried(network, image_size)
    except Exception as error:  # whatever a network of timm raises
        works = f"no: {type(error).__name__}: {error}"
    return [*about, f"{network.classifier.in_channels}", strides, norms, works]


def tried(network: Classifier, image_size: int) -> str:
    """Return "yes", or what does not work with a network that was not refused."""
    for layer in network.modules():  # by chance alone, the maps of a crop would differ
        if isinstance(layer, nn.Dropout) or hasattr(layer, "drop_prob"):
            layer.p = layer.drop_prob = 0.0
    tiles = torch.randn(2, TILES, 3, image_size // 2, image_size // 2)
    with torch.no_grad():
        together, alone = network(tiles)[1][:1], network(tiles[:1])[1]
    if not torch.allclose(together, alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max())):
        return "no: the maps of a crop depend on other crops"
    settings = {"image_size": image_size, "batch_size": CLASSES, "max_epoch": 2, "lr": 1e-4}
    trainer = Trainer(network, STRATEGY, config_class(STRATEGY)(data_dir="", tag="backbones", **settings), 1)
    trainer.iteration = 1  # in the middle, where every loss has its full weight
    images = torch.randn(CLASSES, 3, image_size, image_size)
    if not trainer.iterate(images, torch.eye(CLASSES))[1]:
        return "no: loss or gradient are not finite"
    cells = network.eval()(images)[1].shape[2:]
    return "yes" if cells == (image_size // OUTPUT_STRIDE,) * 2 else f"no: its maps have {cells} cells"


if __name__ == "__main__":
    run_main(main)
