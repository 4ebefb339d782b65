"""Ending a run on request: Ctrl-C, `kill`, preemption by a queueing system, or a terminal that closes."""

import atexit
import contextlib
import multiprocessing
import signal
import time
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 3  # a second signal within them counts as the first: a launcher may pass the same one on


class Interrupted(SystemExit):
    """A signal ends the program, with status 128 + its number (Ctrl-C 130, SIGTERM 143, SIGHUP 129)."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Interruption:
    """Note a signal of `SIGNALS` instead of dying at once, so that the run can end between two iterations.

    SIGHUP stays ignored where it is (`nohup`). A second signal after `GRACE_SECONDS` ends the process at once. Outside
    the main thread, where Python handles no signals, nothing is noted.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._noted_at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        with contextlib.suppress(ValueError):  # outside the main thread
            for number in SIGNALS[:2] if ignored else SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._number is None:
            self._number, self._noted_at = number, time.monotonic()
        elif time.monotonic() - self._noted_at > GRACE_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    @property
    def requested(self) -> bool:
        return self._number is not None

    def error(self) -> Interrupted:
        """Return what to raise. Another process of the run may have got the signal: then it counts as SIGTERM."""
        return Interrupted(self._number or signal.SIGTERM)


def ignore_signals(_: int = 0) -> None:
    """Ignore them in a loader process: Ctrl-C reaches the whole group, and the main process decides what happens."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_loader_processes_at_exit() -> None:
    """Kill loader processes when Python exits: it sends them SIGTERM and waits, forever if they ignore it."""
    atexit.unregister(_kill_children)
    atexit.register(_kill_children)


def _kill_children() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # otherwise torch reports each of them as an accident
    for process in multiprocessing.active_children():
        process.kill()
