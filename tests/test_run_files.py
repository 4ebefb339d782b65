"""The files of a run at any moment of a kill, a full disk or a damaged file: one whole state, one whole earlier run."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tools.runs.folder import Folder, RunFiles
from tools.runs.states import States
from tools.system import files
from tools.system.errors import UserError
from tools.system.files import replace_file, temporary_beside, write_json, writing

OPERATIONS = ("fsync", "replace", "rename", "unlink", "mkdir", "open", "rmdir")
KILLED = 9


def killed_at(number: int, action: Callable[[], object], before: bool) -> bool:
    """Run `action` in a process that dies before or after its number-th file operation; return whether it died."""
    child = os.fork()
    if not child:
        left = number

        def dying(operation: Callable) -> Callable:
            def call(*args, **options):
                nonlocal left
                left -= 1
                if left < 0 and before:
                    os._exit(KILLED)
                result = operation(*args, **options)
                if left < 0:
                    os._exit(KILLED)
                return result

            return call

        for name in OPERATIONS:
            setattr(os, name, dying(getattr(os, name)))
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED)
    return status == KILLED


def state_of(number: int) -> dict:
    return {
        "strategy": "Max", "trainer": {"weight": torch.full((1000,), float(number))}, "epoch": number,
        "random": [{"cpu": torch.get_rng_state(), "cuda": []}], "samples": 0, "losses": {}, "best": 1.0,
        "log": {"history": {"train": [], "validation": []}, "text_bytes": 0},
        "arguments": {}, "class_names": ["cat"], "data": {},
    }  # fmt: skip


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        content = content[: len(content) // 2]
    elif kind == "empty":
        content = b""
    elif kind == "zeroed":
        content[1000:3000] = bytes(2000)
    else:
        content[2000] ^= 4
    path.write_bytes(content)


def whole_states(folder: Path) -> tuple[Path, States]:
    """Write states 1 and 2 of a run, and return its files."""
    states = States(Folder(folder), "x")
    states.save(state_of(1))
    states.save(state_of(2))
    return folder / "states", states


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("kind", [None, "truncated", "empty", "zeroed", "flipped"])
def test_a_whole_state_is_on_the_disk_at_every_moment(tmp_path, kind, before):
    deaths = 0
    while True:
        folder = tmp_path / str(deaths)
        root, _ = whole_states(folder)
        if kind:
            damage(root / "x.pth", kind)

        def resume_and_save(folder=folder):
            states = States(Folder(folder), "x")
            assert states.load()[0]["epoch"] == (1 if kind else 2)
            states.save(state_of(3))

        died = killed_at(deaths, resume_and_save, before)
        state, source = States(Folder(folder), "x").load()
        assert state["epoch"] in ((1, 3) if kind else (2, 3)) and torch.all(
            state["trainer"]["weight"] == state["epoch"]
        )
        assert (kind is not None and state["epoch"] == 1) == ("unreadable" in source)
        if not died:
            assert state["epoch"] == 3
            break
        deaths += 1
    assert deaths > 4


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_full_disk_leaves_the_only_whole_state(tmp_path, monkeypatch, operation):
    root, _ = whole_states(tmp_path)
    damage(root / "x.pth", "truncated")
    states = States(Folder(tmp_path), "x")
    states.load()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, operation, full)
        with pytest.raises(UserError, match=r"cannot write .*x\.pth \(No space left on device\)"):
            states.save(state_of(3))
    assert States(Folder(tmp_path), "x").load()[0]["epoch"] == 1
    states.save(state_of(4))
    assert sorted(path.name for path in root.iterdir()) == ["x.earlier.pth", "x.pth"]
    damage(root / "x.pth", "empty")
    assert States(Folder(tmp_path), "x").load()[0]["epoch"] == 1  # a damaged file did not replace it


@pytest.mark.parametrize(
    "change",
    [
        {"losses": {"loss": torch.zeros(2, 3)}},
        {"losses": {"loss": torch.zeros(0)}},
        {"losses": {"loss": torch.zeros(2, dtype=torch.long)}},
        {"arguments": {"lr": torch.zeros(3)}},
        {"epoch": -1},
        {"epoch": 10**40},
        {"samples": True},
        {"best": 10**400},
        {"random": []},
        {"random": [{}]},
        {"random": [{"cpu": torch.get_rng_state()}]},
        {"random": [{"cpu": None, "cuda": []}]},
        {"random": [{"cpu": torch.get_rng_state(), "cuda": [1]}]},
        {"class_names": "cat"},
        {"log": {"history": {"train": [], "validation": []}, "text_bytes": -5}},
        {"log": {"history": {"train": [], "validation": [torch.zeros(1)]}, "text_bytes": 0}},
        {"log": {"history": {"train": {}, "validation": []}, "text_bytes": 0}},
        {"log": {"history": {"train": [{"iteration": 10**400, "epoch": 1}], "validation": []}, "text_bytes": 0}},
    ],
)
def test_a_state_with_odd_values_is_refused(tmp_path, change):
    states = States(Folder(tmp_path), "x")
    states.save({**state_of(1), **change})
    with pytest.raises(UserError, match="is not the state of a run"):
        states.load()


def test_a_state_of_an_earlier_version_is_refused(tmp_path):
    states = States(Folder(tmp_path), "x")
    states.save({name: value for name, value in state_of(1).items() if name != "data"})
    with pytest.raises(UserError, match="saved by an earlier version"):
        states.load()


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "Too many open files")])
def test_a_state_that_the_machine_cannot_read_now_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch, error):
    _, states = whole_states(tmp_path)

    def fails(*_, **__):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", fails)
        with pytest.raises(UserError, match="cannot read .*x.pth: (out of memory|too many open files)"):
            states.load()
    assert states.load()[0]["epoch"] == 2


def earlier_run(folder: Path) -> dict[str, bytes]:
    """Write what a run leaves; return its files' contents by path."""
    names = ["logs/x.txt", "data/x.json", "states/x.pth", "states/x.earlier.pth", "models/best_x.pth"]
    names += ["models/best_x.json", "snapshots/x/epoch_001.png", "snapshots/x/epoch_002.png"]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"old {name}")
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if not name.endswith(".lock")}


@pytest.mark.parametrize("other_disk", [False, True])
@pytest.mark.parametrize("before", [True, False])
def test_an_earlier_run_is_archived_whole_or_not_at_all(tmp_path, monkeypatch, before, other_disk):
    rename = os.rename

    def to_other_disk(source, target):
        if ".partial" not in str(source):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    if other_disk:
        monkeypatch.setattr(os, "rename", to_other_disk)
    deaths = archived = 0
    while True:
        folder = tmp_path / str(deaths)
        old = earlier_run(folder)
        neighbor = folder / "models/best_x.1.pth"
        neighbor.write_text("another run's")

        def archive(folder=folder):
            run_files = RunFiles(Folder(folder), "x")
            run_files.claim()
            run_files.archive()

        died = killed_at(deaths, archive, before)
        files = RunFiles(Folder(folder), "x")
        files.claim()  # the next start
        neighbor.unlink()
        if contents(folder) != old:
            archived += 1
            assert contents(folder) == {f"earlier/x.1/{name}": content for name, content in old.items()}
            assert files.find_earlier() == []
        files.release()
        if not died:
            break
        deaths += 1
    assert deaths > 12 and archived > 8


def test_an_interrupted_move_is_completed_and_said_by_the_next_claim(tmp_path):
    earlier_run(tmp_path)
    (tmp_path / "earlier/.x.1").mkdir(parents=True)
    (tmp_path / "earlier/.x.1.1").mkdir()  # of another tag, x.1
    files = RunFiles(Folder(tmp_path), "x")
    files.claim()
    assert files.archived_to == tmp_path / "earlier/x.1" and (files.archived_to / "states/x.pth").exists()
    assert (tmp_path / "earlier/.x.1.1").exists()
    files.release()


def test_what_killed_programs_were_writing_is_removed(tmp_path, monkeypatch):
    dead = os.fork()
    if not dead:
        os._exit(0)
    os.waitpid(dead, 0)
    names = {
        "dead": f".table.csv.{files.HOST}-{dead}.tmp", "folder": f".out.{files.HOST}-{dead}.tmp",
        "own number": f".model.pth.{files.HOST}-{os.getpid()}.tmp", "living": f".x.json.{files.HOST}-1.tmp",
        "other machine": f".x.json.elsewhere-{dead}.tmp", "not ours": ".x.tmp",
    }  # fmt: skip
    for key, name in names.items():
        if key == "folder":
            (tmp_path / name / "JPEGImages").mkdir(parents=True)
        else:
            (tmp_path / name).write_text("half")
    write_json(tmp_path / "result.json", {})
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"result.json", names["living"], names["other machine"], names["not ours"]}


def test_a_name_of_255_bytes_can_be_written_and_a_longer_one_is_named(tmp_path):
    replace_file(tmp_path / ("ä" * 125 + ".json"), lambda temporary: temporary.write_text("x"))
    with pytest.raises(UserError, match="File name too long.*choose a shorter name"):
        replace_file(tmp_path / ("ä" * 126 + ".json"), lambda temporary: temporary.write_text("x"))
    assert len(os.fsencode(temporary_beside(tmp_path / ("x" * 255)).name)) < 256


def test_what_is_not_finite_is_null(tmp_path):
    write_json(tmp_path / "x.json", {"a": [float("nan"), 1.5], "b": float("inf"), "c": {"d": float("-inf")}})
    text = '{ "a": [ null, 1.5 ], "b": null, "c": { "d": null } }'
    assert " ".join((tmp_path / "x.json").read_text().split()) == text


def test_a_dead_loader_is_no_error_of_the_disk(tmp_path):
    for error in (
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        OSError(errno.EMFILE, "Many"),
    ):
        with pytest.raises(type(error)), writing(tmp_path):
            raise error
