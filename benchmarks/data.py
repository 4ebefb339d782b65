"""Images per second and core of the training images' loader, against the pipeline as published.

published  Pillow's bicubic resizing, flip, then in NumPy normalization in float32, crop into zeros, transposition
ours       the training scripts' loader, whose uint8 pixels are normalized on the device

Both read the same images, decoded by Pillow from files in the system's cache, into batches on the host. Without workers
one thread works; with n workers the speed is the loader's, divided by n. Each measurement has its own process.
"""

from collections import deque
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.data import DataLoader

from benchmarks import measure
from tests.helpers import published
from tools.data.loader import training_loader
from tools.data.transforms import training_transform
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, run_main

WORKERS_HELP = "loader processes (default: 0,2)"


@dataclass(frozen=True)
class Config(measure.DataArguments):
    warm_up: int = argument(1, "untimed repetitions before them", above=0)
    workers: tuple[int, ...] = argument((0, 2), WORKERS_HELP, parse=measure.numbers_with_commas, least=0)
    batch_size: int = argument(32, "images per batch", above=0)
    image_size: int = argument(512, "side of the crop, pixels", above=0)
    min_image_size: int = argument(320, "minimum longer side after random resizing, pixels", above=0)
    max_image_size: int = argument(640, "maximum longer side after random resizing, pixels", above=0)

    def check(self) -> None:
        if self.min_image_size > self.max_image_size:
            raise UserError(f"--min_image_size {self.min_image_size} exceeds --max_image_size {self.max_image_size}")


def main() -> None:
    results = {}
    with measure.image_data(parse(Config, __doc__)) as config:
        for workers in config.workers:
            calls = {name: (run_loader, config, name, workers) for name in ("published", "ours")}
            pair = measure.measured(calls, f"{workers} workers,")
            results[str(workers)] = pair | measure.print_ratios(measure.ratios(pair, "per_core", "ours/published"))
    measure.save(config, "data", results)


def run_loader(config: Config, pipeline: str, workers: int) -> dict:
    """Measure a pass over the images; the published pipeline does not parse an image's XML again for every sample."""
    torch.set_num_threads(1)
    sizes = (config.image_size, config.min_image_size, config.max_image_size)
    if pipeline == "ours":
        dataset = measure.dataset(config, training_transform(*sizes))
        loader = training_loader(dataset, config.batch_size, workers, seed=0)
    else:
        dataset = measure.dataset(config, published.TrainingTransform(*sizes))
        options = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": torch.cuda.is_available()}
        loader = DataLoader(dataset, config.batch_size, shuffle=True, drop_last=True, **options)
    whole_pass = partial(deque, loader, maxlen=0)  # keeps no batch
    result = measure.measurement(config, measure.CPU, whole_pass, images=len(loader) * config.batch_size)
    return result | {"per_core": result["images_per_second"] / max(workers, 1)}


if __name__ == "__main__":
    run_main(main)
