"""The rounds of faults run, with few cases: docs/running.md says how many were tried."""

import subprocess
import sys

import pytest

from tests.helpers.command_line import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, share",
    [("kills", 0.05), ("damage", 0.05), ("loaders", 0.05), ("open_files", 0.05)]
    + [("states", 0.1), ("checkpoints", 0.1), ("arguments", 0.02)],
)
def test_a_round_finds_no_fault(name, share):
    words = (sys.executable, "-m", "tests.rounds", name, "--share", str(share), "--seed", "9")
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout
    assert " 0 faults" in result.stdout
