"""Draw a toy data set in the layout of the PASCAL VOC devkit: no download needed.

    python3 -m tools.make_toy_voc --out toy_voc --images 800

Every image shows one to four objects of the class file's classes on a cluttered background. A box is the extent of the
object's visible pixels, which the mask in SegmentationClass marks too. An object is only placed where it, and every
object drawn before, keeps at least `MIN_VISIBLE` of its pixels visible. Objects smaller than `SMALL` of the image's
longer side are flagged difficult. An image depends only on the seed and its own number.
"""

import colorsys
import math
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from tools.data.annotations import Annotated, annotation
from tools.data.devkit import DATA, annotation_path, image_path, read_class_names
from tools.data.toy_shapes import draw_object
from tools.data.writing import JPEG_QUALITY, make_folders, write_lists
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, quoted, run_main
from tools.system.files import read_json, write_json, writing

MIN_VISIBLE = 0.4  # share of an object's pixels that must stay visible
SMALL, LARGE = 0.15, 0.60  # an object's size as a share of the image's longer side
SMALLEST, SMALL_SHARE = 0.11, 0.08  # size and frequency of the difficult ones
OBJECT_COUNTS = (0.35, 0.35, 0.20, 0.10)  # how often an image gets one, two, three and four objects
MAX_ATTEMPTS = 20  # positions tried for an object before it is skipped
VOID = 255  # the mask's value where two objects touch
VOID_COLOR = (224, 224, 192)
SCALE = 2  # scenes are drawn larger and reduced, which smooths every edge
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


@dataclass
class ToyObject:
    """One drawn object.

    Attributes:
        area: pixels of the whole object, including hidden ones and those outside the image.
        truncated: a part of it lies outside the image.
        visible: its pixels that no later object hides: boolean, of the image's size.
    """

    class_index: int
    difficult: bool
    area: int
    truncated: bool
    visible: np.ndarray

    def box(self) -> tuple[int, int, int, int]:
        """Return xmin, ymin, xmax, ymax of the visible pixels, 1-based and inclusive as in the devkit."""
        rows, columns = np.flatnonzero(self.visible.any(1)), np.flatnonzero(self.visible.any(0))
        return int(columns[0]) + 1, int(rows[0]) + 1, int(columns[-1]) + 1, int(rows[-1]) + 1


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


def draw_scene(index: int, seed: int, image_size: int, classes: int) -> tuple[np.ndarray, list[ToyObject]]:
    """Draw image `index`. Its first object is of class `index % classes` and never difficult.

    Args:
        index: the image's number, 0-based; with `seed` it determines everything that is drawn.
        seed: the data set's seed.
        image_size: the longer side in pixels.
        classes: how many classes there are.

    Returns:
        the image, `[height, width, 3]` uint8 RGB, and its objects from back to front.
    """
    rng = np.random.default_rng((seed, index))
    short = round(image_size * rng.uniform(0.7, 1.0))
    height, width = (short, image_size) if rng.random() < 0.7 else (image_size, short)
    canvas = _background(SCALE * height, SCALE * width, rng)
    objects: list[ToyObject] = []
    for number in range(1 + rng.choice(len(OBJECT_COUNTS), p=OBJECT_COUNTS)):
        class_index = int(rng.integers(classes)) if number else index % classes
        canvas = _place_object(canvas, objects, class_index, rng)
    noise = rng.normal(0, rng.uniform(0, 3), (height, width, 1))
    image = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA) + noise
    return image.clip(0, 255).round().astype(np.uint8), objects


def segmentation_mask(objects: Iterable[ToyObject], shape: tuple[int, int]) -> np.ndarray:
    """Return the class index + 1 of every pixel, 0 for background, `VOID` where two objects touch: `[height, width]`."""
    mask = np.zeros(shape, np.uint8)
    owners = np.zeros(shape, np.uint8)
    for item in objects:
        mask[item.visible] = item.class_index + 1
        owners += cv2.dilate(item.visible.astype(np.uint8), np.ones((3, 3), np.uint8))
    mask[(owners > 1) & (mask > 0)] = VOID
    return mask


def _background(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return a background of color gradients, soft clouds, blobs and lines, all duller than objects: float32 RGB."""
    canvas = _gradient(height, width, rng)
    if rng.random() < 0.6:
        horizon = int(height * rng.uniform(0.4, 0.8))
        canvas[horizon:] = _gradient(height - horizon, width, rng)
    clouds = rng.normal(0, 1, (*rng.integers(3, 9, 2), 1)) * rng.uniform(-10, 10, 3)
    canvas += cv2.resize(clouds.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    clutter = canvas.copy()
    for _ in range(rng.integers(4, 14)):
        _distractor(clutter, rng)
    return canvas + np.float32(rng.uniform(0.5, 0.9)) * (clutter - canvas)


def _gradient(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    corners = np.array([_dull_color(rng) for _ in range(2)])[[[0, 0], [1, 1]]] + rng.uniform(-15, 15, (2, 2, 3))
    return cv2.resize(corners.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)


def _dull_color(rng: np.random.Generator) -> np.ndarray:
    """Return a light or dark color mixed with gray: only objects have saturated colors."""
    return 255 * np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.32), rng.uniform(0.45, 0.95)))


def _distractor(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a line, an ellipse or a polygon that belongs to no class onto `canvas`."""
    height, width = canvas.shape[:2]
    color = _dull_color(rng).tolist()
    center = rng.uniform(0, 1, 2) * (width, height)
    radius = rng.uniform(0.02, 0.2) * max(height, width)
    kind = rng.integers(3)
    if kind == 0:
        ends = rng.uniform(-0.1, 1.1, (2, 2)) * (width, height)
        cv2.polylines(canvas, [ends.astype(np.int32)], False, color, int(rng.integers(1, 7)))
    elif kind == 1:
        axes = (int(radius), int(radius * rng.uniform(0.3, 1)))
        cv2.ellipse(canvas, center.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, color, -1)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
        corners = center + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        cv2.fillPoly(canvas, [corners.astype(np.int32)], color)


def _place_object(
    canvas: np.ndarray, objects: list[ToyObject], class_index: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw an object where enough of every object stays visible and add it to `objects`; return the new canvas.

    The last position tried is the center, where an image's first object always fits.
    """
    height, width = canvas.shape[:2]
    difficult = bool(objects) and rng.random() < SMALL_SHARE
    size = rng.uniform(SMALLEST, SMALL) if difficult else SMALL + (LARGE - SMALL) * math.sqrt(rng.random())
    sprite = _transformed(draw_object(class_index, round(size * max(height, width)), rng), rng)
    area = int(_covered(sprite).sum())
    for attempt in range(MAX_ATTEMPTS):
        x, y = rng.uniform(0.1, 0.9, 2) if attempt < MAX_ATTEMPTS - 1 else (0.5, 0.5)
        layer = _shifted(sprite, round(x * width), round(y * height), (width, height))
        covered = _covered(layer)
        if _enough_visible(covered, area, objects):
            for item in objects:
                item.visible &= ~covered
            objects.append(ToyObject(class_index, difficult, area, bool(covered.sum() < 0.95 * area), covered))
            opacity = layer[..., 3] / np.float32(255)
            return cv2.blendLinear(layer[..., :3].astype(np.float32), canvas, opacity, 1 - opacity)
    return canvas


def _enough_visible(covered: np.ndarray, area: int, objects: list[ToyObject]) -> bool:
    if covered.sum() < MIN_VISIBLE * area:
        return False
    return all((item.visible & ~covered).sum() >= MIN_VISIBLE * item.area for item in objects)


def _covered(layer: np.ndarray) -> np.ndarray:
    """Return which pixels of the final image an RGBA layer in the canvas's scale covers by more than half."""
    height, width = layer.shape[:2]
    return cv2.resize(layer[..., 3], (width // SCALE, height // SCALE), interpolation=cv2.INTER_AREA) > 127


def _transformed(sprite: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the object mirrored or not, rotated a little and stretched, on a canvas that holds all of it."""
    side = len(sprite)
    stretch = rng.uniform(0.85, 1.1, 2) * (rng.choice([-1, 1]), 1)
    angle = np.deg2rad(rng.normal(0, 8))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * stretch
    room = SCALE * round(1.4 * side / SCALE)
    offset = room / 2 - turn @ (side / 2, side / 2)
    return cv2.warpAffine(sprite, np.column_stack([turn, offset]), (room, room))


def _shifted(sprite: np.ndarray, x: int, y: int, size: tuple[int, int]) -> np.ndarray:
    """Return the sprite centered on (x, y) of a canvas of `size` (width, height); what lies outside is cut off."""
    half = len(sprite) // 2
    return cv2.warpAffine(sprite, np.array([[1.0, 0, x - half], [0, 1.0, y - half]]), size)


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
    if found == wanted and not overwrite:
        return False
    # An interrupted run leaves the same arguments but an incomplete set, which is drawn again without asking.
    found = found if isinstance(found, dict) else {}
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
