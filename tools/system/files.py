"""Atomic file writes, safe reads, and the provenance of results."""

import contextlib
import errno
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools.system.errors import UserError, reason, reported
from tools.system.shortages import shortage

ROOT = Path(__file__).resolve().parents[2]  # of the checkout
HOST = re.sub(r"\W", "_", socket.gethostname())[:40]
MAX_JSON_BYTES = 1 << 30  # COCO's largest file has half of that
CHECKSUM = "content_sha256"  # the key under which a JSON object carries a checksum of its other content
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "opencv-python-headless", "pillow")

_swept: set[str] = set()  # the folders in which this process has looked for leftovers


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the disk, which cannot hold the file or folder `path`, into a `UserError`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        for cause in _causes(error):
            if shortage(cause):
                raise cause  # noqa: B904 – not the disk: the signal of a dead loader process arrives anywhere
        # torch.save reports an error of the disk as a RuntimeError of its archive writer.
        of_disk = error.__context__ if isinstance(error.__context__, OSError) else error
        too_long = getattr(of_disk, "errno", None) == errno.ENAMETOOLONG
        fix = "choose a shorter name" if too_long else "free some space or choose another folder"
        raise UserError(f"cannot write {path} ({reason(of_disk)}): {fix}") from error


def _causes(error: BaseException | None) -> list[BaseException]:
    return [error, *_causes(error.__context__)] if error else []


def temporary_beside(path: Path) -> Path:
    """Return a hidden name in the folder of `path` to write to.

    The first call for a folder removes what killed programs of this machine were writing there.
    """
    if path.name in ("", ".."):
        raise UserError(f"{path} is not a name of a file or folder: give one")
    folder = os.path.realpath(path.parent)
    leftovers = [] if folder in _swept else path.parent.glob(".*.tmp")
    _swept.add(folder)
    for leftover in leftovers:
        owner = re.fullmatch(rf"\..*\.{HOST}-(\d+)\.tmp", leftover.name, re.DOTALL)
        if owner and not _is_running(int(owner[1])):
            remove(leftover)
    name = os.fsdecode(os.fsencode(path.name)[:150])  # the whole has to fit into 255 bytes
    return path.with_name(f".{name}.{HOST}-{os.getpid()}.tmp")


def _is_running(process: int) -> bool:
    """Whether another process with this number runs; this one's number may have been a killed process's before."""
    try:
        os.kill(process, 0)
        return process != os.getpid()
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Yield a hidden name beside `path` to write to, which is removed at the end; errors as `writing`.

    The folder is made if it is missing.
    """
    temporary = temporary_beside(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
    finally:
        remove(temporary)


def replace_file(path: Path, write: Callable[[Path], None], keep: Path | None = None) -> None:
    """Let `write` fill a temporary file beside `path`, then move it to `path` in one step, when it is on the disk.

    An earlier file at `path` goes to `keep`; None: it is replaced. Errors as `writing`: that file is then untouched.
    """
    with temporary_file(path) as temporary:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if keep and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
        sync_folder(path.parent)


def check_writable(path: Path, suffix: str = "") -> None:
    """Fail now, instead of after hours, if a file of this name with this suffix cannot be written."""
    with temporary_file(path) as temporary:
        temporary.touch()
        path.with_name(path.name + suffix).exists()  # a name that is too long is an error


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can say so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, in one step; errors as `replace_file`."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="surrogateescape"))


def write_json(path: Path, value: Any, checksum: bool = False) -> None:
    """Write `value` as indented JSON, an object with a checksum if asked for, in one step; errors as `replace_file`."""
    value = _as_json(value)
    if checksum:
        value[CHECKSUM] = _checksum(value)
    write_text(path, json.dumps(value, indent=1) + "\n")


def _as_json(value: Any) -> Any:
    """Return what reading JSON of `value` returns: lists for tuples, null for NaN and infinity, which JSON lacks."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def read_json(path: Path) -> Any:
    """Read a JSON file, whoever wrote it. A checksum in it is verified, and is not part of what is returned.

    Raises a `UserError` if it cannot be read, does not hold JSON, or was altered after its checksum was made.
    """
    if require_regular_file(path).st_size > MAX_JSON_BYTES:
        raise UserError(f"cannot read {path} as JSON: it is larger than {MAX_JSON_BYTES >> 20} MiB")
    # ValueError: no UTF-8, no JSON, or a number of thousands of digits; RecursionError: nested too deeply
    with reported(f"cannot read {path} as JSON", OSError, ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        stored = content.pop(CHECKSUM, None) if isinstance(content, dict) else None
        altered = stored is not None and stored != _checksum(content)
    if altered:
        fix = f'restore it, or if you edited it yourself, remove its line "{CHECKSUM}"'
        raise UserError(f"{path} was altered or damaged after it was written: {fix}")
    return content


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; errors as `read_json`."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a JSON object of names and values: delete or restore it")
    return content


def _checksum(content: dict[str, Any]) -> str:
    """Return the SHA-256 of a JSON object, whatever the order of its keys and the whitespace between them."""
    return hashlib.sha256(json.dumps(_as_json(content), sort_keys=True).encode()).hexdigest()


def result_path(path: Path, made_with: dict[str, Any], recorded: Callable[[Path], dict[str, Any] | None]) -> Path:
    """Return where a result goes: `path`, unless the result there was made with other settings, which then stays.

    In its place a numbered name (`NAME_2`, …) is taken, and a line says so.

    Args:
        made_with: the settings of the new result, plain values.
        recorded: returns the settings of the result at a path, or None if there is none; a `UserError`: unknown ones.
    """
    made_with, free, differing = _as_json(made_with), path, []
    for number in itertools.count(2):
        try:
            found = recorded(free)
        except UserError:
            found = {}
        except OSError:  # such as a name that is too long, which writing reports
            found = None
        if found is None or found == made_with:
            break
        if free is path:
            differing = [name for name in made_with if name in found and found[name] != made_with[name]]
        free = path.with_name(f"{path.name.removesuffix(path.suffix)}_{number}{path.suffix}")
    if free != path:
        what = f" ({differing[0]} differs)" if differing else ""
        print(f"note: {path} was made with other settings and is kept: writing {free.name}{what}", file=sys.stderr)
    return free


def recorded_in_json(path: Path, key: str) -> dict[str, Any] | None:
    """Return what a JSON file says under `key`, {} if it says nothing, or None if there is no file."""
    if not path.exists():
        return None
    found = read_object(path).get(key)
    return found if isinstance(found, dict) else {}


def require_regular_file(path: Path) -> os.stat_result:
    """Refuse pipes and devices, which opening might never return from; links to regular files are followed."""
    with reported(f"cannot read {path}", OSError, ValueError):
        status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a regular file but a folder, a pipe or a device: replace it")
    return status


def provenance() -> dict[str, Any]:
    """Return the command, the commit and the versions: what repeating a result needs besides its settings."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {"command": shlex.join(["python3", *sys.argv]), "commit": commit(), "versions": versions}


def commit(root: Path = ROOT) -> str | None:
    """Return the checkout's commit, with "+changes" if tracked files differ; None outside a checkout or without git."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", root, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def sha256(path: Path) -> str:
    """Return the hash of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
