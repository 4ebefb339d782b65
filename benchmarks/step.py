"""Time and memory of a training step: the published algorithm, ours, and the least that a step can cost.

original  the algorithm as published (tests/oracle.py): a copy of the feature map for every class, one pass through the
          network for every crop, peaks by scikit-image on the host; contiguous memory, float32 unless told otherwise
ours      one iteration as the training scripts make it: batch to the device, step, backward pass, optimizer, teacher
limit     forward and backward pass of backbone and CAM branch on the images and, on the tiles, one forward pass
          without gradient (Max: forward and backward pass), with plain batch normalization; nothing else

All see the same images, normal noise, whose labels name 1, 2, 2, 2, 1, 2, 2, 2, … classes (1.75 crops an image, 1 in
Max; VOC has 1.5 classes an image). Limit and ours share precision and memory layout (channels-last). Every figure has a
process of its own. Peak memory is the process's on a CPU, that of tensors on a GPU.
"""

import argparse
import importlib

import torch

from benchmarks import measure
from core.cam import make_cam
from core.evaluation.loading import check_image_size
from core.evaluation.prediction import autocast
from core.keypoints import cmax_keypoints, ctopk_keypoints, ctopk_w_keypoints, max_keypoints
from core.networks import Classifier, build_backbone
from core.strategy import Crops
from core.training.config import parse_arguments
from core.training.trainer import Trainer
from tests.helpers import oracle
from tools.system.command_line import Parser
from tools.system.errors import UserError, run_main

SCRIPTS = {
    "max": "train_classification_with_puzzle_max",
    "cMax": "train_classification_with_puzzle_cMax_ema",
    "cTopk": "train_classification_with_puzzle_cTopk_ema",
    "cTopk_w": "train_classification_with_puzzle_cTopk_w_ema",
}
CLASSES = 20
PRESENT_CLASSES = (1, 2, 2, 2)  # of the first, second, … image, over and over
ITERATIONS = (
    1000  # of the schedule; all losses have weight, and a small learning rate leaves noise no number grows from
)
LEARNING_RATE = 1e-4


def main() -> None:
    """Measure what is asked for, print the table and write it as JSON."""
    args = arguments()
    if args.alone:
        measure.set_exactness(args.tf32)
        measure.hand_on(FIGURES[args.figures[0]](args, args.strategies[0]))
        return
    if args.profile:
        measure.set_exactness(args.tf32)
        for strategy in args.strategies:
            print(f"{strategy}\n{profile(args, strategy)}")
        return
    results = {}
    print(HEADER)
    for strategy in args.strategies:
        results[strategy] = {name: measure.alone(__file__, words(args, strategy, name)) for name in args.figures}
        results[strategy]["ratios"] = ratios(results[strategy])
        print(row(strategy, results[strategy]), flush=True)
    for strategy, figures in results.items():
        for name in args.figures:
            if "failed" in figures[name]:
                print(f"{strategy}, {name}: {figures[name]['failed']}")
    device = measure.one_device(args.device)
    measure.save(args.output, f"step_{device.type}_{args.precision}.json", device, vars(args), results)


def arguments() -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: unknown strategies or figures, or sizes that do not work.
    """
    parser = Parser(description=__doc__)
    measure.add_arguments(parser)
    parser.add_argument("--strategies", default=",".join(SCRIPTS), help="names with commas")
    parser.add_argument("--figures", default=",".join(FIGURES), help="names with commas")
    parser.add_argument("--original_precision", default="float32", choices=("float32", "bf16", "fp16"))
    parser.add_argument("--accumulate", type=measure.positive, default=1, help="parts of a batch, in ours")
    parser.add_argument("--profile", action="store_true", help="instead: where the time of a step of ours goes")
    parser.add_argument("--alone", action="store_true", help="measure the one figure in this process, print it as JSON")
    args = parser.parse_args()
    args.strategies = choices(args.strategies, SCRIPTS, "--strategies")
    args.figures = choices(args.figures, FIGURES, "--figures")
    check_image_size(args.image_size)
    if args.batch_size % args.accumulate:
        raise UserError(f"--batch_size {args.batch_size} does not divide into --accumulate {args.accumulate} parts")
    return args


def choices(word: str, known: dict, argument: str) -> list[str]:
    """Names with commas, each of them known."""
    names = word.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"{argument} {unknown[0]}: choose from {', '.join(known)}")
    return names


def words(args: argparse.Namespace, strategy: str, name: str) -> list[str]:
    """The command line that measures one figure alone."""
    kept = ("architecture", "precision", "batch_size", "image_size", "device", "repeats", "warm_up")
    kept += ("original_precision", "accumulate")
    pairs = [word for key in kept for word in (f"--{key}", str(getattr(args, key)))]
    return [*pairs, "--strategies", strategy, "--figures", name, "--alone", *(["--tf32"] if args.tf32 else [])]


# ------------------------------------------------------------------------------------------------------------ figures


def batch(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `[B, 3, S, S]` and multi-hot labels `[B, 20]`, as the loader gives them; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size, generator=generator)
    labels = torch.zeros(args.batch_size, CLASSES)
    for image in range(args.batch_size):
        present = PRESENT_CLASSES[image % len(PRESENT_CLASSES)]
        labels[image, torch.randperm(CLASSES, generator=generator)[:present]] = 1
    return images, labels


def crops_of(strategy: str, labels: torch.Tensor) -> Crops:
    """The crops that a strategy makes of labels."""
    return Crops.one_per_image(labels) if strategy == "max" else Crops.of(labels)


def original(args: argparse.Namespace, strategy: str) -> dict:
    """The algorithm as published."""
    if args.architecture.startswith("timm/"):
        raise UserError("the figure 'original' knows torchvision's ResNets only: leave it out of --figures")
    device, amp = measure.one_device(args.device), measure.amp_of(args.original_precision)
    images, labels = batch(args)
    torch.manual_seed(0)
    student = oracle.resnet_classifier(args.architecture, CLASSES).to(device)
    teacher = None if strategy == "max" else oracle.make_teacher(student)
    hyper = oracle.Hyper(lr=LEARNING_RATE)
    optimizer = oracle.make_optimizer(student, hyper)

    def step() -> None:
        on_device = images.to(device), labels.to(device)
        with autocast(device, amp):
            oracle.training_step(strategy, student, teacher, optimizer, *on_device, ITERATIONS // 2, ITERATIONS, hyper)

    times = measure.seconds(step, device, args.repeats, args.warm_up)
    return measure.figure(times, device, crops=len(crops_of(strategy, labels).image))


def ours(args: argparse.Namespace, strategy: str) -> dict:
    """One iteration as the training scripts make it."""
    device = measure.one_device(args.device)
    images, labels = batch(args)
    trainer = make_trainer(args, strategy, device)
    times = measure.seconds(lambda: trainer.iterate(images, labels), device, args.repeats, args.warm_up)
    return measure.figure(times, device, crops=len(crops_of(strategy, labels).image))


def profile(args: argparse.Namespace, strategy: str) -> str:
    """The ten operators of PyTorch in which one step of ours, after a first one, spends most time itself."""
    device = measure.one_device(args.device)
    trainer, (images, labels) = make_trainer(args, strategy, device), batch(args)
    trainer.iterate(images, labels)
    with torch.profiler.profile() as profiler:
        trainer.iterate(images, labels)
    rows = profiler.key_averages()
    spent = {row.key: row.self_cpu_time_total + row.self_device_time_total for row in rows}
    whole = sum(spent.values())
    most = sorted(spent, key=spent.get, reverse=True)[:10]
    return "\n".join(f"  {spent[key] / whole:6.1%}  {spent[key] / 1e6:8.3f} s  {key}" for key in most)


def make_trainer(args: argparse.Namespace, strategy: str, device: torch.device) -> Trainer:
    """The strategy's trainer, in the midst of a schedule."""
    options = ["--data_dir", "none", "--max_epoch", str(ITERATIONS), "--tag", "benchmark", "--lr", str(LEARNING_RATE)]
    options += ["--image_size", str(args.image_size), "--batch_size", str(args.batch_size)]
    options += ["--accumulate", str(args.accumulate), "--amp", measure.amp_of(args.precision)]
    script = importlib.import_module(SCRIPTS[strategy])
    torch.manual_seed(0)
    network = Classifier(args.architecture, CLASSES).to(device)
    with_teacher = strategy != "max"
    crops = Crops.of if with_teacher else Crops.one_per_image
    trainer = Trainer(network, script.training_step, parse_arguments("", options), 1, with_teacher, crops)
    trainer.iteration = ITERATIONS // 2
    return trainer


def limit(args: argparse.Namespace, strategy: str) -> dict:
    """The least: the networks' own passes, with plain batch normalization."""
    device = measure.one_device(args.device)
    images, labels = batch(args)
    crops = len(crops_of(strategy, labels).image)
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    tiles = torch.randn(4 * crops, 3, args.image_size // 2, args.image_size // 2, device=device)
    tiles = tiles.contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    student = cam_network(args.architecture, device)
    teacher = cam_network(args.architecture, device).requires_grad_(False)

    def step() -> None:
        with autocast(device, measure.amp_of(args.precision)):
            features = student(images)
            tile_features = (student if strategy == "max" else teacher)(tiles)
            loss = features.float().mean() + tile_features.float().mean()
        student.zero_grad()
        loss.backward()

    return measure.figure(measure.seconds(step, device, args.repeats, args.warm_up), device, crops=crops)


def cam_network(architecture: str, device: torch.device) -> torch.nn.Module:
    """Backbone with the library's own batch normalization, and CAM branch, in train mode."""
    backbone, channels, _ = build_backbone(architecture)
    network = torch.nn.Sequential(backbone, torch.nn.Conv2d(channels, CLASSES, 1, bias=False))
    return network.to(device=device, memory_format=torch.channels_last).train()


def keypoints(args: argparse.Namespace, strategy: str) -> dict:
    """Keypoints alone, from maps that look like a trained network's: a few blobs on an empty ground."""
    device = measure.one_device(args.device)
    _, labels = batch(args)
    cells = args.image_size // 16
    coarse = torch.randn(args.batch_size, CLASSES, max(cells // 4, 1), max(cells // 4, 1))
    cams = make_cam(torch.nn.functional.interpolate(coarse, size=(cells, cells), mode="bicubic")).to(device)
    crops, labels = crops_of(strategy, labels).to(device), labels.to(device)
    find = {
        "max": lambda: max_keypoints(cams, labels, args.image_size),
        "cMax": lambda: cmax_keypoints(cams[crops.image, crops.label], args.image_size),
        "cTopk": lambda: ctopk_keypoints(cams[crops.image, crops.label], args.image_size),
        "cTopk_w": lambda: ctopk_w_keypoints(cams[crops.image, crops.label], args.image_size),
    }[strategy]
    return measure.figure(measure.seconds(find, device, args.repeats, args.warm_up), device)


FIGURES = {"original": original, "ours": ours, "limit": limit, "keypoints": keypoints}


# -------------------------------------------------------------------------------------------------------------- table

HEADER = (
    f"{'strategy':9s} {'original':>16s} {'ours':>16s} {'limit':>16s} {'original/ours':>14s} {'ours/limit':>11s} "
    f"{'memory ours/orig.':>18s} {'keypoints':>10s}"
)


def ratios(figures: dict[str, dict]) -> dict[str, float]:
    """What the targets speak of, as far as it was measured; the last is the keypoints' share of our step."""
    pairs = {
        "original/ours": ("original", "ours", "seconds"),
        "ours/limit": ("ours", "limit", "seconds"),
        "memory ours/original": ("ours", "original", "peak_memory"),
        "keypoints/ours": ("keypoints", "ours", "seconds"),
    }
    known = {
        label: (figures.get(above, {}).get(what), figures.get(below, {}).get(what))
        for label, (above, below, what) in pairs.items()
    }
    return {label: above / below for label, (above, below) in known.items() if above and below}


def row(strategy: str, figures: dict[str, dict]) -> str:
    """A line of the table."""
    cells = [_time_and_memory(figures.get(name, {})) for name in ("original", "ours", "limit")]
    shown = {label: f"{value:.2f}" for label, value in figures["ratios"].items()}
    share = figures["ratios"].get("keypoints/ours")
    return (
        f"{strategy:9s} {cells[0]:>16s} {cells[1]:>16s} {cells[2]:>16s} {shown.get('original/ours', '–'):>14s} "
        f"{shown.get('ours/limit', '–'):>11s} {shown.get('memory ours/original', '–'):>18s} "
        f"{f'{share:.1%}' if share else '–':>10s}"
    )


def _time_and_memory(result: dict) -> str:
    if "seconds" not in result:
        return "–"
    memory = result["peak_memory"]
    return f"{result['seconds']:.3f} s" + (f" {memory / measure.MEBIBYTE:.0f} MiB" if memory else "")


if __name__ == "__main__":
    run_main(main)
