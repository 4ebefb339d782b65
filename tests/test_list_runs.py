"""Runs are listed, compared and removed by their tags."""

import fcntl
import json
from pathlib import Path

import pytest

from tests.helpers.command_line import refused, run
from tools.list_runs import find_runs, read_run
from tools.runs.folder import Folder

PROGRAM = ("-m", "tools.list_runs")


def make_run(folder: Path, tag: str, values: list[float], **arguments: object) -> None:
    experiments = Folder(folder / "experiments")
    rows = [{"iteration": 10 * epoch, "epoch": epoch, "map": value} for epoch, value in enumerate(values, 1)]
    history = {"train": [], "validation": rows}
    config = {"strategy": "cMax", "max_epoch": 3, **arguments}
    for path, content in (
        (experiments.history(tag), json.dumps(history)),
        (experiments.config(tag), json.dumps(config)),
        (experiments.log(tag), "[i] a line\n"),
        (experiments.model(tag, "best_"), "x" * (1 << 20)),
        (experiments.snapshots(tag) / "epoch_001.png", "y" * 1000),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.fixture
def runs(tmp_path) -> Path:
    make_run(tmp_path, "first", [10.0, 30.0, 20.0], lr=0.1)
    make_run(tmp_path, "second", [40.0], lr=0.2)
    return tmp_path


def test_a_list_shows_states_results_and_sizes(runs):
    result = run(runs, *PROGRAM)
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[1] == ["first", "cMax", "finished", "30.00", "1.0"]
    assert lines[2] == ["second", "cMax", "epoch", "1", "of", "3", "40.00", "1.0"]
    assert lines[3][:2] == ["2", "runs"]
    experiments = Folder(runs / "experiments")
    files = [path for path in experiments.root.rglob("*first*") if path.is_file()]
    expected = sum(path.stat().st_size for path in files) + 1000
    assert read_run(experiments, "first").size == expected


def test_a_comparison_shows_only_what_differs(runs):
    text = run(runs, *PROGRAM, "first", "second", "--compare").stdout
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["mAP", "state", "lr"]
    Folder(runs / "experiments").model("first").write_text("x" * (2 << 20))
    assert "MiB 3.0 1.0" in " ".join(run(runs, *PROGRAM, "first", "second", "--compare").stdout.split())
    assert run(runs, *PROGRAM, "first", "first", "--compare").stdout.strip() == "no difference"


def test_named_runs_are_removed_and_others_stay(runs):
    experiments = Folder(runs / "experiments")
    (export := experiments.export(experiments.model("first", "best_"), ".onnx")).parent.mkdir()
    export.write_text("z" * (2 << 20))
    listed = run(runs, *PROGRAM).stdout
    assert listed.splitlines()[-1].startswith("not listed: exports/ 2.0 MiB (an earlier run: ")
    result = run(runs, *PROGRAM, "first", "--remove")
    assert result.returncode == 0, result.stderr
    for part in ("removing first (1.0 MiB): ", "experiments/models/best_first.pth", "experiments/snapshots/first"):
        assert part in result.stdout
    assert result.stdout.endswith("\nkept: experiments/exports/best_first.onnx\n")
    assert find_runs(experiments) == ["second"]
    left = [path.name for path in experiments.root.rglob("*first*")]
    assert left == ["best_first.onnx"]
    assert not (experiments.root / "states").exists()
    assert "\n1 run " in run(runs, *PROGRAM).stdout
    assert experiments.model("second", "best_").exists()


@pytest.mark.parametrize(
    "kind, content",
    [("history", "["), ("history", "[1]"), ("history", '{"train": 3}'), ("config", "["), ("config", "[1]")],
)
def test_a_damaged_run_costs_its_row_and_can_be_removed(runs, kind, content):
    getattr(Folder(runs / "experiments"), kind)("first").write_text(content)
    result = run(runs, *PROGRAM)
    assert result.returncode == 0 and "experiments/data/first" in result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[1:3]] == ["first", "second"]
    assert "damaged" in result.stdout.splitlines()[1]
    assert run(runs, *PROGRAM, "first", "--remove").returncode == 0
    assert find_runs(Folder(runs / "experiments")) == ["second"]


def test_a_running_run_is_not_removed_nor_any_that_is_named_with_it(runs):
    lock = Folder(runs / "experiments").state("first", ".lock")
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        assert "already running" in refused(runs, *PROGRAM, "second", "first", "--remove")
    for tag in ("first", "second"):
        assert Folder(runs / "experiments").model(tag, "best_").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["third"], "no run third in experiments (here: first, second)"),
        (["--remove"], "name the runs to remove"),
        (["first", "--compare"], "name two runs"),
        (["../experiments/logs/first", "--remove"], "no run ../experiments/logs/first"),
    ],
)
def test_mistakes_are_one_line(runs, words, message):
    assert message in refused(runs, *PROGRAM, *words)


def test_an_empty_folder_has_no_runs(tmp_path):
    result = run(tmp_path, *PROGRAM)
    assert result.returncode == 0 and "0 runs" in result.stdout
