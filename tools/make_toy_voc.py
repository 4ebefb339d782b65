"""Draw a toy data set in the layout of the PASCAL VOC devkit: images that nobody has to download.

    python3 -m tools.make_toy_voc --out toy_voc --images 800

Every image shows one to four objects of the class file's classes on a cluttered ground. An object's label covers what
can be seen of it: its box is the extent of its visible pixels, which the mask in SegmentationClass holds too. An object
is never placed where it, or one already drawn, would show less than `MIN_VISIBLE` of itself. Objects smaller than
`SMALL` of the image's longer side are flagged difficult. An image depends on the seed and its own number alone.
"""

import argparse
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
from tools.data.devkit import DATA
from tools.data.toy_shapes import draw_object
from tools.data.writing import write_lines
from tools.system.command_line import Parser
from tools.system.errors import UserError, run_main
from tools.system.files import read_json, write_json

MIN_VISIBLE = 0.4  # share of an object's pixels that must stay in sight
SMALL, LARGE = 0.15, 0.60  # an object's size as a share of the image's longer side
SMALLEST, SMALL_SHARE = 0.11, 0.08  # size and frequency of the difficult ones
OBJECT_COUNTS = (0.35, 0.35, 0.20, 0.10)  # how often an image gets one, two, three and four objects
TRIES = 20  # places tried for an object before it is left out
VOID = 255  # the mask's value where two objects touch
VOID_COLOR = (224, 224, 192)
SCALE = 2  # scenes are drawn larger and shrunk, which smooths every edge
FOLDERS = ("JPEGImages", "Annotations", "ImageSets", "SegmentationClass")
CLASS_FILE = DATA / "VOC_2012.json"
CLASS_NAME = r"[^/\\\s\x00-\x1f]+( [^/\\\s\x00-\x1f]+)*"  # words: a name is part of its lists' file names
RECORD = "toy_voc.json"
RECORD_FORMAT = 1  # raise it when the same arguments draw other images


@dataclass
class ToyObject:
    """One drawn object."""

    class_index: int
    difficult: bool
    area: int  # pixels of the whole object, in the image and out of it, hidden or not
    truncated: bool  # some of it lies outside the image
    visible: np.ndarray  # its pixels that no later object hides: boolean, of the image's size

    def box(self) -> tuple[int, int, int, int]:
        """xmin, ymin, xmax, ymax of the visible pixels, counted from 1 and inclusive as in the devkit."""
        rows, columns = np.flatnonzero(self.visible.any(1)), np.flatnonzero(self.visible.any(0))
        return int(columns[0]) + 1, int(rows[0]) + 1, int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True)
class ToySet:
    """What decides a toy set, down to its bytes; recorded in its `toy_voc.json`."""

    images: int
    seed: int
    image_size: int
    val_share: float
    class_names: list[str]
    colors: list[list[int]]

    @property
    def val_images(self) -> int:
        return round(self.images * self.val_share)

    def ids(self, split: str) -> list[str]:
        """The ids of train, val or trainval; val is the last part."""
        ids = [image_id(index) for index in range(self.images)]
        first_val = self.images - self.val_images
        return {"train": ids[:first_val], "val": ids[first_val:], "trainval": ids}[split]


def image_id(index: int) -> str:
    """The id of image `index`, counted from 0."""
    return f"toy_{index + 1:06d}"


def draw_scene(index: int, seed: int, image_size: int, classes: int) -> tuple[np.ndarray, list[ToyObject]]:
    """Draw image `index`. Its first object is of class `index % classes` and never difficult.

    Args:
        index: the image's number from 0; with `seed` it decides everything that is drawn.
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
    """Class number + 1 per pixel, 0 where there is no object, `VOID` where two objects touch: `[height, width]`."""
    mask = np.zeros(shape, np.uint8)
    owners = np.zeros(shape, np.uint8)
    for item in objects:
        mask[item.visible] = item.class_index + 1
        owners += cv2.dilate(item.visible.astype(np.uint8), np.ones((3, 3), np.uint8))
    mask[(owners > 1) & (mask > 0)] = VOID
    return mask


def _background(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A ground of color gradients, soft clouds, blobs and lines, all duller than the objects: float32 RGB."""
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
    """A light or dark color mixed with gray: color at full strength belongs to the objects."""
    return 255 * np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.32), rng.uniform(0.45, 0.95)))


def _distractor(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a line, an ellipse or a polygon that is no object onto `canvas`."""
    height, width = canvas.shape[:2]
    color = _dull_color(rng).tolist()
    centre = rng.uniform(0, 1, 2) * (width, height)
    radius = rng.uniform(0.02, 0.2) * max(height, width)
    kind = rng.integers(3)
    if kind == 0:
        ends = rng.uniform(-0.1, 1.1, (2, 2)) * (width, height)
        cv2.polylines(canvas, [ends.astype(np.int32)], False, color, int(rng.integers(1, 7)))
    elif kind == 1:
        axes = (int(radius), int(radius * rng.uniform(0.3, 1)))
        cv2.ellipse(canvas, centre.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, color, -1)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
        corners = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        cv2.fillPoly(canvas, [corners.astype(np.int32)], color)


def _place_object(
    canvas: np.ndarray, objects: list[ToyObject], class_index: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw an object where enough of all stays in sight and add it to `objects`; returns the new canvas.

    The last place tried is the middle, so that an image's first object always finds one.
    """
    height, width = canvas.shape[:2]
    difficult = bool(objects) and rng.random() < SMALL_SHARE
    size = rng.uniform(SMALLEST, SMALL) if difficult else SMALL + (LARGE - SMALL) * math.sqrt(rng.random())
    sprite = _turned(draw_object(class_index, round(size * max(height, width)), rng), rng)
    area = int(_covered(sprite).sum())
    for attempt in range(TRIES):
        x, y = rng.uniform(0.1, 0.9, 2) if attempt < TRIES - 1 else (0.5, 0.5)
        layer = _shifted(sprite, round(x * width), round(y * height), (width, height))
        covered = _covered(layer)
        if _shows_enough(covered, area, objects):
            for item in objects:
                item.visible &= ~covered
            objects.append(ToyObject(class_index, difficult, area, bool(covered.sum() < 0.95 * area), covered))
            opacity = layer[..., 3] / np.float32(255)
            return cv2.blendLinear(layer[..., :3].astype(np.float32), canvas, opacity, 1 - opacity)
    return canvas


def _shows_enough(covered: np.ndarray, area: int, objects: list[ToyObject]) -> bool:
    if covered.sum() < MIN_VISIBLE * area:
        return False
    return all((item.visible & ~covered).sum() >= MIN_VISIBLE * item.area for item in objects)


def _covered(layer: np.ndarray) -> np.ndarray:
    """Which pixels of the final image an RGBA layer of the canvas' scale covers by more than half."""
    height, width = layer.shape[:2]
    return cv2.resize(layer[..., 3], (width // SCALE, height // SCALE), interpolation=cv2.INTER_AREA) > 127


def _turned(sprite: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The object facing left or right, turned a little and made narrower or flatter, on a canvas that holds it all."""
    side = len(sprite)
    stretch = rng.uniform(0.85, 1.1, 2) * (rng.choice([-1, 1]), 1)
    angle = np.deg2rad(rng.normal(0, 8))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * stretch
    room = SCALE * round(1.4 * side / SCALE)
    offset = room / 2 - turn @ (side / 2, side / 2)
    return cv2.warpAffine(sprite, np.column_stack([turn, offset]), (room, room))


def _shifted(sprite: np.ndarray, x: int, y: int, size: tuple[int, int]) -> np.ndarray:
    """The sprite centred on (x, y) of a canvas of `size` (width, height); what lies outside is cut off."""
    half = len(sprite) // 2
    return cv2.warpAffine(sprite, np.array([[1.0, 0, x - half], [0, 1.0, y - half]]), size)


def write_toy_set(toy: ToySet, out: Path) -> int:
    """Draw every image of the set into `out`, with annotations, masks and lists; returns the number of objects."""
    for folder in (*FOLDERS, "ImageSets/Main"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    palette = _palette(toy.colors)
    labels = {}
    count = 0
    for index in tqdm(range(toy.images), desc="drawing", unit="image"):
        image, objects = draw_scene(index, toy.seed, toy.image_size, len(toy.class_names))
        name = image_id(index)
        Image.fromarray(image).save(out / "JPEGImages" / f"{name}.jpg", quality=92)
        mask = Image.fromarray(segmentation_mask(objects, image.shape[:2]))
        mask.putpalette(palette)
        mask.save(out / "SegmentationClass" / f"{name}.png")
        items = [_annotated(item, toy.class_names) for item in objects]
        size = (image.shape[1], image.shape[0])
        tree = annotation(name, size, items, "toy data, drawn by tools/make_toy_voc.py", "toy_voc", segmented=1)
        tree.write(out / "Annotations" / f"{name}.xml")
        labels[name] = _labels(objects)
        count += len(objects)
    _write_lists(toy, labels, out / "ImageSets" / "Main")
    return count


def _palette(colors: list[list[int]]) -> list[int]:
    palette = np.zeros((256, 3), np.uint8)
    palette[1 : 1 + len(colors)] = colors
    palette[VOID] = VOID_COLOR
    return palette.flatten().tolist()


def _annotated(item: ToyObject, class_names: list[str]) -> Annotated:
    return Annotated(class_names[item.class_index], item.box(), item.difficult, item.truncated)


def _labels(objects: list[ToyObject]) -> dict[int, int]:
    """1 for each class with an object that is not difficult, 0 for one with difficult objects only."""
    labels: dict[int, int] = {}
    for item in objects:
        labels[item.class_index] = max(labels.get(item.class_index, 0), int(not item.difficult))
    return labels


def _write_lists(toy: ToySet, labels: dict[str, dict[int, int]], folder: Path) -> None:
    for split in ("train", "val", "trainval"):
        ids = toy.ids(split)
        write_lines(folder / f"{split}.txt", ids)
        for number, class_name in enumerate(toy.class_names):
            lines = (f"{name} {labels[name].get(number, -1):2d}" for name in ids)
            write_lines(folder / f"{class_name}_{split}.txt", lines)


def read_classes(path: Path) -> tuple[list[str], list[list[int]]]:
    """The class names and their mask colors (RGB) from a class file with the keys class_names and color_dict.

    Raises:
        UserError: the file cannot be read, or its names or colors cannot be used.
    """
    content = read_json(path)
    content = content if isinstance(content, dict) else {}
    names, colors = content.get("class_names"), content.get("color_dict")
    if not isinstance(names, list) or not 0 < len(names) < VOID or len(set(map(str, names))) < len(names):
        raise UserError(f"{path}: class_names must list 1 to {VOID - 1} different names")
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(CLASS_NAME, name):
            raise UserError(f"{path}: the class name {name!r} cannot be part of a file name: take letters and digits")
        if not isinstance(colors, dict) or not _is_color(colors.get(name)):
            raise UserError(f"{path}: color_dict needs three whole numbers from 0 to 255 for {name}")
    return names, [colors[name] for name in names]


def _is_color(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(number in range(256) for number in value)


def check(toy: ToySet) -> None:
    """Refuse what cannot be drawn.

    Raises:
        UserError: a value is out of range, or a class would be missing from train or val.
    """
    if toy.images < 1:
        raise UserError(f"--images must be at least 1, not {toy.images}")
    if toy.seed < 0:
        raise UserError(f"--seed must be at least 0, not {toy.seed}")
    if toy.image_size < 64:
        raise UserError(f"--image_size must be at least 64, not {toy.image_size}")
    if not 0 < toy.val_share < 1:
        raise UserError(f"--val_share must lie between 0 and 1, not {toy.val_share}")
    classes = len(toy.class_names)
    if min(toy.val_images, toy.images - toy.val_images) < classes:
        enough = math.ceil(classes / min(toy.val_share, 1 - toy.val_share))
        raise UserError(
            f"--images {toy.images} is too few for every class to be in train and in val: "
            f"{classes} classes and --val_share {toy.val_share} take {enough}"
        )


def prepare_folder(toy: ToySet, out: Path, overwrite: bool) -> bool:
    """Make `out` ready for the set; False if it holds the very set already.

    Raises:
        UserError: `out` holds something else, or another toy set and `overwrite` is not given.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return True
    if not (out / RECORD).is_file():
        raise UserError(f"{out} is there already and is no toy data set: choose another folder")
    found, wanted = read_json(out / RECORD), _record(toy, complete=True)
    if found == wanted and not overwrite:
        return False
    # An interrupted run left the same arguments but no complete set: that one is drawn anew without asking.
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


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description="Draw a toy data set in the layout of the PASCAL VOC devkit.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, given to the scripts as --data_dir")
    parser.add_argument("--images", type=int, default=800, help="number of images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other images (default: %(default)s)")
    parser.add_argument("--image_size", type=int, default=160, help="longer side in pixels (default: %(default)s)")
    parser.add_argument("--val_share", type=float, default=0.25, help="share of images in val (default: %(default)s)")
    parser.add_argument(
        "--class_file",
        type=Path,
        default=CLASS_FILE,
        help="JSON file with class_names and color_dict (default: data/VOC_2012.json)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the toy set that --out already holds")
    return parser.parse_args()


def main() -> None:
    """Draw the set that the command line asks for."""
    args = parse_arguments()
    names, colors = read_classes(args.class_file)
    toy = ToySet(args.images, args.seed, args.image_size, args.val_share, names, colors)
    check(toy)
    try:
        if not prepare_folder(toy, args.out, args.overwrite):
            print(f"{args.out} already holds this toy set: nothing to do")
            return
        write_json(args.out / RECORD, _record(toy, complete=False))
        count = write_toy_set(toy, args.out)
        write_json(args.out / RECORD, _record(toy, complete=True))
    except OSError as error:
        raise UserError(f"cannot write {args.out} ({error.strerror or error}): choose another folder") from error
    train = toy.images - toy.val_images
    print(f"{args.out}: {train} train and {toy.val_images} val images, {count} objects of {len(names)} classes")


if __name__ == "__main__":
    run_main(main)
