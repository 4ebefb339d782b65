"""Time and memory of a training step: the published algorithm, ours, and a lower bound of what a step can cost.

original  the algorithm as published (tests/helpers/oracle.py): a copy of the feature map for every class, one pass
          through the network for every crop, peaks by scikit-image on the host; contiguous memory, float32 by default
ours      one iteration as the training scripts make it: batch to the device, step, backward pass, optimizer, teacher
limit     forward and backward pass of backbone and CAM branch on the images and, on the tiles, one forward pass
          without gradient (Max: forward and backward pass), with plain batch normalization; nothing else
keypoints the search for keypoints alone

All see the same images, normal noise, whose labels name 1, 2, 2, 2, 1, 2, 2, 2, … classes (1.75 crops per image, 1 in
Max; VOC has 1.5 classes per image). Limit and ours share precision and memory layout (channels-last). Every measurement
has a process of its own. Peak memory is the process's on a CPU, that of tensors on a GPU.
"""

from dataclasses import dataclass

import torch

from benchmarks import measure
from core.cam import make_cam
from core.evaluation.loading import make_network
from core.evaluation.prediction import autocast
from core.keypoints import max_keypoints
from core.networks import ARCHITECTURES
from core.strategy import Strategy
from core.training.config import Config as TrainingConfig
from core.training.trainer import Trainer
from tests.helpers import oracle
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, run_main
from train_classification_with_puzzle_cMax_ema import STRATEGY as CMAX
from train_classification_with_puzzle_cTopk_ema import STRATEGY as CTOPK
from train_classification_with_puzzle_cTopk_w_ema import STRATEGY as CTOPK_W
from train_classification_with_puzzle_max import STRATEGY as MAX

STRATEGIES = {"max": MAX, "cMax": CMAX, "cTopk": CTOPK, "cTopk_w": CTOPK_W}  # by the oracle's names
FIGURES = ("original", "ours", "limit", "keypoints")
CLASSES = 20
PRESENT_CLASSES = (1, 2, 2, 2)  # of the first, second, … image, repeated
ITERATIONS = 1000  # of the schedule; measured at its middle, where every loss has its full weight
LEARNING_RATE = 1e-4  # small, so that training on noise does not diverge


@dataclass(frozen=True)
class Config(measure.NetworkArguments):
    strategies: tuple[str, ...] = argument(
        tuple(STRATEGIES), "names with commas (default: all)", parse=measure.names_from(STRATEGIES)
    )
    figures: tuple[str, ...] = argument(
        FIGURES, f"{', '.join(FIGURES)}, or several with commas (default: all)", parse=measure.names_from(FIGURES)
    )
    original_precision: str = argument("float32", "of original", choices=measure.AMP)
    accumulate: int = argument(1, "split a batch of ours into N micro-batches", above=0, metavar="N")
    profile: bool = argument(False, "instead: show which operators take the time of a step of ours")

    def check(self) -> None:
        super().check()
        if self.batch_size % self.accumulate:
            raise UserError(
                f"--batch_size {self.batch_size} does not divide into --accumulate {self.accumulate} micro-batches"
            )
        if "original" in self.figures and not self.profile and self.architecture not in ARCHITECTURES:
            raise UserError(
                f"--figures original does not support --architecture {self.architecture}: choose one of "
                f"{', '.join(ARCHITECTURES)}, or leave original out"
            )


def main() -> None:
    """Measure the figures, print the table and write it as JSON."""
    config = parse(Config, __doc__)
    if config.profile:
        for name in config.strategies:
            print(f"{name}\n{profile(config, STRATEGIES[name])}")
        return
    results = {}
    print(line("strategy", list(COLUMNS)))
    for name in config.strategies:
        measured = {figure: measure.run_in_subprocess(MEASURES[figure], config, name) for figure in config.figures}
        results[name] = measured | {"ratios": ratios_of(measured)}
        print(row(name, results[name]), flush=True)
    for name in config.strategies:
        for figure in config.figures:
            if "failed" in results[name][figure]:
                print(f"{name}, {figure}: {results[name][figure]['failed']}")
    device = measure.prepare_device(config)
    measure.save(config, f"step_{device.type}_{config.precision}.json", device, results)


# ------------------------------------------------------------------------------------------------------- measurements


def make_batch(config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images `[B, 3, S, S]` and multi-hot labels `[B, 20]` on the CPU, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(config.batch_size, 3, config.image_size, config.image_size, generator=generator)
    labels = torch.zeros(config.batch_size, CLASSES)
    for image in range(config.batch_size):
        present = PRESENT_CLASSES[image % len(PRESENT_CLASSES)]
        labels[image, torch.randperm(CLASSES, generator=generator)[:present]] = 1
    return images, labels


def original(config: Config, name: str) -> dict:
    """Measure the algorithm as published."""
    device, strategy, amp = measure.prepare_device(config), STRATEGIES[name], measure.AMP[config.original_precision]
    images, labels = make_batch(config)
    torch.manual_seed(0)
    student = oracle.resnet_classifier(config.architecture, CLASSES).to(device)
    teacher = oracle.make_teacher(student) if strategy.teacher else None
    hyper = oracle.Hyper(lr=LEARNING_RATE)
    optimizer = oracle.make_optimizer(student, hyper)

    def step() -> None:
        on_device = images.to(device), labels.to(device)
        with autocast(device, amp):
            oracle.training_step(name, student, teacher, optimizer, *on_device, ITERATIONS // 2, ITERATIONS, hyper)

    return measure.measurement(config, device, step, crops=len(strategy.crops(labels).image))


def ours(config: Config, name: str) -> dict:
    """Measure one iteration as the training scripts make it."""
    device, strategy = measure.prepare_device(config), STRATEGIES[name]
    images, labels = make_batch(config)
    trainer = make_trainer(config, strategy, device)
    crops = len(strategy.crops(labels).image)
    return measure.measurement(config, device, lambda: trainer.iterate(images, labels), crops=crops)


def make_trainer(config: Config, strategy: Strategy, device: torch.device) -> Trainer:
    """Return the strategy's trainer at the middle of its schedule."""
    settings = TrainingConfig(
        data_dir="",
        tag="benchmark",
        max_epoch=ITERATIONS,
        lr=LEARNING_RATE,
        image_size=config.image_size,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        amp=measure.AMP[config.precision],
    )
    torch.manual_seed(0)
    network = make_network(config.architecture, "none", CLASSES).to(device)
    trainer = Trainer(network, strategy, settings, epoch_iterations=1)
    trainer.iteration = ITERATIONS // 2
    return trainer


def profile(config: Config, strategy: Strategy) -> str:
    """Return the ten operators of PyTorch that themselves take most time of the second step of ours."""
    trainer = make_trainer(config, strategy, measure.prepare_device(config))
    images, labels = make_batch(config)
    trainer.iterate(images, labels)
    with torch.profiler.profile() as profiler:
        trainer.iterate(images, labels)
    times = {item.key: item.self_cpu_time_total + item.self_device_time_total for item in profiler.key_averages()}
    total = sum(times.values())
    longest = sorted(times, key=times.get, reverse=True)[:10]
    return "\n".join(f"  {times[key] / total:6.1%}  {times[key] / 1e6:8.3f} s  {key}" for key in longest)


def limit(config: Config, name: str) -> dict:
    """Measure the lower bound: the networks' own passes, with plain batch normalization."""
    device, strategy = measure.prepare_device(config), STRATEGIES[name]
    images, labels = make_batch(config)
    crops = len(strategy.crops(labels).image)
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    tiles = torch.randn(4 * crops, 3, config.image_size // 2, config.image_size // 2, device=device)
    tiles = tiles.contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    student = cam_network(config.architecture, device)
    teacher = cam_network(config.architecture, device).requires_grad_(False)

    def step() -> None:
        with autocast(device, measure.AMP[config.precision]):
            features = student(images)
            tile_features = (teacher if strategy.teacher else student)(tiles)
            loss = features.float().mean() + tile_features.float().mean()
        student.zero_grad()
        loss.backward()

    return measure.measurement(config, device, step, crops=crops)


def cam_network(architecture: str, device: torch.device) -> torch.nn.Module:
    """Return backbone and CAM branch with the library's own batch normalization, in train mode."""
    backbone, channels = measure.plain_backbone(architecture)
    network = torch.nn.Sequential(backbone, torch.nn.Conv2d(channels, CLASSES, 1, bias=False))
    return network.to(device=device, memory_format=torch.channels_last).train()


def keypoints(config: Config, name: str) -> dict:
    """Measure the search for keypoints, on maps like those of a trained network: a few blobs on an empty background."""
    device, strategy = measure.prepare_device(config), STRATEGIES[name]
    _, labels = make_batch(config)
    cells = config.image_size // 16
    coarse = torch.randn(config.batch_size, CLASSES, max(cells // 4, 1), max(cells // 4, 1))
    cams = make_cam(torch.nn.functional.interpolate(coarse, size=(cells, cells), mode="bicubic")).to(device)
    crops, labels = strategy.crops(labels).to(device), labels.to(device)
    shown, options = strategy.shown_keypoints(), strategy.options({})

    def find() -> None:
        if shown.per_image:
            max_keypoints(cams, labels, config.image_size)
        else:
            shown.find(cams[crops.image, crops.label], config.image_size, options)

    return measure.measurement(config, device, find)


MEASURES = {"original": original, "ours": ours, "limit": limit, "keypoints": keypoints}


# -------------------------------------------------------------------------------------------------------------- table

RATIOS = {  # numerator, denominator, quantity
    "original/ours": ("original", "ours", "seconds"),
    "ours/limit": ("ours", "limit", "seconds"),
    "memory ours/original": ("ours", "original", "peak_memory"),
    "keypoints/ours": ("keypoints", "ours", "seconds"),
}
COLUMNS = ("original", "ours", "limit", *RATIOS)


def ratios_of(measured: dict[str, dict]) -> dict[str, float]:
    """Return those of `RATIOS` whose two figures were measured."""
    ratios = {}
    for label, (numerator, denominator, quantity) in RATIOS.items():
        above, below = (measured.get(figure, {}).get(quantity) for figure in (numerator, denominator))
        if above and below:
            ratios[label] = above / below
    return ratios


def row(name: str, result: dict[str, dict]) -> str:
    """Return a strategy's line of the table."""
    figures = [time_and_memory(result.get(figure, {})) for figure in ("original", "ours", "limit")]
    ratios = [f"{result['ratios'][label]:.3f}" if label in result["ratios"] else "–" for label in RATIOS]
    return line(name, figures + ratios)


def line(first: str, cells: list[str]) -> str:
    """Return the first cell and the others, aligned under `COLUMNS`."""
    padded = [cell.rjust(max(len(column), 16)) for cell, column in zip(cells, COLUMNS, strict=True)]
    return " ".join([f"{first:9s}", *padded])


def time_and_memory(result: dict) -> str:
    """Return a figure as a cell of the table."""
    if "seconds" not in result:
        return "–"
    memory = f" {result['peak_memory'] / measure.MEBIBYTE:.0f} MiB" if result["peak_memory"] else ""
    return f"{result['seconds']:.3f} s{memory}"


if __name__ == "__main__":
    run_main(main)
