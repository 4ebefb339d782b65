"""Rounds against what a program needs of the machine: loader processes, memory, shared memory, open files."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from tests.helpers.command_line import ROOT, command, environment
from tests.rounds.sandbox import Outcome, Program, run
from tests.rounds.setting import SMALLEST, Tally, World


def programs(world: World, image_size: int = 64, batch_size: int = 4, workers: int = 1) -> dict[str, tuple]:
    """Return the command lines of the programs that read images with loader processes."""
    model, toy = world.model(), world.toy
    loading = ("--num_workers", workers, "--batch_size", batch_size, "--image_size", image_size)
    training = [*world.words("cTopk")]
    for name, value in zip(loading[::2], loading[1::2], strict=True):
        training[training.index(name) + 1] = value
    evaluating = ("--weights", model, "--data_dir", toy, "--split", "Main/val", "--device", "cpu", "--bootstrap", 10)
    return {
        "training": tuple(training),
        "evaluate": ("evaluate_classification.py", *evaluating, *loading),
        "inference": ("inference_classification.py", "--weights", model, "--images", toy / "JPEGImages", *loading),
        "check_data": ("-m", "tools.check_data", "--data_dir", toy, "--split", "Main/train", "--num_workers", workers),
    }


def loaders(world: World, count: int) -> Tally:
    """Kill a loader process at a random moment: half of the cases in training, the others in every other program."""
    tally = Tally("killed loaders")
    shares = {"training": 0.5, "evaluate": 0.25, "inference": 0.25}
    words = programs(world)
    for name, share in shares.items():
        for case in range(max(1, round(count * share))):
            folder = world.folder()
            program = Program(folder, *words[name])
            until = time.monotonic() + 30
            while program.running() and not program.loaders() and time.monotonic() < until:
                time.sleep(0.002)
            time.sleep(world.chance.uniform(0, 0.4))
            number = world.chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV])
            hit = _kill_one(program, number)
            ended = program.wait()
            fault = ended.fault((0, 2) if not hit else (0, 1, 2))
            if hit and ended.status == 2 and "kill" not in ended.line and "loader" not in ended.line:
                fault = fault or f"a line that is not true: {ended.line}"
            tally.add(fault, (name, case, signal.Signals(number).name), f"{name} {ended.status}")
            world.remove(folder)
    return tally


def _kill_one(program: Program, number: int) -> bool:
    for loader in program.loaders():
        try:
            os.kill(loader, number)
            return True
        except ProcessLookupError:
            continue
    return False


def memory(world: World, count: int) -> Tally:
    """Limit the address space to sizes from too small to nearly enough."""
    tally = Tally("memory limits")
    for case in range(count):
        name, words = list(programs(world, image_size=512, batch_size=16, workers=case % 2).items())[case % 3]
        megabytes = world.chance.randrange(0, 1600)
        size = address_space() + (megabytes << 20)
        folder = world.folder()
        ended = run(folder, *words, prepare=limited(resource.RLIMIT_AS, size))
        tally.add(ended.fault((0, 2)), (name, f"{megabytes} MB more", f"{case % 2} workers"), f"{name} {ended.status}")
        world.remove(folder)
    return tally


def limited(kind: int, amount: int) -> Callable[[], None]:
    """Return what sets a limit of this process."""
    return lambda: resource.setrlimit(kind, (amount, amount))


def address_space() -> int:
    """Return how much memory this process has mapped, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def shared_memory(world: World, count: int) -> Tally:
    """Mount small shared memory: Docker's 64 MB must work, less may end with a line, nothing may hang."""
    tally = Tally("small shared memory")
    if os.geteuid() != 0 or not shutil.which("unshare"):
        tally.add(None, "skipped", "skipped: only root can mount it")
        return tally
    sizes = ["64m", "64m", "1m", "4k"]
    for case in range(count):
        size = sizes[case // 3 % len(sizes)]
        wanted = programs(world, image_size=512, batch_size=8, workers=2)
        name, words = list(wanted.items())[case % 3]
        words += ("--max_epoch", 1, *SMALLEST) if name == "training" else ()
        folder = world.folder()
        ended = _unshared(folder, size, words)
        fault = ended.fault((0, 2)) or (None if ended.status == 0 or size != "64m" else f"64 MB: {ended.line}")
        tally.add(fault, (name, size), f"{size} {ended.status}")
        world.remove(folder)
    return tally


def _unshared(folder, size: str, words: tuple) -> Outcome:
    typed = command(*words) if words[0] != "-m" else [sys.executable, *map(str, words)]
    script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    try:
        done = subprocess.run(
            ["unshare", "-m", "bash", "-c", script, "bash", *typed],
            cwd=folder,
            env=environment(folder, PATH=os.environ["PATH"], PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired as error:
        return Outcome(tuple(map(str, words)), None, str(error.stdout), str(error.stderr))
    return Outcome(tuple(map(str, words)), done.returncode, done.stdout, done.stderr)


def open_files(world: World, count: int) -> Tally:
    """Allow few open files."""
    tally = Tally("few open files")
    for case in range(count):
        name, words = list(programs(world, workers=6).items())[case % 4]
        limit = world.chance.choice([16, 20, 24, 32, 40, 64])
        folder = world.folder()
        ended = run(folder, *words, prepare=limited(resource.RLIMIT_NOFILE, limit))
        tally.add(ended.fault((0, 2)), (name, limit), f"status {ended.status}")
        world.remove(folder)
    return tally
