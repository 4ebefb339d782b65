"""Draw a toy data set in the layout of the PASCAL VOC devkit: no download needed.

    python3 -m tools.make_toy_voc --out toy_voc --images 800

Every image shows one to four objects of the class file's classes on a cluttered background. A box is the extent of the
object's visible pixels, which the mask in SegmentationClass marks too. An image depends only on the seed and its own
number.
"""

import math
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from tools.data.annotations import Annotated, annotation
from tools.data.devkit import DATA, annotation_path, image_path, read_class_names
from tools.data.toy_scenes import VOID, ToyObject, draw_scene, segmentation_mask
from tools.data.writing import JPEG_QUALITY, make_folders, write_lists
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, quoted, run_main
from tools.system.files import read_json, write_json, writing

VOID_COLOR = (224, 224, 192)
FOLDERS = ("JPEGImages", "Annotations", "ImageSets", "SegmentationClass")
CLASS_FILE = DATA / "VOC_2012.json"
RECORD = "toy_voc.json"
RECORD_FORMAT = 1  # increase it when the same arguments draw other images


@dataclass(frozen=True)
class Config(Arguments):
    out: Path = argument(help="folder to write, for the scripts' --data_dir")
    images: int = argument(800, "number of images", least=1)
    seed: int = argument(0, "another seed draws other images", least=0)
    image_size: int = argument(160, "longer side in pixels", least=64)
    val_share: float = argument(0.25, "share of images in val", above=0, below=1)
    class_file: Path = argument(CLASS_FILE, "JSON file with class_names and color_dict (default: data/VOC_2012.json)")
    overwrite: bool = argument(False, "replace the toy set that --out already holds")


@dataclass(frozen=True)
class ToySet:
    """Everything that determines the bytes of a toy set; recorded in its `toy_voc.json`."""

    images: int
    seed: int
    image_size: int
    val_share: float
    class_names: list[str]
    colors: list[list[int]]

    @property
    def val_images(self) -> int:
        return round(self.images * self.val_share)

    def lists(self) -> dict[str, list[str]]:
        """Return the ids of train, val and trainval; val is the last part."""
        ids = [image_id(index) for index in range(self.images)]
        first_val = self.images - self.val_images
        return {"train": ids[:first_val], "val": ids[first_val:], "trainval": ids}


def image_id(index: int) -> str:
    return f"toy_{index + 1:06d}"


def write_toy_set(toy: ToySet, out: Path) -> int:
    """Draw every image of the set into `out`, with annotations, masks and lists; return the number of objects."""
    make_folders(out)
    (out / "SegmentationClass").mkdir(exist_ok=True)
    palette = _palette(toy.colors)
    labels: dict[str, dict[int, int]] = {}
    count = 0
    for index in tqdm(range(toy.images), desc="drawing", unit="image"):
        name = image_id(index)
        image, objects = draw_scene(index, toy.seed, toy.image_size, len(toy.class_names))
        height, width = image.shape[:2]
        Image.fromarray(image).save(image_path(out, name), quality=JPEG_QUALITY)
        mask = Image.fromarray(segmentation_mask(objects, (height, width)))
        mask.putpalette(palette)
        mask.save(out / "SegmentationClass" / f"{name}.png")
        items = [
            Annotated(toy.class_names[item.class_index], item.box(), item.difficult, item.truncated) for item in objects
        ]
        database = "toy data, drawn by tools/make_toy_voc.py"
        tree = annotation(name, (width, height), items, database, "toy_voc", segmented=1)
        tree.write(annotation_path(out, name))
        labels[name] = _labels(objects)
        count += len(objects)
    for split, ids in toy.lists().items():
        write_lists(out, {split: ids})
        for class_index, class_name in enumerate(toy.class_names):
            lines = [f"{name} {labels[name].get(class_index, -1):2d}" for name in ids]
            write_lists(out, {f"{class_name}_{split}": lines})
    return count


def _palette(colors: list[list[int]]) -> list[int]:
    palette = np.zeros((256, 3), np.uint8)
    palette[1 : 1 + len(colors)] = colors
    palette[VOID] = VOID_COLOR
    return palette.flatten().tolist()


def _labels(objects: list[ToyObject]) -> dict[int, int]:
    """Return, per class in the image, 1, or 0 if all its objects are difficult: the devkit's labels."""
    labels: dict[int, int] = {}
    for item in objects:
        labels[item.class_index] = max(labels.get(item.class_index, 0), int(not item.difficult))
    return labels


def read_classes(path: Path) -> tuple[list[str], list[list[int]]]:
    """Return the class names and their mask colors (RGB) from a class file with the keys class_names and color_dict.

    Raises:
        UserError: the file cannot be read, or its names or colors cannot be used.
    """
    names, colors = read_class_names(path), read_json(path).get("color_dict")
    if len(names) >= VOID:
        raise UserError(f"{path} has {len(names)} classes; a mask can tell at most {VOID - 1} apart")
    for name in names:
        # A class name is part of the file names of the class's lists.
        if re.search(r"[/\\]|[^\S ]|  ", name):
            raise UserError(
                f"{path}: the class name {quoted(name)} cannot be part of a file name: use letters and digits"
            )
        if not isinstance(colors, dict) or not _is_color(colors.get(name)):
            raise UserError(f"{path}: color_dict needs three integers from 0 to 255 for {name}")
    return names, [colors[name] for name in names]


def _is_color(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(number in range(256) for number in value)


def require_enough_images(toy: ToySet) -> None:
    """Refuse a set in which a class would be missing from train or val.

    Raises:
        UserError: there are fewer images in one of them than classes.
    """
    classes = len(toy.class_names)
    if min(toy.val_images, toy.images - toy.val_images) < classes:
        enough = math.ceil(classes / min(toy.val_share, 1 - toy.val_share))
        raise UserError(
            f"--images {toy.images} is too few to show every class in train and in val: "
            f"{classes} classes and --val_share {toy.val_share} need {enough}"
        )


def prepare_folder(toy: ToySet, out: Path, overwrite: bool) -> bool:
    """Remove an incomplete or replaced set from `out`; return False if `out` already holds this very set.

    Raises:
        UserError: `out` holds something else, or another toy set and `overwrite` is False.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return True
    if not (out / RECORD).is_file():
        raise UserError(f"{out} already exists and is not a toy data set: choose another folder")
    found, wanted = read_json(out / RECORD), _record(toy, complete=True)
    found = found if isinstance(found, dict) else {}
    if "colours" in found:  # the key's earlier spelling
        found["colors"] = found.pop("colours")
    if found == wanted and not overwrite:
        return False
    # An interrupted run leaves the same arguments but an incomplete set, which is drawn again without asking.
    differing = [key for key in wanted if key != "complete" and found.get(key) != wanted[key]]
    if differing and not overwrite:
        changes = ", ".join(differing)
        raise UserError(f"{out} holds a toy set with other {changes}: choose another folder or add --overwrite")
    for folder in FOLDERS:
        if (out / folder).exists():
            shutil.rmtree(out / folder)
    return True


def _record(toy: ToySet, complete: bool) -> dict[str, object]:
    return {"format": RECORD_FORMAT, **asdict(toy), "complete": complete}


def main() -> None:
    args = parse(Config, __doc__)
    toy = ToySet(args.images, args.seed, args.image_size, args.val_share, *read_classes(args.class_file))
    require_enough_images(toy)
    with writing(args.out):
        if not prepare_folder(toy, args.out, args.overwrite):
            print(f"{args.out} already holds this toy set: nothing to do")
            return
        write_json(args.out / RECORD, _record(toy, complete=False))
        count = write_toy_set(toy, args.out)
        write_json(args.out / RECORD, _record(toy, complete=True))
    train = toy.images - toy.val_images
    print(
        f"{args.out}: {train} train and {toy.val_images} val images, {count} objects of {len(toy.class_names)} classes"
    )


if __name__ == "__main__":
    run_main(main)
