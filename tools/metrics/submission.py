"""The archive that the PASCAL VOC evaluation server takes for the classification competitions."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np

from tools.system.errors import UserError
from tools.system.files import replace_file

FOLDER = "results/VOC2012/Main"


COMPETITIONS = ("comp1", "comp2")  # trained on VOC's data alone; on any data but VOC's test images


TEST_IMAGES = 10_991  # in VOC 2012's Main/test


SUFFIXES = (".tar.gz", ".tgz")


CLASSES = frozenset(
    ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow")
    + ("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
)


def check_submission(path: Path, class_names: list[str]) -> None:
    """Refuse, before anything is computed, what cannot become an archive for the server.

    Raises:
        UserError: another suffix, or other classes than VOC's 20.
    """
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"--submission {path}: the server takes a .tar.gz file; give it such a name")
    if set(class_names) != CLASSES:
        odd = sorted(set(class_names) ^ CLASSES)[:3]
        raise UserError(f"--submission needs the 20 classes of VOC; this checkpoint differs in {', '.join(odd)}")


def write_submission(
    path: Path,
    ids: list[str],
    scores: np.ndarray,
    class_names: list[str],
    competition: str = "comp2",
    image_set: str = "test",
) -> None:
    """Write the archive and check it by reading it back.

    It holds `results/VOC2012/Main/<competition>_cls_<image set>_<class>.txt` for each class, with a line
    `image_id score` for each image, in order. A score is written with as many decimals as make it the same float32.

    Args:
        path: ends in .tar.gz.
        ids: image ids in the list's order.
        scores: `[N, V]` finite, higher is more likely.
        class_names: V names, VOC's 20.

    Raises:
        UserError: it cannot be written, or what was read back is not what was to be written.
    """
    check_submission(path, class_names)
    scores = scores.astype(np.float32)
    texts = {
        f"{FOLDER}/{competition}_cls_{image_set}_{name}.txt": _text(ids, column)
        for name, column in zip(class_names, scores.T)
    }
    replace_file(path, lambda temporary: temporary.write_bytes(_archive(texts)))
    problem = find_problem(path, ids, scores, class_names, competition, image_set)
    if problem:
        raise UserError(f"{path} was not written as it should be: {problem}")


def read_submission(path: Path) -> dict[str, tuple[list[str], list[float]]]:
    """What an archive holds: for each of its files, the image ids and the scores.

    Raises:
        UserError: it is no such archive.
    """
    contents = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                lines = [line.split(" ") for line in archive.extractfile(member).read().decode().splitlines()]
                contents[member.name] = ([image_id for image_id, _ in lines], [float(score) for _, score in lines])
    except (OSError, EOFError, tarfile.TarError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no archive of result files ({error})") from error
    return contents


def find_problem(
    path: Path, ids: list[str], scores: np.ndarray, class_names: list[str], competition: str, image_set: str
) -> str | None:
    """The first thing that an archive holds otherwise than it should; None where all is right."""
    contents = read_submission(path)
    expected = {
        f"{FOLDER}/{competition}_cls_{image_set}_{name}.txt": column for name, column in zip(class_names, scores.T)
    }
    if contents.keys() != expected.keys():
        return f"its files are {', '.join(sorted(contents)[:3])}, …"
    for name, column in expected.items():
        found_ids, found_scores = contents[name]
        if found_ids != ids:
            return f"{name} does not name the images of the list in its order"
        if not np.isfinite(found_scores).all():
            return f"{name} holds a score that is no number"
        if not np.array_equal(np.array(found_scores, np.float32), column):
            return f"{name} holds other scores"
    return None


def _text(ids: list[str], column: np.ndarray) -> bytes:
    # Plain decimals: no exponent that a reader might not know.
    return "".join(
        f"{image_id} {np.format_float_positional(score, trim='0')}\n" for image_id, score in zip(ids, column)
    ).encode()


def _archive(texts: dict[str, bytes]) -> bytes:
    """A .tar.gz of these files; the same texts give the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return buffer.getvalue()
