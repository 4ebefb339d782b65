"""PASCAL VOC: split lists, annotations and images of a devkit folder, checked before they are used.

All three may come from strangers. A file is opened only if it is a regular one, read only up to a size, and whatever
is wrong with it is said in one line.
"""

import functools
import math
import os
import re
import stat
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from tools.errors import UserError
from tools.files import read_json, reason

DATA = Path(__file__).resolve().parents[1] / "data"
LARGEST_ANNOTATION = 1 << 20  # bytes; the devkit's largest has 20 thousand
LARGEST_LIST = 1 << 26  # bytes; about five million ids
SHOWN = 60  # characters of a stranger's word in a message
UNPRINTABLE = r"\x00-\x1f\x7f-\x9f\ud800-\udfff\ufeff"  # control characters, bytes that are no UTF-8, stray BOMs
# Pillow knows many more. Some start other programs (EPS), and none is what a file named .jpg should hold.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")


@dataclass(frozen=True)
class VOCObject:
    """One annotated object.

    Attributes:
        name, class_index: its class.
        difficult: marked as hard to recognise: any text but 0 (the devkit writes 0 or 1).
        box: (xmin, ymin, xmax, ymax) in pixels, the devkit's 1-based inclusive corners.
    """

    name: str
    class_index: int
    difficult: bool
    box: tuple[float, float, float, float]

    @property
    def is_empty(self) -> bool:
        """No width or height is left between the corners (official code: such an object does not count)."""
        xmin, ymin, xmax, ymax = self.box
        return xmax <= xmin or ymax <= ymin


def read_class_names(path: str | Path) -> list[str]:
    """Class names in the order of their indices, from a JSON file with the key `class_names`.

    Raises:
        UserError: no such file, no JSON, or no list of distinct, printable names in it.
    """
    _require_regular_file(Path(path))
    content = read_json(Path(path))
    names = content.get("class_names") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"class file {path} has no list of names under 'class_names'")
    for name in names:
        if name != name.strip() or re.search(f"[{UNPRINTABLE}]", name):
            raise UserError(f"class file {path}: the name {_quoted(name)} has blanks around it or unprintable signs")
    if len(set(names)) < len(names):
        raise UserError(f"class file {path} names a class twice")
    return names


def split_path(data_dir: str | Path, split: str) -> Path:
    """The list file of a split: `NAME` in the project's data folder, or `Main/NAME` in the devkit's ImageSets.

    Raises:
        UserError: there is no such list; the choices are named.
    """
    folder = Path(data_dir) / "ImageSets" if "/" in split else DATA
    path = folder / f"{split}.txt"
    leaves_folder = ".." in Path(split).parts or Path(split).is_absolute()
    if not leaves_folder and os.path.isfile(path):
        return path
    ours = sorted(file.stem for file in DATA.glob("*.txt"))
    devkit = sorted(f"Main/{file.stem}" for file in (Path(data_dir) / "ImageSets" / "Main").glob("*.txt"))
    plain = [name for name in devkit if not re.search(r"_(train|val|trainval|test)$", name)]
    raise UserError(f"unknown split '{split}' (no file {path}): choose one of {', '.join(ours + plain)}")


def examine_split(path: Path) -> tuple[list[str], list[str]]:
    """Read a split's list. The first word of each line is an image id; blank lines and further words do not count.

    Further words are the labels of the devkit's lists of one class: labels are read from the annotations instead.

    Returns:
        the ids in the list's order, each once; and what is wrong with other lines, one text each.

    Raises:
        UserError: the file cannot be read, or is far too large for a list.
    """
    if _require_regular_file(path).st_size > LARGEST_LIST:
        raise UserError(f"{path} is no list of image ids (over {LARGEST_LIST >> 20} MiB)")
    first_lines: dict[str, int] = {}
    problems = []
    try:
        # A byte that is no UTF-8 stays visible in its line's id instead of stopping the reader.
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, start=1):
                for image_id in line.split(maxsplit=1)[:1]:
                    problem = _id_problem(image_id, first_lines)
                    if problem:
                        problems.append(f"line {number}: {problem}")
                    first_lines.setdefault(image_id, number)
    except OSError as error:
        raise UserError(f"cannot read {path} ({reason(error)})") from error
    return [image_id for image_id in first_lines if not _is_no_id(image_id)], problems


def _id_problem(image_id: str, first_lines: dict[str, int]) -> str | None:
    if _is_no_id(image_id):
        return f"{_quoted(image_id)} is no image id (a file's name without folder and suffix, in UTF-8)"
    if image_id in first_lines:
        return f"names {_shortened(image_id)} twice (first on line {first_lines[image_id]}): remove one of the lines"
    return None


def _is_no_id(word: str) -> bool:
    """Could lead out of the data folder, or cannot be shown."""
    return word in (".", "..") or re.search(rf"[/\\{UNPRINTABLE}]", word) is not None


def read_split(data_dir: str | Path, split: str) -> list[str]:
    """Image ids of a split, in the list's order; see `examine_split`.

    Raises:
        UserError: unknown split, an id that is no plain file name, an id twice, or an empty list.
    """
    path = split_path(data_dir, split)
    ids, problems = examine_split(path)
    if len(problems) == 1:
        raise UserError(f"{path}, {problems[0]}")
    if problems:
        more = f"; and {len(problems) - 3:,} more" if len(problems) > 3 else ""
        raise UserError(f"{path} has {len(problems):,} lines that cannot be used: {'; '.join(problems[:3])}{more}")
    if not ids:
        raise UserError(f"{path} names no image")
    return ids


def image_path(data_dir: Path, image_id: str) -> Path:
    """Where an image is."""
    return data_dir / "JPEGImages" / f"{image_id}.jpg"


def annotation_path(data_dir: Path, image_id: str) -> Path:
    """Where an image's annotation is."""
    return data_dir / "Annotations" / f"{image_id}.xml"


def read_annotation(path: str | Path, class_names: list[str]) -> list[VOCObject]:
    """The objects of a devkit annotation. Boxes of no width or height are skipped, as in the official code.

    An annotation may have no object. Where in the image a box lies is not looked at: labels do not depend on it.

    Raises:
        UserError: unreadable or unsafe XML, an incomplete object, or a class that is not in the class file.
    """
    objects, problems = examine_annotation(Path(path), class_names)
    if problems:
        more = f" (and {len(problems) - 1:,} more problems)" if len(problems) > 1 else ""
        raise UserError(f"{path}: {problems[0]}{more}")
    return [item for item in objects if not item.is_empty]


def examine_annotation(path: Path, class_names: list[str]) -> tuple[list[VOCObject], list[str]]:
    """All objects of a devkit annotation, empty ones included, and what is wrong with others, one text each.

    Raises:
        UserError: unreadable or unsafe XML.
    """
    indices = {name: index for index, name in enumerate(class_names)}
    objects, problems = [], []
    for element in read_xml(path).findall("object"):
        try:
            objects.append(_read_object(element, indices))
        except ValueError as error:
            problems.append(str(error))
    return objects, problems


def object_names(path: Path) -> list[str]:
    """The names in a devkit annotation, each once, whatever its classes are.

    Raises:
        UserError: unreadable or unsafe XML.
    """
    return list(dict.fromkeys(_name(element) for element in read_xml(path).findall("object")))


def _name(element: ElementTree.Element) -> str:
    return (element.findtext("name") or "").strip()


def _read_object(element: ElementTree.Element, indices: dict[str, int]) -> VOCObject:
    name = _name(element)
    if name not in indices:
        known = ", ".join(list(indices)[:3]) + (", …" if len(indices) > 3 else "")
        raise ValueError(f"class {_quoted(name)} is not in the class file ({known})")
    bndbox = element.find("bndbox")
    xmin, ymin, xmax, ymax = (_coordinate(bndbox, side, name) for side in ("xmin", "ymin", "xmax", "ymax"))
    difficult = (element.findtext("difficult") or "").strip() not in ("", "0")
    return VOCObject(name, indices[name], difficult, (xmin, ymin, xmax, ymax))


def _coordinate(bndbox: ElementTree.Element | None, side: str, name: str) -> float:
    text = bndbox.findtext(side) if bndbox is not None else None
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        found = "none" if text is None else _quoted(text)
        raise ValueError(f"the object '{name}' has no complete bndbox of numbers ({side}: {found})")
    return value


class _TreeWithoutDoctype(ElementTree.TreeBuilder):
    """Refuses a document type and with it every entity; the parser has decoded the file, so no encoding hides one."""

    def doctype(self, *_: str | None) -> None:
        raise ValueError("it has a document type of its own")


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an annotation file.

    Raises:
        UserError: it cannot be read, or is no annotation.
    """
    if _require_regular_file(path).st_size > LARGEST_ANNOTATION:
        raise UserError(f"{path} is no devkit annotation (over {LARGEST_ANNOTATION >> 20} MiB)")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({reason(error)})") from error
    try:
        root = ElementTree.fromstring(content, ElementTree.XMLParser(target=_TreeWithoutDoctype()))
    except Exception as error:  # an encoding of the file's choice can break the parser anywhere
        raise UserError(f"{path} is no readable XML ({reason(error)}): restore it from the devkit") from error
    if root.tag != "annotation":
        raise UserError(f"{path} is no devkit annotation (it holds {_quoted(root.tag)}, not 'annotation')")
    return root


def multi_hot(objects: list[VOCObject], num_classes: int) -> torch.Tensor:
    """Labels `[V]` float32: 1 for every class among the objects, difficult ones included (official code)."""
    labels = torch.zeros(num_classes)
    for item in objects:
        labels[item.class_index] = 1
    return labels


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """An image whose header has been read and whose pixels have not.

    Raises:
        UserError: no regular file, none of `FORMATS`, or more pixels than Pillow opens without a warning.
    """
    if not _require_regular_file(path).st_size:
        raise UserError(f"{path} is no readable image (it is empty): restore it from the devkit")
    try:
        image = Image.open(path, formats=_formats())
    except UnidentifiedImageError as error:
        names = ", ".join(_formats())
        raise UserError(f"{path} is no readable image (none of {names}): restore it from the devkit") from error
    except Exception as error:  # a damaged file can break the decoder anywhere
        raise UserError(f"{path} is no readable image ({reason(error)}): restore it from the devkit") from error
    with image:
        largest = Image.MAX_IMAGE_PIXELS or math.inf
        if math.prod(image.size) > largest:
            width, height = image.size
            raise UserError(f"{path} is no usable image ({width} × {height} pixels; at most {largest:,} are read)")
        yield image


def read_image(path: Path) -> Image.Image:
    """An image, decoded in full and made RGB by Pillow's `convert`, as in the official code.

    Grey is repeated, CMYK and palettes are converted, transparency is dropped, 16-bit values above 255 become 255, of
    several pictures in a file the first counts. An EXIF orientation is not applied.

    Raises:
        UserError: it cannot be decoded; the file is named.
    """
    with opened_image(path) as image:
        try:
            return image.convert("RGB")
        except Exception as error:  # a damaged file can break the decoder anywhere
            raise UserError(f"cannot decode {path} ({reason(error)}): restore it from the devkit") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    # Instead of Pillow's two-line warning, `opened_image` refuses images of that size.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


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


def missing_files(data_dir: Path, ids: list[str], folder: str, suffix: str) -> list[str]:
    """The ids whose file is not in the folder, or all where there is no folder; one look-up, not one for every file."""
    present = _names_in(data_dir / folder) if os.path.isdir(data_dir / folder) else set()
    return [image_id for image_id in ids if image_id + suffix not in present]


def require_files(data_dir: Path, ids: list[str], split: str, folder: str, suffix: str) -> None:
    """Refuse a folder that lacks files of a split.

    Raises:
        UserError: how many are missing, and the first of them.
    """
    missing = missing_files(data_dir, ids, folder, suffix)
    if missing:
        first = ", ".join(map(_shortened, missing[:3]))
        raise UserError(
            f"{data_dir / folder} lacks {len(missing):,} of the {len(ids):,} files of split '{split}' (first: "
            f"{first}): give the complete VOC2012 folder as --data_dir, or another split"
        )


def check_folder(data_dir: Path, folders: Sequence[str] = ("JPEGImages", "Annotations")) -> None:
    """Refuse a folder that is no devkit's.

    Raises:
        UserError: it, or a folder that belongs in it, is not there.
    """
    if not os.path.isdir(data_dir):
        raise UserError(f"no folder {data_dir}: give the devkit folder that holds JPEGImages as --data_dir")
    for folder in folders:
        if not os.path.isdir(data_dir / folder):
            raise UserError(f"{data_dir} has no folder {folder}: give the devkit folder (VOC2012) as --data_dir")


def _names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise UserError(f"cannot read {folder} ({reason(error)})") from error


def _require_regular_file(path: Path) -> os.stat_result:
    """Refuse what opening might never return from (pipes, devices); links to regular files are followed."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({reason(error)})") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is no regular file but a folder, a pipe or a device: replace it")
    return status


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _quoted(text: str) -> str:
    """A stranger's text as it may stand in a message: short, on one line, nothing that a terminal obeys."""
    return repr(_shortened(text))
