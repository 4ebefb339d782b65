"""Rounds against a run's files: kills, damaged states, full disks. A run ends with the bits it would have had."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.helpers.command_line import SCRIPTS
from tests.rounds.sandbox import Operations, Program, die, full_disk, run
from tests.rounds.setting import SMALLEST, Tally, World, failed

TAGS = tuple(SCRIPTS)


def kills(world: World, count: int) -> Tally:
    """Send SIGKILL, SIGTERM or SIGHUP at a random moment, sometimes twice, and resume."""
    tally = Tally("random kills")
    for case in range(count):
        tag = TAGS[case % len(TAGS)]
        folder = world.folder()
        seconds = _seconds(world, tag)
        for attempt in range(world.chance.choice([1, 1, 2])):
            program = Program(folder, *world.words(tag, *(["--resume"] if attempt else [])))
            time.sleep(world.chance.uniform(0, seconds))
            number = world.chance.choice([signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGHUP])
            program.kill(number)
            ended = program.wait()
            if number != signal.SIGKILL and ended.status not in (0, 128 + number, -number):
                tally.add(f"status {ended.status} after signal {number}: {ended.errors[-300:]}", (tag, case))
        ended = run(folder, *world.words(tag, "--resume"))
        seen = ("resumed at", "nothing to resume", "")
        note = next(text for text in seen if text in ended.output) or "started again"
        tally.add(failed(ended) or world.differs(folder, tag), (tag, case), note)
        world.remove(folder)
    return tally


def _seconds(world: World, tag: str) -> float:
    """Return how long a run takes, measured once."""
    known = world.__dict__.setdefault("_seconds", {})
    if tag not in known:
        world.whole(tag)
        folder, start = world.folder(), time.monotonic()
        run(folder, *world.words(tag))
        known[tag] = time.monotonic() - start
    return known[tag]


def operations(world: World, count: int) -> Tally:
    """Kill a run before every change of a file.

    A new run, one over an earlier run, one over a damaged state, and one that is finished and removes its states.
    """
    tally = Tally("kills at file operations")
    for situation in ("new", "again", "damaged", "finished"):
        prepared = _situation(world, situation)
        words = world.words("cMax", *SMALLEST, *(["--resume"] if situation in ("damaged", "finished") else []))
        total = _count_operations(world, prepared, words)
        chosen = sorted(world.chance.sample(range(total), min(total, max(1, count // 3))))
        for number in chosen:
            folder = world.copy(prepared)
            killed = run(folder, *words, prepare=Operations(folder, number, die))
            if killed.status not in (-signal.SIGKILL, 0):
                tally.add(f"status {killed.status}", (situation, number))
            untouched = situation == "again" and not list((folder / "experiments/earlier").glob("*"))
            # Until the earlier run is moved, it is what --resume would continue.
            ended = run(folder, *world.words("cMax", *SMALLEST, *([] if untouched else ["--resume"])))
            fault = failed(ended) or world.differs(folder, "cMax", *SMALLEST)
            if situation == "again" and not fault:
                fault = _torn(folder, prepared)
            tally.add(fault, f"{situation}, operation {number} of {total}", situation)
            world.remove(folder)
    return tally


def _situation(world: World, name: str) -> Path:
    """Return a folder in which a run starts: empty, or with a run of other settings, a damaged state, or all states."""
    if name == "new":
        return world.folder()
    if name == "finished":
        return world.whole("cMax", *SMALLEST, "--keep", "all")
    if name == "again":
        folder = world.folder()
        assert run(folder, *world.words("cMax", *SMALLEST, "--seed", 5, "--max_epoch", 1, "--keep", "all")).status == 0
        return folder
    folder = _stopped(world, "cMax", *SMALLEST)
    state = folder / "experiments/states/cMax.pth"
    os.truncate(state, state.stat().st_size // 2)
    return folder


def _stopped(world: World, tag: str, *more: object) -> Path:
    """Return a folder with a run that was killed after it had saved two states."""
    folder = world.folder()
    program = Program(folder, *world.words(tag, *more))
    state = folder / f"experiments/states/{tag}.earlier.pth"
    while program.running() and not state.exists():
        time.sleep(0.005)
    program.kill()
    program.wait()
    return folder


def _count_operations(world: World, prepared: Path, words: tuple) -> int:
    folder = world.copy(prepared)
    counted = folder.parent / "operations"
    run(folder, *words, prepare=Operations(folder, None, die, counted))
    return counted.stat().st_size


def _torn(folder: Path, before: Path) -> str | None:
    """Return what is wrong with the earlier run that a new one with its tag has moved away."""
    parts = ("models/best_cMax.pth", "models/last_cMax.pth", "states/cMax.pth", "data/cMax.json", "logs/cMax.txt")
    paths = [(folder / "experiments/earlier/cMax.1" / part, before / "experiments" / part) for part in parts]
    torn = [str(now) for now, then in paths if not now.exists() or now.read_bytes() != then.read_bytes()]
    return f"of the earlier run, these are missing or others: {', '.join(torn)}" if torn else None


def damage(world: World, count: int) -> Tally:
    """Truncate, zero or flip a part of the newest state, resume, and in two thirds of the cases disturb that too."""
    tally = Tally("damaged states")
    stopped = {tag: _stopped(world, tag) for tag in TAGS}
    for case in range(count):
        tag = TAGS[case % len(TAGS)]
        folder = world.copy(stopped[tag])
        state = folder / f"experiments/states/{tag}.pth"
        kind = world.chance.choice(["truncated", "zeroed", "flipped", "zero tail", "emptied"])
        _damage(world, state, kind)
        followed = ("nothing", "kill", "full disk")[case % 3]
        if followed != "nothing":
            act = die if followed == "kill" else full_disk
            disturbed = Operations(folder / "experiments", world.chance.randrange(2, 14), act)
            first = run(folder, *world.words(tag, "--resume"), prepare=disturbed)
            if followed == "full disk" and (fault := first.fault()):
                tally.add(fault, (tag, kind, followed))
        ended = run(folder, *world.words(tag, "--resume"))
        fault = failed(ended) or world.differs(folder, tag)
        if not fault and followed == "nothing" and f"{tag}.pth" not in ended.output.split("resumed at")[-1][:600]:
            fault = "the damage is not said"
        tally.add(fault, (tag, kind, followed), kind)
        world.remove(folder)
    return tally


def _damage(world: World, path: Path, kind: str) -> None:
    size = path.stat().st_size
    place = world.chance.randrange(size)
    with open(path, "r+b") as file:
        if kind == "truncated":
            file.truncate(place)
        elif kind == "emptied":
            file.truncate(0)
        elif kind == "zero tail":
            file.seek(place)
            file.write(bytes(size - place))
        elif kind == "zeroed":
            # A block of weights: headers between them are mostly padding.
            start = world.chance.randrange(size // 4, size // 2)
            file.seek(start)
            file.write(bytes(4096))
        else:
            start = world.chance.randrange(size // 4, size // 2)
            file.seek(start)
            byte = file.read(1)[0]
            file.seek(start)
            file.write(bytes([byte ^ (1 << world.chance.randrange(8))]))


def disks(world: World, count: int) -> Tally:
    """Fill the disk under `experiments`, at different sizes, in programs that write; then resume with enough space."""
    tally = Tally("full disks")
    if os.geteuid() != 0:
        tally.add(None, "skipped", "skipped: only root can mount a small disk")
        return tally
    programs = _writing_programs(world)
    for case in range(count):
        words = programs[case % len(programs)]
        trains = words[0] in SCRIPTS.values()
        folder, later = world.folder(), world.folder()
        experiments = folder / "experiments"
        experiments.mkdir()
        size = f"{world.chance.choice([45, 90, 100, 135, 180, 220])}m" if trains else f"{4 * 2 ** (case // 8 % 4)}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", experiments], check=True)
        try:
            ended = run(folder, *words)
            shutil.copytree(experiments, later / "experiments")
        finally:
            subprocess.run(["umount", "-l", experiments], check=True)
        left = [path.name for path in later.rglob("*.tmp")]
        fault = ended.fault() or (f"left behind: {', '.join(left)}" if left else None)
        if trains and not fault:
            fault = failed(run(later, *words, "--resume")) or world.differs(later, "cMax")
        tally.add(fault, (words[:2], size), f"status {ended.status}")
        world.remove(folder)
        world.remove(later)
    return tally


def _writing_programs(world: World) -> list[tuple]:
    evaluate = ("evaluate_classification.py", "--weights", world.model(), "--data_dir", world.toy)
    evaluate += ("--split", "Main/val", "--num_workers", 0, "--device", "cpu", "--bootstrap", 10)
    images = sorted((world.toy / "JPEGImages").iterdir())[:5]
    infer = ("inference_classification.py", "--weights", world.model(), "--images", *images)
    data, out = ("--data_dir", world.toy), Path("experiments")
    check = ("-m", "tools.check_data", *data, "--split", "Main/train", "--num_workers", 0)
    return [
        world.words("cMax"),
        evaluate,
        world.words("cMax", "--tensorboard"),
        (*infer, "--pictures"),
        (*check, "--fix_list", out / "list.txt"),
        ("-m", "tools.make_class_file", *data, "--out", out / "classes.json"),
        ("-m", "tools.make_toy_voc", "--out", out / "toy", "--images", 80, "--image_size", 64),
        ("-m", "tools.scale_devkit", *data, "--out", out / "small", "--longer_side", 32),
    ]
