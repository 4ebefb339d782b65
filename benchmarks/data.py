"""Images per second and core of the training images' loader, against the pipeline as published.

published  Pillow's bicubic resizing, flip, then in NumPy normalization in float32, crop into zeros, transposition
ours       the training scripts' loader, whose uint8 pixels are normalized on the device

Both read the same images, decoded by Pillow from files in the system's cache, into batches on the host. Without workers
one thread works; with n workers the speed is the loader's, divided by n. Each measurement has its own process.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks import measure
from tools.data.loader import training_loader
from tools.data.transforms import IMAGENET_MEAN, IMAGENET_STD, training_transform
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, run_main

PIPELINES = ("published", "ours")


@dataclass(frozen=True)
class Config(measure.DataArguments):
    warm_up: int = argument(1, "untimed repetitions before them", above=0)
    workers: tuple[int, ...] = argument((0, 2), "loader processes (default: 0,2)", parse=measure.numbers_with_commas)
    batch_size: int = argument(32, "images per batch", above=0)
    image_size: int = argument(512, "side of the crop, pixels", above=0)
    min_image_size: int = argument(320, "minimum longer side after random resizing, pixels", above=0)
    max_image_size: int = argument(640, "maximum longer side after random resizing, pixels", above=0)

    def check(self) -> None:
        if self.min_image_size > self.max_image_size:
            raise UserError(f"--min_image_size {self.min_image_size} exceeds --max_image_size {self.max_image_size}")


def main() -> None:
    """Measure both pipelines, print the table and write it as JSON."""
    results = {}
    with measure.image_data(parse(Config, __doc__)) as config:
        print("workers   published         ours   ours/published   (images per second and core)")
        for workers in config.workers:
            pair = {name: measure.run_in_subprocess(measure_loader, config, name, workers) for name in PIPELINES}
            published, ours = (pair[name].get("per_core", math.nan) for name in PIPELINES)
            results[str(workers)] = pair | {"ours/published": ours / published}
            failures = [f"{name}: {pair[name]['failed']}" for name in PIPELINES if "failed" in pair[name]]
            print(f"{workers:7d} {published:11.0f} {ours:12.0f} {ours / published:16.2f}", *failures)
    measure.save(config, "data.json", torch.device("cpu"), results)


def measure_loader(config: Config, pipeline: str, workers: int) -> dict:
    """Return the seconds of a pass over the images, and images per second and core."""
    torch.set_num_threads(1)
    loader = make_loader(config, pipeline, workers)

    def whole_pass() -> None:
        for _ in loader:
            pass

    result = measure.throughput(config, torch.device("cpu"), whole_pass, len(loader) * config.batch_size)
    return result | {"per_core": result["images_per_second"] / max(workers, 1)}


def make_loader(config: Config, pipeline: str, workers: int) -> DataLoader:
    """Return a pipeline's loader; the published one does not parse an image's XML again for every sample."""
    sizes = (config.image_size, config.min_image_size, config.max_image_size)
    if pipeline == "ours":
        return training_loader(measure.dataset(config, training_transform(*sizes)), config.batch_size, workers, seed=0)
    dataset = measure.dataset(config, PublishedTransform(*sizes))
    options = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": torch.cuda.is_available()}
    return DataLoader(dataset, config.batch_size, shuffle=True, drop_last=True, **options)


class PublishedTransform:
    """From a PIL image to float32 `[3, S, S]`, literally in the published steps."""

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
        (rows, canvas_rows), (columns, canvas_columns) = map(self._ranges, normalized.shape[:2])
        canvas[canvas_rows, canvas_columns] = normalized[rows, columns]
        return torch.from_numpy(canvas.transpose(2, 0, 1))

    def _ranges(self, side: int) -> tuple[slice, slice]:
        """Return, along one axis, a random range of the image and the range of the canvas that takes it."""
        shared = min(side, self.image_size)
        starts = [int(self.rng.integers(length - shared + 1)) for length in (side, self.image_size)]
        return tuple(slice(start, start + shared) for start in starts)


if __name__ == "__main__":
    run_main(main)
