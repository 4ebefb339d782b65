"""Errors that the user can fix: one line on the screen, no traceback, exit status 2."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from tools.system.console import forgive_streams, printable, restart_in_utf8
from tools.system.interruption import end_loader_processes
from tools.system.shortages import LOADER, shortage

MAX_QUOTED_CHARS = 60


class UserError(Exception):
    """Something the user can fix. Its text is one line: what is wrong, where, and what to do."""

    def __str__(self) -> str:
        # A loader process passes its error on inside the text of a traceback; the last line is the error itself.
        return printable(" ".join(super().__str__().rsplit("UserError: ", 1)[-1].split()))


class Shortage(UserError):
    """The machine lacks something: what was asked for may be right, and what was read may be whole."""


def run_main(main: Callable[[], None]) -> None:
    """Run a program: a `UserError` ends it with one line on stderr and status 2, Ctrl-C with one line and 130.

    What cannot be written to stdout and stderr is lost without an error.
    """
    restart_in_utf8()
    forgive_streams()
    sys.unraisablehook = _report_unraisable
    try:
        # Twice: the signal of a dead loader process may arrive while the inner context ends.
        with explain_shortages(), explain_shortages():
            main()
    except UserError as error:
        sys.unraisablehook = lambda _: None  # of what an error left half made, libraries' destructors may complain
        sys.stderr.end_line()
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        with suppress(RuntimeError):  # a loader that dies now has done its work
            end_loader_processes()  # a loader that an error has left half made would wait seconds for each of them


def _report_unraisable(unraisable: Any) -> None:
    """Report an error in a destructor, unless a loader process has died while its finished loader was destroyed."""
    if LOADER not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


@contextmanager
def explain_shortages(then: str = "", **advice: str) -> Iterator[None]:
    """Turn what the machine lacks (`shortage` takes `advice`), and a path that the system refuses, into a `UserError`.

    `then` is appended to the line: how to continue afterward.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # The signal of a dead loader process would raise PyTorch's error once more, while this one is explained.
        with suppress(ValueError):  # outside the main thread, which alone handles signals
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        text = shortage(error, **advice)
        if text is None and isinstance(error, OSError) and error.filename is not None:
            text = f"cannot use {error.filename} ({error.strerror}): check the path"
        if text is None:
            raise
        raise UserError(text + then) from error


def shorten(text: str) -> str:
    """Return at most `MAX_QUOTED_CHARS` characters of untrusted text."""
    return text if len(text) <= MAX_QUOTED_CHARS else text[:MAX_QUOTED_CHARS] + "…"


def quoted(text: str) -> str:
    """Return untrusted text as a message may show it: short, on one line, without control characters."""
    return repr(shorten(text))


def first_few(items: Sequence[str], count: int = 3, separator: str = ", ") -> str:
    """Return the first items, and how many more there are.

    >>> first_few(["a", "b", "c"]), first_few(["a", "b", "c", "d", "e"])
    ('a, b, c', 'a, b, c, and 2 more')
    """
    more = [f"and {len(items) - count:,} more"] if len(items) > count else []
    return separator.join([*items[:count], *more])


@contextmanager
def advice(text: str) -> Iterator[None]:
    """Append to a `UserError` of a library, which does not know where a value comes from, which argument to check."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; {text}") from error


@contextmanager
def reported(problem: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn an error of these kinds into a `UserError` that says the problem and, in parentheses, its reason."""
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise UserError(f"{problem} ({reason(error)})") from error


def reason(error: Exception) -> str:
    """Return the cause of an error in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].split("; use ")[0]  # Python tells how to read a number of thousands of digits
