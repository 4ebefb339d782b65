"""The rounds of faults run, with few cases: docs/running.md says how many were tried."""

import subprocess
import sys

import pytest

from tests.helpers.command_line import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kills", "damage", "loaders", "open_files"])
def test_a_round_finds_no_fault(name):
    words = (sys.executable, "-m", "tests.rounds", name, "--share", "0.05", "--seed", "9")
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout
    assert " 0 faults" in result.stdout
