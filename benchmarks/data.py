"""Images per second and core of the training images' loader, against the pipeline as published.

published  Pillow and NumPy: Pillow's bicubic resizing, flip, normalization in float32, crop into a canvas of zeros,
           axes exchanged; a plain `DataLoader` around it
ours       the training scripts' loader, whose uint8 pixels are normalized on the device

Both read the same images, decoded by Pillow from files that the system holds in memory, into batches on the host. In
the main process (0 workers) one thread works; with n workers the figure is the whole loader's, divided by n. Every
figure has a process of its own.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks import measure
from tools.data.loader import training_loader
from tools.data.transforms import IMAGENET_MEAN, IMAGENET_STD, training_transform
from tools.system.command_line import Parser
from tools.system.errors import UserError, run_main


def main() -> None:
    """Measure what is asked for, print the table and write it as JSON."""
    args = arguments()
    if args.alone:
        torch.set_num_threads(1)
        measure.hand_on(figure(args, args.workers[0]))
        return
    with measure.some_data(args):
        results = {}
        print("workers   published         ours              ours/published   (images per second and core)")
        for workers in args.workers:
            pair = {kind: measure.alone(__file__, words(args, kind, workers)) for kind in PIPELINES}
            results[str(workers)] = pair | {"ours/published": ratio(pair)}
            shown = [f"{pair[kind].get('per_core', float('nan')):8.0f}" for kind in PIPELINES]
            print(f"{workers:7d} {shown[0]:>11s} {shown[1]:>12s} {results[str(workers)]['ours/published']:19.2f}")
    measure.save(args.output, "data.json", torch.device("cpu"), vars(args), results)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    measure.add_data_arguments(parser, images=256)
    parser.add_argument("--workers", default="0,2", help="numbers of loader processes, with commas")
    parser.add_argument("--batch_size", type=measure.positive, default=32, help="images")
    parser.add_argument("--image_size", type=measure.positive, default=512, help="crop side in pixels")
    parser.add_argument("--min_image_size", type=measure.positive, default=320, help="shortest longer side, pixels")
    parser.add_argument("--max_image_size", type=measure.positive, default=640, help="longest longer side, pixels")
    parser.add_argument("--repeats", type=measure.positive, default=5, help="timed repetitions; the median counts")
    parser.add_argument("--warm_up", type=measure.positive, default=1, help="repetitions before them")
    parser.add_argument("--output", type=Path, help="JSON file of the results")
    parser.add_argument("--alone", choices=PIPELINES, help="measure one figure in this process, print it as JSON")
    args = parser.parse_args()
    numbers = args.workers.split(",")
    if not all(number.isdecimal() for number in numbers):
        raise UserError(f"--workers {args.workers}: give whole numbers with commas, as in 0,2")
    args.workers = [int(number) for number in numbers]
    if args.images < args.batch_size:
        raise UserError(f"--images {args.images} does not fill a batch of {args.batch_size}")
    return args


def words(args: argparse.Namespace, kind: str, workers: int) -> list[str]:
    """The command line that measures one figure alone."""
    kept = ("data_dir", "split", "class_file", "images", "batch_size", "image_size", "min_image_size")
    kept += ("max_image_size", "repeats", "warm_up")
    pairs = [word for key in kept for word in (f"--{key}", str(getattr(args, key)))]
    return [*pairs, "--workers", str(workers), "--alone", kind]


def figure(args: argparse.Namespace, workers: int) -> dict:
    """Seconds of a pass over the images, and images per second and core."""
    loader = PIPELINES[args.alone](args, workers)
    count = len(loader) * args.batch_size

    def whole_pass() -> None:
        for _ in loader:
            pass

    times = measure.seconds(whole_pass, torch.device("cpu"), args.repeats, args.warm_up)
    result = measure.figure(times, torch.device("cpu"), images=count)
    per_second = count / result["seconds"]
    return result | {"images_per_second": per_second, "per_core": per_second / max(workers, 1)}


def ratio(pair: dict[str, dict]) -> float:
    """How many times faster ours is; not a number where a figure is missing."""
    return pair["ours"].get("per_core", float("nan")) / pair["published"].get("per_core", float("nan"))


def ours(args: argparse.Namespace, workers: int) -> DataLoader:
    """The training scripts' loader."""
    transform = training_transform(args.image_size, args.min_image_size, args.max_image_size)
    return training_loader(measure.dataset(args, transform), args.batch_size, workers, seed=0)


def published(args: argparse.Namespace, workers: int) -> DataLoader:
    """The pipeline as published. Its labels, which it reads from XML again and again, are left out."""
    dataset = measure.dataset(args, PublishedTransform(args.image_size, args.min_image_size, args.max_image_size))
    options = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": torch.cuda.is_available()}
    return DataLoader(dataset, args.batch_size, shuffle=True, drop_last=True, **options)


class PublishedTransform:
    """From a PIL image to float32 `[3, S, S]` in the published steps, each of them literal."""

    def __init__(self, image_size: int, smallest: int, largest: int):
        self.image_size, self.smallest, self.largest = image_size, smallest, largest
        self.rng = np.random.default_rng(0)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        scale = int(self.rng.integers(self.smallest, self.largest + 1)) / max(image.size)
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
        if self.rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(image)
        normalized = np.empty(pixels.shape, np.float32)
        for channel in range(3):
            normalized[..., channel] = (pixels[..., channel] / 255.0 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        canvas = np.zeros((self.image_size, self.image_size, 3), np.float32)
        (rows, onto_rows), (columns, onto_columns) = map(self.place, normalized.shape[:2])
        canvas[onto_rows, onto_columns] = normalized[rows, columns]
        return torch.from_numpy(canvas.transpose(2, 0, 1))

    def place(self, side: int) -> tuple[slice, slice]:
        """Along one axis: what of the image is taken, and where it goes."""
        shared = min(side, self.image_size)
        from_image = int(self.rng.integers(side - shared + 1))
        on_canvas = int(self.rng.integers(self.image_size - shared + 1))
        return slice(from_image, from_image + shared), slice(on_canvas, on_canvas + shared)


PIPELINES = {"published": published, "ours": ours}


if __name__ == "__main__":
    run_main(main)
