"""Annotations of a devkit folder: reading, checking and writing their XML, and labels from them."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from tools.data.devkit import (
    annotation_path,
    image_path,
    require_files,
)
from tools.data.images import opened_image
from tools.system.errors import UserError, quoted
from tools.system.files import reason, require_regular_file

LARGEST_ANNOTATION = 1 << 20  # bytes; the devkit's largest has 20 thousand


@dataclass(frozen=True)
class VOCObject:
    """One annotated object.

    Attributes:
        name, class_index: its class.
        difficult: marked as hard to recognize: any text but 0 (the devkit writes 0 or 1).
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
        raise ValueError(f"class {quoted(name)} is not in the class file ({known})")
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
        found = "none" if text is None else quoted(text)
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
    if require_regular_file(path).st_size > LARGEST_ANNOTATION:
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
        raise UserError(f"{path} is no devkit annotation (it holds {quoted(root.tag)}, not 'annotation')")
    return root


def multi_hot(objects: list[VOCObject], num_classes: int) -> torch.Tensor:
    """Labels `[V]` float32: 1 for every class among the objects, difficult ones included (official code)."""
    labels = torch.zeros(num_classes)
    for item in objects:
        labels[item.class_index] = 1
    return labels


PRESENT, DIFFICULT_ONLY, ABSENT = 1, 0, -1


def read_objects(data_dir: Path, ids: list[str], split: str, class_names: list[str]) -> list[list[VOCObject]]:
    """The annotated objects of every image.

    Raises:
        UserError: annotations are missing (how many, and the first of them) or broken.
    """
    require_files(data_dir, ids, split, "Annotations", ".xml")
    return _for_each(ids, lambda image_id: read_annotation(annotation_path(data_dir, image_id), class_names))


def read_sizes(data_dir: Path, ids: list[str]) -> list[tuple[int, int]]:
    """(height, width) of every image in pixels, from its header."""

    def size(image_id: str) -> tuple[int, int]:
        with opened_image(image_path(data_dir, image_id)) as image:
            return image.height, image.width

    return _for_each(ids, size)


def presence_of(objects: list[list[VOCObject]], num_classes: int) -> np.ndarray:
    """1 present, 0 only as difficult objects, −1 absent: int8 `[N, V]`."""
    presence = np.full((len(objects), num_classes), ABSENT, np.int8)
    for row, of_image in zip(presence, objects):
        for item in of_image:
            row[item.class_index] = max(row[item.class_index], DIFFICULT_ONLY if item.difficult else PRESENT)
    return presence


def read_presence_lists(data_dir: Path, split: str, ids: list[str], class_names: list[str]) -> np.ndarray:
    """As `presence_of`, from the devkit's lists `ImageSets/Main/<class>_<split>.txt` (lines: image id, 1, 0 or −1).

    Raises:
        UserError: a list is missing, a line is not of that form, or an image of the split is not in it.
    """
    columns = []
    for name in class_names:
        path = data_dir / "ImageSets" / "Main" / f"{name}_{PurePosixPath(split).name}.txt"
        states = _read_list(path)
        missing = [image_id for image_id in ids if image_id not in states]
        if missing:
            raise UserError(
                f"{path} lacks {len(missing):,} of the {len(ids):,} images of split '{split}' (first: {missing[0]}): "
                "give --labels xml, or the split that the list was made for"
            )
        columns.append([states[image_id] for image_id in ids])
    return np.array(columns, np.int8).T


def _read_list(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read {path} ({reason(error)}): --labels lists takes the labels from the devkit's list of each "
            "class, as for --split Main/val; give --labels xml otherwise"
        ) from error
    states = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[1] not in ("1", "0", "-1"):
            raise UserError(f"{path}, line {number}: expected an image id and 1, 0 or -1")
        states[words[0]] = int(words[1])
    return states


def _for_each(ids: list[str], read: Callable[[str], Any]) -> list[Any]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(read, ids))


Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Annotated:
    """One object to be written into an annotation.

    Attributes:
        name: its class.
        box: (xmin, ymin, xmax, ymax) in pixels, the devkit's 1-based inclusive corners; None: the whole image.
        difficult, truncated: the devkit's flags.
    """

    name: str
    box: Box | None = None
    difficult: bool = False
    truncated: bool = False


def annotation(
    image_id: str, size: tuple[int, int], objects: Iterable[Annotated], database: str, folder: str, segmented: int = 0
) -> ElementTree.ElementTree:
    """The devkit's XML for one image.

    Args:
        size: the image's width and height in pixels.
        database, folder: where the image is from; the name of the devkit folder.
        segmented: 1 where the folder holds a mask of the image.
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
        corners = zip(("xmin", "ymin", "xmax", "ymax"), item.box or (1, 1, *size))
        _add(ElementTree.SubElement(node, "bndbox"), **dict(corners))
    ElementTree.indent(root, "\t")
    return ElementTree.ElementTree(root)


def _add(parent: ElementTree.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)
