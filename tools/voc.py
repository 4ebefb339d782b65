"""PASCAL VOC: split lists, annotations and images of a devkit folder, checked before they are used."""

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from tools.errors import UserError
from tools.files import read_json

DATA = Path(__file__).resolve().parents[1] / "data"
LARGEST_ANNOTATION = 1 << 20  # bytes; the devkit's largest has 20 thousand


@dataclass(frozen=True)
class VOCObject:
    """One annotated object.

    Attributes:
        name, class_index: its class.
        difficult: marked as hard to recognise.
        box: (xmin, ymin, xmax, ymax) in pixels, the devkit's 1-based inclusive corners.
    """

    name: str
    class_index: int
    difficult: bool
    box: tuple[float, float, float, float]


def read_class_names(path: str | Path) -> list[str]:
    """Class names in the order of their indices, from a JSON file with the key `class_names`.

    Raises:
        UserError: no such file, no JSON, or no list of distinct names in it.
    """
    content = read_json(Path(path))
    names = content.get("class_names") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"class file {path} has no list of names under 'class_names'")
    if len(set(names)) < len(names):
        raise UserError(f"class file {path} names a class twice")
    return names


def split_path(data_dir: str | Path, split: str) -> Path:
    """The list file of a split: `NAME` in the project's data folder, or `Main/NAME` in the devkit's ImageSets.

    Raises:
        UserError: there is no such list; the choices are named.
    """
    if "/" in split:
        path = Path(data_dir) / "ImageSets" / f"{split}.txt"
    else:
        path = DATA / f"{split}.txt"
    if ".." not in Path(split).parts and path.is_file():
        return path
    ours = sorted(file.stem for file in DATA.glob("*.txt"))
    devkit = sorted(f"Main/{file.stem}" for file in (Path(data_dir) / "ImageSets" / "Main").glob("*.txt"))
    plain = [name for name in devkit if not re.search(r"_(train|val|trainval|test)$", name)]
    raise UserError(f"unknown split '{split}' (no file {path}): choose one of {', '.join(ours + plain)}")


def read_split(data_dir: str | Path, split: str) -> list[str]:
    """Image ids of a split, in the list's order. The first word of each line counts; blank lines do not.

    Raises:
        UserError: unknown split, an id that is no plain file name, an id twice, or an empty list.
    """
    path = split_path(data_dir, split)
    ids: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if words[0] in (".", "..") or re.search(r"[/\\\0]", words[0]):
            raise UserError(f"{path}, line {number}: '{words[0]}' is no image id (ids are file names without folders)")
        ids.append(words[0])
    if not ids:
        raise UserError(f"{path} names no image")
    if len(set(ids)) < len(ids):
        twice = next(name for position, name in enumerate(ids) if name in ids[:position])
        raise UserError(f"{path} names {twice} twice: remove one of the lines")
    return ids


def read_annotation(path: str | Path, class_names: list[str]) -> list[VOCObject]:
    """The objects of a devkit annotation. Boxes of no width or height are skipped, as in the official code.

    Raises:
        UserError: unreadable or unsafe XML, an incomplete object, or a class that is not in the class file.
    """
    root = _read_xml(Path(path))
    objects = []
    for element in root.iter("object"):
        name = (element.findtext("name") or "").strip()
        if name not in class_names:
            raise UserError(f"{path}: class '{name}' is not in the class file ({', '.join(class_names[:3])}, …)")
        try:
            box = tuple(float(element.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
            difficult = bool(int(element.findtext("difficult") or 0))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: the object '{name}' has no complete bndbox of numbers") from error
        if box[2] > box[0] and box[3] > box[1]:
            objects.append(VOCObject(name, class_names.index(name), difficult, box))
    return objects


def _read_xml(path: Path) -> ElementTree.Element:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    if len(content) > LARGEST_ANNOTATION or b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise UserError(f"{path} is no devkit annotation (over 1 MiB, or with a document type of its own)")
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path} is no readable XML ({error}): restore it from the devkit") from error


def multi_hot(objects: list[VOCObject], num_classes: int) -> torch.Tensor:
    """Labels `[V]` float32: 1 for every class among the objects, difficult ones included (official code)."""
    labels = torch.zeros(num_classes)
    for item in objects:
        labels[item.class_index] = 1
    return labels


class VOCClassification(Dataset):
    """Images of a devkit folder with multi-hot labels from their XML.

    Every image and annotation is looked for, and every annotation read, when the data set is made, so that a run
    does not stop hours later.

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
        _check_folder(self.data_dir)
        self.ids = read_split(self.data_dir, split)
        self._check_files(split)
        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(self.objects, range(len(self.ids))))
            list(pool.map(_check_header, map(self.image_path, self.ids)))
        self.labels = torch.stack([multi_hot(row, len(class_names)) for row in objects])

    def image_path(self, image_id: str) -> Path:
        """Where the image is."""
        return self.data_dir / "JPEGImages" / f"{image_id}.jpg"

    def annotation_path(self, image_id: str) -> Path:
        """Where its annotation is."""
        return self.data_dir / "Annotations" / f"{image_id}.xml"

    def objects(self, index: int) -> list[VOCObject]:
        """The annotated objects of an image."""
        return read_annotation(self.annotation_path(self.ids[index]), self.class_names)

    def image(self, index: int) -> Image.Image:
        """An image, RGB, decoded in full.

        Raises:
            UserError: it cannot be decoded; the file is named.
        """
        path = self.image_path(self.ids[index])
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise UserError(f"cannot decode {path} ({error}): restore it from the devkit") from error

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor, int]:
        """The transformed image, its labels `[V]` and the index."""
        image = self.image(index)
        return (self.transform(image) if self.transform else image), self.labels[index], index

    def _check_files(self, split: str) -> None:
        """Compare the list with the folders' contents: two look-ups instead of one for every file."""
        for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
            present = set(os.listdir(self.data_dir / folder))
            missing = [image_id for image_id in self.ids if image_id + suffix not in present]
            if missing:
                first = ", ".join(missing[:3])
                raise UserError(
                    f"{self.data_dir / folder} lacks {len(missing):,} of the {len(self.ids):,} files of split "
                    f"'{split}' (first: {first}): give the complete VOC2012 folder as --data_dir, or another split"
                )


def _check_folder(data_dir: Path) -> None:
    if not data_dir.is_dir():
        raise UserError(f"no folder {data_dir}: give the devkit folder that holds JPEGImages as --data_dir")
    for folder in ("JPEGImages", "Annotations"):
        if not (data_dir / folder).is_dir():
            raise UserError(f"{data_dir} has no folder {folder}: give the devkit folder (VOC2012) as --data_dir")


def _check_header(path: Path) -> None:
    """Look at an image's first bytes without decoding it."""
    try:
        with Image.open(path):
            pass
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is no readable image ({error}): restore it from the devkit") from error
