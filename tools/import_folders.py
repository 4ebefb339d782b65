"""Make a devkit folder from a folder per class (torchvision's ImageFolder).

    python3 -m tools.import_folders --folder animals --out my_data

    animals/cat/1.jpg  animals/dog/2.jpg                      lists train and val by --val_share
    animals/train/cat/1.jpg  animals/val/dog/2.jpg            lists as the folders say; also valid, test

An image that lies in several class folders by links has all their labels.
"""

from dataclasses import dataclass
from pathlib import Path, PurePath

from tools.data.annotations import Annotated
from tools.data.devkit import composed
from tools.data.importing import PARTS, Found, ImportArguments, import_samples, read_all, sample_of, skipped, walk
from tools.data.writing import Sample
from tools.system.command_line import argument, parse
from tools.system.errors import UserError, run_main


@dataclass(frozen=True)
class Config(ImportArguments):
    folder: Path = argument(help="folder with a folder of images per class", aliases=("images",))


def read_folders(folder: Path) -> Found:
    """Return one sample per image, labeled with the name of its class folder."""
    images, others = walk(folder)
    folders = {image: PurePath(image).parts[:-1] for image in images}
    has_parts = all(len(names) > 1 and names[0].lower() in PARTS for names in folders.values())
    depth = 1 if has_parts else 0  # of the folder whose name is the class
    inside = {image: names for image, names in folders.items() if len(names) > depth}
    if not inside:
        raise UserError(f"{folder} has no image in a folder of a class: it needs {folder}/CLASS/IMAGE.jpg")

    def read(image: str, names: tuple[str, ...]) -> Sample:
        part = PARTS[names[0].lower()] if has_parts else ""
        return sample_of(image, folder, image, [Annotated(composed(names[depth]))], part)

    samples = read_all(folder, inside.items(), read)
    how = "lists as the folders say, with a folder per class" if has_parts else "a folder per class"
    notes = [how, *skipped(others), *skipped(folders.keys() - inside.keys(), "outside the class folders")]
    return Found(folder, "folder", samples, sorted({item.name for sample in samples for item in sample.objects}), notes)


def main() -> None:
    args = parse(Config, __doc__)
    import_samples(args, read_folders(args.folder))


if __name__ == "__main__":
    run_main(main)
