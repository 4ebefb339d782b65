"""What the importers share: arguments, image files and their ids, and the summary of what was understood."""

import hashlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm.contrib.concurrent import thread_map

from tools.data.annotations import EMPTY, Annotated
from tools.data.devkit import UNPRINTABLE, class_name_problem, class_names_problem, composed, raise_problems
from tools.data.images import SUFFIXES, images_below, upright_size
from tools.data.splits import Lists, split_lists
from tools.data.writing import CLASS_FILE, Sample, print_next_commands, write_data_set
from tools.system.command_line import Arguments, argument
from tools.system.errors import UserError, first_few, quoted
from tools.system.text_table import fixed_width_table

MAX_ID_BYTES = 200  # a file's name has at most 255, and results add to it
# Names of folders that hold one list each.
PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
Result = TypeVar("Result")


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
    the source was understood and what was skipped.
    """

    source: Path
    kind: str
    samples: list[Sample]
    class_names: list[str]
    notes: list[str]


def read_all(source: Path, entries: Iterable[tuple[str, Any]], read: Callable[[str, Any], Result]) -> list[Result]:
    """Return what `read(origin, entry)` returns for every entry of a source, with a progress bar.

    The `UserError` names the origins of the entries for which it raises a `ValueError` or a `UserError`.
    """

    def attempt(entry: tuple[str, Any]) -> Result | str:
        try:
            return read(*entry)
        except (ValueError, UserError) as error:
            return f"{entry[0]}: {error}"

    # In threads, because a file system may take its time to answer.
    found = thread_map(attempt, list(entries), desc="reading", unit="image", disable=None)
    raise_problems(source, [each for each in found if isinstance(each, str)])
    return found


def sample_of(
    origin: str, images: Path, name: str, objects: Iterable[Annotated], part: str = "", id_path: str = ""
) -> Sample:
    """Return the sample of the image with this path in the folder `images`, or raise a `ValueError` or `UserError`.

    Its id is that of `id_path`, or else that of the image's path, see `image_id_of`.
    """
    objects = tuple(objects)
    for item in objects:
        if problem := class_name_problem(item.name):
            raise ValueError(problem)
    source = find_image(images, name)
    image_id = image_id_of(id_path or source.relative_to(images).as_posix())
    return Sample(origin, source, upright_size(source), image_id, objects, part)


def image_id_of(name: str) -> str:
    """Return an image's id: its path without suffix, folders and whitespace as underscores; or raise a `ValueError`.

    An id of over `MAX_ID_BYTES` becomes its end, after a checksum of the whole.

    >>> image_id_of("holiday 2024/Straße 1.JPG")
    'holiday_2024_Straße_1'
    """
    stem = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in SUFFIXES else name
    image_id = re.sub(r"[\s/\\]+", "_", composed(stem))  # an id is one word of a list's line
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


def walk(folder: Path) -> tuple[list[str], list[str]]:
    """Return the paths in a folder, relative to it, of the images below it and of the rest; see `images_below`."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give the folder of the data set as --folder")
    images, others = ([str(path.relative_to(folder)) for path in paths] for paths in images_below(folder))
    return images, others


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


def print_classes(names: list[str], **counts: Counter) -> None:
    """Print counts of the classes, and which names differ only in case or whitespace."""
    rows = [(name, *(f"{count[name]:,d}" for count in counts.values())) for name in names]
    print(fixed_width_table([("class", *counts), *rows], widths=(5, *(8,) * len(counts))))
    for group in find_similar_names(names):
        print(f"note: {' and '.join(map(quoted, group))} count as different classes")


def join_repeated(found: Found) -> Found:
    """Return the source with one sample per file, which has the objects of all that name it, and distinct ids.

    Boxes without width or height do not count. Where an id of list train occurs in list val or test, all ids begin with
    the name of their list. The `UserError` names files of one list with the same id, and files in several lists.
    """
    joined: dict[str, Sample] = {}
    problems, notes = [], list(found.notes)
    for sample in found.samples:
        file = os.path.realpath(sample.source)
        first = joined.setdefault(file, sample)
        if first.part != sample.part:
            problems.append(f"{sample.origin}: {sample.source} is also in list {first.part} ({first.origin})")
        elif first is not sample:
            joined[file] = replace(first, objects=tuple(dict.fromkeys(first.objects + sample.objects)))
    if len(joined) < len(found.samples):
        notes.append(f"{len(found.samples) - len(joined):,} entries name an image again: it gets the labels of all")
    if empty := sum(item.box == EMPTY for sample in joined.values() for item in sample.objects):
        notes.append(f"skipped: {empty:,} boxes without width or height")
    ids = {(sample.part, sample.image_id) for sample in joined.values()}
    are_shared = len({image_id for _, image_id in ids}) < len(ids)
    if are_shared:
        notes.append("lists share file names: the ids begin with train_, val_ or test_")
    by_id: dict[str, Sample] = {}
    for sample in joined.values():
        image_id = f"{sample.part}_{sample.image_id}" if are_shared else sample.image_id
        objects = tuple(item for item in sample.objects if item.box != EMPTY)
        other = by_id.setdefault(image_id, replace(sample, image_id=image_id, objects=objects))
        if other.source != sample.source:
            files = f"{sample.source.name} and {other.source.name} ({other.origin})"
            problems.append(f"{sample.origin}: {files} would both get the id {image_id}: rename one of the files")
    raise_problems(found.source, problems)
    return replace(found, samples=list(by_id.values()), notes=notes)


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
    samples, names = found.samples, found.class_names
    if problem := class_names_problem(names):
        raise UserError(f"{found.source}{problem}")
    lists = make_lists(args, samples, names)
    print(f"{found.source}:", *found.notes, sep="\n  ")
    images = Counter(name for sample in samples for name in {item.name for item in sample.objects})
    print_classes(names, images=images)
    unlabeled = sum(not sample.objects for sample in samples)
    counts = ", ".join(f"{name} {len(ids):,}" for name, ids in lists.items())
    print(f"{len(samples):,} images, {unlabeled:,} images without labels; lists: {counts}")
    methods = write_data_set(args.out, samples, lists, names, f"{found.kind} {found.source.name}", args.shrink)
    how = ", ".join(f"{count:,} {method}" for method, count in sorted(methods.items()))
    class_file = args.out / CLASS_FILE
    print(f"{args.out}: {len(samples):,} images ({how}), {len(names)} classes; classes: {class_file}")
    val_split, images = "Main/val" if "val" in lists else "Main/train", len(lists["train"])
    print_next_commands(args.out, class_file, "Main/train", val_split, "Main/trainval", images)
