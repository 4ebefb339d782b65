"""docs/study.md: what it shows is what its commands make of the files in docs/study, without any training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command_line import ROOT
from tests.helpers.pages import blocks_of

PAGE = ROOT / "docs/study.md"
ROOMS = ("baselines", "core", "data", "docs", "tools", "evaluate_classification.py", "reproduce_tables.py")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> set[str]:
    """Run the page's commands in an empty folder, as written; return the lines that they print and write."""
    folder = tmp_path_factory.mktemp("study")
    for name in ROOMS:
        (folder / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    lines: set[str] = set()
    for block in blocks_of(PAGE):
        if block.marker == "own test":
            words = ["bash", "-euo", "pipefail", "-c", block.text]
            result = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
            assert result.returncode == 0, f"{block}: {result.stderr}"
            lines.update(result.stdout.splitlines())
    for file in (folder / "study").rglob("*.md"):
        lines.update(file.read_text(encoding="utf-8").splitlines())
    return lines


def test_every_table_and_output_of_the_page_is_made_by_its_commands(made):
    tables = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    printed = [line for block in blocks_of(PAGE) if block.marker == "output" for line in block.text.splitlines()]
    assert len(tables) > 10 and len(printed) > 10
    assert [line for line in [*tables, *printed] if line not in made] == []


def test_the_files_of_the_study_are_small_and_say_nothing_of_where_they_were_made():
    files = [path for path in (ROOT / "docs/study").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 8e6
    for path in files:
        text = path.read_bytes()
        assert b"/home/" not in text and b"/Users/" not in text, path
