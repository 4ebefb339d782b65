"""Make a devkit folder from a table of images and labels.

    python3 -m tools.import_csv --csv photos.csv --images my_photos --out my_data

A row is `image,label;label;…`: the image's path in --images, and any number of labels, or none. A first row that
begins with `image`, `file`, `filename` or `path` is a header. A table does not say where an object is: every label's
box is the whole image.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from tools.data.annotations import Annotated
from tools.data.devkit import class_name_problem
from tools.data.importing import ImportArguments, find_duplicates, find_image, image_id_of, import_samples, split_ids
from tools.data.writing import Sample, raise_problems
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, run_main
from tools.system.files import reason


@dataclass(frozen=True)
class Config(ImportArguments):
    csv: Path = argument(help="table, in UTF-8")
    images: Path = argument(help="folder of the images that the table names")


def read_table(path: Path, images: Path) -> list[Sample]:
    """Return one sample per row; empty rows do not count. The `UserError` for unusable rows names them."""
    samples, problems = [], []
    for number, row in _rows(path):
        try:
            samples.append(_sample(row, images, f"row {number}"))
        except ValueError as error:
            problems.append(f"row {number}: {error}")
    raise_problems(path, problems + find_duplicates(samples))
    if not any(sample.objects for sample in samples):
        raise UserError(f"{path} has no label in any row: a row is image,label;label")
    return samples


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the table's rows, each with the number of its line, without the header and empty ones."""
    if not path.is_file():
        raise UserError(f"no file {path}: give the table as --csv")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if "".join(row).strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8: save it as 'CSV UTF-8'") from error
    except (OSError, csv.Error) as error:
        raise UserError(f"cannot read {path} as CSV: {reason(error)}") from error
    has_header = rows and rows[0][1][0].lower() in ("image", "file", "filename", "path")
    return rows[1:] if has_header else rows


def _sample(row: list[str], images: Path, origin: str) -> Sample:
    if any(row[2:]):
        raise ValueError(f"{len(row)} columns, but a row is image,label;label (quote a name that contains a comma)")
    name, cell = (row + [""])[:2]
    labels = dict.fromkeys(filter(None, map(str.strip, cell.split(";"))))  # each once
    if problems := list(filter(None, map(class_name_problem, labels))):
        raise ValueError(problems[0])
    return Sample(origin, find_image(images, name), image_id_of(name), tuple(map(Annotated, labels)))


def main() -> None:
    args = parse(Config, __doc__)
    if not args.images.is_dir():
        raise UserError(f"no folder {args.images}: give the folder of the images as --images")
    samples = read_table(args.csv, args.images)
    class_names = sorted({item.name for sample in samples for item in sample.objects})
    lists = split_ids([sample.image_id for sample in samples], args.val_share, args.seed)
    import_samples(args, args.csv, "table", samples, lists, class_names)


if __name__ == "__main__":
    run_main(main)
