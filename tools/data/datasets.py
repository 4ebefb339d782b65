"""Data sets: images of a devkit folder, with or without labels, and image files of any folder."""

import hashlib
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tools.data.annotations import ABSENT, DIFFICULT_ONLY, VOCObject, labels_of_objects, read_annotation
from tools.data.devkit import annotation_files, check_folder, image_files, read_split
from tools.data.images import ImageSource, as_rgb, opened_image, read_image
from tools.data.loader import worker_options
from tools.data.transforms import Normalization, Transform, fit, fitted_box, normalize
from tools.system.errors import UserError, advice

BLOCK, BLOCKS = 4096, 4  # bytes, and how many of them a checksum of an image file reads


class VOCImages(Dataset):
    """Images of a devkit folder (VOC2012) without labels: all that scoring needs, and all that the test split has.

    The constructor checks that every image of the split exists; `transform` is applied to each PIL image. With a
    `limit` above 0 the data set ends after as many images.
    """

    folders = ("JPEGImages",)

    def __init__(self, data_dir: str | Path, split: str, transform: Transform | None = None, limit: int = 0):
        self.data_dir, self.transform = Path(data_dir), transform
        check_folder(self.data_dir, self.folders)
        images = image_files(self.data_dir)
        self.ids = read_split(self.data_dir, split, images)[: limit or None]  # in the list's order
        self.paths = images.paths(self.ids, split)
        self.labels = torch.zeros(len(self.ids), 0)

    def image(self, index: int) -> Image.Image:
        """Return an image without the transform."""
        with advice("restore it from the devkit"):
            return read_image(self.paths[index])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor, int]:
        """Return the transformed image, its labels `[V]`, and the index, which refers to `ids` and `labels`.

        Labels stay on the CPU: a strategy chooses its crops from them with `nonzero`, which would synchronize a GPU.
        """
        image = self.image(index)
        return (self.transform(image) if self.transform else image), self.labels[index], index


class VOCClassification(VOCImages):
    """Images of a devkit folder with multi-hot labels `[N, V]`, float32, from their XML.

    The constructor checks that every image and annotation exists, and reads every annotation and the header of every
    image, so that a damaged file does not stop a run hours later. `tools.check_data` decodes the images too.
    `difficult` says whether a class whose objects are all difficult is "positive" (official code) or "negative".
    """

    folders = ("JPEGImages", "Annotations")

    def __init__(
        self,
        data_dir: str | Path,
        split: str,
        class_names: list[str],
        transform: Transform | None = None,
        difficult: str = "positive",
        limit: int = 0,
    ):
        super().__init__(data_dir, split, transform, limit)
        self.class_names = class_names
        self.annotations = annotation_files(self.data_dir).paths(self.ids, split)
        with ThreadPoolExecutor() as pool:
            labels = np.concatenate(list(pool.map(self._read_labels, range(len(self.ids)))))
        self.labels = torch.from_numpy(labels > (ABSENT if difficult == "positive" else DIFFICULT_ONLY)).float()

    def _read_labels(self, index: int) -> np.ndarray:
        with opened_image(self.paths[index]):  # checks the header
            return labels_of_objects([self.objects(index)], len(self.class_names))

    def objects(self, index: int) -> list[VOCObject]:
        """Return the annotated objects of an image, as `read_annotation`."""
        return read_annotation(self.annotations[index], self.class_names)

    def fingerprint(self) -> dict[str, str]:
        """Return hashes that tell data sets apart: of ids with labels, and of the sizes and contents of image files."""
        sizes = [os.stat(path).st_size for path in self.paths]
        listed = "\n".join(self.ids).encode("utf-8", "surrogateescape") + self.labels.numpy().tobytes()
        with ThreadPoolExecutor() as pool:
            sums = list(pool.map(checksum, self.paths, sizes))
        parts = {"list or labels": listed, "image files": np.array(sizes), "image contents": np.array(sums)}
        return {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}


def checksum(path: Path, size: int) -> int:
    """Return a CRC-32 of a file of `size` bytes; of a large one, of blocks spread from its start to its end.

    All of VOC's images would take seconds to read. An image that was edited differs almost everywhere.
    """
    last = max(size - BLOCK, 0)
    starts = range(0, size, BLOCK) if size <= BLOCKS * BLOCK else [last * i // (BLOCKS - 1) for i in range(BLOCKS)]
    with path.open("rb", buffering=0) as file:
        return zlib.crc32(b"".join(os.pread(file.fileno(), BLOCK, start) for start in starts))


class Letterboxed(NamedTuple):
    """An image on its square canvas, or the reason why it cannot be read."""

    path: str  # empty for pixels
    problem: str  # one line; empty if there is none
    canvas: torch.Tensor  # normalized [3, S, S], the image centered and 0 around it
    box: tuple[int, int, int, int]  # (top, left, bottom, right) of the image on the canvas, pixels
    size: tuple[int, int]  # (height, width) of the original, upright

    def to_original(self, keypoint: list[int]) -> tuple[int, int]:
        """Map (row, column) on the canvas to the nearest (row, column) in the original image."""
        top, left, bottom, right = self.box
        row = (keypoint[0] - top + 0.5) * self.size[0] / (bottom - top)
        column = (keypoint[1] - left + 0.5) * self.size[1] / (right - left)
        return min(max(int(row), 0), self.size[0] - 1), min(max(int(column), 0), self.size[1] - 1)

    def heat_of(self, cam: torch.Tensor) -> np.ndarray:
        """Return the part of a map `[n, n]` that lies on the image, `[bottom − top, right − left]`."""
        size = self.canvas.shape[-1]
        top, left, bottom, right = self.box
        full = torch.nn.functional.interpolate(cam[None, None].float().cpu(), (size, size), mode="bilinear")[0, 0]
        return full[top:bottom, left:right].numpy()


class ImageFiles(Dataset):
    """Images as `preprocess` returns them; one that cannot be read is its problem."""

    def __init__(self, images: Sequence[ImageSource], image_size: int, normalization: Normalization | None = None):
        self.images, self.image_size, self.normalization = images, image_size, normalization

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Letterboxed:
        try:
            return preprocess(self.images[index], self.image_size, self.normalization)
        except UserError as error:
            return Letterboxed(_path_of(self.images[index]), str(error), torch.zeros(0), (0, 0, 0, 0), (0, 0))


def preprocess(image: ImageSource, image_size: int, normalization: Normalization | None = None) -> Letterboxed:
    """Return an image as a network sees it: upright RGB, letterboxed and normalized.

    It is resized (bicubic) so that the longer side is `image_size` pixels, and centered on a square canvas. Training
    resizes by the longer side too, and leaves 0 where an image does not cover the canvas. For `image` and errors see
    `tools.data.images.as_rgb`; `normalization` None is ImageNet's.
    """
    upright = as_rgb(image)
    size = upright.height, upright.width
    canvas = normalize(fit(upright, image_size), normalization)
    return Letterboxed(_path_of(image), "", canvas, fitted_box(size, image_size), size)


def _path_of(image: ImageSource) -> str:
    return str(image) if isinstance(image, str | Path) else str(getattr(image, "filename", ""))


def image_loader(images: ImageFiles, batch_size: int, num_workers: int) -> DataLoader:
    """Return a loader of lists of `Letterboxed`, in the order of the paths."""
    options = worker_options(num_workers, list) | {"pin_memory": False}  # images are stacked before they move
    return DataLoader(images, batch_size, **options)
