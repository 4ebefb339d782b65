"""Write a data set in the layout of the PASCAL VOC devkit: what the toy data set and the imports share.

OUT/JPEGImages/ID.jpg    OUT/Annotations/ID.xml    OUT/ImageSets/Main/{train,val,trainval}.txt    OUT/classes.json
"""

import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from tools.data.annotations import Annotated, Box, annotation
from tools.data.devkit import UNPRINTABLE, annotation_path, image_path
from tools.data.devkit import class_name_problem as class_name_problem
from tools.data.images import opened_image, read_image
from tools.system.errors import UserError
from tools.system.files import reason, write_json

CLASS_FILE = "classes.json"


@dataclass(frozen=True)
class Sample:
    """An image to be brought into a devkit folder.

    Attributes:
        place: where the source names it ("row 7"), for messages.
        source: the image's file.
        image_id: its name in the devkit folder.
        objects: none for an image without labels.
    """

    place: str
    source: Path
    image_id: str
    objects: tuple[Annotated, ...]


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """A list of the devkit: a line each."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def voc_color(number: int) -> list[int]:
    """Red, green and blue in VOC's masks (the devkit's VOClabelcolormap); 0 is the ground, class index 0 is number 1.

    >>> voc_color(1), voc_color(15)
    ([128, 0, 0], [192, 128, 128])
    """
    # The number's bits, three at a time from the lowest, are the colors' bits from the highest.
    return [sum(((number >> (3 * place + channel)) & 1) << (7 - place) for place in range(8)) for channel in range(3)]


def write_class_file(path: Path, class_names: Sequence[str], images: dict[str, int]) -> None:
    """Write a class file: `class_names` in the order of their indices, mask colors, and images of each class."""
    colors = {name: voc_color((index + 1) % 256) for index, name in enumerate(class_names)}
    counts = {name: images.get(name, 0) for name in class_names}
    write_json(path, {"class_names": list(class_names), "color_dict": colors, "images": counts})


def image_id_of(name: str) -> str:
    """The id of an image file: its path without suffix, folders and blanks as underscores (a list's line is one word).

    Raises:
        ValueError: nothing is left, or it has unprintable signs.

    >>> image_id_of("holiday 2024/Straße 1.JPG")
    'holiday_2024_Straße_1'
    """
    stem = unicodedata.normalize("NFC", str(Path(name).with_suffix("")) if name else "")
    image_id = re.sub(r"[\s/\\]+", "_", stem)
    if image_id in ("", ".", "..") or re.search(f"[{UNPRINTABLE}]", image_id):
        raise ValueError(f"{name[:60]!r} makes no image id: give the file a plain name")
    return image_id


def find_image(images: Path, name: str) -> Path:
    """An image file of the folder `images`, named by its path in it. Composed and decomposed umlauts are the same.

    Raises:
        ValueError: there is none, or the path leads out of the folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise ValueError(f"{name[:60]!r} leads out of {images}: name files by their path in it")
    for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        path = images / form
        if name and path.is_file():
            return path
    hint = "columns are separated by commas, labels by semicolons" if ";" in name else "check the name and the folder"
    raise ValueError(f"no image {name[:60]!r} in {images} ({hint})")


def repeated(samples: Iterable[Sample]) -> Iterator[str]:
    """A text for each sample whose id an earlier one has."""
    first: dict[str, Sample] = {}
    for sample in samples:
        other = first.setdefault(sample.image_id, sample)
        if other is not sample and other.source == sample.source:
            yield f"{sample.place}: names {sample.source.name} again (first in {other.place}): keep one of them"
        elif other is not sample:
            yield (
                f"{sample.place}: {sample.source.name} and that of {other.place} would both have the id "
                f"{sample.image_id}: rename one of the files"
            )


def refuse(path: Path, problems: Sequence[str]) -> None:
    """Say in one line what is wrong with the file `path`; nothing where there is no problem.

    Raises:
        UserError: there are problems; the first three are named.
    """
    if problems:
        more = f"; and {len(problems) - 3:,} more" if len(problems) > 3 else ""
        raise UserError(f"{path}, {'; '.join(problems[:3])}{more}")


def split_ids(ids: Iterable[str], val_share: float, seed: int) -> dict[str, list[str]]:
    """The lists train, val and trainval: which ids are val's depends on the ids and the seed alone.

    Args:
        val_share: of the images; 0 makes no list val.

    Raises:
        UserError: a share or a seed out of range, or no image for one of the lists.

    >>> split_ids(["a", "b", "c", "d"], 0.25, seed=0)
    {'train': ['a', 'b', 'd'], 'val': ['c'], 'trainval': ['a', 'b', 'c', 'd']}
    """
    if not 0 <= val_share < 1:
        raise UserError(f"--val_share {val_share}: must be at least 0 and below 1")
    if seed < 0:
        raise UserError(f"--seed {seed}: must be 0 or more")
    ids = sorted(ids)
    if len(ids) < (2 if val_share else 1):
        raise UserError(f"{len(ids)} images are too few: train and val need one each (--val_share 0: train alone)")
    count = min(max(round(val_share * len(ids)), 1), len(ids) - 1) if val_share else 0
    chosen = set(np.random.default_rng(seed).permutation(len(ids))[:count].tolist())
    val = [image_id for index, image_id in enumerate(ids) if index in chosen]
    train = [image_id for index, image_id in enumerate(ids) if index not in chosen]
    return {"train": train, **({"val": val} if val else {}), "trainval": ids}


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to be filled, which gets the name `out` when all went well and is removed otherwise.

    Raises:
        UserError: `out` is there already and not an empty folder, or the place does not take it.
    """
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is there already: choose another folder, or remove it")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, out)
    except OSError as error:
        raise UserError(f"cannot write {out} ({reason(error)}): free some space or choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_data_set(
    out: Path,
    samples: Sequence[Sample],
    lists: dict[str, list[str]],
    class_names: Sequence[str],
    database: str,
    shrink: int = 0,
    origin: Path | None = None,
) -> None:
    """Make the devkit folder `out` and print what it holds and which commands come next.

    Args:
        samples: every image once.
        lists: the ids of each list.
        class_names: V names, in the order of their indices.
        database: where the images are from, for the annotations.
        shrink: longest side in pixels; larger images are written anew, all others linked. 0 links all.
        origin: the file that names the samples, for messages.

    Raises:
        UserError: an image that cannot be read, or a folder that cannot be written; nothing is left of it then.
    """
    if shrink < 0:
        raise UserError(f"--shrink {shrink}: must be 0 or more")
    sizes = _sizes(samples, origin or out)
    with new_folder(out) as folder:
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / name).mkdir(parents=True)
        ways = dict.fromkeys(("hard links", "symbolic links", "copies", "smaller copies"), 0)
        for sample, size in zip(tqdm(samples, desc="writing", unit="image"), sizes):
            way, written, size = _place(sample, size, shrink, image_path(folder, sample.image_id))
            ways[way] += 1
            tree = annotation(written.image_id, size, written.objects, database, out.name)
            tree.write(annotation_path(folder, sample.image_id))
        for name, ids in lists.items():
            write_lines(folder / "ImageSets" / "Main" / f"{name}.txt", ids)
        counts: dict[str, int] = {}
        for sample in samples:
            for name in {item.name for item in sample.objects}:
                counts[name] = counts.get(name, 0) + 1
        write_class_file(folder / CLASS_FILE, class_names, counts)
    _report(out, samples, lists, class_names, ways)
    large = sum(max(size) > 512 for size in sizes)
    if large and not shrink:
        print(
            f"note: {large:,} images are larger than 512 pixels, and validation sees the top-left --image_size pixels: "
            "--shrink 500 writes smaller copies"
        )


def _sizes(samples: Sequence[Sample], origin: Path) -> list[tuple[int, int]]:
    """Width and height of every image, from its header."""

    def size(sample: Sample) -> tuple[int, int] | str:
        try:
            with opened_image(sample.source) as image:
                return image.size
        except UserError as error:
            return f"{sample.place}: {error}"

    with ThreadPoolExecutor() as pool:
        sizes = list(tqdm(pool.map(size, samples), desc="reading", unit="image", total=len(samples)))
    refuse(origin, [size for size in sizes if isinstance(size, str)])
    return sizes


def _place(sample: Sample, size: tuple[int, int], shrink: int, target: Path) -> tuple[str, Sample, tuple[int, int]]:
    """Put an image at `target`; gives how, and the sample and size as they are there."""
    if not shrink or max(size) <= shrink:
        return link(sample.source, target), sample, size
    ratio = shrink / max(size)
    smaller = (max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio)))
    read_image(sample.source).resize(smaller, Image.Resampling.BICUBIC, reducing_gap=3).save(target, quality=92)
    scaled = [replace(item, box=item.box and _scaled(item.box, ratio)) for item in sample.objects]
    return "smaller copies", replace(sample, objects=tuple(scaled)), smaller


def _scaled(box: Box, ratio: float) -> Box:
    """A box of a smaller copy of its image; never without width or height, or its object would not count."""
    xmin, ymin = (max(1, round(side * ratio)) for side in box[:2])
    xmax, ymax = (round(side * ratio) for side in box[2:])
    return xmin, ymin, max(xmax, xmin + 1), max(ymax, ymin + 1)


def link(source: Path, target: Path) -> str:
    """Make `target` the file `source` without copying where the file systems allow; gives how."""
    source = source.resolve()
    ways: tuple[tuple[str, Callable], ...] = (("hard links", os.link), ("symbolic links", os.symlink))
    for name, make in ways:
        try:
            make(source, target)
            return name
        except OSError:  # another file system, or one without such links
            continue
    shutil.copyfile(source, target)
    return "copies"


def _report(
    out: Path, samples: Sequence[Sample], lists: dict[str, list[str]], class_names: Sequence[str], ways: dict[str, int]
) -> None:
    counts = ", ".join(f"{name} {len(ids):,}" for name, ids in lists.items())
    how = ", ".join(f"{count:,} {way}" for way, count in ways.items() if count)
    negative = sum(not sample.objects for sample in samples)
    print(f"{out}: {len(samples):,} images ({how}), {len(class_names)} classes, {negative:,} images without labels")
    print(f"lists: {counts}; classes: {out / CLASS_FILE}")
    print_next_commands(out, out / CLASS_FILE, "Main/train", "Main/val" if "val" in lists else "Main/train")


def print_next_commands(data_dir: Path, class_file: Path | None, train_split: str, val_split: str) -> None:
    """What to type next to check a data set and to train on it."""
    classes = f" --class_file {class_file}" if class_file else ""
    print(
        "next:",
        f"  python3 -m tools.check_data --data_dir {data_dir} --split {train_split}{classes}",
        f"  python3 train_classification_with_puzzle_cTopk_w_ema.py --data_dir {data_dir} --train_split {train_split} "
        f"--val_split {val_split}{classes} --tag {data_dir.name}",
        sep="\n",
    )
