"""Annotations of a devkit folder: read, check and write their XML, and derive labels from them."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tools.data.devkit import LABELED_LINE, annotation_files, image_files, noted, read_bytes, read_lines
from tools.data.images import Size, upright_size
from tools.system.errors import UserError, first_few, printable, quoted, reported

MAX_ANNOTATION_BYTES = 1 << 20  # the devkit's largest has 20 thousand
MAX_DEPTH = 20  # elements inside each other; the devkit has 4
FAR = 1e9  # pixels; a coordinate beyond it counts as this
EMPTY = (0, 0, 0, 0)  # a box without width or height
PRESENT, DIFFICULT_ONLY, ABSENT = 1, 0, -1  # the devkit's labels
# What people write in <difficult>, besides numbers.
DIFFICULT = dict.fromkeys(("true", "yes", "y", "t"), 1)
DIFFICULT |= dict.fromkeys(("", "false", "no", "n", "f", "none", "null", "unspecified"), 0)

# The tags that are read; one that differs from them by case or a namespace alone would be overlooked.
TAGS = ("object", "name", "difficult", "bndbox", "xmin", "ymin", "xmax", "ymax", "size", "width", "height")
BOX_SIDES = ("xmin", "ymin", "xmax", "ymax")
Box = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax in pixels: the devkit's 1-based inclusive corners


@dataclass(frozen=True)
class VOCObject:
    """One annotated object."""

    name: str
    class_index: int
    difficult: bool  # marked as hard to recognize
    box: Box | None  # as written; None: an image-level label
    is_empty: bool = False  # does not count, see `is_empty`
    notes: tuple[str, ...] = ()  # what is unusual about it


def is_empty(box: Box, size: Size | None) -> bool:
    """Return whether an object does not count as a label: the rule of the official code (`read_xml`).

    Each corner is clamped to the image, of `size` as its annotation says, and cut to an integer; then the box has no
    width or no height. Swapped corners count. Without a size (None) only negative coordinates are clamped.
    """
    sides = zip(box[:2], box[2:], size or (math.inf, math.inf), strict=True)
    return any(_clamped(start, side) == _clamped(end, side) for start, end, side in sides)


def _clamped(coordinate: float, side: float) -> int:
    return int(max(min(coordinate, side - 1), 0))


def devkit_box(bbox: Any) -> Box:
    """Convert COCO's 0-based (left, top, width, height) to the devkit's 1-based first and last pixel.

    `EMPTY`: the box has no width or height. `ValueError`: not four numbers of at most `FAR`.

    >>> devkit_box([0, 10.5, 20, 4])
    (1, 11, 20, 15)
    """
    numbers = isinstance(bbox, list) and len(bbox) == 4 and all(type(side) in (int, float) for side in bbox)
    if not numbers or not all(abs(side) <= FAR for side in bbox):
        raise ValueError("bbox is not [left, top, width, height]")
    left, top, width, height = bbox
    if width <= 0 or height <= 0:
        return EMPTY
    xmin, ymin = math.floor(left) + 1, math.floor(top) + 1
    # A box one pixel wide has equal corners in the devkit, where it would count as empty: it becomes two pixels wide.
    return xmin, ymin, max(math.ceil(left + width), xmin + 1), max(math.ceil(top + height), ymin + 1)


def scaled_box(box: Box, factor: float, before: Size | None, after: Size | None) -> Box:
    """Return the box in a scaled copy of the image; it counts there exactly if it does in the original.

    Whole numbers (int) stay so, and at least 1; others are rounded to 0.01 pixels. A box that would become too thin to
    count gets two pixels; one that does not count stays empty. Sizes `before` and `after`: see `is_empty`.
    """
    is_whole = all(isinstance(side, int) for side in box)
    scaled = tuple(max(1, round(side * factor)) if is_whole else round(side * factor, 2) for side in box)
    if is_empty(box, before):
        return scaled if is_empty(scaled, after) else (*scaled[:2], scaled[0], scaled[3])
    sides = zip(scaled[:2], scaled[2:], after or (math.inf, math.inf), strict=True)
    (xmin, xmax), (ymin, ymax) = (_distinct(start, end, side) for start, end, side in sides)
    return xmin, ymin, xmax, ymax


def _distinct(start: float, end: float, side: float) -> tuple[float, float]:
    """Return two coordinates that stay different when they are clamped and cut; the given ones if they do."""
    first = _clamped(start, side)
    if first != _clamped(end, side):
        return start, end
    first = max(min(first, side - 2), 0)
    return first, first + 1


def read_annotation(path: str | Path, class_names: list[str]) -> list[VOCObject]:
    """Return the objects of an annotation, if any, that count (`is_empty`). The first invalid object is an error."""
    objects, problems = validate_annotation(Path(path), class_names)
    if problems:
        raise UserError(f"{path}: {first_few(problems, count=1)}")
    return [item for item in objects if not item.is_empty]


def validate_annotation(path: Path, class_names: list[str] | None) -> tuple[list[VOCObject], list[str]]:
    """Return the valid objects of an annotation, empty ones included, and one message for each invalid object.

    Without `class_names`, the annotation's own names are the known ones, in the order of their first objects.
    """
    root = read_xml(path)
    elements, size = root.findall("object"), annotated_size(root)
    names = [(element.findtext("name") or "").strip() for element in elements]
    indices = {name: index for index, name in enumerate(dict.fromkeys(names) if class_names is None else class_names)}
    objects, problems = [], []
    for name, element in zip(names, elements, strict=True):
        with noted(problems):
            objects.append(_read_object(name, element, indices, size))
    return objects, problems


def _read_object(name: str, element: ElementTree.Element, indices: dict[str, int], size: Size | None) -> VOCObject:
    if name not in indices:
        raise ValueError(f"class {quoted(name)} is not in the class file ({first_few(list(indices))})")
    notes = []
    mark = (element.findtext("difficult") or "").strip()
    difficult = DIFFICULT.get(mark.casefold(), _number(mark))
    if difficult not in (0, 1):
        notes.append(f"<difficult> is {quoted(mark)}, which counts as 0")
    box = None if element.find("bndbox/*") is None else read_box(name, element)
    if box is None:
        notes.append("an object without a box, which counts")
    elif box[2] < box[0] or box[3] < box[1]:
        notes.append("a box with swapped corners, which counts")
    empty = box is not None and is_empty(box, size)
    return VOCObject(name, indices[name], difficult == 1, box, empty, tuple(notes))


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return math.nan


def read_box(name: str, element: ElementTree.Element) -> Box:
    """Return the box of an object's element; raise a `ValueError` unless it has four numbers."""
    box = []
    for side in BOX_SIDES:
        text = element.findtext(f"bndbox/{side}")
        value = _number(text)
        if not math.isfinite(value):
            found = "none" if text is None else quoted(text)
            raise ValueError(f"the object {quoted(name)} has no complete bndbox of numbers ({side}: {found})")
        box.append(max(min(value, FAR), -FAR))
    return tuple(box)


def annotated_size(root: ElementTree.Element) -> Size | None:
    """Return the image's width and height as an annotation says; None if it says nothing or nothing possible."""
    width, height = (_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    return (int(width), int(height)) if 1 <= width <= FAR and 1 <= height <= FAR else None


class _TreeWithoutDoctype(ElementTree.TreeBuilder):
    """Refuse a document type and so every entity. The parser has decoded the file: an encoding cannot hide one."""

    def doctype(self, *_: str | None) -> None:
        raise ValueError("it has a document type of its own")


def read_xml(path: Path) -> ElementTree.Element:
    """Return the root of an annotation file."""
    content = read_bytes(path, MAX_ANNOTATION_BYTES, "a devkit annotation")
    with reported(f"{path} is not readable XML", Exception):  # it chooses its codec, which can raise anything
        root = ElementTree.fromstring(content, ElementTree.XMLParser(target=_TreeWithoutDoctype()))
    if root.tag != "annotation":
        raise UserError(f"{path} is not a devkit annotation (its root is {quoted(root.tag)}, not 'annotation')")
    level = [root]
    for _ in range(MAX_DEPTH):
        level = [child for element in level for child in element]
    if level:  # reading and writing it would recurse
        raise UserError(f"{path} is not a devkit annotation (over {MAX_DEPTH} elements inside each other)")
    for tag in {element.tag for element in root.iter()}.difference(TAGS):
        plain = tag.rpartition("}")[2].casefold()
        if plain in TAGS:
            raise UserError(f"{path} has an element {quoted(tag)} in place of '{plain}': rename it")
    return root


def read_objects(data_dir: Path, ids: list[str], split: str, class_names: list[str]) -> list[list[VOCObject]]:
    """Return the objects of every image, as `read_annotation`, once no annotation is missing."""
    paths = annotation_files(data_dir).paths(ids, split)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: read_annotation(path, class_names), paths))


def read_sizes(data_dir: Path, ids: list[str]) -> list[tuple[int, int]]:
    """Return (height, width) of every upright image in pixels, from its header."""
    with ThreadPoolExecutor() as pool:
        return [size[::-1] for size in pool.map(upright_size, map(image_files(data_dir).path, ids))]


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
        labels = {}
        for number, line in read_lines(path):
            match = LABELED_LINE.fullmatch(line)
            if not match:
                raise UserError(f"{path}, line {number}: expected an image id and 1, 0 or -1")
            labels[match[1]] = int(match[2])
        if missing := [image_id for image_id in ids if image_id not in labels]:
            images = f"{len(missing):,} of the {len(ids):,} images of split '{split}'"
            raise UserError(f"{path} lacks {images} ({first_few(missing)})")
        columns.append([labels[image_id] for image_id in ids])
    return np.array(columns, np.int8).T


@dataclass(frozen=True)
class Annotated:
    """One object to write into an annotation, with the devkit's flags."""

    name: str
    box: Box | None = None  # None: the whole image
    difficult: bool = False
    truncated: bool = False


def write_annotation(
    folder: Path, image_id: str, size: Size, objects: Iterable[Annotated], database: str, name: str, segmented: int = 0
) -> None:
    """Write the devkit's XML for one image into `folder`, a devkit folder.

    `database` says where the image comes from, `name` names its devkit folder; `segmented` is 1 if that has its mask.
    """
    root = ElementTree.Element("annotation")
    _add(root, folder=printable(name), filename=f"{image_id}.jpg")
    _add(ElementTree.SubElement(root, "source"), database=database)
    _add(ElementTree.SubElement(root, "size"), width=size[0], height=size[1], depth=3)
    _add(root, segmented=segmented)
    for item in objects:
        node = ElementTree.SubElement(root, "object")
        _add(node, name=item.name, pose="Unspecified", truncated=int(item.truncated), difficult=int(item.difficult))
        if item.box is None and min(size) < 3:
            continue  # the official rule would take the box of so small an image for empty, and drop the label
        box = zip(BOX_SIDES, item.box or (1, 1, *size), strict=True)
        _add(ElementTree.SubElement(node, "bndbox"), **dict(box))
    ElementTree.indent(root, "\t")
    ElementTree.ElementTree(root).write(folder / "Annotations" / f"{image_id}.xml")


def _add(parent: ElementTree.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)
