"""What stays of a finished run (`--keep`), and that a kill while the rest is removed costs nothing."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.command_line import ROOT, SCRIPTS, environment, refused, run, small_with

# Runs a script whose n-th change of the disk after its last line kills it ("kill") or fails ("full").
DISTURBED = """
import os, runpy, signal, sys
from tools.runs.log import RunLog

fault, left, close = sys.argv.pop(1), int(sys.argv.pop(1)), RunLog.close

def disturbed(operation):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0 and fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if left < 0:
            raise OSError(28, "No space left on device")
        return operation(*arguments, **options)
    return call

def armed(log):
    os.fsync, os.unlink = disturbed(os.fsync), disturbed(os.unlink)
    close(log)

RunLog.close = armed
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
OPERATIONS = 5  # of the clean-up: sync the log; remove a state and sync the folder, twice
LEFT = (2, 2, 1, 1, 0)  # states before each of them


def words(toy: Path, *more: object, **changes: object) -> list:
    given = {"data_dir": toy, "tag": "x", "max_epoch": 2, "lr": 0.01, "device": "cpu", **changes}
    return [*small_with(**given), *more]


@pytest.fixture(scope="module")
def everything(toy, tmp_path_factory) -> Path:
    """A folder with a finished run x of two epochs that keeps all."""
    folder = tmp_path_factory.mktemp("everything")
    result = run(folder, SCRIPTS["Max"], *words(toy, keep="all"))
    assert result.returncode == 0, result.stderr
    assert "kept (--keep all): also the model of every epoch, and the states" in result.stdout
    return folder


@pytest.fixture
def folder(everything, tmp_path) -> Path:
    """A copy of it."""
    shutil.copytree(everything, tmp_path / "run")
    return tmp_path / "run"


def results(folder: Path) -> dict[str, bytes]:
    """Return every file's content by its path, except states and the log."""
    found = {path.relative_to(folder / "experiments"): path for path in (folder / "experiments").rglob("*.*")}
    kept = {name: path for name, path in found.items() if name.parts[0] not in ("states", "logs") and path.is_file()}
    return {str(name): path.read_bytes() for name, path in kept.items()}


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "experiments/states").glob("*.pth"))


def same_weights(*paths: Path) -> bool:
    ours, theirs = (torch.load(path, weights_only=True) for path in paths)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_by_default_the_models_stay_and_the_states_go(everything, toy, tmp_path):
    result = run(tmp_path, SCRIPTS["Max"], *words(toy))
    assert result.returncode == 0, result.stderr
    assert "kept (--keep best): the best and last models, not the states" in result.stdout
    assert states(tmp_path) == [] and not (tmp_path / "experiments/epochs").exists()
    for name in ("best_x.pth", "last_x.pth", "x.pth"):
        assert same_weights(*(root / "experiments/models" / name for root in (tmp_path, everything)))


def test_all_keeps_every_epoch_s_model_and_states_that_train_longer(folder, toy):
    epochs, last = folder / "experiments/epochs/x", folder / "experiments/models/last_x.pth"
    assert states(folder) == ["x.earlier.pth", "x.pth"]
    assert sorted(path.name for path in epochs.glob("*.pth")) == ["x_epoch_001.pth", "x_epoch_002.pth"]
    assert same_weights(epochs / "x_epoch_002.pth", last) and not same_weights(epochs / "x_epoch_001.pth", last)
    split = ("--data_dir", toy, "--split", "Main/val", "--num_workers", 0, "--bootstrap", 0, "--device", "cpu")
    result = run(folder, "evaluate_classification.py", "--weights", epochs / "x_epoch_001.pth", *split)
    assert result.returncode == 0, result.stderr
    longer = run(folder, SCRIPTS["Max"], *words(toy, "--resume", "--force", keep="all", max_epoch=3))
    assert longer.returncode == 0 and "resumed at iteration 8" in longer.stdout, longer.stderr
    assert same_weights(epochs / "x_epoch_003.pth", last)


def test_resuming_a_finished_run_without_states_is_one_line_and_loses_nothing(folder, toy):
    result = run(folder, SCRIPTS["Max"], *words(toy, "--resume"))  # with --keep best
    assert result.returncode == 0 and states(folder) == [], result.stderr
    before = results(folder)
    result = run(folder, SCRIPTS["Max"], *words(toy, "--resume", num_workers=1))
    assert result.returncode == 0, result.stderr
    said = "[i] nothing to resume: the run x is finished; --keep best removed its states"
    assert result.stdout.strip() == said
    for more in ((), ("--force",)):
        line = refused(folder, SCRIPTS["Max"], *words(toy, "--resume", *more, max_epoch=3))
        assert "max_epoch: saved 2, now 3" in line and "--keep all" in line
    line = refused(folder, SCRIPTS["cMax"], *words(toy, "--resume"))
    assert "is of strategy Max: use its script, not that of cMax" in line
    assert results(folder) == before


def test_a_new_run_archives_the_models_of_every_epoch(folder, toy):
    kept = results(folder)
    assert run(folder, SCRIPTS["Max"], *words(toy, max_epoch=1)).returncode == 0
    archived = results(folder)
    assert all(archived[f"earlier/x.1/{name}"] == content for name, content in kept.items())
    assert not (folder / "experiments/epochs/x").exists()


def clean_up(folder: Path, toy: Path, fault: str, number: int) -> subprocess.CompletedProcess:
    """Resume the finished run with --keep best, and disturb an operation of its clean-up."""
    typed = ["-c", DISTURBED, fault, number, ROOT / SCRIPTS["Max"], *words(toy, "--resume")]
    command, variables = [sys.executable, *map(str, typed)], environment(folder)
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=560)


@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=() if number in (1, 3) else pytest.mark.slow) for number in range(OPERATIONS)]
)
def test_a_kill_during_the_clean_up_leaves_a_run_that_is_finished_or_ends_again(number, folder, toy):
    whole = results(folder)
    assert clean_up(folder, toy, "kill", number).returncode == -signal.SIGKILL
    assert len(states(folder)) == LEFT[number] and results(folder) == whole
    again = run(folder, SCRIPTS["Max"], *words(toy, "--resume"))
    assert again.returncode == 0, again.stderr
    assert ("resumed at iteration 8" if LEFT[number] else "nothing to resume: the run x") in again.stdout
    assert states(folder) == [] and results(folder) == whole


@pytest.mark.slow
def test_a_clean_up_has_no_further_operation(folder, toy):
    assert clean_up(folder, toy, "kill", OPERATIONS).returncode == 0
    assert states(folder) == []


def test_states_stay_where_the_disk_does_not_take_the_log(folder, toy):
    result = clean_up(folder, toy, "full", 0)
    assert result.returncode == 2 and "cannot write experiments/logs/x.txt" in result.stderr, result.stderr
    assert states(folder) == ["x.earlier.pth", "x.pth"]
