"""Long runs that break: whatever interrupts a run, it resumes to the same result, or says in one line what to do."""

import fcntl
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from core.training.devices import lower_memory
from tests.helpers.command_line import SCRIPTS, SMALL, command, environment, refused, run
from tests.helpers.golden import config_of, strategy_of
from tools.runs.folder import Folder, RunFiles
from tools.system.errors import UserError, explain_shortages
from tools.system.files import HOST, write_json
from tools.system.interruption import Interruption

EPOCHS = 3
ITERATIONS = 4  # per epoch of the toy data set


def words(toy: Path, tag: str, *more: object) -> list:
    """A small run that writes its state after every iteration, and keeps the last two."""
    frequent = ("--save_minutes", 1e-9, "--print_ratio", 0.5, "--max_epoch", EPOCHS, "--lr", 0.01, "--keep", "all")
    return [*SMALL, "--data_dir", toy, "--tag", tag, *frequent, *more]


def start(folder: Path, script: str, *arguments: object, output: int = subprocess.PIPE) -> subprocess.Popen:
    """Start a script in the background, in a process group of its own."""
    typed, variables = command(script, *arguments), environment(folder)
    return subprocess.Popen(
        typed, cwd=folder, stdout=output, stderr=output, text=True, env=variables, start_new_session=True
    )


def wait_for(process: subprocess.Popen, happened) -> bool:
    """Return whether it happened before the process ended."""
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if happened():
            return True
        time.sleep(0.0005)
    return False


def saved_iteration(folder: Path, tag: str) -> int:
    path = folder / f"experiments/states/{tag}.pth"
    try:
        return torch.load(path, weights_only=True)["trainer"]["iteration"]
    except (OSError, RuntimeError, EOFError, ValueError):  # between two states
        return -1


def weights(folder: Path, tag: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"experiments/models/last_{tag}.pth", weights_only=True)


def assert_same_run(folder: Path, tag: str, uninterrupted: Path) -> None:
    """Compare weights bit for bit, and everything in the history except times."""
    interrupted, whole = weights(folder, tag), weights(uninterrupted, tag)
    assert interrupted.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(interrupted[name], whole[name])] == []
    histories = [json.loads((root / f"experiments/data/{tag}.json").read_text()) for root in (folder, uninterrupted)]
    for history in histories:
        for row in (*history["train"], *history["validation"]):
            assert row.pop("time") >= 0 and row.pop("images_per_second", 1) > 0
    assert histories[0] == histories[1]
    assert not list((folder / "experiments").rglob("*.tmp"))


@pytest.fixture(scope="session")
def uninterrupted(toy, tmp_path_factory):
    """Return, for a strategy, a folder with an uninterrupted run of it."""
    folders = {}

    def of(tag: str) -> Path:
        if tag not in folders:
            folders[tag] = tmp_path_factory.mktemp(f"uninterrupted_{tag}")
            result = run(folders[tag], SCRIPTS[tag], *words(toy, tag))
            assert result.returncode == 0, result.stderr
        return folders[tag]

    return of


def interrupt(folder: Path, toy: Path, tag: str, number: int, moment: str, seed: int, *more: object) -> int:
    """Start or resume a run and send it a signal; return the exit status.

    Args:
        moment: "iteration" (after the state of a random one is saved) or "writing" (while a file is being written).
    """
    chance = random.Random(seed)
    process = start(folder, SCRIPTS[tag], *words(toy, tag, *more))
    target = chance.randrange(0, EPOCHS * ITERATIONS - 1)
    states, models = folder / "experiments/states", folder / "experiments/models"
    wait_for(process, lambda: saved_iteration(folder, tag) >= target)
    if moment == "writing":
        watched = models if chance.random() < 0.3 else states
        wait_for(process, lambda: any(watched.glob(".*.tmp")))
    else:
        time.sleep(chance.random() * 0.2)
    if process.poll() is None:
        process.send_signal(number)
    process.communicate(timeout=120)
    return process.returncode


def check_interrupted_run(
    folder: Path, toy: Path, uninterrupted, tag: str, number: int, moment: str, seed: int
) -> None:
    status = interrupt(folder, toy, tag, number, moment, seed)
    assert status in (0, -signal.SIGKILL if number == signal.SIGKILL else 128 + number)
    result = run(folder, SCRIPTS[tag], *words(toy, tag, "--resume"))
    assert result.returncode == 0, result.stderr
    assert "resumed at iteration" in result.stdout
    assert_same_run(folder, tag, uninterrupted(tag))


@pytest.mark.parametrize(
    "tag, number, moment, seed",
    [("Max", signal.SIGKILL, "iteration", 1), ("cTopk_w", signal.SIGKILL, "writing", 2)]
    + [("cMax", signal.SIGTERM, "iteration", 3)],
)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tag, number, moment, seed, toy, tmp_path, uninterrupted):
    check_interrupted_run(tmp_path, toy, uninterrupted, tag, number, moment, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tag", SCRIPTS)
def test_runs_interrupted_anywhere_end_like_uninterrupted_ones(tag, seed, toy, tmp_path, uninterrupted):
    number = (signal.SIGKILL, signal.SIGHUP, signal.SIGTERM)[seed % 3]
    check_interrupted_run(tmp_path, toy, uninterrupted, tag, number, ("iteration", "writing")[seed % 2], 100 + seed)


@pytest.mark.slow
def test_a_run_interrupted_many_times_ends_like_an_uninterrupted_one(toy, tmp_path, uninterrupted):
    for seed in range(4):
        number = (signal.SIGKILL, signal.SIGINT)[seed % 2]
        interrupt(tmp_path, toy, "cTopk", number, "iteration", seed, *(["--resume"] if seed else []))
    result = run(tmp_path, SCRIPTS["cTopk"], *words(toy, "cTopk", "--resume"))
    assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path, "cTopk", uninterrupted("cTopk"))


def test_ctrl_c_with_loader_processes_saves_and_says_how_to_continue(toy, tmp_path, uninterrupted):
    """Ctrl-C reaches every process of the group, including the loader's."""
    process = start(tmp_path, SCRIPTS["Max"], *words(toy, "Max", "--num_workers", 2))
    assert wait_for(process, lambda: saved_iteration(tmp_path, "Max") >= 2)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "SIGINT: state saved at iteration" in output and "--resume" in output
    assert "Traceback" not in errors
    # The number of loader processes may differ between a run and its continuation.
    result = run(tmp_path, SCRIPTS["Max"], *words(toy, "Max", "--resume", "--num_workers", 0))
    assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path, "Max", uninterrupted("Max"))


def test_a_finished_run_resumes_to_its_end(toy, tmp_path, uninterrupted):
    source = uninterrupted("Max") / "experiments/states/Max.pth"
    result = run(tmp_path, SCRIPTS["Max"], *words(toy, "Max", "--resume", source))
    assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path, "Max", uninterrupted("Max"))


def test_an_earlier_state_replaces_a_truncated_one(toy, tmp_path, uninterrupted):
    interrupt(tmp_path, toy, "Max", signal.SIGKILL, "iteration", 5)
    state = tmp_path / "experiments/states/Max.pth"
    state.write_bytes(state.read_bytes()[:-5000])
    result = run(tmp_path, SCRIPTS["Max"], *words(toy, "Max", "--resume"))
    assert result.returncode == 0, result.stderr
    assert "Max.earlier.pth" in result.stdout and "truncated" in result.stdout
    assert_same_run(tmp_path, "Max", uninterrupted("Max"))


def test_if_all_states_are_damaged_the_message_names_them(toy, tmp_path):
    states = tmp_path / "experiments/states"
    states.mkdir(parents=True)
    (states / "Max.pth").write_bytes(b"nonsense")
    (states / "Max.earlier.pth").write_bytes(b"")
    line = refused(tmp_path, SCRIPTS["Max"], *words(toy, "Max", "--resume"))
    assert "Max.pth" in line and "Max.earlier.pth" in line


def test_without_a_state_resume_starts_from_scratch_but_a_missing_file_is_an_error(toy, tmp_path):
    result = run(tmp_path, SCRIPTS["Max"], *words(toy, "Max", "--resume", "--max_epoch", 1))
    assert result.returncode == 0 and "no saved state at" in result.stdout
    assert "no file none.pth" in refused(tmp_path, SCRIPTS["Max"], *words(toy, "Max", "--resume", "none.pth"))
    model = tmp_path / "experiments/models/Max.pth"
    assert "is not the state of a run" in refused(tmp_path, SCRIPTS["Max"], *words(toy, "Max", "--resume", model))


@pytest.mark.slow
def test_settings_that_differ_are_named_and_need_force(toy, tmp_path, uninterrupted):
    state = uninterrupted("cMax") / "experiments/states/cMax.earlier.pth"
    changed = words(toy, "cMax", "--resume", state, "--alpha_re", 2, "--num_workers", 1)
    line = refused(tmp_path, SCRIPTS["cMax"], *changed)
    assert "alpha_re: saved 3.0, now 2.0" in line and "--force" in line and "num_workers" not in line
    result = run(tmp_path, SCRIPTS["cMax"], *changed, "--force")
    assert result.returncode == 0 and "alpha_re: saved 3.0, now 2.0" in result.stdout
    longer = words(toy, "cMax", "--resume", state, "--max_epoch", EPOCHS + 1, "--force")
    assert run(tmp_path, SCRIPTS["cMax"], *longer).returncode == 0
    history = json.loads((tmp_path / "experiments/data/cMax.json").read_text())
    assert [row["epoch"] for row in history["validation"]] == list(range(1, EPOCHS + 2))


def test_a_state_of_a_different_network_or_strategy_is_refused_even_with_force(toy, tmp_path, uninterrupted):
    state = uninterrupted("Max") / "experiments/states/Max.pth"
    other = words(toy, "Max", "--resume", state, "--force", "--architecture", "resnet34")
    assert "was saved by a different network" in refused(tmp_path, SCRIPTS["Max"], *other)
    line = refused(tmp_path, SCRIPTS["cMax"], *words(toy, "Max", "--resume", state, "--force"))
    assert "is of strategy Max: use its script, not that of cMax" in line


def test_files_of_an_earlier_run_with_the_same_tag_are_moved_away(toy, tmp_path):
    short = ("--max_epoch", 1)
    for _ in range(2):
        assert run(tmp_path, SCRIPTS["Max"], *words(toy, "Max", *short)).returncode == 0
    earlier = tmp_path / "experiments/earlier/Max.1"
    assert (earlier / "models/best_Max.pth").exists() and (earlier / "logs/Max.txt").exists()
    history = json.loads((tmp_path / "experiments/data/Max.json").read_text())
    assert len(history["validation"]) == 1
    assert (tmp_path / "experiments/logs/Max.txt").read_text().count("sec, epoch=1,") == 1


def test_two_runs_with_one_tag_exclude_each_other(toy, tmp_path):
    process = start(tmp_path, SCRIPTS["Max"], *words(toy, "Max", "--max_epoch", 1000))
    assert wait_for(process, lambda: saved_iteration(tmp_path, "Max") >= 1)
    line = refused(tmp_path, SCRIPTS["cMax"], *words(toy, "Max"))
    assert "a run with tag Max is already running" in line and str(process.pid) in line
    process.kill()
    process.communicate(timeout=60)
    files = RunFiles(Folder(tmp_path / "experiments"), "Max")
    files.claim()  # the claim ended with the process
    files.release()


def limited(kind: int, amount: int):
    return lambda: resource.setrlimit(kind, (amount, amount))


def run_limited(folder: Path, limit, script: str, *arguments: object) -> subprocess.CompletedProcess:
    typed, variables = command(script, *arguments), environment(folder)
    return subprocess.run(
        typed, cwd=folder, capture_output=True, text=True, timeout=300, env=variables, preexec_fn=limit
    )


def one_line(result: subprocess.CompletedProcess) -> str:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    return line


def test_a_full_disk_ends_the_run_before_anything_is_computed(toy, tmp_path):
    limit = limited(resource.RLIMIT_FSIZE, 20_000_000)  # the largest file, bytes: as on a disk that fills up
    line = one_line(run_limited(tmp_path, limit, SCRIPTS["Max"], *words(toy, "Max")))
    assert "cannot write" in line and "experiments/states/Max.pth" in line and "free some space" in line
    assert not list((tmp_path / "experiments").rglob("*.tmp"))


@pytest.mark.slow
def test_a_disk_that_fills_up_later_leaves_the_earlier_states(toy, tmp_path, uninterrupted):
    interrupt(tmp_path, toy, "Max", signal.SIGTERM, "iteration", 7)
    limit = limited(resource.RLIMIT_FSIZE, 20_000_000)
    line = one_line(run_limited(tmp_path, limit, SCRIPTS["Max"], *words(toy, "Max", "--resume")))
    assert "cannot write" in line
    result = run(tmp_path, SCRIPTS["Max"], *words(toy, "Max", "--resume"))
    assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path, "Max", uninterrupted("Max"))


def test_out_of_memory_says_what_to_lower(toy, tmp_path):
    limit = limited(resource.RLIMIT_AS, 6 << 30)
    large = words(toy, "Max", "--image_size", 1024, "--batch_size", 64)
    line = one_line(run_limited(tmp_path, limit, SCRIPTS["Max"], *large))
    assert "out of memory at --batch_size 64, --image_size 1024" in line and "--accumulate 2" in line


def test_a_killed_loader_process_is_one_line(toy, tmp_path):
    process = start(tmp_path, SCRIPTS["Max"], *words(toy, "Max", "--num_workers", 1, "--max_epoch", 1000))
    assert wait_for(process, lambda: saved_iteration(tmp_path, "Max") >= 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("this kernel does not list the children of a process")
    workers = [int(child) for child in children.read_text().split()]
    loaders = [pid for pid in workers if "train_classification" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(loaders[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    line = one_line(subprocess.CompletedProcess([], process.returncode, "", errors))
    assert "a loader process was killed" in line and "--num_workers" in line


def test_a_loss_that_is_not_finite_names_the_batch_and_leaves_the_state_intact(toy, tmp_path):
    line = refused(tmp_path, SCRIPTS["cMax"], *words(toy, "x", "--lr", 1e30, "--momentum", 0.9))
    assert "not finite at iteration" in line and "class_loss=" in line and "lr=" in line
    assert line.count("toy_0") == 16
    state = torch.load(tmp_path / "experiments/states/x.pth", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["trainer"]["student"].values())


def test_a_batch_whose_loss_is_not_finite_can_be_skipped(toy, tmp_path):
    # The reconstruction loss's weight is 0 at the first iteration and overflows float32 at the others.
    result = run(tmp_path, SCRIPTS["cMax"], *words(toy, "x", "--alpha_re", 1e39, "--on_nan", "skip", "--max_epoch", 1))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("skipped") == ITERATIONS - 1
    assert all(torch.isfinite(value).all() for value in weights(tmp_path, "x").values())


def test_the_same_command_computes_the_same_bits(toy, tmp_path, uninterrupted):
    result = run(tmp_path, SCRIPTS["cTopk_w"], *words(toy, "cTopk_w", "--deterministic"))
    assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path, "cTopk_w", uninterrupted("cTopk_w"))


def test_a_signal_is_noted_for_the_next_moment_between_two_iterations():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        assert not interruption.requested
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # passed on by a launcher: counts as the first
        assert interruption.requested
    assert interruption.error().code == 143 and str(interruption.error()) == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_terminal_that_closes_is_a_signal_unless_it_is_ignored():
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGHUP)
            assert interruption.requested and interruption.error().code == 129
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGHUP)
            assert not interruption.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_claim_excludes_other_processes(tmp_path):
    files = RunFiles(Folder(tmp_path), "tag")
    files.claim()
    code = "from sys import argv; from pathlib import Path; from tools.runs.folder import Folder, RunFiles; "
    claim = [sys.executable, "-c", f"{code} RunFiles(Folder(Path(argv[1])), 'tag').claim()", tmp_path]
    other = subprocess.run(claim, env=environment(tmp_path), capture_output=True, text=True)
    assert "UserError: a run with tag tag is already running" in other.stderr
    files.release()
    assert subprocess.run(claim, env=environment(tmp_path)).returncode == 0


def test_a_claim_of_a_lock_that_was_removed_meanwhile_is_repeated(tmp_path, monkeypatch):
    lock, lockf = Folder(tmp_path).state("tag", ".lock"), fcntl.lockf
    calls = []
    monkeypatch.setattr(fcntl, "lockf", lambda *words: calls.append(lock.unlink() if not calls else 0) or lockf(*words))
    RunFiles(Folder(tmp_path), "tag").claim()
    assert len(calls) == 2 and "process" in lock.read_text()


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "states").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="cannot write .*states"):
        RunFiles(Folder(tmp_path), "tag").claim()


@pytest.mark.slow
def test_memory_does_not_grow_over_five_hundred_iterations(toy, tmp_path):
    """Resident memory in the last third stays below 1.05 times that of the middle third."""
    arguments = [*SMALL, "--data_dir", toy, "--tag", "long", "--max_epoch", 125]
    process = start(tmp_path, SCRIPTS["cTopk"], *arguments, output=subprocess.DEVNULL)
    sizes = []
    while process.poll() is None:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        sizes += [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
        time.sleep(0.2)
    assert process.returncode == 0
    third = len(sizes) // 3
    assert max(sizes[-third:]) < 1.05 * max(sizes[third : 2 * third])


def test_weights_that_overflow_in_validation_end_in_one_line(toy, tmp_path):
    line = refused(tmp_path, SCRIPTS["cMax"], *words(toy, "x", "--lr", 1e20, "--on_nan", "skip", "--max_epoch", 1))
    assert "validation after iteration 4" in line and "not finite" in line and "--lr" in line


def test_a_run_removes_nothing_that_a_living_run_writes(tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    for tag in ("x", "x.pth.1", "best_x"):
        (models / f".{tag}.pth.{HOST}-1.tmp").write_text("half")  # process 1 lives
    RunFiles(Folder(tmp_path), "x").claim()
    write_json(models / "x.json", {})
    assert len(list(models.glob(".*.tmp"))) == 3


def test_a_state_from_elsewhere_does_not_overwrite_an_earlier_run_of_the_tag(toy, tmp_path, uninterrupted):
    models = tmp_path / "experiments/models"
    models.mkdir(parents=True)
    (models / "best_Max.pth").write_text("an earlier run's best")
    state = uninterrupted("Max") / "experiments/states/Max.pth"
    result = run(tmp_path, SCRIPTS["Max"], *words(toy, "Max", "--resume", state))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "experiments/earlier/Max.1/models/best_Max.pth").read_text() == "an earlier run's best"
    assert (tmp_path / "experiments/states/Max.pth").exists()


@pytest.mark.parametrize(
    "raised, said",
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "--accumulate 4"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "--accumulate 4"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "--num_workers"),
        (MemoryError(), "--accumulate 4"),
    ],
)
def test_out_of_memory_is_one_line_that_says_what_to_lower(raised, said):
    config = config_of(strategy_of("max"), batch_size=32, image_size=512, accumulate=2)
    then = "; --resume continues from the last state"
    with pytest.raises(UserError, match=said) as error, explain_shortages(then, memory=lower_memory(config)):
        raise raised
    assert "\n" not in str(error.value) and "--resume" in str(error.value)
