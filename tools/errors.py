"""Errors that are the user's to mend: one line on the screen, no traceback."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can put right; its text says what and how."""


def run_main(main: Callable[[], None]) -> None:
    """Run `main`; a `UserError` ends the program with `error: <message>` on stderr and exit status 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
