"""Draw a toy data set in the layout of the PASCAL VOC devkit: no download needed.

    python3 -m tools.make_toy_voc --out toy_voc --images 800

Every image shows one to four objects of the class file's classes on a cluttered background. A box is the extent of the
object's visible pixels, which the mask in SegmentationClass marks too. An image depends only on the seed and its own
number.
"""

import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from tools.data.annotations import Annotated, labels_of_objects, write_annotation
from tools.data.devkit import DATA, read_class_names
from tools.data.toy_scenes import VOID, draw_scene, segmentation_mask
from tools.data.writing import JPEG_QUALITY, make_folders, write_lists
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, quoted, run_main
from tools.system.files import read_json, write_json, writing

DATABASE = "toy data, drawn by tools/make_toy_voc.py"  # as the annotations name their source
FOLDERS = ("JPEGImages", "Annotations", "ImageSets", "SegmentationClass")
CLASS_FILE = DATA / "VOC_2012.json"
RECORD = "toy_voc.json"  # in the folder: everything that determines the bytes of the set, and whether it is complete
RECORD_FORMAT = 1  # increase it when the same arguments draw other images


@dataclass(frozen=True)
class Config(Arguments):
    out: Path = argument(help="folder to write, for the scripts' --data_dir")
    images: int = argument(800, "number of images", least=1)
    seed: int = argument(0, "another seed draws other images", least=0)
    image_size: int = argument(160, "longer side in pixels", least=64)
    val_share: float = argument(0.25, "share of images in val", least=1e-5, below=1)
    class_file: Path = argument(CLASS_FILE, "JSON file with class_names and color_dict")
    overwrite: bool = argument(False, "replace the toy set that --out already holds")

    def lists(self) -> dict[str, list[str]]:
        """Return the ids of train, val and trainval; val is the last part."""
        ids = [f"toy_{index + 1:06d}" for index in range(self.images)]
        first_val = self.images - round(self.images * self.val_share)
        return {"train": ids[:first_val], "val": ids[first_val:], "trainval": ids}


def write_toy_set(config: Config, names: list[str], colors: list[list[int]]) -> int:
    """Draw every image of the set, with annotations, masks and lists; return the number of objects."""
    out = config.out
    make_folders(out)
    (out / "SegmentationClass").mkdir(exist_ok=True)
    palette = np.zeros((256, 3), np.uint8)
    palette[1 : 1 + len(colors)] = colors
    palette[VOID] = (224, 224, 192)
    count, labels = 0, {}
    for index, image_id in enumerate(tqdm(config.lists()["trainval"], "drawing", unit="image", disable=None)):
        image, objects = draw_scene(index, config.seed, config.image_size, len(names))
        height, width = image.shape[:2]
        Image.fromarray(image).save(out / "JPEGImages" / f"{image_id}.jpg", quality=JPEG_QUALITY)
        mask = Image.fromarray(segmentation_mask(objects, (height, width)))
        mask.putpalette(palette.flatten().tolist())
        mask.save(out / "SegmentationClass" / f"{image_id}.png")
        items = [Annotated(names[item.class_index], item.box(), item.difficult, item.truncated) for item in objects]
        write_annotation(out, image_id, (width, height), items, DATABASE, "toy_voc", segmented=1)
        labels[image_id] = labels_of_objects([objects], len(names))[0]
        count += len(objects)
    for split, ids in config.lists().items():
        lists = {split: ids}
        for index, name in enumerate(names):
            lists[f"{name}_{split}"] = [f"{image_id} {labels[image_id][index]:2d}" for image_id in ids]
        write_lists(out, lists)
    return count


def read_classes(path: Path) -> tuple[list[str], list[list[int]]]:
    """Return the class names and their mask colors (RGB) from a class file with the keys class_names and color_dict."""
    names, colors = read_class_names(path), read_json(path).get("color_dict")
    if len(names) >= VOID:
        raise UserError(f"{path} has {len(names)} classes; a mask can tell at most {VOID - 1} apart")
    for name in names:
        if re.search(r"[/\\]|[^\S ]|  ", name):  # it is part of the file names of the class's lists
            problem = f"the class name {quoted(name)} cannot be part of a file name: use letters and digits"
            raise UserError(f"{path}: {problem}")
        color = colors.get(name) if isinstance(colors, dict) else None
        if not isinstance(color, list) or len(color) != 3 or any(value not in range(256) for value in color):
            raise UserError(f"{path}: color_dict needs three integers from 0 to 255 for {name}")
    return names, [colors[name] for name in names]


def prepare_folder(record: dict[str, Any], out: Path, overwrite: bool) -> bool:
    """Remove an incomplete or replaced set from `out`; return False if `out` already holds this very set.

    A `UserError`: `out` holds something else, or another toy set and `overwrite` is False.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return True
    if not (out / RECORD).is_file():
        raise UserError(f"{out} already exists and is not a toy data set: choose another folder")
    found = read_json(out / RECORD)
    found = found if isinstance(found, dict) else {}
    if "colours" in found:  # the key's earlier spelling
        found["colors"] = found.pop("colours")
    if found == record and not overwrite:
        return False
    # An interrupted run leaves the same arguments but an incomplete set, which is drawn again without asking.
    differing = ", ".join(key for key in record if key != "complete" and found.get(key) != record[key])
    if differing and not overwrite:
        raise UserError(f"{out} holds a toy set with other {differing}: choose another folder or add --overwrite")
    for folder in FOLDERS:
        if (out / folder).exists():
            shutil.rmtree(out / folder)
    return True


def main(argv: list[str] | None = None) -> None:
    config = parse(Config, __doc__, argv)
    names, colors = read_classes(config.class_file)
    train, val = len(config.lists()["train"]), len(config.lists()["val"])
    if min(train, val) < len(names):
        enough = math.ceil(len(names) / min(config.val_share, 1 - config.val_share))
        need = f"{len(names)} classes and --val_share {config.val_share} need {enough}"
        raise UserError(f"--images {config.images} is too few to show every class in train and in val: {need}")
    of_config = {name: getattr(config, name) for name in ("images", "seed", "image_size", "val_share")}
    record = {"format": RECORD_FORMAT, **of_config, "class_names": names, "colors": colors, "complete": True}
    with writing(config.out):
        if not prepare_folder(record, config.out, config.overwrite):
            print(f"{config.out} already holds this toy set: nothing to do")
            return
        write_json(config.out / RECORD, {**record, "complete": False})
        count = write_toy_set(config, names, colors)
        write_json(config.out / RECORD, record)
    print(f"{config.out}: {train} train and {val} val images, {count} objects of {len(names)} classes")


if __name__ == "__main__":
    run_main(main)
