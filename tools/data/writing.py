"""Write a data set in the layout of the PASCAL VOC devkit, with a class file: `classes.json` in its folder."""

import os
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from tools.data.annotations import Annotated, Box, scaled_box, write_annotation
from tools.data.images import Size, save_smaller
from tools.data.splits import Lists
from tools.system.command_line import to_argv
from tools.system.errors import UserError
from tools.system.files import temporary_file, write_json

CLASS_FILE = "classes.json"
JPEG_QUALITY = 92
# The weights of the losses in the paper; the training scripts' defaults are those of the official code.
PAPER = "--alpha_schedule_re 0.05 --alpha_re 3.00 --alpha_p 0.5"
FEW_IMAGES = 320  # ten iterations per epoch of the default batch size; of fewer training images:
FOR_FEW = "--batch_size 4 --lr 0.01 --max_epoch 30"


@dataclass(frozen=True)
class Sample:
    """An image to write into a devkit folder; without objects it is an image without labels."""

    origin: str  # where its source names it ("row 7"), for messages
    source: Path
    size: Size
    image_id: str
    objects: tuple[Annotated, ...]
    part: str = ""  # train, val or test, if its source says so


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary devkit folder to fill; it becomes `out` (new or empty) on success and is removed on failure."""
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} already exists: choose another folder, or remove it")
    with temporary_file(out) as temporary:
        make_folders(temporary)
        yield temporary
        os.replace(temporary, out)


def make_folders(folder: Path) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)


def write_data_set(
    out: Path, samples: list[Sample], lists: Lists, class_names: list[str], origin: str, shrink: int
) -> Counter:
    """Make the devkit folder `out`; return how many images got into it as links, copies or smaller copies.

    The annotations name the `origin` of the images. Those with over `shrink` pixels on a side become smaller copies,
    all others links; 0 links all.
    """
    methods: Counter = Counter()
    with new_folder(out) as folder:
        for sample in tqdm(samples, "writing", unit="image", disable=None):
            target, size = folder / "JPEGImages" / f"{sample.image_id}.jpg", sample.size
            boxes = [item.box and _visible(item.box, size) for item in sample.objects]
            if shrink and max(size) > shrink:
                size, factor = save_smaller(sample.source, target, shrink, JPEG_QUALITY, reducing_gap=3)
                boxes = [box and scaled_box(box, factor, sample.size, size) for box in boxes]
                methods["smaller copies"] += 1
            else:
                methods[link_or_copy(sample.source, target)] += 1
            objects = [replace(item, box=box) for item, box in zip(sample.objects, boxes, strict=True)]
            write_annotation(folder, sample.image_id, size, objects, origin, out.name)
        write_lists(folder, lists)
        images = Counter(name for sample in samples for name in {item.name for item in sample.objects})
        write_class_file(folder / CLASS_FILE, class_names, images)
    return methods


def _visible(box: Box, size: Size) -> Box:
    """Return the box moved into the image, at least two pixels wide and high: otherwise its object would not count."""
    xmin, ymin = (min(max(side, 1), max(length - 2, 0)) for side, length in zip(box[:2], size, strict=True))
    xmax, ymax = (min(side, length) for side, length in zip(box[2:], size, strict=True))
    return xmin, ymin, max(xmax, xmin + 1), max(ymax, ymin + 1)


def link_or_copy(source: Path, target: Path) -> str:
    """Make `target` a link to `source`, or a copy where the file system has no links; return the method used."""
    source = source.resolve()
    for method, make in (("hard links", os.link), ("symbolic links", os.symlink)):
        with suppress(OSError):  # another file system, or one without such links
            make(source, target)
            return method
    shutil.copyfile(source, target)
    return "copies"


def write_lists(folder: Path, lists: Mapping[str, Iterable[str]]) -> None:
    """Write lists of the devkit, by name their lines."""
    for name, lines in lists.items():
        path = folder / "ImageSets" / "Main" / f"{name}.txt"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_class_file(path: Path, class_names: Sequence[str], images: Mapping[str, int]) -> None:
    """Write a class file: `class_names` in the order of their indices, mask colors, and images per class."""
    colors = {name: voc_color((index + 1) % 256) for index, name in enumerate(class_names)}
    counts = {name: images.get(name, 0) for name in class_names}
    write_json(path, {"class_names": list(class_names), "color_dict": colors, "images": counts}, checksum=True)


def voc_color(number: int) -> list[int]:
    """Return red, green and blue of VOC's masks (the devkit's VOClabelcolormap): 0 is background, 1 class index 0.

    >>> voc_color(1), voc_color(15)
    ([128, 0, 0], [192, 128, 128])
    """
    # The number's bits, three at a time from the lowest, are the colors' bits from the highest.
    return [sum(((number >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)]


def print_next_commands(
    data_dir: Path, class_file: Path | None, train_split: str, val_split: str, check: str = "", images: int = FEW_IMAGES
) -> None:
    """Print the commands, for a shell, that check a data set and train on it; without a class file it is VOC's.

    `check` is the split to check (default: that of training); few training `images` get settings of their own.
    """
    checked = to_argv({"data_dir": data_dir, "split": check or train_split, "class_file": class_file})
    splits = {"train_split": train_split, "val_split": val_split}
    train = [*to_argv({"data_dir": data_dir, **splits, "class_file": class_file}), *PAPER.split()]
    train += ["--eval_resize"] if class_file else []  # images of any size are validated whole
    train += FOR_FEW.split() if images < FEW_IMAGES else []
    # A valid tag: short, and unlike the names of a run's files.
    tag = re.sub(r"[^\w-]+|^(best_|last_|-)+", "_", data_dir.resolve().name)[:30] or "own"
    print("next:", f"  python3 -m tools.check_data {shlex.join(checked)}", sep="\n")
    print(f"  python3 train_classification_with_puzzle_cTopk_w_ema.py {shlex.join([*train, '--tag', tag])}")
