"""Read a split completely - decode every image, parse every annotation - and list everything that is wrong with it.

    python3 -m tools.check_data --data_dir $your_dir --split train_aug

Exit status 0: nothing is wrong; 1: there are problems; 2: the check could not be made. A problem would stop a run or is
certainly a mistake. A note says what a run does with images that are unusual but usable.
"""

import functools
import os
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from tools.data import devkit
from tools.data.annotations import Box, VOCObject, annotated_size, read_xml, validate_annotation
from tools.data.images import Size, opened_image, orientation, upright_rgb
from tools.data.importing import print_classes
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, advice, first_few, quoted, run_main
from tools.system.files import write_text

SUFFIXES_OF = {"JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg")}  # of other formats, the suffix is the name
LIST, IMAGE, ANNOTATION, BOX = "lines of the list", "images", "annotations", "boxes"
FIX_LIST = "write the list without the ids that have problems; in ImageSets/Main/ or data/ it can be used as a split"


@dataclass(frozen=True)
class Config(Arguments):
    data_dir: Path = argument(help="VOC devkit folder")
    split: str = argument(help="list in data/, or of the devkit as Main/train")
    class_file: Path = argument(devkit.DATA / "VOC_2012.json", "JSON file with class_names")
    num_workers: int = argument(min(4, os.cpu_count() or 1), "images that are read at the same time; 0: one", least=0)
    fix_list: Path | None = argument(None, FIX_LIST, metavar="OUT.txt")


@dataclass
class ValidationResult:
    """The result of one image and its annotation."""

    size: Size | None = None  # of the image; None if it cannot be decoded
    # By kind, what is wrong.
    problems: dict[str, list[str]] = field(default_factory=lambda: {IMAGE: [], ANNOTATION: [], BOX: []})
    notes: list[str] = field(default_factory=list)  # what is unusual
    objects: list[VOCObject] = field(default_factory=list)  # the valid ones, without empty boxes


def validate(images: devkit.Files, annotations: devkit.Files, classes: list[str], image_id: str) -> ValidationResult:
    """Check one image and its annotation."""
    result = ValidationResult()
    with devkit.noted(result.problems[IMAGE]):
        validate_image(images.path(image_id), result)
    with devkit.noted(result.problems[ANNOTATION]):
        validate_objects(annotations.path(image_id), classes, result)
    return result


def validate_image(path: Path, result: ValidationResult) -> None:
    """Decode the image, as training does; add its size, and what is unusual, to `result`."""
    suffix = path.suffix.lower()
    with opened_image(path) as image:
        result.size = upright_rgb(image).size
        turned, has_16_bits = orientation(image), image.mode.startswith("I")
        suffixes = SUFFIXES_OF.get(image.format, (f".{image.format.lower()}",))
        notes = {
            f"{image.mode} pixels, of whose 16 bits the upper 8 count": has_16_bits,
            f"{image.mode} pixels, converted to RGB": image.mode != "RGB" and not has_16_bits,
            "transparency, which is dropped": image.mode.endswith("A") or "transparency" in image.info,
            f"{image.format} format despite the {suffix} extension": suffix not in suffixes,
            "damaged EXIF data, which are ignored": turned is None,
            "an EXIF orientation, which is applied": turned not in (None, 1),
        }
    result.notes += [note for note, applies in notes.items() if applies]


def validate_objects(path: Path, class_names: list[str], result: ValidationResult) -> None:
    """Add to `result` the objects of an annotation and what is wrong or unusual."""
    objects, problems = validate_annotation(path, class_names)
    result.problems[ANNOTATION] += [f"{path}: {problem}" for problem in problems]
    for item in objects:
        if item.box and result.size and is_far_outside(item.box, result.size):
            width, height = result.size
            corners = ", ".join(f"{side:g}" for side in item.box)
            problem = f"is far outside the image of {width} × {height} pixels ({corners})"
            result.problems[BOX].append(f"{path}: the box of the object {quoted(item.name)} {problem}")
        result.notes += item.notes
    result.objects = [item for item in objects if not item.is_empty]
    if len(result.objects) < len(objects):
        result.notes.append("a box without width or height inside the image, which is skipped")
    if result.size and (annotated_size(read_xml(path)) or result.size) != result.size:
        result.notes.append("a <size> that is not the image's: boxes are clamped to it")
    if not objects and not problems:
        result.notes.append("no objects: all labels are 0")


def is_far_outside(box: Box, size: Size) -> bool:
    """Return whether a box misses an image of this size, or goes beyond it by more than the image's own side.

    A side that is a few pixels off is common and harmless: tools count from 0 or 1, and labels do not depend on it.
    """
    sides = [(*sorted(box[axis::2]), size[axis]) for axis in (0, 1)]
    return any(first > side or last < 0 or first < -side or last > 2 * side for first, last, side in sides)


def print_results(class_names: list[str], results: dict[str, ValidationResult]) -> None:
    """Print the counts of every class, and one line per kind of note."""
    objects = [item for result in results.values() for item in result.objects]
    images = Counter(name for result in results.values() for name in {item.name for item in result.objects})
    difficult = Counter(item.name for item in objects if item.difficult)
    print_classes(class_names, images=images, objects=Counter(item.name for item in objects), difficult=difficult)
    groups = defaultdict(list)
    for image_id, result in results.items():
        for note in dict.fromkeys(result.notes):
            groups[note].append(image_id)
    for note, named in sorted(groups.items()):
        print(f"note: {len(named):,} of {len(results):,} images: {note} ({first_few(named)})")


def main() -> None:
    config = parse(Config, __doc__)
    class_names = devkit.read_class_names(config.class_file)
    with advice("give the devkit folder (VOC2012) as --data_dir"):
        devkit.check_folder(config.data_dir)
    path = devkit.split_path(config.data_dir, config.split)
    # Tested before the long part; a link to the list counts as the list.
    if config.fix_list and os.path.exists(config.fix_list) and os.path.samefile(config.fix_list, path):
        raise UserError(f"--fix_list {config.fix_list} is the list of --split {config.split} itself: choose another")
    images, annotations = devkit.image_files(config.data_dir), devkit.annotation_files(config.data_dir)
    ids, list_problems = devkit.validate_split(path, images)
    if not ids and not list_problems:
        raise UserError(f"{path} contains no image id: choose another --split")
    with ThreadPoolExecutor(max(config.num_workers, 1)) as pool:  # Pillow decodes without the interpreter's lock
        found = pool.map(functools.partial(validate, images, annotations, class_names), ids)
        results = dict(zip(ids, tqdm(found, "checking", len(ids), unit="image", disable=None), strict=True))

    problems = {LIST: [f"{path}, {problem}" for problem in list_problems]}
    for kind in (IMAGE, ANNOTATION, BOX):
        problems[kind] = [problem for result in results.values() for problem in result.problems[kind]]
    count = sum(map(len, problems.values()))
    intact = [image_id for image_id, result in results.items() if not any(result.problems.values())]
    if config.fix_list and intact:
        write_text(config.fix_list, "".join(f"{image_id}\n" for image_id in intact))
    print_results(class_names, results)
    images.print_skipped()
    annotations.print_skipped()
    for kind, texts in problems.items():
        if texts:
            print(f"problems with {kind}: {len(texts):,}", *texts, sep="\n  ")
    print(f"{len(ids):,} images, {len(intact):,} of them intact; {count:,} problems in all")
    if config.fix_list and not intact:
        raise UserError(f"every image of the split has a problem: --fix_list {config.fix_list} is not written")
    if config.fix_list:
        print(f"written: {config.fix_list} ({len(intact):,} ids)")
    elif count:
        print("restore damaged files from the devkit, or write a list without them with --fix_list")
    sys.exit(1 if count else 0)


if __name__ == "__main__":
    run_main(main)
