"""The archive that the PASCAL VOC evaluation server accepts for the classification competitions."""

import gzip
import io
import re
import tarfile
from pathlib import Path

import numpy as np

from tools.system.errors import UserError, first_few, quoted, reported
from tools.system.files import replace_file, require_regular_file

COMPETITIONS = ("comp1", "comp2")  # trained on VOC's data alone; on any data except VOC's test images
MAX_BYTES = 1 << 28  # of an unpacked archive; VOC's test images need 5 MB
TEST_IMAGES = 10_991  # in VOC 2012's Main/test
RESULT_FILE = re.compile(r"((?:.*/)?comp\d+_cls_.+)_([^_/]+)\.txt")
CLASSES = frozenset(
    ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow")
    + ("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
)


def check_submission(path: Path, class_names: list[str]) -> None:
    """Raise a UserError for a path or classes that the server does not accept."""
    if not path.name.endswith((".tar.gz", ".tgz")):
        raise UserError(f"{path} does not end in .tar.gz, as the server requires")
    if differing := sorted(CLASSES.symmetric_difference(class_names)):
        raise UserError(f"an archive holds the 20 classes of VOC; these classes differ in {first_few(differing)}")


def write_submission(
    path: Path,
    ids: list[str],
    scores: np.ndarray,
    class_names: list[str],
    competition: str = "comp2",
    image_set: str = "test",
) -> None:
    """Write the archive and check it by reading it back; the same scores make the same bytes.

    It holds `results/VOC2012/Main/<competition>_cls_<image set>_<class>.txt` for each class, with a line
    `image_id score` for each image, in order. A score has as many decimals as restore the same float32. A UserError:
    scores are not finite, the archive cannot be written, or it does not hold what was written.
    """
    check_submission(path, class_names)
    if not np.isfinite(scores).all():
        raise UserError(f"{path} is not written: the scores are not finite")
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for name, column in _columns(scores, class_names, competition, image_set).items():
            # Without exponents, which a reader might not know.
            numbers = [np.format_float_positional(score, trim="0") for score in column]
            text = "".join(f"{image_id} {number}\n" for image_id, number in zip(ids, numbers, strict=True)).encode()
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    replace_file(path, lambda temporary: temporary.write_bytes(buffer.getvalue()))
    if problem := find_problem(path, ids, scores, class_names, competition, image_set):
        raise UserError(f"{path} was not written correctly: {problem}")


def read_submission(path: Path, others: bool = False) -> dict[str, tuple[list[str], list[float]]]:
    """Return the image ids and scores of each file in an archive; a UserError says that it is not one.

    With `others` it may hold other files than results, which are skipped.
    """
    require_regular_file(path)
    contents = {}
    with reported(f"{path} is not an archive of result files", Exception):  # wherever it breaks
        with path.open("rb") if path.suffix == ".tar" else gzip.open(path) as packed:
            unpacked = packed.read(MAX_BYTES + 1)
        if len(unpacked) > MAX_BYTES:
            raise ValueError(f"it unpacks to over {MAX_BYTES >> 20} MiB")
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
            for member in archive:
                if member.isdir() or (others and not RESULT_FILE.fullmatch(member.name)):
                    continue
                if not member.isreg():  # a link may lead to itself or nowhere
                    raise ValueError(f"{quoted(member.name)} is not a regular file")
                contents[member.name] = result_lines(archive.extractfile(member).read())
    return contents


def result_lines(content: bytes) -> tuple[list[str], list[float]]:
    """Return the image ids and scores of a result file; a ValueError says what else it holds."""
    rows = [line.strip().rsplit(None, 1) for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    scores = {image_id: float(score) for image_id, score in rows}
    if len(scores) < len(rows):
        raise ValueError("an image is listed twice")
    return list(scores), list(scores.values())


def find_problem(
    path: Path, ids: list[str], scores: np.ndarray, class_names: list[str], competition: str, image_set: str
) -> str | None:
    """Return in what an archive differs from what it should hold; None if in nothing."""
    contents, columns = read_submission(path), _columns(scores, class_names, competition, image_set)
    if contents.keys() != columns.keys():
        return f"its files are {first_few(sorted(contents))}"
    for name, (found_ids, found_scores) in contents.items():
        if found_ids != ids or not np.array_equal(np.array(found_scores, np.float32), columns[name]):
            return f"{name} holds other images or scores"
    return None


def _columns(scores: np.ndarray, class_names: list[str], competition: str, image_set: str) -> dict[str, np.ndarray]:
    """Return the scores `[N]` of each file in the archive, by its name."""
    names = [f"results/VOC2012/Main/{competition}_cls_{image_set}_{name}.txt" for name in class_names]
    return dict(zip(names, scores.astype(np.float32).T, strict=True))
