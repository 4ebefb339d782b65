"""Make a devkit folder from a table of images and labels.

    python3 -m tools.import_csv --csv photos.csv --images my_photos --out my_data

The table is in UTF-8 or in UTF-16 with a byte order mark; commas, semicolons or tabs separate its columns. A column
`labels` holds any number of labels per image, or every class has a column of 0 and 1. What was understood is printed
before anything is written; docs/own-data.md lists the rules. A table does not say where an object is: every label's
box is the whole image.
"""

import codecs
import csv
import io
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from tools.data.annotations import Annotated
from tools.data.devkit import composed, raise_problems, read_bytes
from tools.data.importing import Found, ImportArguments, find_similar_names, import_samples, read_all, sample_of
from tools.data.writing import Sample
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, first_few, quoted, reported, run_main

# Headers in lower case, with underscores for whitespace and hyphens.
IMAGE_COLUMNS = {"image", "images", "img", "file", "filename", "filepath", "path", "photo", "picture"}
IMAGE_COLUMNS |= {f"{word}_{end}" for word in ("image", "img", "file", "photo") for end in ("name", "path", "file")}
ID_COLUMNS = {"id", "image_id", "img_id", "file_id"}  # count where the table has none of the former
LABEL_COLUMNS = {"label", "class", "class_name", "category", "tag", "target", "labels", "classes", "categories", "tags"}
PRESENT = {"1", "1.0", "true", "t", "yes", "y", "x"}
ABSENT = {"0", "0.0", "false", "f", "no", "n", ""}
MISSING = {"nan", "none", "null", "n/a", "#n/a", "<na>"}  # what programs write for an empty cell
SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons"}
MAX_BYTES = 1 << 30
QUOTED = r"""(?:'[^'\\]*'|"[^"\\]*")"""
Rows = list[tuple[str, list[str]]]  # the name and the cells of each row


@dataclass(frozen=True)
class Config(ImportArguments):
    csv: Path = argument(help="table of images and labels")
    images: Path = argument(help="folder of the images that the table names")


@dataclass(frozen=True)
class Layout:
    """Which columns hold the image, its labels, or, by their index, one class each; and how to say so."""

    image: int = 0
    labels: tuple[int, ...] = (1,)
    classes: dict[int, str] | None = None
    width: int = 2
    text: str = "no header: the columns are image and labels"


def read_table(path: Path, images: Path) -> Found:
    """Return one sample per row, and what was understood. The `UserError` for unusable rows names them."""
    encoding, separator, rows = _parse(path)
    layout = Layout()
    if rows and _is_header(rows[0][1]):
        layout, rows = find_layout(path, *rows[0], rows[1:]), rows[1:]

    def read(origin: str, row: list[str]) -> Sample:
        row = row + [""] * (layout.width - len(row))
        labels = labels_of(row, layout)
        return sample_of(origin, images, row[layout.image], map(Annotated, labels))

    samples = read_all(path, rows, read)
    used = {item.name for sample in samples for item in sample.objects}
    if not used:
        raise UserError(f"{path} has no label in any row: it needs a column 'labels', or a column of 0 and 1 per class")
    if layout.classes:
        seen: dict[Path, tuple] = {}
        changed = [each for each in samples if seen.setdefault(each.source, each.objects) != each.objects]
        raise_problems(path, [f"{each.origin}: names {each.source.name} again, with other classes" for each in changed])
    elif {name.lower() for name in used} <= PRESENT | ABSENT:
        raise UserError(f"{path}: its labels are only {', '.join(sorted(used))}: give the column the name of its class")
    names = list(layout.classes.values()) if layout.classes else sorted(used)
    notes = [f"{encoding}, columns separated by {SEPARATORS.get(separator, separator)}; {layout.text}"]
    return _with_one_spelling(Found(path, "table", samples, names, notes))


def _with_one_spelling(found: Found) -> Found:
    """Return the source with one of the names that differ only in case or whitespace, the most frequent, and say so."""
    counts = Counter(item.name for sample in found.samples for item in sample.objects)
    spelling, notes = {name: name for name in found.class_names}, list(found.notes)
    for group in find_similar_names(found.class_names):
        kept = max(group, key=lambda name: (counts[name], name))
        spelling |= dict.fromkeys(group, kept)
        notes.append(f"read as {quoted(kept)}: {', '.join(quoted(name) for name in group if name != kept)}")
    samples = []
    for sample in found.samples:
        names = dict.fromkeys(spelling[item.name] for item in sample.objects)
        samples.append(replace(sample, objects=tuple(map(Annotated, names))))
    return replace(found, samples=samples, class_names=list(dict.fromkeys(spelling.values())), notes=notes)


def _parse(path: Path) -> tuple[str, str, Rows]:
    """Return the name of the table's encoding, the separator of its columns, and the rows that are not empty.

    A line `sep=;` before the table decides (Excel's). Otherwise the separator counts that finds a header, or several
    columns: tabs first, then commas, then semicolons, which also separate labels.
    """
    content = read_bytes(path, MAX_BYTES, "a table")
    encoding = "UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "UTF-8"
    with reported(f"{path} is not in UTF-8, save it as 'CSV UTF-8'", UnicodeDecodeError):
        text = content.decode("utf-16" if encoding == "UTF-16" else "utf-8-sig")
    if "\0" in text:
        raise UserError(f"{path} contains zero bytes: save it as 'CSV UTF-8'")
    first = re.match(r'"?sep=([^\r\n])"?(\r\n?|\n)', text, re.IGNORECASE)

    def rows(separator: str, strict: bool) -> Rows:
        lines = io.StringIO(text[first.end() :] if first else text, newline="")
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=strict)
        cells = ((f"row {reader.line_num + bool(first)}", list(map(str.strip, row))) for row in reader)
        return [(origin, row) for origin, row in cells if any(row)]

    def fit(separator: str) -> tuple[bool, bool]:
        found = rows(separator, strict=False)
        return bool(found) and _is_header(found[0][1]), any(len(row) > 1 for _, row in found)

    with reported(f"cannot read {path} as CSV", csv.Error, TypeError, ValueError):
        separator = max([first[1]] if first else SEPARATORS, key=fit)
        return encoding, separator, rows(separator, strict=True)


def _plain(header: str) -> str:
    return re.sub(r"[\s_-]+", "_", header.strip()).lower()


def _is_header(row: list[str]) -> bool:
    return any(_plain(cell) in IMAGE_COLUMNS | ID_COLUMNS for cell in row)


def find_layout(path: Path, origin: str, header: list[str], rows: Rows) -> Layout:
    """Return what the columns of a table with a header hold; raise a `UserError` if that is not clear."""
    names = dict(enumerate(map(_plain, header)))
    images = [i for i in names if names[i] in IMAGE_COLUMNS] or [i for i in names if names[i] in ID_COLUMNS]
    words = {i: re.sub(r"_?\d+$", "", name) for i, name in names.items()}  # label1, label2, …
    labels = [i for i in names if words[i] in LABEL_COLUMNS]
    unnamed = [i for i in names if re.fullmatch(r"(unnamed:_\d+)?", names[i])]
    others = [i for i in names if i not in images + labels + unnamed]
    # An unnamed first column is the index of the rows, as pandas writes it.
    full = [i for i in unnamed if i and any(any(row[i : i + 1]) for _, row in rows)]

    def shown(columns: list[int]) -> str:
        return first_few([quoted(header[i]) for i in columns], count=10)

    problem = ""
    if len(images) > 1 or len({words[i] for i in labels}) > 1:
        several = shown(images if len(images) > 1 else labels)
        problem = f"the columns {several} could mean the same: rename all but one"
    elif full:
        problem = f"column {full[0] + 1} has no name: name it, or remove it"
    elif len({header[i] for i in others}) < len(others):
        problem = "two columns have the same name: rename one of them"
    if problem:
        raise UserError(f"{path}, {origin}: {problem}")
    text = f"header in {origin}; images: column {shown(images)}"
    if not labels:
        classes = {i: composed(header[i]) for i in others}
        return Layout(images[0], (), classes, len(names), f"{text}; a column per class")
    ignored = f"; columns without effect: {shown(others)}" if others else ""
    text += f"; labels: column {shown(labels)}{ignored}"
    return Layout(images[0], tuple(labels), None, len(names), text)


def labels_of(row: list[str], layout: Layout) -> list[str]:
    """Return the labels of a row, each once; raise a `ValueError` for cells of another form."""
    if any(row[layout.width :]):
        raise ValueError(f"{len(row)} columns instead of {layout.width} (quote a cell that contains the separator)")
    if layout.classes is None:
        return list(dict.fromkeys(name for i in layout.labels for name in split_cell(row[i])))
    for i, name in layout.classes.items():
        if row[i].lower() not in PRESENT | ABSENT:
            raise ValueError(f"column {quoted(name)} holds {quoted(row[i])} instead of 0 or 1")
    return [name for i, name in layout.classes.items() if row[i].lower() in PRESENT]


def split_cell(cell: str) -> list[str]:
    """Return the labels of a cell: separated by `;`, `,` or `|`, or a list of quoted names, which may contain these.

    >>> split_cell("dog; hot dog"), split_cell("['dog', 'dog, brown']"), split_cell("[]")
    (['dog', 'hot dog'], ['dog', 'dog, brown'], [])
    """
    labels = re.split("[;,|]", cell)
    if cell.startswith("["):
        if not re.fullmatch(rf"\[\s*({QUOTED}\s*(,\s*{QUOTED}\s*)*)?\]", cell):
            raise ValueError(f"{quoted(cell)} is not a list of quoted names")
        labels = [name[1:-1] for name in re.findall(QUOTED, cell)]
    labels = [composed(label.strip()) for label in labels if label.strip()]
    for label in labels:
        if label.lower() in MISSING:
            raise ValueError(f"{quoted(label)} is not a label: leave the cell of an image without labels empty")
    return labels


def main() -> None:
    args = parse(Config, __doc__)
    if not args.csv.is_file():
        raise UserError(f"no file {args.csv}: give the table as --csv")
    if not args.images.is_dir():
        raise UserError(f"no folder {args.images}: give the folder of the images as --images")
    import_samples(args, read_table(args.csv, args.images))


if __name__ == "__main__":
    run_main(main)
