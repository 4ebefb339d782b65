"""What `tools.import_csv` and `tools.import_coco` share: their arguments, checks of the entries, and the summary."""

import os
import re
import unicodedata
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tools.data.devkit import UNPRINTABLE
from tools.data.images import upright_size
from tools.data.writing import CLASS_FILE, METHODS, Lists, Sample, print_next_commands, raise_problems, write_data_set
from tools.system.command_line import Arguments, argument
from tools.system.errors import UserError, quoted

LARGE = 512  # pixels; the training scripts' default --image_size


@dataclass(frozen=True)
class ImportArguments(Arguments):
    out: Path = argument(help="devkit folder to make, for the scripts' --data_dir")
    val_share: float = argument(0.2, "share of the images in list val; 0: no list val", least=0, below=1)
    seed: int = argument(0, "decides which images are in list val", least=0)
    shrink: int = argument(0, "longest side in pixels; larger images become smaller copies; 0: never", least=0)


def image_id_of(name: str) -> str:
    """Return an image's id: its path without suffix, folders and whitespace as underscores; or raise a `ValueError`.

    >>> image_id_of("holiday 2024/Straße 1.JPG")
    'holiday_2024_Straße_1'
    """
    stem = unicodedata.normalize("NFC", str(Path(name).with_suffix("")) if name else "")
    image_id = re.sub(r"[\s/\\]+", "_", stem)  # an id is one word of a list's line
    if image_id in ("", ".", "..") or re.search(f"[{UNPRINTABLE}]", image_id):
        raise ValueError(f"{quoted(name)} cannot be used as an image id: rename the file")
    return image_id


def find_image(images: Path, name: str) -> Path:
    """Return the image file with this path in the folder; raise a `ValueError` if there is none or it leads out."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{quoted(name)} is outside {images}: use paths relative to it")
    # File systems differ in how they store umlauts: composed or decomposed.
    for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        if name and os.path.isfile(images / form):
            return images / form
    hint = "columns are separated by commas, labels by semicolons" if ";" in name else "check the name and the folder"
    raise ValueError(f"no image {quoted(name)} in {images} ({hint})")


def find_duplicates(samples: Iterable[Sample]) -> list[str]:
    """Return one message per sample whose id an earlier one has."""
    first: dict[str, Sample] = {}
    problems = []
    for sample in samples:
        other, name = first.setdefault(sample.image_id, sample), sample.source.name
        if other is sample:
            continue
        if other.source == sample.source:
            problem = f"names {name} again (first in {other.origin}): keep one of them"
        else:
            clash = f"{name} and the file of {other.origin} would both get the id {sample.image_id}"
            problem = f"{clash}: rename one of the files"
        problems.append(f"{sample.origin}: {problem}")
    return problems


def split_ids(ids: Iterable[str], val_share: float, seed: int) -> Lists:
    """Return the lists, which depend only on the set of ids and the seed; a val share of 0 makes no list val.

    >>> split_ids(["a", "b", "c", "d"], 0.25, seed=0)
    {'train': ['a', 'b', 'd'], 'val': ['c'], 'trainval': ['a', 'b', 'c', 'd']}
    """
    ids = sorted(ids)
    if not val_share:
        return {"train": ids, "trainval": ids}
    if len(ids) < 2:
        raise UserError(f"{len(ids)} image is too few for two lists, train and val: a val share of 0 makes train alone")
    count = min(max(round(val_share * len(ids)), 1), len(ids) - 1)
    val = sorted(ids[index] for index in np.random.default_rng(seed).permutation(len(ids))[:count])
    return {"train": sorted(set(ids) - set(val)), "val": val, "trainval": ids}


def import_samples(
    args: ImportArguments, source: Path, kind: str, samples: list[Sample], lists: Lists, class_names: list[str]
) -> None:
    """Write the data set that `source`, a file of this kind, names; print what it holds and the next commands."""
    sizes = image_sizes(samples, source)
    methods = write_data_set(args.out, samples, sizes, lists, class_names, f"{kind} {source.name}", args.shrink)
    how = ", ".join(f"{methods[method]:,} {method}" for method in METHODS if methods[method])
    unlabeled = f"{sum(not sample.objects for sample in samples):,} images without labels"
    print(f"{args.out}: {len(samples):,} images ({how}), {len(class_names)} classes, {unlabeled}")
    class_file = args.out / CLASS_FILE
    print(f"lists: {', '.join(f'{name} {len(ids):,}' for name, ids in lists.items())}; classes: {class_file}")
    print_next_commands(args.out, class_file, "Main/train", "Main/val" if "val" in lists else "Main/train")
    large = sum(max(size) > LARGE for size in sizes)
    if large and not args.shrink:
        seen = "validation sees the top-left --image_size pixels: --shrink 500 writes smaller copies"
        print(f"note: {large:,} images are larger than {LARGE} pixels, and {seen}")


def image_sizes(samples: list[Sample], source: Path) -> list[tuple[int, int]]:
    """Return width and height of every image in pixels; raise a `UserError` if images of `source` cannot be read."""

    def size(sample: Sample) -> tuple[int, int] | str:
        try:
            return upright_size(sample.source)
        except UserError as error:
            return f"{sample.origin}: {error}"

    with ThreadPoolExecutor() as pool:
        sizes = list(tqdm(pool.map(size, samples), desc="reading", unit="image", total=len(samples)))
    raise_problems(source, [size for size in sizes if isinstance(size, str)])
    return sizes
