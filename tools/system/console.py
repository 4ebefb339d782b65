"""The screen, and the names of files, as a program sees them: what cannot be shown is lost, never an error."""

import contextlib
import os
import re
import sys
from typing import Any, TextIO

MOVES = re.compile(r"(?:[\r\n]|\x1b\[A)*")  # of the cursor, which progress bars write
BAR = re.compile(r"(\r?)(.*?)(\r?)", re.DOTALL)


def printable(text: str) -> str:
    r"""Return text whose control characters, also invisible ones and bytes that are not UTF-8, are escaped.

    >>> printable("Straße\x1b[2J"), printable("犬\udcff")
    ('Straße\\x1b[2J', '犬\\udcff')
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def duration(seconds: float) -> str:
    """Return a time to read.

    >>> duration(4.4), duration(100), duration(3540), duration(3600 * 25.5)
    ('4 s', '1 min 40 s', '59 min', '25 h 30 min')
    """
    if seconds >= 600:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes} min" if hours else f"{minutes} min"
    minutes, rest = divmod(round(seconds), 60)
    return " ".join(filter(None, (f"{minutes} min" if minutes else "", f"{rest} s" if rest or not minutes else "")))


class ForgivingStream:
    """A text stream whose errors end nothing: a closed pipe or terminal, a full disk, characters it cannot encode."""

    def __init__(self, stream: TextIO | None):
        # A program that was started with the descriptor closed has no stream at all.
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 – open as long as the program
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")
        self._line_is_open = False

    def end_line(self) -> None:
        """Start a new line if one is begun, as by a progress bar whose end an error has prevented."""
        if self._line_is_open:
            self.write("\n")

    def write(self, text: str) -> int:
        if text:
            self._line_is_open = not text.endswith(("\n", "\r", "\x1b[A"))
        if not MOVES.fullmatch(text):
            # A progress bar begins and ends with \r; elsewhere, what came from a file may steer the terminal.
            start, middle, end = BAR.fullmatch(text).groups()
            text = start + "".join(char if char in "\n\t" else printable(char) for char in middle) + end
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # ValueError: the stream was closed
            return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def forgive_streams() -> None:
    """Make stdout and stderr of this process forgiving, until it ends: Python writes what is left when it exits."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Otherwise the next file to be opened gets this number, and what libraries print gets into the file.
            os.open(os.devnull, os.O_RDWR)
    if not isinstance(sys.stdout, ForgivingStream):
        sys.stdout = ForgivingStream(sys.stdout)
    if not isinstance(sys.stderr, ForgivingStream):
        sys.stderr = ForgivingStream(sys.stderr)


def restart_in_utf8() -> None:
    """Restart this program in Python's UTF-8 mode if Python takes file names for ASCII (LC_ALL=C, PYTHONUTF8=0).

    There a folder lists an umlaut's name in another form than a list or a table holds it, and neither finds the file.
    The screen keeps its encoding.
    """
    if sys.getfilesystemencoding() == "ascii" and sys.executable and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.environ.setdefault("PYTHONIOENCODING", "ascii")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
