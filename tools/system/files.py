"""Atomic file writes, safe reads, and the provenance of results."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools.system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]  # of the checkout
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "opencv-python-headless", "pillow")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the disk into one line that names `path`.

    Raises:
        UserError: the folder or the disk cannot hold the file.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError of its archive writer.
        raise UserError(f"cannot write {path} ({reason(error)}): free some space or choose another folder") from error


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it to `path` in one step.

    Args:
        path: the file to make or replace; its folder is made if it is missing.
        write: takes the temporary file's path.

    Raises:
        UserError: the folder or the disk cannot hold it. An earlier file at `path` is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be missing
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, in one step; errors as `replace_file`."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, in one step; errors as `replace_file`."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: it cannot be read or does not hold JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {path} as JSON: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Return the cause of an error in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]


def require_regular_file(path: Path) -> os.stat_result:
    """Refuse pipes and devices, which opening might never return from; links to regular files are followed."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({reason(error)})") from error
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
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def sha256(path: Path) -> str:
    """Return the hash of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
