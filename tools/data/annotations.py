"""Annotations of a devkit folder: read, check and write their XML, and derive labels from them."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from tools.data.devkit import annotation_path, image_path, require_files
from tools.data.images import opened_image
from tools.system.errors import UserError, first_few, quoted
from tools.system.files import reason, require_regular_file

MAX_ANNOTATION_BYTES = 1 << 20  # the devkit's largest has 20 thousand
PRESENT, DIFFICULT_ONLY, ABSENT = 1, 0, -1  # the devkit's labels

Box = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax in pixels: the devkit's 1-based inclusive corners


@dataclass(frozen=True)
class VOCObject:
    """One annotated object."""

    name: str
    class_index: int
    difficult: bool  # marked as hard to recognize: any text but 0 (the devkit writes 0 or 1)
    box: Box

    @property
    def is_empty(self) -> bool:
        """Whether the box has no width or no height."""
        xmin, ymin, xmax, ymax = self.box
        return xmax <= xmin or ymax <= ymin


def read_annotation(path: str | Path, class_names: list[str]) -> list[VOCObject]:
    """Return the objects of an annotation, if any, without empty boxes, which the official code skips too.

    A box may lie anywhere, because labels do not depend on it. The first invalid object is an error.
    """
    objects, problems = validate_annotation(Path(path), class_names)
    if problems:
        raise UserError(f"{path}: {first_few(problems, count=1)}")
    return [item for item in objects if not item.is_empty]


def validate_annotation(path: Path, class_names: list[str] | None) -> tuple[list[VOCObject], list[str]]:
    """Return the valid objects of an annotation, empty boxes included, and one message for each invalid object.

    Without `class_names`, the annotation's own names are the known ones, in the order of their first objects.
    """
    elements = read_xml(path).findall("object")
    names = [(element.findtext("name") or "").strip() for element in elements]
    indices = {name: index for index, name in enumerate(dict.fromkeys(names) if class_names is None else class_names)}
    objects, problems = [], []
    for name, element in zip(names, elements, strict=True):
        try:
            objects.append(_read_object(name, element, indices))
        except ValueError as error:
            problems.append(str(error))
    return objects, problems


def _read_object(name: str, element: ElementTree.Element, indices: dict[str, int]) -> VOCObject:
    if name not in indices:
        raise ValueError(f"class {quoted(name)} is not in the class file ({first_few(list(indices))})")
    xmin, ymin, xmax, ymax = (_coordinate(name, element, side) for side in ("xmin", "ymin", "xmax", "ymax"))
    difficult = (element.findtext("difficult") or "").strip() not in ("", "0")
    return VOCObject(name, indices[name], difficult, (xmin, ymin, xmax, ymax))


def _coordinate(name: str, element: ElementTree.Element, side: str) -> float:
    text = element.findtext(f"bndbox/{side}")
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        found = "none" if text is None else quoted(text)
        raise ValueError(f"the object '{name}' has no complete bndbox of numbers ({side}: {found})")
    return value


class _TreeWithoutDoctype(ElementTree.TreeBuilder):
    """Refuse a document type and so every entity. The parser has decoded the file: an encoding cannot hide one."""

    def doctype(self, *_: str | None) -> None:
        raise ValueError("it has a document type of its own")


def read_xml(path: Path) -> ElementTree.Element:
    """Return the root of an annotation file."""
    if require_regular_file(path).st_size > MAX_ANNOTATION_BYTES:
        raise UserError(f"{path} is not a devkit annotation (over {MAX_ANNOTATION_BYTES >> 20} MiB)")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({reason(error)})") from error
    try:
        root = ElementTree.fromstring(content, ElementTree.XMLParser(target=_TreeWithoutDoctype()))
    except Exception as error:  # the file chooses its encoding, and a codec can raise anything
        raise UserError(f"{path} is not readable XML ({reason(error)})") from error
    if root.tag != "annotation":
        raise UserError(f"{path} is not a devkit annotation (its root is {quoted(root.tag)}, not 'annotation')")
    return root


def read_objects(data_dir: Path, ids: list[str], split: str, class_names: list[str]) -> list[list[VOCObject]]:
    """Return the objects of every image, as `read_annotation`, once no annotation is missing."""
    require_files(data_dir, ids, split, "Annotations", ".xml")
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda image_id: read_annotation(annotation_path(data_dir, image_id), class_names), ids))


def read_sizes(data_dir: Path, ids: list[str]) -> list[tuple[int, int]]:
    """Return (height, width) of every image in pixels, from its header."""

    def size(image_id: str) -> tuple[int, int]:
        with opened_image(image_path(data_dir, image_id)) as image:
            return image.height, image.width

    with ThreadPoolExecutor() as pool:
        return list(pool.map(size, ids))


def multi_hot(objects: list[VOCObject], num_classes: int) -> torch.Tensor:
    """Return `[V]` float32: 1 for every class among the objects, difficult ones included (official code)."""
    labels = torch.zeros(num_classes)
    for item in objects:
        labels[item.class_index] = 1
    return labels


def labels_of_objects(objects: list[list[VOCObject]], num_classes: int) -> np.ndarray:
    """Return the devkit's labels: 1 present, 0 only as difficult objects, −1 absent; int8 `[N, V]`."""
    labels = np.full((len(objects), num_classes), ABSENT, np.int8)
    for row, of_image in zip(labels, objects, strict=True):
        for item in of_image:
            row[item.class_index] = max(row[item.class_index], DIFFICULT_ONLY if item.difficult else PRESENT)
    return labels


def read_label_lists(data_dir: Path, split: str, ids: list[str], class_names: list[str]) -> np.ndarray:
    """Return labels as `labels_of_objects`, but from the devkit's lists `ImageSets/Main/<class>_<split>.txt`.

    Each line is an image id and 1, 0 or −1. Every image of the split must be in every list.
    """
    columns = []
    for name in class_names:
        if name != Path(name).name:
            raise UserError(f"the class name {quoted(name)} cannot be part of a file name of {data_dir}")
        path = data_dir / "ImageSets" / "Main" / f"{name}_{PurePosixPath(split).name}.txt"
        labels = _read_label_list(path)
        if missing := [image_id for image_id in ids if image_id not in labels]:
            images = f"{len(missing):,} of the {len(ids):,} images of split '{split}'"
            raise UserError(f"{path} lacks {images} ({first_few(missing)})")
        columns.append([labels[image_id] for image_id in ids])
    return np.array(columns, np.int8).T


def _read_label_list(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({reason(error)})") from error
    labels = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[1] not in ("1", "0", "-1"):
            raise UserError(f"{path}, line {number}: expected an image id and 1, 0 or -1")
        labels[words[0]] = int(words[1])
    return labels


@dataclass(frozen=True)
class Annotated:
    """One object to write into an annotation, with the devkit's flags."""

    name: str
    box: Box | None = None  # None: the whole image
    difficult: bool = False
    truncated: bool = False


def annotation(
    image_id: str, size: tuple[int, int], objects: Iterable[Annotated], database: str, folder: str, segmented: int = 0
) -> ElementTree.ElementTree:
    """Return the devkit's XML for one image.

    Args:
        size: the image's width and height in pixels.
        database, folder: where the image comes from, and the name of its devkit folder.
        segmented: 1 if the folder has a mask of the image.
    """
    root = ElementTree.Element("annotation")
    _add(root, folder=folder, filename=f"{image_id}.jpg")
    _add(ElementTree.SubElement(root, "source"), database=database)
    _add(ElementTree.SubElement(root, "size"), width=size[0], height=size[1], depth=3)
    _add(root, segmented=segmented)
    for item in objects:
        node = ElementTree.SubElement(root, "object")
        _add(node, name=item.name, pose="Unspecified")
        _add(node, truncated=int(item.truncated), difficult=int(item.difficult))
        xmin, ymin, xmax, ymax = item.box or (1, 1, *size)
        _add(ElementTree.SubElement(node, "bndbox"), xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)
    ElementTree.indent(root, "\t")
    return ElementTree.ElementTree(root)


def _add(parent: ElementTree.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)
