"""Data sets: images of a devkit folder, with or without labels, and image files of any folder."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from tools.data.annotations import VOCObject, multi_hot, read_annotation
from tools.data.devkit import annotation_path, check_folder, image_path, read_split, require_files
from tools.data.images import opened_image, read_image, read_upright
from tools.data.transforms import normalize, to_pixels
from tools.system.errors import UserError
from tools.system.interruption import end_loader_processes_at_exit, ignore_signals


class VOCClassification(Dataset):
    """Images of a devkit folder with multi-hot labels from their XML.

    Every image and annotation is looked for, every annotation and every image's header read, when the data set is made,
    so that a run does not stop hours later. `tools.check_data` decodes the images too.

    Args:
        data_dir: the folder that holds JPEGImages, Annotations and ImageSets (VOC2012).
        split: see `split_path`.
        class_names: see `read_class_names`.
        transform: what to make of each PIL image.

    Attributes:
        ids: image ids in the list's order.
        labels: `[N, V]` float32.

    Raises:
        UserError: whatever of the above is missing or broken, in one line.
    """

    def __init__(
        self,
        data_dir: str | Path,
        split: str,
        class_names: list[str],
        transform: Callable[[Image.Image], Any] | None = None,
    ):
        self.data_dir = Path(data_dir)
        self.class_names = class_names
        self.transform = transform
        check_folder(self.data_dir)
        self.ids = read_split(self.data_dir, split)
        require_files(self.data_dir, self.ids, split, "JPEGImages", ".jpg")
        require_files(self.data_dir, self.ids, split, "Annotations", ".xml")
        with ThreadPoolExecutor() as pool:
            self.labels = torch.stack(list(pool.map(self._examine, range(len(self.ids)))))

    def objects(self, index: int) -> list[VOCObject]:
        """The annotated objects of an image."""
        return read_annotation(annotation_path(self.data_dir, self.ids[index]), self.class_names)

    def image(self, index: int) -> Image.Image:
        """An image; see `read_image`."""
        return read_image(image_path(self.data_dir, self.ids[index]))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor, int]:
        """The transformed image, its labels `[V]` and the index."""
        image = self.image(index)
        return (self.transform(image) if self.transform else image), self.labels[index], index

    def _examine(self, index: int) -> torch.Tensor:
        """Read an annotation and look at its image's header; gives the labels `[V]`."""
        try:
            labels = multi_hot(self.objects(index), len(self.class_names))
            with opened_image(image_path(self.data_dir, self.ids[index])):
                return labels
        except UserError as error:
            raise UserError(f"{error}; python3 -m tools.check_data names every such file") from error


class VOCImages(Dataset):
    """Images of a devkit folder without labels: what scoring needs, and all there is of the test split.

    Every image is looked for when the data set is made.

    Args:
        data_dir, split, transform: see `VOCClassification`; the folder Annotations may be missing.

    Attributes:
        ids: image ids in the list's order.

    Raises:
        UserError: unknown split, or an image is missing.
    """

    def __init__(
        self,
        data_dir: str | Path,
        split: str,
        transform: Callable[[Image.Image], Any] | None = None,
    ):
        self.data_dir = Path(data_dir)
        self.transform = transform
        check_folder(self.data_dir, ("JPEGImages",))
        self.ids = read_split(self.data_dir, split)
        require_files(self.data_dir, self.ids, split, "JPEGImages", ".jpg")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor, int]:
        """The transformed image, no labels `[0]`, and the index."""
        image = read_image(image_path(self.data_dir, self.ids[index]))
        return (self.transform(image) if self.transform else image), torch.zeros(0), index


class Letterboxed(NamedTuple):
    """An image on its canvas, or what is wrong with it.

    Attributes:
        path: its file.
        problem: in one line; empty where there is none.
        canvas: normalized `[3, S, S]`, the image in its middle and 0 around it.
        box: (top, left, bottom, right) of the image on the canvas, pixels.
        size: (height, width) of the original, upright.
    """

    path: str
    problem: str
    canvas: torch.Tensor
    box: tuple[int, int, int, int]
    size: tuple[int, int]

    def to_original(self, keypoint: list[int]) -> tuple[int, int]:
        """A place on the canvas as (row, column) in the original image's pixels, moved into the image."""
        top, left, bottom, right = self.box
        row = (keypoint[0] - top + 0.5) * self.size[0] / (bottom - top)
        column = (keypoint[1] - left + 0.5) * self.size[1] / (right - left)
        return min(max(int(row), 0), self.size[0] - 1), min(max(int(column), 0), self.size[1] - 1)

    def covered_cells(self, cells: int) -> torch.Tensor:
        """Which cells of an n × n map the image covers at least in part: `[n, n]` bool."""
        start = torch.arange(cells) * self.canvas.shape[-1] / cells
        end = start + self.canvas.shape[-1] / cells
        top, left, bottom, right = self.box
        rows, columns = (start < bottom) & (end > top), (start < right) & (end > left)
        return rows[:, None] & columns

    def heat_of(self, cam: torch.Tensor) -> np.ndarray:
        """The part of a map `[n, n]` that lies on the image, `[bottom − top, right − left]`."""
        size = self.canvas.shape[-1]
        top, left, bottom, right = self.box
        full = torch.nn.functional.interpolate(cam[None, None].float().cpu(), (size, size), mode="bilinear")[0, 0]
        return full[top:bottom, left:right].numpy()


class ImageFiles(Dataset):
    """Images resized so that the longer side is S pixels, in the middle of an S × S canvas.

    Training, too, resizes by the longer side and leaves what an image does not cover at 0. A photograph's EXIF
    orientation is applied, so that places are those of the upright image.

    Args:
        paths: the images' files.
        image_size: S, pixels.
    """

    def __init__(self, paths: list[Path], image_size: int):
        self.paths = paths
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Letterboxed:
        path = self.paths[index]
        try:
            return fit(str(path), read_upright(path), self.image_size)
        except UserError as error:
            # The reader's advice is for a devkit's images.
            problem = str(error).replace(": restore it from the devkit", "")
            return Letterboxed(str(path), problem, torch.zeros(0), (0, 0, 0, 0), (0, 0))


def fit(path: str, image: Image.Image, image_size: int) -> Letterboxed:
    """An image in the middle of its canvas."""
    width, height = image.size
    scale = image_size / max(width, height)
    # Pillow reads large photographs fastest where it may first halve them.
    shrunk = (max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = to_pixels(image.resize(shrunk, Image.Resampling.BICUBIC, reducing_gap=3.0))
    left, top = (image_size - shrunk[0]) // 2, (image_size - shrunk[1]) // 2
    padding = [left, top, image_size - shrunk[0] - left, image_size - shrunk[1] - top]
    canvas = normalize(F.pad(pixels, padding).movedim(0, -1))
    return Letterboxed(path, "", canvas, (top, left, top + shrunk[1], left + shrunk[0]), (height, width))


def image_loader(paths: list[Path], image_size: int, batch_size: int, num_workers: int) -> DataLoader:
    """Lists of `Letterboxed`, in the order of the paths."""
    dataset = ImageFiles(paths, image_size)
    if num_workers:
        end_loader_processes_at_exit()
    return DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=list, worker_init_fn=ignore_signals)
