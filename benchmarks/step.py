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
from core.evaluation.loading import untrained_network
from core.evaluation.prediction import autocast
from core.keypoints import max_keypoints
from core.networks import ARCHITECTURES, TILES, Classifier
from core.training.config import Config as TrainingConfig
from core.training.config import config_class
from core.training.trainer import Trainer
from tests.helpers import oracle
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, run_main
from train_classification_with_puzzle_cMax_ema import STRATEGY as CMAX
from train_classification_with_puzzle_cTopk_ema import STRATEGY as CTOPK
from train_classification_with_puzzle_cTopk_w_ema import STRATEGY as CTOPK_W
from train_classification_with_puzzle_max import STRATEGY as MAX

STRATEGIES = {"max": MAX, "cMax": CMAX, "cTopk": CTOPK, "cTopk_w": CTOPK_W}  # by the oracle's names
FIGURES = ("original", "original_kept", "ours", "ours_released", "limit", "keypoints")  # methods of `Steps`, up to "_"
TIMES = ("original/ours", "original_kept/ours", "ours/limit", "keypoints/ours")  # ratios of seconds
RELEASED = ("original", "ours_released")  # do not keep freed memory
ITERATIONS = 1000  # of the schedule; measured at its middle, where every loss has its full weight
LEARNING_RATE = 1e-4  # small, so that training on noise does not diverge
LABELS_HELP = "classes that the first, second, … image shows, repeated (default: 1,2,2,2)"


@dataclass(frozen=True)
class Config(measure.NetworkArguments):
    strategies: tuple[str, ...] = measure.names_argument(STRATEGIES)
    figures: tuple[str, ...] = measure.names_argument(FIGURES)
    original_precision: str = argument("float32", "of original", choices=measure.AMP)
    classes: int = argument(20, "number of classes", above=0)
    labels: tuple[int, ...] = argument((1, 2, 2, 2), LABELS_HELP, parse=measure.numbers_with_commas, least=0)
    accumulate: int = argument(1, "split a batch of ours into N micro-batches", above=0, metavar="N")
    profile: bool = argument(False, "instead: show which operators take the time of a step of ours")

    def check(self) -> None:
        for name in self.strategies:
            self.training(name)
        if max(self.labels) > self.classes:
            raise UserError(f"--labels {max(self.labels)} exceeds --classes {self.classes}")
        originals = [figure for figure in self.figures if figure.startswith("original")]
        if originals and not self.profile and self.architecture not in ARCHITECTURES:
            advice = f"choose one of {', '.join(ARCHITECTURES)}, or leave {' and '.join(originals)} out"
            raise UserError(f"--figures {originals[0]} does not support --architecture {self.architecture}: {advice}")

    def training(self, name: str) -> TrainingConfig:
        """Return the arguments of the training script of one of `STRATEGIES`, which checks them."""
        sizes = {"image_size": self.image_size, "batch_size": self.batch_size, "accumulate": self.accumulate}
        schedule = {"max_epoch": ITERATIONS, "lr": LEARNING_RATE, "amp": measure.AMP[self.precision]}
        return config_class(STRATEGIES[name])(data_dir="", tag="benchmark", **sizes, **schedule)


def main() -> None:
    config = parse(Config, __doc__)
    if config.profile:
        for name in config.strategies:
            print(f"{name}\n{profile(config, name)}")
        return
    results = {}
    for name in config.strategies:
        calls = {figure: (run_figure, config, figure, name) for figure in config.figures}
        figures = measure.measured(calls, f"{name},")
        results[name] = figures | {"ratios": measure.print_ratios(ratios_of(figures))}
        measure.save(config, "step", results)  # after each strategy: a time limit may end the rest


def ratios_of(figures: dict[str, dict]) -> dict[str, float]:
    """Return the ratios of a strategy's figures, by label."""
    memory = measure.ratios(figures, "peak_memory", "ours/original")
    return measure.ratios(figures, "seconds", *TIMES) | {f"memory {label}": ratio for label, ratio in memory.items()}


def run_figure(config: Config, figure: str, name: str) -> dict:
    """Measure one of `FIGURES` for one of `STRATEGIES`."""
    steps = Steps(config, name, keep_memory=figure not in RELEASED)
    step = getattr(steps, figure.split("_")[0])()
    return measure.measurement(config, steps.device, step, crops=len(steps.crops.image))


def profile(config: Config, name: str) -> str:
    """Return the profiler's table of the ten operators that themselves take most time of the second step of ours."""
    steps = Steps(config, name)
    step = steps.ours()
    step()
    with torch.profiler.profile() as profiler:
        step()
    return profiler.key_averages().table(f"self_{steps.device.type}_time_total", row_limit=10)


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
        trainer = Trainer(self._network(), self.strategy, self.config.training(self.name), epoch_iterations=1)
        trainer.iteration = ITERATIONS // 2
        return trainer

    def limit(self) -> Callable[[], None]:
        """Pass the tiles as images: all are one group, which the library's kernel normalizes in one call."""
        side = self.config.image_size // 2
        tiles = torch.randn(TILES * len(self.crops.image), 3, side, side)
        student = self._network()
        images, tiles = (x.to(self.device, memory_format=student.memory_format) for x in (self.images, tiles))
        tile_network = self._network().requires_grad_(False) if self.strategy.teacher else student

        def step() -> None:
            with autocast(self.device, measure.AMP[self.config.precision]):
                features = student(images, features_only=True)[1], tile_network(tiles, features_only=True)[1]
                loss = sum(each.float().mean() for each in features)
            student.zero_grad()
            loss.backward()

        return step

    def _network(self) -> Classifier:
        config = self.config
        return untrained_network(config.architecture, config.classes, config.channels_last).to(self.device)

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
