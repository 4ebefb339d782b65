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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.system.errors import UserError


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in the place of `path` in one move.

    Args:
        path: the file to make or replace; its folder is made where it is missing.
        write: takes the temporary file's path.

    Raises:
        UserError: the folder or the disk does not take it. What stood at `path` is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError of its archive writer.
        raise UserError(f"cannot write {path} ({reason(error)}): free some space or choose another folder") from error
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be missing
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, in one move."""
    text = json.dumps(value, indent=1) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: it cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {path} as JSON: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Why, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]


def require_regular_file(path: Path) -> os.stat_result:
    """Refuse what opening might never return from (pipes, devices); links to regular files are followed."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({reason(error)})") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is no regular file but a folder, a pipe or a device: replace it")
    return status


ROOT = Path(__file__).resolve().parents[2]


PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "opencv-python-headless", "pillow")


def provenance() -> dict[str, Any]:
    """The command, the code's commit and the versions: what repeating a result needs besides its settings."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"command": shlex.join(["python3", *sys.argv]), "commit": commit(), "versions": versions}


def commit(root: Path = ROOT) -> str | None:
    """The checkout's commit, with "+changes" where tracked files differ from it; None outside a checkout or without
    git."""
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
    """Hash of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
