"""Errors that are the user's to mend: one line on the screen, no traceback, exit status 2."""

import sys
from collections.abc import Callable

_IN_TRACEBACK = "UserError: "


class UserError(Exception):
    """Something the user can put right. Its text is one line: what is wrong, where, and what to do."""

    def __str__(self) -> str:
        # A loader process hands its error on inside the text of a traceback; the last line is the error's own.
        text = super().__str__().strip()
        if _IN_TRACEBACK in text:
            text = text.rsplit(_IN_TRACEBACK, 1)[1]
        return " ".join(text.split())


def run_main(main: Callable[[], None]) -> None:
    """Run a program: a `UserError` ends it with one line on stderr and status 2, Ctrl-C with one line and 130."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


MAX_QUOTED_CHARS = 60  # characters of a stranger's word in a message


def shorten(text: str) -> str:
    return text if len(text) <= MAX_QUOTED_CHARS else text[:MAX_QUOTED_CHARS] + "…"


def quoted(text: str) -> str:
    """A stranger's text as it may stand in a message: short, on one line, nothing that a terminal obeys."""
    return repr(shorten(text))
