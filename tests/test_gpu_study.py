"""benchmarks/gpu_study.sh at toy size on the CPU: stopped by its time, continued elsewhere from its two archives."""

import csv
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.helpers.command_line import ROOT
from tools.scale_devkit import write_archive

SCRIPT = ROOT / "benchmarks/gpu_study.sh"
SIZES = "--architecture resnet18 --image_size 32 --min_image_size 32 --max_image_size 48 --amp off"


def study(folder: Path, *given: object, **variables: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(folder), "OMP_NUM_THREADS": "1", "DEVICE": "cpu", **variables}
    words = ["bash", str(SCRIPT), *map(str, given)]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500)


@pytest.fixture(scope="module")
def archive(toy, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "toy.tar"
    write_archive(toy, path, 32)
    return path


@pytest.mark.parametrize(
    "given, variables, said",
    [
        (("toy.tar", "none"), {}, "error: usage: bash benchmarks/gpu_study.sh DATA WEIGHTS MINUTES"),
        (("toy.tar", "none", "soon"), {}, "error: usage: "),
        (("missing", "none", 1), {}, "error: missing: no such file or folder"),
        (("toy.tar", "none", 1), {"RUNS": "0"}, "error: RUNS=0: must be a whole number above 0"),
        (("toy.tar", "none", 1), {"DEVICE": "cuda:0", "PATH": "/usr/bin:/bin"}, "error: no GPU found"),
        (("other.tar", "none", 1), {}, "is not an archive of tools.scale_devkit --archive"),
    ],
)
def test_it_refuses_in_one_line(archive, tmp_path, given, variables, said):
    if "PATH" in variables and shutil.which("nvidia-smi"):
        pytest.skip("there may be a GPU")
    shutil.copy(archive, tmp_path / "toy.tar")
    with tarfile.open(tmp_path / "other.tar", "w") as other:
        other.add(archive, "image.tar")
    result = study(tmp_path, *given, RESULTS=str(tmp_path / "results"), **variables)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert said in result.stderr


@pytest.mark.parametrize("works", [True, False])
def test_the_service_by_which_runs_share_a_gpu_is_ended_with_the_script(tmp_path, works):
    """The driver's control program and the process that tries the service are played here."""
    calls = 'echo "${1:-$(cat)}" "$CUDA_MPS_PIPE_DIRECTORY" >>"$HOME/calls"'
    for name, line in {"nvidia-cuda-mps-control": calls, "python": "true" if works else "false"}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    script = f'. {ROOT}/benchmarks/common.sh; start_mps cuda:0 || echo no; echo "${{CUDA_MPS_PIPE_DIRECTORY:-none}}"'
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    words = ["bash", "-euo", "pipefail", "-c", script]
    result = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    (start, folder), (end, same) = (line.split() for line in (tmp_path / "calls").read_text().splitlines())
    assert (start, end) == ("-d", "quit") and folder == same and not Path(folder).exists()
    assert result.stdout.split() == ([folder] if works else ["no", "none"])
    assert ("does not work here" in result.stderr) == (not works)


@pytest.mark.slow
def test_a_study_continues_where_its_time_was_over(archive, tmp_path):
    """The first call is over in the middle of a run; the second has nothing but the archives of the first."""
    first, second = tmp_path / "first", tmp_path / "second"
    long = {"ARGUMENTS": f"{SIZES} --max_epoch 30 --save_minutes 0.1", "RUNS": "2", "RESERVE": "20"}
    begun = study(tmp_path, archive, "none", 1, RESULTS=str(first), **long)
    assert begun.returncode == 0, begun.stderr
    assert "== 1 of 140: plain_seed0 is new" in begun.stdout and " of 14 rows, " in begun.stdout
    second.mkdir()
    for name in ("results.tar.gz", "states.tar"):
        shutil.copy(first / name, second / name)
    with tarfile.open(first / "results.tar.gz") as results, tarfile.open(first / "states.tar") as states:
        assert not any(name.endswith(".pth") for name in results.getnames())
        interrupted = [found[1] for name in states.getnames() if (found := re.search(r"states/(\w+)\.pth$", name))]
    assert interrupted
    elsewhere = tmp_path / "moved.tar"
    shutil.copy(archive, elsewhere)
    again = study(tmp_path, elsewhere, "none", 3, RESULTS=str(second), **long)
    assert again.returncode == 0, again.stderr
    for tag in interrupted:
        log = (second / f"experiments/logs/{tag}.txt").read_text()
        assert re.search(r"\[i\] resumed at iteration [1-9]", log), tag
    shown = re.search(r"tables of (\d+) of 14 rows, 1 of 10 seeds", again.stdout)
    assert shown and int(shown[1]) >= 2
    rows = list(csv.DictReader((second / "tables/strategies.csv").open(encoding="utf-8")))
    assert len(rows) >= 2
    with tarfile.open(second / "results.tar.gz") as results:
        names = results.getnames()
    assert {"tables/strategies.csv", "experiments/evaluation/best_plain_seed0_Main_val.npz"} <= set(names)
    assert (second / "results.tar.gz").stat().st_size < 20 << 20

    # The tables need only the first archive.
    third = tmp_path / "third"
    third.mkdir()
    shutil.copy(second / "results.tar.gz", third)
    tables = study(tmp_path, elsewhere, "none", 1, RESULTS=str(third), **{**long, "RESERVE": "60"})
    assert tables.returncode == 0, tables.stderr
    made = list(csv.DictReader((third / "tables/strategies.csv").open(encoding="utf-8")))
    assert made == rows
