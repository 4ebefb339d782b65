"""A command line whose every mistake is one line, and which names the argument that was probably meant."""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import NoReturn

from tools.system.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse's, but for this: nothing is abbreviated, and a mistake is a `UserError` (one line, exit status 2)."""

    def __init__(self, *args, **options):
        super().__init__(*args, **{"allow_abbrev": False, "formatter_class": HelpWithDefaults, **options})

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        """The arguments.

        Raises:
            UserError: whatever is wrong with them.
        """
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self.unknown(unknown[0]))
        return parsed

    def unknown(self, word: str) -> str:
        """That a word of the command line is not known, and which is near."""
        if not word.startswith("-"):
            return f"unexpected word {word!r}: values follow the name of their argument"
        name = word.split("=")[0]
        return f"unknown argument {name}: {near(name, self.flags())}"

    def flags(self) -> list[str]:
        """Every argument that --help shows."""
        shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
        return [flag for action in shown for flag in action.option_strings]

    def error(self, message: str) -> NoReturn:
        """End with one line."""
        raise UserError(f"{message} (--help lists all arguments)" if "--help" not in message else message)


def near(word: str, known: Iterable[str]) -> str:
    """Which of the known words is probably meant.

    >>> near("--batchsize", ["--batch_size", "--lr"])
    'did you mean --batch_size?'
    >>> near("--xyz", ["--batch_size", "--lr"])
    '--help lists all arguments'
    """
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {found[0]}?" if found else "--help lists all arguments"


class HelpWithDefaults(argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines and says each argument's default, or that it is required."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if "default" in text or action.dest == "help":
            return text
        if action.required:
            return f"{text} (required)"
        shown = "none" if action.default in (None, "") else action.default
        return f"{text} (default: {str(shown).replace('%', '%%')})"
