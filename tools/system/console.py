"""The screen as a program sees it: what cannot be shown there costs words, never the program."""

import contextlib
import os
import sys
from typing import Any, TextIO


class ForgivingStream:
    """A text stream whose errors end nothing: a closed pipe or terminal, a full disk, characters it cannot encode."""

    def __init__(self, stream: TextIO | None):
        # A program that was started with the descriptor closed has no stream at all.
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 – open as long as the program
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
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
