"""What a run is: its tag, strategy, classes, data and settings. Continuing with another is refused and named."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.training.config import parse_config
from core.training.loop import run_training
from core.training.run import Run
from tests.helpers.command_line import ROOT, small_with
from tests.helpers.golden import strategy_of
from tools.runs.folder import Folder
from tools.runs.states import States
from tools.system.errors import UserError
from tools.system.processes import Processes


def train(strategy: str, *words: object) -> None:
    """Train in this process and folder."""
    declared = strategy_of(strategy)
    run_training(declared, parse_config(declared, "", [*map(str, words)]), Processes())


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory) -> Path:
    """A folder with a finished run x, its data and its class file."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(toy, folder / "toy")
    shutil.copy(ROOT / "data/VOC_2012.json", folder / "names.json")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        train("cMax", *words())
    return folder


def words(*more: object, **changes: object) -> list[object]:
    given = {"data_dir": "toy", "class_file": "names.json", "tag": "x", "max_epoch": 1, "device": "cpu", "keep": "all"}
    return [*small_with(**{**given, **changes}), *more]


@pytest.fixture
def run_folder(finished, tmp_path, monkeypatch) -> Path:
    """A copy of the finished run, as the current folder."""
    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (folder / "experiments").rglob("*") if path.is_file()}


def change_classes(folder: Path) -> None:
    content = json.loads((folder / "names.json").read_text())
    content["class_names"].reverse()
    (folder / "names.json").write_text(json.dumps(content))


def change_image(folder: Path, split: str) -> None:
    first = (folder / f"toy/ImageSets/Main/{split}.txt").read_text().split()[0]
    image = folder / f"toy/JPEGImages/{first}.jpg"
    image.write_bytes(image.read_bytes() + b"\0")


def edit_image(folder: Path, split: str) -> None:
    first = (folder / f"toy/ImageSets/Main/{split}.txt").read_text().split()[0]
    image = folder / f"toy/JPEGImages/{first}.jpg"
    content = bytearray(image.read_bytes())
    content[-3] ^= 1  # before the two bytes that end a JPEG
    image.write_bytes(content)


def change_label(folder: Path, split: str) -> None:
    for image_id in (folder / f"toy/ImageSets/Main/{split}.txt").read_text().split():
        path = folder / f"toy/Annotations/{image_id}.xml"
        without = re.sub(r"<object>.*</object>", "", path.read_text(), flags=re.DOTALL)
        if without != path.read_text():
            path.write_text(without)
            return


CHANGES = {
    "class names: saved 'aeroplane'": change_classes,
    "other training image files": lambda folder: change_image(folder, "train"),
    "other validation image files": lambda folder: change_image(folder, "val"),
    "other training image contents": lambda folder: edit_image(folder, "train"),
    "other validation image contents": lambda folder: edit_image(folder, "val"),
    "other training list or labels": lambda folder: change_label(folder, "train"),
    "other validation list or labels": lambda folder: change_label(folder, "val"),
}


@pytest.mark.parametrize("said", CHANGES)
def test_another_data_set_is_refused_and_named(run_folder, said, capsys):
    CHANGES[said](run_folder)
    before = files(run_folder)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        train("cMax", *words("--resume"))
    assert "--force" in str(error.value) and files(run_folder) == before
    train("cMax", *words("--resume", "--force"))
    assert said in capsys.readouterr().out


def test_another_strategy_is_refused_also_with_force(run_folder):
    before = files(run_folder)
    for more in (["--resume"], ["--resume", "--force"]):
        with pytest.raises(UserError, match="is of strategy cMax"):
            train("cTopk", *words(*more))
    assert files(run_folder) == before


def test_a_finished_run_is_not_described_anew(run_folder, capsys):
    before = files(run_folder)
    train("cMax", *words("--resume", "--force", lr=0.5))
    assert "lr: saved" in capsys.readouterr().out
    changed = {Path(name).name for name, content in files(run_folder).items() if before.get(name) != content}
    assert changed == {"x.txt", "x.lock"} or changed == {"x.txt"}  # the log alone


def test_without_its_last_model_a_finished_run_writes_it_again(run_folder):
    last = run_folder / "experiments/models/last_x.pth"
    weights = last.read_bytes()
    last.unlink()
    train("cMax", *words("--resume"))
    assert last.read_bytes() == weights


def test_a_check_that_fails_leaves_an_earlier_run_where_it_is(run_folder, monkeypatch):
    before = files(run_folder)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        train("cMax", *words("--tensorboard"))
    with pytest.raises(UserError, match="--architecture"):
        train("cMax", *words(architecture="resnet19"))
    with pytest.raises(UserError, match="no file none.pth"):
        train("cMax", *words(weights="none.pth"))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*states/x\.pth \(No space left"):
        train("cMax", *words())
    assert {name: content for name, content in files(run_folder).items() if not name.endswith(".lock")} == {
        name: content for name, content in before.items() if not name.endswith(".lock")
    }


def test_a_run_killed_before_its_first_state_does_not_continue_the_one_before(run_folder, monkeypatch, capsys):
    monkeypatch.setattr(Run, "_log_start", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train("cMax", *words())
    monkeypatch.undo()
    monkeypatch.chdir(run_folder)
    assert "moved to experiments/earlier/x.1" in capsys.readouterr().out
    monkeypatch.setattr("core.training.loop._epochs", lambda *_: None)
    train("cMax", *words("--resume"))
    assert "no saved state at experiments/states/x.pth: starting from scratch" in capsys.readouterr().out
    assert len(list((run_folder / "experiments/earlier/x.1/models").glob("best_x.*"))) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda trainer: trainer["optimizer"][0].update(momentum_buffer=torch.zeros(3)),
        lambda trainer: trainer["optimizer"].update({10**6: {"momentum_buffer": torch.zeros(3)}}),
        lambda trainer: trainer.update(optimizer=[]),
        lambda trainer: trainer.update(student={}),
        lambda trainer: trainer.update(teacher=5),
        lambda trainer: trainer.update(normalization=torch.zeros(2, 2)),
        lambda trainer: trainer["optimizer"][0].update(
            momentum_buffer=trainer["optimizer"][0]["momentum_buffer"].to_sparse()
        ),
    ],
)
def test_a_state_with_odd_tensors_is_one_line(run_folder, change):
    states = States(Folder(run_folder / "experiments"), "x")
    state, _ = states.load()
    change(state["trainer"])
    states.save(state)
    with pytest.raises(UserError, match="different network or strategy"):
        train("cMax", *words("--resume"))


def test_a_state_past_the_end_without_a_validation_ends(run_folder):
    states = States(Folder(run_folder / "experiments"), "x")
    state, _ = states.load()
    state["log"]["history"]["validation"] = []
    states.save({**state, "epoch": 7})
    train("cMax", *words("--resume"))


@pytest.mark.parametrize("tag", ["best_x", "last_x", "x.earlier", "x.config", "best_", "..", "a/b", "x" * 101, "-x"])
def test_a_tag_whose_files_would_be_those_of_another_run_is_refused(tag):
    with pytest.raises(UserError, match="--tag"):
        parse_config(strategy_of("cMax"), "", ["--data_dir", "x", f"--tag={tag}"])


def test_no_two_tags_share_a_file():
    folder = Folder()
    config = parse_config(strategy_of("cMax"), "", ["--data_dir", "x", "--tag", "x"])
    seen: dict[Path, str] = {}
    for tag in ("x", "x.1", "x.lock", "x.json", "x.pth", "best", "xbest_", "x_val", "x.earlier.pth", "x.config.json"):
        replace(config, tag=tag)  # is accepted
        paths = [folder.log(tag), folder.history(tag), folder.config(tag), folder.curves(tag), folder.snapshots(tag)]
        paths += [folder.state(tag, suffix) for suffix in (".pth", ".earlier.pth", ".lock")]
        paths += [
            folder.model(tag, kind).with_suffix(suffix)
            for kind in ("", "best_", "last_")
            for suffix in (".pth", ".json")
        ]
        paths += [folder.earlier(tag, 1), folder.earlier(tag, 1, hidden="."), folder.usage(tag), folder.epochs(tag)]
        for path in paths:
            assert seen.setdefault(path, tag) == tag
