"""Images of any origin and size: found by file, folder or pattern, read one by one, fitted to a network's canvas."""

import glob
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from tools.augmentation import normalise, to_pixels
from tools.errors import UserError
from tools.interruption import end_loader_processes_at_exit, ignore_signals
from tools.voc import read_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")


def find_images(names: list[str]) -> list[Path]:
    """The images that files, folders (with all below them) and patterns (`*`, `?`, `[…]`, `**`) name, each once.

    Whether a file can be read shows when it is read.

    Raises:
        UserError: a name that stands for no image.
    """
    found: dict[Path, None] = {}
    for name in names:
        images = _matching(name)
        if not images:
            raise UserError(
                f"--images {name} names no image: give a file, a folder with {', '.join(SUFFIXES)}, or *.jpg"
            )
        found.update(dict.fromkeys(images))
    return list(found)


def _matching(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if path.exists():
        return [path]
    matches = sorted(Path(match) for match in glob.glob(name, recursive=True))
    return [file for match in matches for file in (_matching(str(match)) if match.is_dir() else [match])]


class Fitted(NamedTuple):
    """An image on its canvas, or what is wrong with it.

    Attributes:
        path: its file.
        problem: in one line; empty where there is none.
        canvas: normalised `[3, S, S]`, the image in its middle and 0 around it.
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


class OwnImages(Dataset):
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

    def __getitem__(self, index: int) -> Fitted:
        path = self.paths[index]
        try:
            return fit(str(path), read_upright(path), self.image_size)
        except UserError as error:
            # The reader's advice is for a devkit's images.
            problem = str(error).replace(": restore it from the devkit", "")
            return Fitted(str(path), problem, torch.zeros(0), (0, 0, 0, 0), (0, 0))


def read_upright(path: Path) -> Image.Image:
    """An image as a viewer shows it, RGB; errors as `tools.voc.read_image`."""
    return ImageOps.exif_transpose(read_image(path))


def fit(path: str, image: Image.Image, image_size: int) -> Fitted:
    """An image in the middle of its canvas."""
    width, height = image.size
    scale = image_size / max(width, height)
    # Pillow reads large photographs fastest where it may first halve them.
    shrunk = (max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = to_pixels(image.resize(shrunk, Image.Resampling.BICUBIC, reducing_gap=3.0))
    left, top = (image_size - shrunk[0]) // 2, (image_size - shrunk[1]) // 2
    padding = [left, top, image_size - shrunk[0] - left, image_size - shrunk[1] - top]
    canvas = normalise(F.pad(pixels, padding).movedim(0, -1))
    return Fitted(path, "", canvas, (top, left, top + shrunk[1], left + shrunk[0]), (height, width))


def own_loader(paths: list[Path], image_size: int, batch_size: int, num_workers: int) -> DataLoader:
    """Lists of `Fitted`, in the order of the paths."""
    dataset = OwnImages(paths, image_size)
    if num_workers:
        end_loader_processes_at_exit()
    return DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=list, worker_init_fn=ignore_signals)
