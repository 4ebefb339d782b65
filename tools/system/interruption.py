"""Ending a run on request: Ctrl-C, `kill`, or a queueing system that takes its machine back."""

import atexit
import multiprocessing
import signal
import time
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


GRACE_SECONDS = 3  # seconds in which a second signal counts as the first


class Interrupted(Exception):
    """Somebody asked the run to end.

    Attributes:
        status: the exit status by convention, 128 + the signal's number (130 for Ctrl-C, 143 for SIGTERM).
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Interruption:
    """Notes SIGINT and SIGTERM instead of dying at once, so that the run can end between two iterations.

    Another signal, later than that (a program that started this one may pass the first on), ends the process at once.
    Outside the main thread, where Python takes no signals, nothing
    is noted.
    """

    def __init__(self):
        self.number: int | None = None
        self._noted_at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        try:
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        except ValueError:
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number is None:
            self.number, self._noted_at = number, time.monotonic()
        elif time.monotonic() - self._noted_at > GRACE_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.number is not None

    def check(self) -> None:
        """Call this where the run may end.

        Raises:
            Interrupted: a signal has come.
        """
        if self.number is not None:
            raise Interrupted(self.number)


def ignore_signals(_: int = 0) -> None:
    """For loader processes: Ctrl-C reaches the whole group, and the main process decides what happens then."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_loader_processes_at_exit() -> None:
    """At its exit Python sends SIGTERM to the processes it started and waits, for ever where they ignore it."""
    atexit.unregister(_kill_children)
    atexit.register(_kill_children)


def _kill_children() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else torch reports each of them as an accident
    for process in multiprocessing.active_children():
        process.kill()
