"""The table of predictions: CSV and JSON, written image by image, however many there are."""

import csv
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from tools.errors import UserError
from tools.files import reason

COLUMNS = ("image", "class", "score", "keypoint_row", "keypoint_column")


class Prediction(NamedTuple):
    """A predicted class of an image.

    Attributes:
        name: the class; score: 0…1.
        keypoint: (row, column) in the original image's pixels.
    """

    name: str
    score: float
    keypoint: tuple[int, int]


class PredictionTable:
    """A CSV file with a row for every predicted class, and a JSON file with an entry for every image.

    Both are written beside their places and moved there when all is done, so that nobody meets half a table.
    An image of no predicted class has one row, empty but for its name.

    Args:
        path: of the CSV file; the JSON file has the same name with .json.
        about: what stands in the JSON file before the images.
    """

    def __init__(self, path: Path, about: dict[str, Any]):
        self.paths = (path.with_suffix(".csv"), path.with_suffix(".json"))
        self._partial = [target.with_name(f".{target.name}.{os.getpid()}.tmp") for target in self.paths]
        self._about = about
        self._files: list[TextIO] = []
        self._count = 0

    def __enter__(self) -> "PredictionTable":
        try:
            self.paths[0].parent.mkdir(parents=True, exist_ok=True)
            # A file name that is no UTF-8 is written as it is.
            for partial in self._partial:
                self._files.append(open(partial, "w", encoding="utf-8", errors="surrogateescape", newline=""))  # noqa: SIM115
            self._rows = csv.writer(self._files[0])
            self._rows.writerow(COLUMNS)
            about = "".join(f"\n {json.dumps(name)}: {json.dumps(value)}," for name, value in self._about.items())
            self._files[1].write("{" + about + '\n "images": [')
        except OSError as error:
            self._drop()
            raise self._unwritable(error) from error
        return self

    def add(self, image: str, size: tuple[int, int], predictions: list[Prediction], **more: str) -> None:
        """Write an image's predictions; `size` is (height, width), `more` goes into the JSON file."""
        classes = [{"class": p.name, "score": round(p.score, 6), "keypoint": list(p.keypoint)} for p in predictions]
        entry = {"image": image, "height": size[0], "width": size[1], "classes": classes, **more}
        rows = [(image, p.name, f"{p.score:.6f}", *p.keypoint) for p in predictions]
        try:
            self._rows.writerows(rows or [(image, "", "", "", "")])
            self._files[1].write(("," if self._count else "") + "\n  " + json.dumps(entry))
        except OSError as error:
            raise self._unwritable(error) from error
        self._count += 1

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self._files[1].write("\n ]\n}\n")
                for file, partial, target in zip(self._files, self._partial, self.paths):
                    file.flush()
                    os.fsync(file.fileno())
                    file.close()
                    os.replace(partial, target)
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            self._drop()

    def _drop(self) -> None:
        """Close and remove what is not in its place; a full disk, or a folder that is none, is reported elsewhere."""
        for file in self._files:
            with suppress(OSError):
                file.close()
        for partial in self._partial:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> UserError:
        where = self.paths[0]
        return UserError(f"cannot write {where} ({reason(error)}): free some space or give another --out")
