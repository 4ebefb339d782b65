"""The fenced blocks of the project's pages."""

import re
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

from tests.helpers.command_line import ROOT


class Block(NamedTuple):
    """A fenced block of a page: the number of its first line, its language, its marker and its text."""

    page: Path
    line: int
    language: str
    marker: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    fences = [number for number, line in enumerate(lines) if line.lstrip().startswith("```")]
    for start, end in zip(fences[::2], fences[1::2], strict=True):
        text = dedent("\n".join(lines[start + 1 : end]))
        before = re.fullmatch(r"<!-- (.*) -->", lines[start - 1].strip()) if start else None
        found.append(Block(page, start + 1, lines[start].strip()[3:], before[1] if before else "", text))
    return found
