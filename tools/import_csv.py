"""Make a devkit folder of a table of images and labels.

    python3 -m tools.import_csv --csv photos.csv --images my_photos --out my_data

A row is `image,label;label;…`: the image's path in --images, and any number of labels, also none. A first row that
begins with `image`, `file`, `filename` or `path` is a header. A table says nothing of where an object is: every label's
box is the whole image.
"""

import argparse
import csv
from pathlib import Path

from tools.data.annotations import Annotated
from tools.data.writing import (
    Sample,
    class_name_problem,
    find_image,
    image_id_of,
    refuse,
    repeated,
    split_ids,
    write_data_set,
)
from tools.system.command_line import Parser
from tools.system.errors import UserError, run_main
from tools.system.files import reason

HEADERS = ("image", "file", "filename", "path")


def read_table(path: Path, images: Path) -> list[Sample]:
    """A sample for each row; blank rows do not count.

    Raises:
        UserError: the table cannot be read, or has rows that cannot be used, which are named.
    """
    samples, problems = [], []
    for number, row in _rows(path):
        try:
            samples.append(_sample(row, images, f"row {number}"))
        except ValueError as error:
            problems.append(f"row {number}: {error}")
    refuse(path, problems + list(repeated(samples)))
    if not samples:
        raise UserError(f"{path} has no row: a row is image,label;label")
    return samples


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The table's rows without header and blank ones, with the numbers of their lines."""
    if not path.is_file():
        raise UserError(f"no file {path}: give the table as --csv")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8: save it as 'CSV UTF-8'") from error
    except (OSError, csv.Error) as error:
        raise UserError(f"cannot read {path} as CSV: {reason(error)}") from error
    rows = [(number, row) for number, row in rows if any(row)]
    return rows[1:] if rows and rows[0][1][0].lower() in HEADERS else rows


def _sample(row: list[str], images: Path, place: str) -> Sample:
    if any(row[2:]):
        raise ValueError(f"{len(row)} columns, but a row is image,label;label (quote a name that holds a comma)")
    labels = [label.strip() for label in (row[1] if len(row) > 1 else "").split(";")]
    labels = list(dict.fromkeys(label for label in labels if label))
    for label in labels:
        if problem := class_name_problem(label):
            raise ValueError(problem)
    source = find_image(images, row[0])
    return Sample(place, source, image_id_of(row[0]), tuple(Annotated(label) for label in labels))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--csv", type=Path, required=True, help="table, in UTF-8")
    parser.add_argument("--images", type=Path, required=True, help="folder of the images that the table names")
    parser.add_argument("--out", type=Path, required=True, help="devkit folder to make, given to scripts as --data_dir")
    parser.add_argument("--val_share", type=float, default=0.2, help="share of the images in list val, 0 to 1; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="another number puts other images into val")
    parser.add_argument(
        "--shrink", type=int, default=0, help="longest side in pixels; larger images are copied smaller"
    )
    return parser.parse_args()


def main() -> None:
    """Import what the command line asks for."""
    args = parse_arguments()
    if not args.images.is_dir():
        raise UserError(f"no folder {args.images}: give the folder of the images as --images")
    samples = read_table(args.csv, args.images)
    lists = split_ids([sample.image_id for sample in samples], args.val_share, args.seed)
    class_names = sorted({item.name for sample in samples for item in sample.objects})
    if not class_names:
        raise UserError(f"{args.csv} has no label in any row: a row is image,label;label")
    write_data_set(args.out, samples, lists, class_names, f"table {args.csv.name}", args.shrink, args.csv)


if __name__ == "__main__":
    run_main(main)
