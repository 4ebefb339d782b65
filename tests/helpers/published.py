"""The published input pipeline and evaluation, literally in their steps: the benchmarks' baselines.

The published method is `tests.helpers.oracle`.
"""

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tests.helpers import oracle
from tools.data.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize


class TrainingTransform:
    """From a PIL image to float32 `[3, S, S]`."""

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


@torch.no_grad()
def evaluate(network: oracle.OracleClassifier, loader: DataLoader, device: torch.device) -> list[float]:
    """Return the average precision of each class; computes every class activation map too, and sorts in Python."""
    scores, labels = [], []
    for images, batch_labels, _ in loader:
        logits, features = network(normalize(images.to(device)).contiguous())
        oracle.make_cam(features)
        scores += torch.sigmoid(logits).tolist()
        labels += batch_labels.tolist()
    return [
        average_precision(*of_class)
        for of_class in zip(zip(*scores, strict=True), zip(*labels, strict=True), strict=True)
    ]


def average_precision(scores: tuple[float, ...], labels: tuple[float, ...]) -> float:
    found, total = 0, 0.0
    for rank, (_, label) in enumerate(sorted(zip(scores, labels, strict=True), reverse=True), 1):
        if label:
            found += 1
            total += found / rank
    return total / max(found, 1)
