"""Read everything of a split - every image in full, every annotation - and name all that is wrong with it.

    python3 -m tools.check_data --data_dir $your_dir --split train_aug

Exit status 0: nothing is wrong; 1: there are problems; 2: the check could not be made. Problems would stop a run or are
surely mistakes. Notes say what a run does with images that are unusual but usable.
"""

import argparse
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import ExifTags, Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from tools.data.annotations import VOCObject, examine_annotation
from tools.data.devkit import (
    DATA,
    annotation_path,
    check_folder,
    examine_split,
    image_path,
    read_class_names,
    split_path,
)
from tools.data.images import opened_image, read_image
from tools.system.command_line import Parser
from tools.system.errors import UserError, run_main
from tools.system.files import replace_file
from tools.system.interruption import end_loader_processes_at_exit, ignore_signals

LIST, IMAGE, ANNOTATION, BOX = "lines of the list", "images", "annotations", "boxes"
FIRST = 3  # ids named in a note


@dataclass
class Finding:
    """What was found in one image and its annotation.

    Attributes:
        problems: (what is concerned: `IMAGE`, `ANNOTATION` or `BOX`; what is wrong).
        notes: what is unusual.
        objects: those that count.
    """

    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    objects: list[VOCObject] = field(default_factory=list)


class Examination(Dataset):
    """A `Finding` for every id of a list."""

    def __init__(self, data_dir: Path, ids: list[str], class_names: list[str]):
        self.data_dir = data_dir
        self.ids = ids
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Finding:
        finding = Finding()
        size = examine_image(image_path(self.data_dir, self.ids[index]), finding)
        examine_objects(annotation_path(self.data_dir, self.ids[index]), self.class_names, size, finding)
        return finding


def examine_image(path: Path, finding: Finding) -> tuple[int, int] | None:
    """Decode an image in full and add what is wrong or unusual to `finding`.

    Returns:
        width and height in pixels, or None if it cannot be decoded.
    """
    try:
        with opened_image(path) as image:
            finding.notes += _unusual(image)
        return read_image(path).size
    except UserError as error:
        finding.problems.append((IMAGE, str(error)))
        return None


def _unusual(image: Image.Image) -> Iterator[str]:
    if image.mode.startswith(("I", "F")):
        yield f"of {image.mode} pixels, more than 8 bits: values above 255 become 255"
    elif image.mode != "RGB":
        yield f"of {image.mode} pixels, converted to RGB"
    if image.format not in ("JPEG", "MPO"):
        yield f"in {image.format} format, in spite of their name"
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        yield "with an EXIF orientation, which is not applied"


def examine_objects(path: Path, class_names: list[str], size: tuple[int, int] | None, finding: Finding) -> None:
    """Read an annotation and add its objects and all that is wrong or unusual to `finding`.

    Args:
        size: the image's width and height in pixels, None where they are not known.
    """
    try:
        objects, problems = examine_annotation(path, class_names)
    except UserError as error:
        finding.problems.append((ANNOTATION, str(error)))
        return
    finding.problems += [(ANNOTATION, f"{path}: {problem}") for problem in problems]
    for item in objects:
        problem = box_problem(item.box, size)
        if problem:
            finding.problems.append((BOX, f"{path}: the object '{item.name}' has a box {problem}"))
    finding.objects = [item for item in objects if not item.is_empty]
    if len(finding.objects) < len(objects):
        finding.notes.append("with a box of no width or height, which is skipped")
    if not objects and not problems:
        finding.notes.append("without objects (their labels are all 0)")


def box_problem(box: tuple[float, float, float, float], size: tuple[int, int] | None) -> str | None:
    """What is surely wrong with a box: swapped corners, or a place that the image does not reach by far.

    Args:
        box: (xmin, ymin, xmax, ymax) in pixels.
        size: the image's width and height in pixels; None judges the corners' order alone.
    """
    xmin, ymin, xmax, ymax = box
    if xmax < xmin or ymax < ymin:
        return f"of swapped corners ({_shown(box)}): the object does not count"
    if size is None:
        return None
    width, height = size
    beyond = max(-xmin / width, -ymin / height, xmax / width - 1, ymax / height - 1)
    misses = xmin > width or ymin > height or xmax < 0 or ymax < 0
    # A side some pixels out is common and harmless: tools count from 0 or from 1, and labels do not depend on it.
    if misses or beyond > 1:
        return f"far out of the image of {width} × {height} pixels ({_shown(box)})"
    return None


def _shown(box: tuple[float, ...]) -> str:
    return ", ".join(f"{side:g}" for side in box)


def examine(examination: Examination, num_workers: int) -> list[Finding]:
    """Every finding, in the list's order, with a progress bar.

    Raises:
        UserError: a process died, as under a shortage of memory.
    """
    end_loader_processes_at_exit()
    loader = DataLoader(examination, batch_size=None, num_workers=num_workers, worker_init_fn=ignore_signals)
    try:
        return list(tqdm(loader, desc="checking", unit="image"))
    except RuntimeError as error:
        raise UserError(f"a checking process died ({str(error).splitlines()[0]}): try --num_workers 0") from error


def print_problems(problems: Iterable[tuple[str, str]]) -> None:
    """A line each, under a headline for each kind."""
    groups = defaultdict(list)
    for kind, text in problems:
        groups[kind].append(text)
    for kind in (LIST, IMAGE, ANNOTATION, BOX):
        if groups[kind]:
            print(f"problems with {kind}: {len(groups[kind]):,}", *groups[kind], sep="\n  ")


def print_notes(ids: list[str], findings: list[Finding]) -> None:
    """A line for each kind of note."""
    groups = defaultdict(list)
    for image_id, finding in zip(ids, findings):
        for note in dict.fromkeys(finding.notes):
            groups[note].append(image_id)
    for note, named in sorted(groups.items()):
        print(f"note: {len(named):,} {note} ({', '.join(named[:FIRST])}{', …' if len(named) > FIRST else ''})")


def print_counts(class_names: list[str], findings: list[Finding]) -> None:
    """A table: images and objects of every class, and how many of the objects are difficult."""
    objects = Counter(item.class_index for finding in findings for item in finding.objects)
    difficult = Counter(item.class_index for finding in findings for item in finding.objects if item.difficult)
    images = Counter(index for finding in findings for index in {item.class_index for item in finding.objects})
    width = max(map(len, [*class_names, "class"]))
    print(f"{'class':{width}s} {'images':>8s} {'objects':>8s} {'difficult':>9s}")
    for index, name in enumerate(class_names):
        print(f"{name:{width}s} {images[index]:8,d} {objects[index]:8,d} {difficult[index]:9,d}")


def write_list(path: Path, ids: list[str]) -> None:
    """Write a split's list in one move, an id on each line.

    Raises:
        UserError: there is no id, or the place does not take it.
    """
    if not ids:
        raise UserError(f"no image of the split is intact: --fix_list {path} is not written")
    text = "".join(f"{image_id}\n" for image_id in ids)
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; None takes the process's."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="VOC devkit folder")
    parser.add_argument("--split", required=True, help="list in data/, or of the devkit as Main/train")
    parser.add_argument("--class_file", type=Path, default=DATA / "VOC_2012.json", help="JSON file with class_names")
    parser.add_argument(
        "--num_workers",
        type=int,
        default=min(4, os.cpu_count() or 1),
        help="processes; 0 works in this one (default %(default)s)",
    )
    parser.add_argument(
        "--fix_list",
        type=Path,
        metavar="OUT.txt",
        help="write the list without the ids that have problems; in ImageSets/Main/ or data/ it is a split of its own",
    )
    args = parser.parse_args(argv)
    if args.num_workers < 0:
        raise UserError(f"--num_workers {args.num_workers}: must be 0 or more")
    return args


def check_data(args: argparse.Namespace) -> int:
    """Check a split and report; gives the exit status, 0 for a clean split and 1 for one with problems.

    Raises:
        UserError: the check could not be made.
    """
    class_names = read_class_names(args.class_file)
    check_folder(args.data_dir)
    path = split_path(args.data_dir, args.split)
    # Before the long part; a link to the list is the list.
    if args.fix_list and os.path.exists(args.fix_list) and os.path.samefile(args.fix_list, path):
        raise UserError(f"--fix_list {args.fix_list} is the list of --split {args.split} itself: choose another name")
    ids, list_problems = examine_split(path)
    if not ids and not list_problems:
        raise UserError(f"{path} names no image")
    findings = examine(Examination(args.data_dir, ids, class_names), args.num_workers)

    problems = [(LIST, f"{path}, {problem}") for problem in list_problems]
    problems += [problem for finding in findings for problem in finding.problems]
    intact = [image_id for image_id, finding in zip(ids, findings) if not finding.problems]
    print_counts(class_names, findings)
    print_notes(ids, findings)
    print_problems(problems)
    print(f"{len(ids):,} images, {len(intact):,} of them intact; {len(problems):,} problems in all")
    if args.fix_list:
        write_list(args.fix_list, intact)
        print(f"written: {args.fix_list} ({len(intact):,} ids)")
    return 1 if problems else 0


def main() -> None:
    """Check what the command line asks for."""
    # A folder's name can hold what the terminal's encoding cannot.
    sys.stdout.reconfigure(errors="backslashreplace")
    args = parse_arguments()
    torch.set_num_threads(1)  # after the arguments: whoever asks for --help from Python keeps its threads
    sys.exit(check_data(args))


if __name__ == "__main__":
    run_main(main)
