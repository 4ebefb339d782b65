"""Which classes an image shows, and where: from its XML, or from the devkit's lists of one class."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tools.errors import UserError
from tools.files import reason
from tools.voc import VOCObject, annotation_path, image_path, opened_image, read_annotation, require_files

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
