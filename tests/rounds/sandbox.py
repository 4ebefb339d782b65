"""Whole programs in forked children of one warm process, so that a case costs its run and not the imports."""

import atexit
import contextlib
import os
import runpy
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Imported here, so that no child has to.
import matplotlib.backends.backend_agg  # noqa: F401
import matplotlib.font_manager  # noqa: F401
import timm  # noqa: F401
import torchvision.datasets  # noqa: F401
import yaml  # noqa: F401

import evaluate_classification  # noqa: F401
import inference_classification  # noqa: F401
import reproduce_tables  # noqa: F401
from core.training import loop  # noqa: F401
from tests.helpers.command_line import ROOT

PROGRAM_SECONDS = 90


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
        words: its command line.
        status: exit status; negative: the signal that ended it; None: it did not end in time and was killed.
        output, errors: what it printed.
        computing: whether it was computing when its time was over.
    """

    words: tuple[str, ...]
    status: int | None
    output: str
    errors: str
    computing: bool = False

    def fault(self, accepted: tuple[int, ...] = (0, 1, 2)) -> str | None:
        """Return what is wrong with this end, or None: a hang, a traceback, or a failure without its one line."""
        if self.status is None:
            return "a hang" if not self.computing else "no end in time"
        if "Traceback (most recent call last)" in self.errors or "Traceback (most" in self.output:
            return f"a traceback: {self.errors.strip().splitlines()[-1]}"
        if self.status not in accepted:
            return f"status {self.status}: {self.errors.strip()[-300:]}"
        lines = [line for line in self.errors.splitlines() if line.startswith("error:")]
        if self.status == 2 and len(lines) != 1:
            return f"status 2 with {len(lines)} lines: {self.errors.strip()[-300:]}"
        return None

    @property
    def line(self) -> str:
        """The one line of a failure."""
        return next((line for line in self.errors.splitlines() if line.startswith("error:")), "")


class Program:
    """A program that runs in a forked child.

    Args:
        folder: its working folder.
        words: a script of the repository or "-m" and a module, then arguments.
        prepare: called in the child before the program, to inject a fault.
    """

    def __init__(self, folder: Path, *words: object, prepare: Callable[[], None] | None = None):
        self.words = tuple(map(str, words))
        self._logs = [_empty_file(folder.parent), _empty_file(folder.parent)]
        sys.stdout.flush()
        self.pid = os.fork()
        self._status: int | None = None
        if self.pid == 0:
            self._run(folder, prepare)

    def _run(self, folder: Path, prepare: Callable[[], None] | None) -> None:
        status = 1
        try:
            os.setsid()
            os.chdir(folder)
            for number, path in enumerate(self._logs, start=1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
            # The parent's objects may hold buffered text.
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8") for number in (1, 2))
            if prepare:
                prepare()
            status = self._execute()
        except BaseException:
            traceback.print_exc()
        finally:
            # No Python code of the parent may run in the child, whatever happens.
            os._exit(status & 0xFF)

    def _execute(self) -> int:
        words = list(self.words)
        status = 0
        try:
            if words[0] == "-m":
                sys.argv = words[1:]
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                sys.argv = [str(ROOT / words[0]), *words[1:]]
                runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
            status = 1
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                status = status or 120  # as Python does
        return status

    def running(self) -> bool:
        """Return whether it has not ended yet."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is None

    def screen(self) -> str:
        """Return what it has printed until now, output and errors."""
        return "".join(path.read_text(errors="replace") for path in self._logs)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the program, if it is still running."""
        if self.running():
            os.kill(self.pid, number)

    def loaders(self) -> list[int]:
        """Return the ids of its child processes."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        try:
            return [int(word) for word in children.read_text().split()]
        except OSError:
            return []

    def wait(self, seconds: float = PROGRAM_SECONDS) -> Outcome:
        """Return how it ended; kill what is left of its processes."""
        until = time.monotonic() + seconds
        while self.running() and time.monotonic() < until:
            time.sleep(0.01)
        hangs = self.running()
        computing = hangs and self._computes()
        self.kill()
        while self.running():
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        # PyTorch ends what a dying loader process says with a zero byte.
        output, errors = (path.read_text(errors="replace").replace("\0", "") for path in self._logs)
        for path in self._logs:
            path.unlink()
        return Outcome(self.words, None if hangs else self._status, output, errors, computing)

    def _computes(self, seconds: float = 2) -> bool:
        """Return whether it and its children use a tenth of a processor or more."""
        before = self._processor_seconds()
        time.sleep(seconds)
        return self._processor_seconds() - before > seconds / 10

    def _processor_seconds(self) -> float:
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended
                fields = path.read_text(errors="replace").rsplit(")", 1)[1].split()
                if int(fields[3]) == self.pid:  # the session
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def _empty_file(folder: Path) -> Path:
    descriptor, path = tempfile.mkstemp(dir=folder, prefix="screen.")
    os.close(descriptor)
    return Path(path)


def run(folder: Path, *words: object, prepare: Callable[[], None] | None = None, seconds: float = PROGRAM_SECONDS):
    """Run a program to its end; see `Program`."""
    return Program(folder, *words, prepare=prepare).wait(seconds)


# Faults that `prepare` injects ---------------------------------------------------------------------------------------

WRITE_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")


class Operations:
    """Count a program's changes of files below a folder, and do something before the n-th.

    Args:
        below: the folder.
        number: of the operation, from 0; None: only count.
        act: what to do before it: kill the process, or raise an error of the disk.
        counted: a file that gets one byte for each operation.
    """

    def __init__(self, below: Path, number: int | None, act: Callable[[], None], counted: Path | None = None):
        self.below, self.number, self.act, self.counted = os.path.realpath(below), number, act, counted
        self.count = 0
        self.pid = None

    def __call__(self) -> None:
        self.pid = os.getpid()
        sys.addaudithook(self._audit)
        real = os.fsync

        def fsync(file: int) -> None:
            self._happens(os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}"))
            real(file)

        os.fsync = fsync

    def _audit(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR):
                self._happens(path)
        elif event in WRITE_EVENTS and isinstance(arguments[0], (str, bytes, Path)):
            self._happens(arguments[0])

    def _happens(self, path: str | bytes | Path) -> None:
        if os.getpid() != self.pid or not os.path.abspath(os.fsdecode(path)).startswith(self.below):
            return
        if self.counted:
            descriptor = os.open(self.counted, os.O_APPEND | os.O_CREAT | os.O_RDONLY | os.O_WRONLY)
            os.write(descriptor, b".")
            os.close(descriptor)
        self.count += 1
        if self.count - 1 == self.number:
            self.act()


def die() -> None:
    """End this process as a power failure would."""
    os.kill(os.getpid(), signal.SIGKILL)


def full_disk() -> None:
    """Fail as a full disk does."""
    raise OSError(28, "No space left on device")
