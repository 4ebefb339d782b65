"""Images per second of evaluation, loader included, against the network's bare forward pass.

bare        the forward pass of a batch that lies on the device, again and again
evaluation  the loop of evaluate_classification.py over as many images of a data set: files read, decoded and cut,
            batches to the device, normalization, forward pass, scores back to the host

Both in evaluation mode, without gradient, at the same batch size, precision and memory layout (channels-last). Every
figure has a process of its own.
"""

import argparse
from collections.abc import Callable

import torch

from benchmarks import measure
from core.evaluation.loading import check_image_size
from core.evaluation.prediction import autocast, predict
from core.networks import Classifier
from tools.data.devkit import read_class_names
from tools.data.loader import evaluation_loader
from tools.data.transforms import evaluation_transform
from tools.system.command_line import Parser
from tools.system.errors import run_main


def main() -> None:
    """Measure both, print the ratio and write it as JSON."""
    args = arguments()
    if args.alone:
        measure.set_exactness(args.tf32)
        measure.hand_on(FIGURES[args.alone](args))
        return
    with measure.some_data(args):
        results = {kind: measure.alone(__file__, words(args, kind)) for kind in FIGURES}
    for kind, figure in results.items():
        print(f"{kind:10s} {figure.get('images_per_second', float('nan')):9.1f} images/s {figure.get('failed', '')}")
    if all("seconds" in figure for figure in results.values()):
        results["evaluation/bare"] = results["bare"]["seconds"] / results["evaluation"]["seconds"]
        print(f"evaluation reaches {results['evaluation/bare']:.3f} of the bare forward pass")
    device = measure.one_device(args.device)
    measure.save(args.output, f"evaluate_{device.type}_{args.precision}.json", device, vars(args), results)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    measure.add_arguments(parser)
    measure.add_data_arguments(parser, images=32)
    parser.add_argument("--num_workers", type=int, default=4, help="loader processes")
    parser.add_argument("--alone", choices=FIGURES, help="measure one figure in this process, print it as JSON")
    args = parser.parse_args()
    check_image_size(args.image_size)
    return args


def words(args: argparse.Namespace, kind: str) -> list[str]:
    """The command line that measures one figure alone."""
    kept = ("architecture", "precision", "batch_size", "image_size", "device", "repeats", "warm_up", "data_dir")
    kept += ("split", "class_file", "num_workers", "images")
    pairs = [word for key in kept for word in (f"--{key}", str(getattr(args, key)))]
    return [*pairs, "--alone", kind, *(["--tf32"] if args.tf32 else [])]


def network_of(args: argparse.Namespace, device: torch.device) -> Classifier:
    """An untrained network in evaluation mode."""
    torch.manual_seed(0)
    return Classifier(args.architecture, len(read_class_names(args.class_file))).to(device).eval()


def timed(args: argparse.Namespace, action: Callable, device: torch.device) -> dict:
    """The figure of `action`, which takes `args.images` images."""
    result = measure.figure(measure.seconds(action, device, args.repeats, args.warm_up), device, images=args.images)
    return result | {"images_per_second": args.images / result["seconds"]}


def bare(args: argparse.Namespace) -> dict:
    """The forward pass alone, in the batches that evaluation makes: the last may be smaller."""
    device, amp = measure.one_device(args.device), measure.amp_of(args.precision)
    network = network_of(args, device)
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size)
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    whole, rest = divmod(args.images, args.batch_size)

    @torch.no_grad()
    def forward() -> None:
        with autocast(device, amp):
            for count in [args.batch_size] * whole + [rest] * (rest > 0):
                network(images[:count])

    return timed(args, forward, device)


def evaluation(args: argparse.Namespace) -> dict:
    """The loop of evaluate_classification.py."""
    device = measure.one_device(args.device)
    network = network_of(args, device)
    transform = evaluation_transform(args.image_size)
    loader = evaluation_loader(measure.dataset(args, transform), args.batch_size, args.num_workers)
    return timed(args, lambda: predict(network, loader, device, measure.amp_of(args.precision)), device)


FIGURES = {"bare": bare, "evaluation": evaluation}


if __name__ == "__main__":
    run_main(main)
