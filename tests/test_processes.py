"""Several processes on one batch: torchrun as a user types it, against one process that does it all."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.helpers import own_strategy
from tests.helpers.command_line import SCRIPTS, SMALL, command, environment, run, small_with
from tools.data.datasets import VOCClassification
from tools.data.loader import evaluation_loader, training_loader
from tools.data.transforms import training_transform

# Maps are flat at the border, so the last bit of a feature can choose a keypoint, and an untrained network amplifies
# every rounding. So runs are compared after one step, or after steps too small to move a weight and without the losses
# that depend on keypoints: the last gradient then shows any difference.
BRIEF = ("--alpha_schedule_re", 0, "--batch_size", 64, "--max_epoch", 1, "--lr", 0.01)
GENTLE = ("--alpha_re", 0, "--alpha_p", 0, "--lr", 1e-9)


def started(folder: Path, processes: int, script: str, *words: object) -> subprocess.Popen:
    """Start `torchrun --nproc_per_node N script …` in `folder`, in a process group of its own."""
    launcher = command("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes)
    return subprocess.Popen(
        [*launcher, *command(script, *words, "--device", "cpu")[1:]],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(folder),
        start_new_session=True,
    )


def torchrun(folder: Path, processes: int, script: str, *words: object) -> subprocess.CompletedProcess:
    process = started(folder, processes, script, *words)
    output, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def the_error(result: subprocess.CompletedProcess) -> str:
    """Return the one line that says why all processes ended."""
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "core/training" not in result.stderr  # a traceback of ours; torchrun adds its own
    return line


def differences(folder: Path, other: Path, tag: str) -> dict[str, float]:
    """Return the largest difference in each tensor between two runs' last weights."""
    ours, theirs = (
        torch.load(root / f"experiments/models/last_{tag}.pth", weights_only=True) for root in (folder, other)
    )
    assert ours.keys() == theirs.keys()
    return {name: float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours}


def gradient(folder: Path, tag: str) -> torch.Tensor:
    """Return the last iteration's gradient (with momentum 1e-4, older ones have faded from the optimizer's buffer)."""
    state = torch.load(folder / f"experiments/states/{tag}.pth", weights_only=True)
    return torch.cat([entry["momentum_buffer"].flatten() for entry in state["trainer"]["optimizer"].values()])


def history(folder: Path, tag: str) -> dict[str, list]:
    return json.loads((folder / f"experiments/data/{tag}.json").read_text())


def assert_same_run(folder: Path, other: Path, tag: str, points: float = 1e-6) -> None:
    """Compare weights, statistics, gradients and losses up to rounding, mAP to `points` (rounding can swap ranks)."""
    assert {name: value for name, value in differences(folder, other, tag).items() if value > 1e-5} == {}
    assert (gradient(folder, tag) - gradient(other, tag)).norm() < 1e-2 * gradient(other, tag).norm()
    ours, theirs = history(folder, tag), history(other, tag)
    for row, other_row in zip(ours["validation"], theirs["validation"], strict=True):
        assert row["map"] == pytest.approx(other_row["map"], abs=points)
        assert row["eval_class_loss"] == pytest.approx(other_row["eval_class_loss"], rel=1e-4)
    for row, other_row in zip(ours["train"], theirs["train"], strict=True):
        assert row["iteration"] == other_row["iteration"] and row["loss"] == pytest.approx(other_row["loss"], abs=1e-5)


def check(
    folder: Path, toy: Path, script: str, several: tuple, alone: tuple, points: float = 1e-6
) -> subprocess.CompletedProcess:
    """Compare two processes in `folder`/two with one in `folder`/one."""
    two, one = folder / "two", folder / "one"
    two.mkdir()
    one.mkdir()
    words = [*SMALL, "--data_dir", toy, "--tag", "x", *BRIEF, "--keep", "all"]
    result = torchrun(two, 2, script, *words, *several)
    assert result.returncode == 0, result.stderr
    whole = run(one, script, *words, *alone)
    assert whole.returncode == 0, whole.stderr
    assert_same_run(two, one, "x", points)
    return result


def test_two_processes_train_like_one_with_two_replicas_and_only_the_first_writes(toy, tmp_path):
    result = check(tmp_path, toy, SCRIPTS["cTopk_w"], (), ("--replicas", 2))
    assert "on cpu, 2 processes" in result.stdout
    for word in ("training images", "eval_class_loss=", "best mAP"):
        assert result.stdout.count(word) == 1
    (log,) = (tmp_path / "two/experiments/logs").iterdir()
    assert log.read_text().count("best mAP") == 1
    state = torch.load(tmp_path / "two/experiments/states/x.pth", weights_only=True)
    assert len(state["random"]) == 2


def test_two_processes_with_different_numbers_of_crops_weight_further_losses_like_one(toy, tmp_path):
    check(tmp_path, toy, own_strategy.__file__, (), ("--replicas", 2))
    two, one = (history(tmp_path / folder, "x")["train"] for folder in ("two", "one"))
    for name in ("class_loss", "size_loss", "area_loss"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-4)


@pytest.mark.slow
def test_two_processes_begin_like_one_and_stay_near(toy, tmp_path):
    """What docs/running.md says: equal until rounding moves a keypoint, then near, as with two threads."""
    words = small_with(data_dir=toy, tag="x", max_epoch=2, lr=0.01, print_ratio=0.01, image_size=64, max_image_size=64)
    folders = {name: tmp_path / name for name in ("two", "one", "threads")}
    for folder in folders.values():
        folder.mkdir()
    results = [
        torchrun(folders["two"], 2, SCRIPTS["cTopk_w"], *words),
        run(folders["one"], SCRIPTS["cTopk_w"], *words, "--replicas", 2),
        run(folders["threads"], SCRIPTS["cTopk_w"], *words, "--replicas", 2, OMP_NUM_THREADS="2"),
    ]
    assert [result.returncode for result in results] == [0, 0, 0], results
    one = history(folders["one"], "x")["train"]
    for name in ("two", "threads"):
        other = history(folders[name], "x")["train"]
        assert other[0]["class_loss"] == pytest.approx(one[0]["class_loss"], rel=2e-6)
        for loss, share in (("class_loss", 0.02), ("loss", 0.1)):
            assert [row[loss] for row in other] == pytest.approx([row[loss] for row in one], rel=share)


def test_more_processes_than_validation_images_work_and_end_once(toy, tmp_path):
    few = tmp_path / "few"
    subprocess.run(["cp", "-r", str(toy), str(few)], check=True)
    lists = few / "ImageSets/Main"
    (lists / "val.txt").write_text((lists / "val.txt").read_text().splitlines()[0] + "\n")
    words = small_with(data_dir=few, tag="x", max_epoch=1)
    result = torchrun(tmp_path, 2, SCRIPTS["Max"], *words)
    assert result.returncode == 0, result.stderr
    assert "1 validation images" in result.stdout and result.stdout.count("eval_class_loss=") == 1
    assert not list((tmp_path / "experiments/states").glob("*.pth"))
    again = torchrun(tmp_path, 2, SCRIPTS["Max"], *words, "--resume")
    assert again.returncode == 0 and again.stdout.count("nothing to resume: the run x is finished") == 1, again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SCRIPTS)
def test_two_processes_of_every_strategy_train_like_one(strategy, toy, tmp_path):
    # Max's gradient goes through the tiles: of one feature cell each, half a crop would be normalized over two numbers.
    larger = ("--image_size", 64, "--max_image_size", 64, "--lr", 1e-4) if strategy == "Max" else ()
    check(tmp_path, toy, SCRIPTS[strategy], larger, (*larger, "--replicas", 2))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SCRIPTS)
def test_synchronized_statistics_equal_those_of_one_process_without_replicas(strategy, toy, tmp_path):
    check(tmp_path, toy, SCRIPTS[strategy], ("--sync_bn", *GENTLE), GENTLE, points=1)


@pytest.mark.slow
def test_two_processes_of_two_replicas_train_like_one_with_four(toy, tmp_path):
    check(tmp_path, toy, SCRIPTS["Max"], ("--replicas", 4, "--image_size", 64), ("--replicas", 4, "--image_size", 64))


def test_an_error_in_one_process_ends_all_with_its_message(toy, tmp_path):
    """A truncated image, read only by the process that has it in its part of the batch."""
    data = tmp_path / "data"
    subprocess.run(["cp", "-r", str(toy), str(data)], check=True)
    for image_id in (data / "ImageSets/Main/train.txt").read_text().split()[:8]:
        path = data / f"JPEGImages/{image_id}.jpg"
        path.write_bytes(path.read_bytes()[:-300])
    result = torchrun(tmp_path, 2, SCRIPTS["cMax"], *SMALL, "--data_dir", data, "--tag", "x", *BRIEF)
    line = the_error(result)
    assert "cannot decode" in line and ".jpg" in line
    assert not list((tmp_path / "experiments").rglob("*.tmp"))


@pytest.mark.slow
def test_a_mistake_that_every_process_finds_is_reported_once(toy, tmp_path):
    words = small_with(data_dir=toy, batch_size=15)
    line = the_error(torchrun(tmp_path, 2, SCRIPTS["Max"], *words))
    assert "--batch_size 15 is the whole batch and does not divide by 2 processes" in line
    assert not (tmp_path / "experiments").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_the_whole_batch_once(toy, tmp_path):
    words = [*SMALL, "--data_dir", toy, "--tag", "x", "--alpha_re", 1e39]
    line = the_error(torchrun(tmp_path, 2, SCRIPTS["cMax"], *words))
    assert "not finite at iteration 2" in line and line.count("toy_0") == 16
    result = torchrun(tmp_path, 2, SCRIPTS["cMax"], *words, "--on_nan", "skip", "--max_epoch", 1)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("skipped") == 3


def saved_iteration(folder: Path) -> int:
    try:
        return torch.load(folder / "experiments/states/x.pth", weights_only=True)["trainer"]["iteration"]
    except (OSError, RuntimeError, EOFError, ValueError):  # between two states
        return -1


def wait_for_iteration(process: subprocess.Popen, folder: Path, iteration: int) -> None:
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until and saved_iteration(folder) < iteration:
        time.sleep(0.01)
    assert process.poll() is None


def children(process: subprocess.Popen) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not path.exists():
        pytest.skip("this kernel does not list the children of a process")
    pids = [int(child) for child in path.read_text().split()]
    return [pid for pid in pids if "train_classification" in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.fixture(scope="module")
def uninterrupted(toy, tmp_path_factory) -> Path:
    """A folder with an uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    result = torchrun(folder, 2, SCRIPTS["cTopk_w"], *long_words(toy))
    assert result.returncode == 0, result.stderr
    return folder


def long_words(toy: Path) -> list:
    return [*SMALL, "--data_dir", toy, "--tag", "x", "--max_epoch", 3, "--lr", 0.01, "--save_minutes", 1e-9]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_of_two_processes_ends_bit_for_bit_like_an_uninterrupted_one(
    number, toy, tmp_path, uninterrupted
):
    """SIGTERM and SIGINT to torchrun, which passes them on; SIGKILL to one of its processes."""
    process = started(tmp_path, 2, SCRIPTS["cTopk_w"], *long_words(toy))
    wait_for_iteration(process, tmp_path, 3)
    os.kill(children(process)[1] if number == signal.SIGKILL else process.pid, number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    if number != signal.SIGKILL:
        assert output.count(f"{signal.Signals(number).name}: state saved at iteration") == 1, errors
    result = torchrun(tmp_path, 2, SCRIPTS["cTopk_w"], *long_words(toy), "--resume")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("resumed at iteration") == 1
    assert set(differences(tmp_path, uninterrupted, "x").values()) == {0}
    rows, whole = (history(folder, "x")["validation"] for folder in (tmp_path, uninterrupted))
    assert [{**row, "time": 0} for row in rows] == [{**row, "time": 0} for row in whole]


@pytest.mark.slow
@pytest.mark.parametrize("first, then", [(1, 2), (2, 1)])
def test_a_run_resumes_with_a_different_number_of_processes(first, then, toy, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    words = [*SMALL, "--data_dir", toy, "--tag", "x", *GENTLE, "--replicas", 2, "--max_epoch", 2, "--keep", "all"]
    resume = ("--resume", "whole/experiments/states/x.earlier.pth")
    for folder, processes, more in ((whole, first, ()), (tmp_path, then, resume)):
        typed = [SCRIPTS["cTopk_w"], *words, *more]
        result = torchrun(folder, 2, *typed) if processes == 2 else run(folder, *typed)
        assert result.returncode == 0, result.stderr
    assert "resumed at iteration 4" in result.stdout
    assert_same_run(tmp_path, whole, "x", points=1)


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_processes_share_the_batches_of_one(devkit, processes):
    classes = ["cat", "dog"]
    dataset = VOCClassification(devkit, "Main/train", classes, training_transform(32, 30, 70, "colorjitter"))

    def batches(rank: int, size: int, start: int) -> list[tuple[list[int], torch.Tensor]]:
        loader = training_loader(dataset, 6, 0, 5, rank, size)
        loader.sampler.set_epoch(3, start)
        return [(index.tolist(), images) for images, _, index in loader]

    whole = batches(0, 1, 0)
    parts = [batches(rank, processes, 0) for rank in range(processes)]
    assert len(whole) == 1
    for number, (indices, images) in enumerate(whole):
        assert indices == [index for part in parts for index in part[number][0]]
        assert torch.equal(images, torch.cat([part[number][1] for part in parts]))


@pytest.mark.parametrize("processes", [1, 2, 3, 10])
def test_validation_has_every_image_once(devkit, processes):
    dataset = VOCClassification(devkit, "Main/train", ["cat", "dog"], training_transform(32, 32, 32))
    seen = []
    for rank in range(processes):
        loader = evaluation_loader(dataset, 3, 0, rank, processes)
        seen += [int(index) for _, _, indices in loader for index in indices]
    assert sorted(seen) == list(range(8))
