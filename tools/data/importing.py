"""What the importers share: arguments, image files and their ids, and the summary of what was understood."""

import hashlib
import math
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.data.annotations import Annotated, Box
from tools.data.devkit import UNPRINTABLE
from tools.data.images import SUFFIXES, Size, images_below, upright_size
from tools.data.splits import Lists, split_lists
from tools.data.writing import CLASS_FILE, METHODS, Sample, print_next_commands, raise_problems, write_data_set
from tools.system.command_line import Arguments, argument
from tools.system.errors import UserError, first_few, quoted
from tools.system.text_table import fixed_width_table

MAX_ID_BYTES = 200  # a file's name has at most 255, and results add to it
SHOWN_CLASSES = 200
MAX_COORDINATE = 1e9  # pixels
# Names of folders that hold one list each.
PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class ImportArguments(Arguments):
    out: Path = argument(help="devkit folder to make, for the scripts' --data_dir")
    val_share: float = argument(0.2, "share of the images in list val; 0: no list val", least=0, below=1)
    seed: int = argument(0, "decides which images are in list val", least=0)
    shrink: int = argument(0, "longest side in pixels; larger images become smaller copies; 0: never", least=0)


@dataclass(frozen=True)
class Found:
    """What an importer understood of a source: a file or a folder of this kind ("table").

    Where a sample belongs to list val, the source has its own lists, and --val_share has no effect. `notes` say how
    the source was understood and what was skipped. `sizes` are the images' width and height, if they are known.
    """

    source: Path
    kind: str
    samples: list[Sample]
    class_names: list[str]
    notes: list[str]
    sizes: dict[Path, Size] | None = None


def sample_of(origin: str, images: Path, name: str, objects: tuple[Annotated, ...], part: str = "") -> Sample:
    """Return the sample of the image with this path in the folder `images`, or raise a `ValueError`."""
    source = find_image(images, name)
    return Sample(origin, source, image_id_of(source.relative_to(images).as_posix()), objects, part)


def image_id_of(name: str) -> str:
    """Return an image's id: its path without suffix, folders and whitespace as underscores; or raise a `ValueError`.

    An id of over `MAX_ID_BYTES` becomes its end, after a checksum of the whole.

    >>> image_id_of("holiday 2024/Straße 1.JPG")
    'holiday_2024_Straße_1'
    """
    stem = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in SUFFIXES else name
    image_id = re.sub(r"[\s/\\]+", "_", unicodedata.normalize("NFC", stem))  # an id is one word of a list's line
    if image_id in ("", ".", "..") or re.search(f"[{UNPRINTABLE}]", image_id):
        raise ValueError(f"{quoted(name)} cannot be used as an image id: rename the file")
    content = image_id.encode()
    if len(content) <= MAX_ID_BYTES:
        return image_id
    end = content[9 - MAX_ID_BYTES :].decode(errors="ignore")
    return f"{hashlib.sha256(content).hexdigest()[:8]}_{end}"


def find_image(images: Path, name: str) -> Path:
    """Return the image file with this path in the folder; raise a `ValueError` if there is none or it leads out.

    Backslashes may separate folders. The suffix may be in another case, or be absent if only one image has this name.
    """
    path = name.replace("\\", "/")
    if os.path.isabs(path):
        path = os.path.relpath(path, images.absolute())
    if ".." in Path(path).parts:
        raise ValueError(f"{quoted(name)} is outside {images}: use paths relative to it")
    stem, suffix = os.path.splitext(path)
    if suffix.lower() not in SUFFIXES:
        stem, suffix = path, ""
    suffixes = (suffix.lower(), suffix.upper()) if suffix else (*SUFFIXES, *map(str.upper, SUFFIXES))
    # File systems differ in how they store umlauts: composed or decomposed.
    stems = dict.fromkeys([stem, *(unicodedata.normalize(form, stem) for form in ("NFC", "NFD"))]) if path else []
    files = [images / f"{form}{ending}" for form in stems for ending in dict.fromkeys([suffix, *suffixes])]
    found = [file for file in files if os.path.isfile(file)]
    if len({os.path.realpath(file) for file in found}) > 1 and found[0] != files[0]:
        raise ValueError(f"{quoted(name)} could be {first_few([file.name for file in found])}: give the suffix")
    if not found:
        raise ValueError(f"no image {quoted(name)} in {images} (paths are relative to this folder)")
    return found[0]


def devkit_box(bbox: Any) -> Box | None:
    """Convert COCO's 0-based (left, top, width, height) to the devkit's 1-based first and last pixel.

    None: the box has no width or height and does not count (official code). `ValueError`: not four numbers of at most
    `MAX_COORDINATE`.

    >>> devkit_box([0, 10.5, 20, 4])
    (1, 11, 20, 15)
    """
    numbers = isinstance(bbox, list) and len(bbox) == 4 and all(type(side) in (int, float) for side in bbox)
    if not numbers or not all(abs(side) <= MAX_COORDINATE for side in bbox):
        raise ValueError("bbox is not [left, top, width, height]")
    left, top, width, height = bbox
    if width <= 0 or height <= 0:
        return None
    xmin, ymin = math.floor(left) + 1, math.floor(top) + 1
    # A box one pixel wide has equal corners in the devkit, where it would count as empty: it becomes two pixels wide.
    return xmin, ymin, max(math.ceil(left + width), xmin + 1), max(math.ceil(top + height), ymin + 1)


def walk(folder: Path) -> tuple[list[str], list[str]]:
    """Return the paths in a folder, relative to it, of the images below it and of the rest; see `images_below`."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give the folder of the data set as --folder")
    images, others = images_below(folder)
    return [str(path.relative_to(folder)) for path in images], [str(path.relative_to(folder)) for path in others]


def skipped(files: Iterable[str], what: str = "that are not images, or were read before") -> list[str]:
    """Return the note on files that an importer has no use for."""
    files = sorted(files)
    return [f"skipped: {len(files):,} files {what} ({first_few(list(map(quoted, files)))})"] if files else []


def find_similar_names(names: Iterable[str]) -> list[list[str]]:
    """Return each group of class names that differ only in case or whitespace.

    >>> find_similar_names(["dog", "cat", "Dog"])
    [['Dog', 'dog']]
    """
    groups = defaultdict(list)
    for name in sorted(names):
        groups[" ".join(name.casefold().split())].append(name)
    return [group for group in groups.values() if len(group) > 1]


def join_repeated(found: Found) -> Found:
    """Return the source with one sample per file, which has the objects of all that name it, and distinct ids.

    Where an id of list train occurs in list val or test, all ids begin with the name of their list. The `UserError`
    names files of one list that would get the same id, and files in several lists.
    """
    joined: dict[str, Sample] = {}
    problems = []
    for sample in found.samples:
        file = os.path.realpath(sample.source)
        first = joined.setdefault(file, sample)
        if first.part != sample.part:
            problems.append(f"{sample.origin}: {sample.source} is also in list {first.part} ({first.origin})")
        elif first is not sample:
            joined[file] = replace(first, objects=tuple(dict.fromkeys(first.objects + sample.objects)))
    samples, notes = list(joined.values()), list(found.notes)
    if len(samples) < len(found.samples):
        notes.append(f"{len(found.samples) - len(samples):,} entries name an image again: it gets the labels of all")
    if len({sample.image_id for sample in samples}) < len({(sample.part, sample.image_id) for sample in samples}):
        samples = [replace(sample, image_id=f"{sample.part}_{sample.image_id}") for sample in samples]
        notes.append("lists share file names: the ids begin with train_, val_ or test_")
    by_id: dict[str, Sample] = {}
    for sample in samples:
        other = by_id.setdefault(sample.image_id, sample)
        if other is not sample:
            clash = (
                f"{sample.source.name} and {other.source.name} ({other.origin}) would both get the id {sample.image_id}"
            )
            problems.append(f"{sample.origin}: {clash}: rename one of the files")
    raise_problems(found.source, problems)
    return replace(found, samples=samples, notes=notes)


def make_lists(args: ImportArguments, samples: list[Sample], class_names: list[str]) -> Lists:
    """Return the source's own lists if it has a list val, otherwise stratified ones."""
    ids = {part: [sample.image_id for sample in samples if sample.part == part] for part in ("train", "val", "test")}
    test = {"test": ids["test"]} if ids["test"] else {}
    if ids["val"]:
        if not ids["train"]:
            raise UserError("list train would be empty: all images are in list val or test")
        if outside := [str(sample.source) for sample in samples if not sample.part]:
            raise UserError(f"{len(outside):,} images are in no folder train, val or test: {first_few(outside)}")
        return {"train": ids["train"], "val": ids["val"], "trainval": ids["train"] + ids["val"], **test}
    rest = [sample for sample in samples if sample.part != "test"]
    index = {name: column for column, name in enumerate(class_names)}
    labels = np.zeros((len(rest), len(index)), bool)
    for row, sample in zip(labels, rest, strict=True):
        row[[index[item.name] for item in sample.objects]] = True
    return split_lists([sample.image_id for sample in rest], labels, args.val_share, args.seed) | test


def import_samples(args: ImportArguments, found: Found) -> None:
    """Print what was understood, write the data set, and print how to continue."""
    found = join_repeated(found)
    sizes = found.sizes or image_sizes(found.samples, found.source)
    lists = make_lists(args, found.samples, found.class_names)
    print_found(found, lists)
    origin = f"{found.kind} {found.source.name}"
    methods = write_data_set(args.out, found.samples, sizes, lists, found.class_names, origin, args.shrink)
    how = ", ".join(f"{methods[method]:,} {method}" for method in METHODS if methods[method])
    class_file = args.out / CLASS_FILE
    print(f"{args.out}: {len(found.samples):,} images ({how}), {len(found.class_names)} classes; classes: {class_file}")
    print_next_commands(args.out, class_file, "Main/train", "Main/val" if "val" in lists else "Main/train")


def print_found(found: Found, lists: Lists) -> None:
    """Print how a source was understood, and the classes with the number of their images."""
    print(f"{found.source}:", *found.notes, sep="\n  ")
    images = Counter(name for sample in found.samples for name in {item.name for item in sample.objects})
    rows = [(name, f"{images[name]:,d}", "images") for name in found.class_names[:SHOWN_CLASSES]]
    print(fixed_width_table(rows, widths=(0, 7, 6)))
    if len(found.class_names) > SHOWN_CLASSES:
        print(f"and {len(found.class_names) - SHOWN_CLASSES:,} more classes")
    unlabeled = sum(not sample.objects for sample in found.samples)
    counts = ", ".join(f"{name} {len(ids):,}" for name, ids in lists.items())
    print(f"{len(found.samples):,} images, {unlabeled:,} images without labels; lists: {counts}")
    for names in find_similar_names(found.class_names):
        print(f"note: {' and '.join(map(quoted, names))} count as different classes")


def image_sizes(samples: list[Sample], source: Path) -> dict[Path, Size]:
    """Return width and height of every image in pixels; raise a `UserError` if images of `source` cannot be read."""

    def size(sample: Sample) -> Size | str:
        try:
            return upright_size(sample.source)
        except UserError as error:
            return f"{sample.origin}: {error}"

    with ThreadPoolExecutor() as pool:
        sizes = list(tqdm(pool.map(size, samples), desc="reading", unit="image", total=len(samples)))
    raise_problems(source, [size for size in sizes if isinstance(size, str)])
    return {sample.source: size for sample, size in zip(samples, sizes, strict=True)}
