"""Time and memory of a training step: the published algorithm, ours, and a lower bound of what a step can cost.

original   the algorithm as published: a copy of the feature map per class, one pass through the network per crop, peaks
           by scikit-image on the host; contiguous memory, float32 by default
ours       one iteration of the training scripts: batch to the device, step, backward pass, optimizer, teacher
limit      only backbone and CAM branch, with plain batch normalization: forward and backward pass on the images and, on
           the tiles, a forward pass without gradient (Max: forward and backward pass)
keypoints  the search for keypoints alone

All see the same images, normal noise, with 1.75 classes per image (VOC: 1.5). Limit and ours share precision and memory
layout (channels-last). Each measurement has its own process, whose peak memory counts on a CPU; on a GPU, its tensors'.
On a CPU, our programs keep freed memory (tools/system/memory.py) and the published ones do not; original_kept and
ours_released are the same code the other way round.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks import measure
from core.cam import make_cam
from core.evaluation.loading import make_network
from core.evaluation.prediction import autocast
from core.keypoints import max_keypoints
from core.networks import ARCHITECTURES, TILES
from core.training.config import config_class
from core.training.trainer import Trainer
from tests.helpers import oracle
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, run_main
from tools.system.text_table import fixed_width_table
from train_classification_with_puzzle_cMax_ema import STRATEGY as CMAX
from train_classification_with_puzzle_cTopk_ema import STRATEGY as CTOPK
from train_classification_with_puzzle_cTopk_w_ema import STRATEGY as CTOPK_W
from train_classification_with_puzzle_max import STRATEGY as MAX

STRATEGIES = {"max": MAX, "cMax": CMAX, "cTopk": CTOPK, "cTopk_w": CTOPK_W}  # by the oracle's names
FIGURES = ("original", "original_kept", "ours", "ours_released", "limit", "keypoints")  # methods of `Steps`, up to "_"
RELEASED = ("original", "ours_released")  # do not keep freed memory
ITERATIONS = 1000  # of the schedule; measured at its middle, where every loss has its full weight
LEARNING_RATE = 1e-4  # small, so that training on noise does not diverge
LABELS_HELP = "classes that the first, second, … image shows, repeated (default: 1,2,2,2)"
RATIOS = {  # numerator, denominator, quantity
    "original/ours": ("original", "ours", "seconds"),
    "original_kept/ours": ("original_kept", "ours", "seconds"),
    "ours/limit": ("ours", "limit", "seconds"),
    "memory ours/original": ("ours", "original", "peak_memory"),
    "keypoints/ours": ("keypoints", "ours", "seconds"),
}
COLUMNS = ("strategy", *FIGURES[:-1], *RATIOS)
WIDTHS = (9, *(max(len(column), 16) for column in COLUMNS[1:]))


@dataclass(frozen=True)
class Config(measure.NetworkArguments):
    strategies: tuple[str, ...] = measure.names_argument(STRATEGIES)
    figures: tuple[str, ...] = measure.names_argument(FIGURES)
    original_precision: str = argument("float32", "of original", choices=measure.AMP)
    classes: int = argument(20, "number of classes", above=0)
    labels: tuple[int, ...] = argument((1, 2, 2, 2), LABELS_HELP, parse=measure.numbers_with_commas)
    accumulate: int = argument(1, "split a batch of ours into N micro-batches", above=0, metavar="N")
    profile: bool = argument(False, "instead: show which operators take the time of a step of ours")

    def check(self) -> None:
        super().check()
        if self.batch_size % self.accumulate:
            batch_size, parts = self.batch_size, self.accumulate
            raise UserError(f"--batch_size {batch_size} does not divide into --accumulate {parts} micro-batches")
        if max(self.labels) > self.classes:
            raise UserError(f"--labels {max(self.labels)} exceeds --classes {self.classes}")
        originals = [figure for figure in self.figures if figure.startswith("original")]
        if originals and not self.profile and self.architecture not in ARCHITECTURES:
            advice = f"choose one of {', '.join(ARCHITECTURES)}, or leave {' and '.join(originals)} out"
            raise UserError(f"--figures {originals[0]} does not support --architecture {self.architecture}: {advice}")


def main() -> None:
    """Measure the figures, print the table and write it as JSON."""
    config = parse(Config, __doc__)
    if config.profile:
        for name in config.strategies:
            print(f"{name}\n{profile(config, name)}")
        return
    results = {}
    print(fixed_width_table([COLUMNS], WIDTHS))
    for name in config.strategies:
        measured = {figure: measure.run_in_subprocess(run_figure, config, figure, name) for figure in config.figures}
        ratios = ratios_of(measured)
        results[name] = measured | {"ratios": ratios}
        cells = [time_and_memory(measured.get(figure, {})) for figure in FIGURES[:-1]]
        cells += [measure.cell(ratios.get(label), ".3f") for label in RATIOS]
        print(fixed_width_table([[name, *cells]], WIDTHS), flush=True)
    for name, result in results.items():
        for figure in config.figures:
            if "failed" in result[figure]:
                print(f"{name}, {figure}: {result[figure]['failed']}")
    device = measure.prepare_device(config)
    measure.save(config, f"step_{device.type}_{config.precision}.json", device, results)


def ratios_of(measured: dict[str, dict]) -> dict[str, float]:
    """Return those of `RATIOS` whose two figures were measured."""
    ratios = {}
    for label, (numerator, denominator, quantity) in RATIOS.items():
        above, below = (measured.get(figure, {}).get(quantity) for figure in (numerator, denominator))
        if above and below:
            ratios[label] = above / below
    return ratios


def time_and_memory(result: dict) -> str:
    """Return a figure as a cell of the table."""
    if "seconds" not in result:
        return "–"
    return f"{result['seconds']:.3f} s {measure.cell(result['peak_memory'], '.0f', measure.MEBIBYTE)} MiB"


def run_figure(config: Config, figure: str, name: str) -> dict:
    """Measure one of `FIGURES` for one of `STRATEGIES`."""
    steps = Steps(config, name, keep_memory=figure not in RELEASED)
    step = getattr(steps, figure.split("_")[0])()
    return measure.measurement(config, steps.device, step, crops=len(steps.crops.image))


def profile(config: Config, name: str) -> str:
    """Return the ten operators of PyTorch that themselves take most time of the second step of ours."""
    step = Steps(config, name).ours()
    step()
    with torch.profiler.profile() as profiler:
        step()
    times = {item.key: item.self_cpu_time_total + item.self_device_time_total for item in profiler.key_averages()}
    total = sum(times.values())
    longest = sorted(times, key=times.get, reverse=True)[:10]
    return "\n".join(f"  {times[key] / total:6.1%}  {times[key] / 1e6:8.3f} s  {key}" for key in longest)


class Steps:
    """What is measured: a method per figure prepares its networks and data, and returns the step to be timed.

    Images `[B, 3, S, S]` and multi-hot labels `[B, V]` are on the CPU, the same in every process.
    """

    def __init__(self, config: Config, name: str, keep_memory: bool = True):
        self.config, self.name, self.strategy = config, name, STRATEGIES[name]
        self.device = measure.prepare_device(config, keep_memory)
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(config.batch_size, 3, config.image_size, config.image_size, generator=generator)
        self.labels = torch.zeros(config.batch_size, config.classes)
        for image in range(config.batch_size):
            present = config.labels[image % len(config.labels)]
            self.labels[image, torch.randperm(config.classes, generator=generator)[:present]] = 1
        self.crops = self.strategy.crops(self.labels)
        torch.manual_seed(0)  # for the networks' weights

    def original(self) -> Callable[[], None]:
        student = oracle.resnet_classifier(self.config.architecture, self.config.classes).to(self.device)
        teacher = oracle.make_teacher(student) if self.strategy.teacher else None
        hyper = oracle.Hyper(lr=LEARNING_RATE)
        optimizer = oracle.make_optimizer(student, hyper)

        def step() -> None:
            batch = self.images.to(self.device), self.labels.to(self.device)
            with autocast(self.device, measure.AMP[self.config.original_precision]):
                oracle.training_step(self.name, student, teacher, optimizer, *batch, ITERATIONS // 2, ITERATIONS, hyper)

        return step

    def ours(self) -> Callable[[], None]:
        trainer = self.trainer()
        return lambda: trainer.iterate(self.images, self.labels)

    def trainer(self) -> Trainer:
        """Return the training scripts' trainer, at the middle of its schedule."""
        config = self.config
        sizes = {"image_size": config.image_size, "batch_size": config.batch_size, "accumulate": config.accumulate}
        schedule = {"max_epoch": ITERATIONS, "lr": LEARNING_RATE, "amp": measure.AMP[config.precision]}
        settings = config_class(self.strategy)(data_dir="", tag="benchmark", **sizes, **schedule)
        network = make_network(config.architecture, "none", config.classes).to(self.device)
        trainer = Trainer(network, self.strategy, settings, epoch_iterations=1)
        trainer.iteration = ITERATIONS // 2
        return trainer

    def limit(self) -> Callable[[], None]:
        side = self.config.image_size // 2
        tiles = torch.randn(TILES * len(self.crops.image), 3, side, side)
        images, tiles = (x.to(self.device, memory_format=torch.channels_last) for x in (self.images, tiles))
        student = self._plain_network()
        tile_network = self._plain_network().requires_grad_(False) if self.strategy.teacher else student

        def step() -> None:
            with autocast(self.device, measure.AMP[self.config.precision]):
                loss = student(images).float().mean() + tile_network(tiles).float().mean()
            student.zero_grad()
            loss.backward()

        return step

    def _plain_network(self) -> nn.Module:
        """Return backbone and CAM branch with the library's own batch normalization, in train mode."""
        backbone, channels = measure.plain_backbone(self.config.architecture)
        network = nn.Sequential(backbone, nn.Conv2d(channels, self.config.classes, 1, bias=False))
        return network.to(device=self.device, memory_format=torch.channels_last).train()

    def keypoints(self) -> Callable[[], None]:
        """Search on maps like those of a trained network: a few blobs on an empty background."""
        config = self.config
        cells = config.image_size // 16
        coarse = torch.randn(config.batch_size, config.classes, max(cells // 4, 1), max(cells // 4, 1))
        cams = make_cam(nn.functional.interpolate(coarse, size=(cells, cells), mode="bicubic")).to(self.device)
        crops, labels = self.crops.to(self.device), self.labels.to(self.device)
        shown, options = self.strategy.shown_keypoints(), self.strategy.options({})
        if shown.per_image:
            return lambda: max_keypoints(cams, labels, config.image_size)
        return lambda: shown.find(cams[crops.image, crops.label], config.image_size, options)


if __name__ == "__main__":
    run_main(main)
