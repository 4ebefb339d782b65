"""Code, messages, help texts and pages are written in plain American English: none of these patterns occurs."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from tests.helpers.command_line import ROOT

# A pattern, and what to write instead. A space matches any whitespace, also a line break.
PATTERNS = {
    r"(?<!there\s)\b(is|are|was) no\b(?! (longer|more than))": "is not a",
    r"\bno (number|reader|readable)\b": "NaN, not a number; cannot be read",
    r"\b(go|goes|going|went) on\b": "continue, resume",
    r"\b(broken off|breaks off)\b": "interrupted, stopped",
    r"\bgives\b": "returns, computes, writes",
    r"\bstands?\b(?! for\b)": "is",
    r"\banew\b": "again",
    r"\bso many\b": "N",
    r"\bbut for\b": "except",
    r"\b(crops?|images?|iterations?|seconds?|steps?|passes|lines?) an? (epoch|image|batch|crop|line)\b": "per",
    r"\bblanks?\b": "whitespace, spaces",
    r"\bunprintable signs\b|\bsigns\b(?! of\b)": "characters",
    r"\bbe had\b": "is available, can be downloaded",
    r"\bstrangers?\b": "untrusted input",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bper cent\b": "%",
    r"\bof before\b": "of earlier versions",
    r"\b(whence|for ever|in spite of|in the midst|beforehand|needless|amiss|to and fro)\b": "a plain word",
    r"\b(laid|lays?|lay) (back|together)\b": "stitched, merged",
    r"\b(dealt|deals?) (it |them |the \w+ )?out\b": "scatter",
    r"\b(put|puts) aside\b": "moved away, archived",
    r"\b(is|are|were) left out\b": "skipped",
    r"\bnearer\b": "closer",
    r"\btowards\b": "toward",
    r"(optimi|normali|synchroni|initiali|recogni|seriali)s(e|ing|ation|ed)": "-ize",
    r"(summari|visuali|minimi|maximi|locali)s(e|ing|ation|ed)": "-ize",
    r"\b(colour|behaviour|neighbour|favour)|\b(grey|labelled|modelling|cancelled|artefact)\b": "American spelling",
}
# Legitimate uses: the alias of --localization, and names of earlier versions.
ALLOWED = {
    "docs/arguments.md": ("--localisation",),
    "core/evaluation/config.py": ("localisation",),
    "CHANGELOG.md": ("--localisation",),
    "tools/reproduction/study.py": ("localisation",),  # the key of result files of earlier versions
    "tools/make_toy_voc.py": ("colours",),  # the key of a record of earlier versions
    "docs/migration.md": ("core/optimiser.py", "core/localisation.py", "localisation"),
}
FOLDERS = ("core", "tools", "baselines", "benchmarks", "docs")
FILES = sorted(
    path
    for suffix in ("py", "sh", "md")
    for path in (*ROOT.glob(f"*.{suffix}"), *(file for name in FOLDERS for file in (ROOT / name).rglob(f"*.{suffix}")))
)


def texts_of(path: Path) -> list[tuple[int, str]]:
    """Return the texts of a file with their first lines: strings and comments of Python, all of any other file."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return [(1, content)]
    strings = [node for node in ast.walk(ast.parse(content)) if isinstance(node, ast.Constant)]
    comments = [
        token for token in tokenize.generate_tokens(io.StringIO(content).readline) if token.type == tokenize.COMMENT
    ]
    return [
        *((node.lineno, node.value) for node in strings if isinstance(node.value, str)),
        *((token.start[0], token.string) for token in comments),
    ]


def findings(path: Path) -> list[str]:
    """Return the patterns found in a file, each with its line and what to write instead."""
    found = []
    for first, text in texts_of(path):
        for allowed in ALLOWED.get(path.relative_to(ROOT).as_posix(), ()):
            text = text.replace(allowed, "")
        for pattern, instead in PATTERNS.items():
            for match in re.finditer(pattern.replace(" ", r"\s+"), text, re.IGNORECASE):
                line = first + text[: match.start()].count("\n")
                found.append(f"{path.relative_to(ROOT)}:{line}: '{' '.join(match[0].split())}': write {instead}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_words_are_plain(path):
    assert not findings(path), "\n".join(findings(path))


@pytest.mark.parametrize("text", ("it is\nno file", "330 iterations an epoch", "goes on with N", "12 signs", "Gives X"))
def test_patterns_are_found_across_lines(tmp_path, monkeypatch, text):
    monkeypatch.setattr("tests.test_words.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(text)
    assert findings(page)
