"""The notebook docs/tour.ipynb: its cells run in order, and it is kept without outputs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command_line import ROOT

NOTEBOOK = json.loads((ROOT / "docs/tour.ipynb").read_text(encoding="utf-8"))


def test_it_is_kept_without_outputs_and_its_links_have_a_target():
    assert NOTEBOOK["nbformat"] == 4
    for cell in NOTEBOOK["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count")
        for target in re.findall(r"\]\(([^)]+)\)", "".join(cell["source"])):
            assert (ROOT / "docs" / target).exists(), target


@pytest.mark.slow
def test_its_cells_run_and_the_network_learns(tmp_path, monkeypatch):
    for name in ("core", "tools", "data", *(path.name for path in ROOT.glob("*.py"))):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in NOTEBOOK["cells"]:
        code = "".join(cell["source"])
        if code.startswith("%%bash\n"):
            subprocess.run(["bash", "-c", code.partition("\n")[2]], check=True, timeout=500)
        elif cell["cell_type"] == "code":
            exec(compile(code, cell["id"], "exec"), names)
    assert names["history"]["validation"][-1]["map"] > names["history"]["validation"][0]["map"]
    assert names["result"]._repr_png_().startswith(b"\x89PNG")
