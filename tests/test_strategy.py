"""Strategies of one's own: optional parts of a step, further losses, arguments, and what runs and checkpoints keep."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.evaluation.loading import keypoints_of, trained_network
from core.losses import class_loss
from core.networks import Classifier
from core.strategy import KEYPOINTS, STRATEGIES, Argument, Crops, Step, Strategy
from core.training import train
from core.training.config import parse_config
from core.training.trainer import Trainer
from tests.helpers import own_strategy
from tests.helpers.command_line import SCRIPTS, refused, run, small_with
from tests.helpers.golden import config_of, strategy_of, trainer_of
from tests.helpers.own_strategy import AREA_WEIGHT, STRATEGY
from tools.runs.checkpoints import Description, save_checkpoint
from tools.runs.folder import Folder
from tools.runs.states import States
from tools.system.errors import UserError

OWN_SCRIPT = Path(own_strategy.__file__)
CLASSES = 3
# The parts of a batch of eight have 6, 0, 3 and 1 crops when it is split into four.
LABELS = torch.tensor(
    [[1.0, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]],
)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)), LABELS


def network() -> Classifier:
    torch.manual_seed(0)
    return Classifier("resnet18", CLASSES)


def gradient(module: torch.nn.Module) -> torch.Tensor:
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return torch.cat([value.flatten() for value in gradients])


def training(folder: Path, script: str | Path, toy: Path, tag: str, **changes: object):
    words = small_with(data_dir=toy, tag=tag, max_epoch=1, lr=0.01, print_ratio=1, **changes)
    return run(folder, str(script), *words)


def written(folder: Path, name: str) -> dict:
    return json.loads((folder / "experiments" / name).read_text())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_may_consist_of_only_a_loss(accumulate):
    def step(student, teacher, images, labels, crops, options) -> Step:
        return Step(class_loss(student(images)[0], labels))

    plain = Strategy("only a loss", step, teacher=False, crops=Crops.one_per_image)
    student = network()
    twin = copy.deepcopy(student)
    images, labels = batch()
    result, finite = trainer_of(plain, student, accumulate=accumulate, batch_size=8).iterate(images, labels)
    parts = zip(images.chunk(accumulate), labels.chunk(accumulate), strict=True)
    expected = torch.stack([class_loss(twin(part)[0], targets) for part, targets in parts]).mean()
    expected.backward()
    assert finite and result.keypoints is None
    assert result.losses().keys() == {"loss", "class_loss"}
    torch.testing.assert_close(result.loss, expected.detach())
    torch.testing.assert_close(result.losses()["class_loss"], expected.detach())
    torch.testing.assert_close(gradient(student), gradient(twin), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_micro_batches_with_different_numbers_of_crops_have_the_losses_of_the_whole_batch(accumulate):
    """Further losses against the formulas for the whole batch; only batch statistics are those of a micro-batch."""
    pull = 0.5
    student = network()
    twin = copy.deepcopy(student)
    images, labels = batch()
    trainer = trainer_of(STRATEGY, student, accumulate=accumulate, batch_size=8, pull=pull)
    step, finite = trainer.iterate(images, labels)
    outputs = [twin(part) for part in images.chunk(accumulate)]
    logits, features = (torch.cat(whole) for whole in zip(*outputs, strict=True))
    areas = [features[image, label].square().mean() for image, label in labels.nonzero().tolist()]
    expected = {
        "class_loss": class_loss(logits, labels),
        "size_loss": pull * logits.square().mean(),
        "area_loss": sum(areas) / len(areas),
    }
    loss = expected["class_loss"] + expected["size_loss"] + AREA_WEIGHT * expected["area_loss"]
    loss.backward()
    found = step.losses()
    assert finite and list(found) == ["loss", "class_loss", "size_loss", "area_loss"]
    for name, value in {"loss": loss, **expected}.items():
        torch.testing.assert_close(found[name].detach(), value.detach(), rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(gradient(student), gradient(twin), rtol=1e-3, atol=1e-5)


def test_an_argument_of_its_own_is_in_the_help_under_the_strategy_s_name(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_config(STRATEGY, "A test.", ["--help"])
    assert stop.value.code == 0
    group = capsys.readouterr().out.split("strategy own:")[1]
    assert "--pull" in group and "weight of the size loss, factor (default: 0.25)" in " ".join(group.split())


def test_an_argument_of_its_own_is_checked_and_reaches_the_step():
    received = []

    def step(student, teacher, images, labels, crops, options) -> Step:
        received.append(options.pull)
        return own_strategy.training_step(student, teacher, images, labels, crops, options)

    trainer_of(replace(STRATEGY, training_step=step), network(), pull=3).iterate(*batch())
    assert received == [3.0]
    with pytest.raises(UserError, match="--pull -1.0: must be 0 or more"):
        config_of(STRATEGY, pull=-1)
    with pytest.raises(UserError, match="unknown argument --pul: did you mean --pull"):
        config_of(STRATEGY, pul=1)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"keypoints": torch.ones(10, 2)}, r"its keypoints are torch.float32 \[10, 2\], not torch.int64 \[10, 2\]"),
        ({"keypoints": torch.full((10, 2), 64)}, "its keypoints are 64 to 64, not 1 to 63 pixels"),
        ({"crop_losses": {"x": 0.5}}, "x of its Step is not a tensor of one number"),
        ({"crop_losses": {"re_loss": torch.tensor(1.0)}}, "two parts of its Step are named re_loss"),
        ({"image_losses": {"x": torch.tensor(1.0)}, "crop_losses": {"x": torch.tensor(1.0)}}, "two parts .* named x"),
    ],
)
def test_a_step_that_breaks_its_contract_is_one_line(changes, said):
    def step(*given) -> Step:
        return replace(own_strategy.training_step(*given), **changes)

    with pytest.raises(UserError, match=f"strategy own: {said}") as error:
        trainer_of(replace(STRATEGY, training_step=step), network(), batch_size=8).iterate(*batch())
    assert "\n" not in str(error.value)


def test_a_keypoint_function_is_tried_on_an_empty_map_before_the_first_step():
    def mean(cams: torch.Tensor, image_size: int, options: object) -> torch.Tensor:
        return (cams.sum((1, 2)) / cams.sum((1, 2)) * 9)[:, None].expand(-1, 2).long()  # 0 / 0

    with pytest.raises(UserError, match=r"strategy own: its keypoints are -\d+ to 9, not 1 to 63 pixels.*all zero"):
        trainer_of(replace(STRATEGY, keypoints=mean), network(), batch_size=8).iterate(*batch())


def test_a_copy_with_a_known_name_and_keypoints_of_its_own_is_refused(capsys):
    with pytest.raises(SystemExit):
        train(replace(STRATEGY, name="cMax"), None)
    assert "strategy cMax has keypoints of its own, but the name of known ones" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["lr", "tag", "num_pieces"])
def test_an_argument_that_exists_already_is_refused_in_one_line(name):
    clash = replace(STRATEGY, arguments={name: Argument(1.0, "a second one")})
    with pytest.raises(UserError, match=f"strategy own: its argument --{name} exists already") as error:
        config_of(clash)
    assert "\n" not in str(error.value)


def test_a_run_keeps_its_strategy_s_argument_and_losses(toy, tmp_path):
    first = training(tmp_path, OWN_SCRIPT, toy, "first", pull=0.5, accumulate=2)
    assert first.returncode == 0, first.stderr
    rows = written(tmp_path, "data/first.json")["train"]
    losses = {name: rows[0][name] for name in ("loss", "class_loss", "size_loss", "area_loss")}
    total = losses["class_loss"] + losses["size_loss"] + AREA_WEIGHT * losses["area_loss"]
    assert losses["loss"] == pytest.approx(total, rel=1e-4)
    log = (tmp_path / "experiments/logs/first.txt").read_text()
    assert f"size_loss={losses['size_loss']:.4f}, area_loss={losses['area_loss']:.4f}" in log
    assert re.search(rf"inference_classification.py .*--compare --count 6 --strategy {OWN_SCRIPT}$", log, re.MULTILINE)
    assert written(tmp_path, "data/first.config.json")["pull"] == 0.5
    description = written(tmp_path, "models/best_first.json")
    assert description["arguments"]["pull"] == 0.5 and description["strategy"] == description["keypoints"] == "own"

    config = "experiments/data/first.config.json"
    again = run(tmp_path, str(OWN_SCRIPT), "--config", config, "--tag", "second")
    assert again.returncode == 0, again.stderr
    repeated = written(tmp_path, "data/second.json")["train"][0]
    assert {name: repeated[name] for name in losses} == pytest.approx(losses, rel=1e-4)

    resume = ("--config", config, "--resume", "--pull", 0.75)
    line = refused(tmp_path, str(OWN_SCRIPT), *resume)
    assert "pull: saved 0.5, now 0.75" in line and "--keep all" in line
    line = refused(tmp_path, SCRIPTS["cMax"], "--config", config)
    assert "is of strategy own: use its script, not that of cMax" in line


def test_a_config_of_a_run_of_another_strategy_is_refused(tmp_path):
    path = tmp_path / "run.config.json"
    path.write_text(json.dumps({"strategy": "cMax", **config_of(strategy_of("cMax")).replayable()}))
    with pytest.raises(UserError, match="is of strategy cMax: use its script, not that of Max") as error:
        parse_config(strategy_of("max"), "", ["--config", str(path)])
    assert "\n" not in str(error.value)
    assert parse_config(strategy_of("cMax"), "", ["--config", str(path)]).tag == "test"


def state_of_an_earlier_version(trainer: Trainer) -> dict:
    """Return a state as it was saved before strategies were declared: no name, and losses as one tensor."""
    return {
        "trainer": trainer.state_dict(),
        "random": [{"cpu": torch.get_rng_state(), "cuda": []}],
        "epoch": 0,
        "samples": 0,
        "losses": torch.zeros(0, 4),
        "best": -1.0,
        "log": {"history": {"train": [], "validation": []}, "text_bytes": 0},
        "arguments": {"lr": 0.1},
        "images": "0",
    }


@pytest.mark.parametrize("named", [True, False])
def test_a_state_of_an_earlier_version_is_refused_in_one_line(named, tmp_path):
    folder = Folder(tmp_path)
    path = folder.state("x")
    path.parent.mkdir()
    torch.save(state_of_an_earlier_version(trainer_of("max", network())), path)
    with pytest.raises(UserError, match=r"x\.pth was saved by an earlier version: finish") as error:
        States(folder, "x").load(path if named else None)
    assert "\n" not in str(error.value)


EARLIER_SCRIPTS = {
    "train_classification_with_puzzle_max": ("Max", "Max"),
    "train_classification_with_puzzle_cMax_ema": ("cMax", "cMax"),
    "train_classification_with_puzzle_cTopk_ema": ("cTopk", "cTopk"),
    "train_classification_with_puzzle_cTopk_w_ema": ("cTopk-w", "cTopk-w"),
    "train_plain": ("plain", None),
    "train_instances": ("instances", None),
    "train_centre": ("centre, no EMA", "centre"),
    "train_centre_ema": ("centre", "centre"),
}


def checkpoint(folder: Path, **described: object) -> Path:
    """Write a checkpoint whose description is exactly this."""
    path = folder / "x.pth"
    save_checkpoint(path, network().state_dict(), Description())
    names = [f"class {v}" for v in range(CLASSES)]
    content = {"architecture": "resnet18", "class_names": names, "image_size": 64, **described}
    path.with_suffix(".json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("script", EARLIER_SCRIPTS)
def test_a_description_that_names_a_script_loads_with_its_strategy_s_keypoints(script, tmp_path):
    name, keypoints = EARLIER_SCRIPTS[script]
    path = checkpoint(tmp_path, script=script, arguments={"topk": 7, "alpha_re": 3.0, "no longer": 1})
    loaded, description = trained_network(path)
    assert loaded.num_classes == CLASSES and description.strategy == name
    found, options = keypoints_of(description)
    assert found == KEYPOINTS.get(keypoints) and options.topk == 7


def test_the_keypoints_of_an_unknown_strategy_are_never_guessed(tmp_path):
    for described in ({"script": "train_my_own"}, {"strategy": "own", "keypoints": "own"}):
        _, description = trained_network(checkpoint(tmp_path, **described))
        with pytest.raises(UserError, match="is unknown here: give --strategy FILE.py") as error:
            keypoints_of(description)
        assert "\n" not in str(error.value)
        assert keypoints_of(description, "cMax")[0] == KEYPOINTS["cMax"]
    with pytest.raises(UserError, match="does not say its strategy: give --strategy"):
        keypoints_of(trained_network(checkpoint(tmp_path))[1])


def test_the_script_of_a_strategy_supplies_its_keypoints_and_arguments(tmp_path):
    described = {"strategy": "own", "keypoints": "own", "arguments": {"pull": 2.5}}
    _, description = trained_network(checkpoint(tmp_path, **described))
    keypoints, options = keypoints_of(description, str(OWN_SCRIPT))
    maps = torch.rand(CLASSES, 4, 4)
    assert keypoints.name == "own" and options.pull == 2.5
    assert keypoints.of_image(maps, torch.tensor([0, 2]), 64, options).tolist() == [[32, 32]] * 2


@pytest.mark.parametrize("name", ["max", "cMax", "cTopk", "cTopk_w"])
def test_every_script_declares_a_strategy_whose_keypoints_are_known(name):
    strategy = strategy_of(name)
    assert strategy.name in STRATEGIES
    assert strategy.shown_keypoints() == KEYPOINTS[strategy.name]


@pytest.mark.parametrize(
    "given, said",
    [
        ("cTopK", "--strategy cTopK: choose one of Max, cMax, cTopk, cTopk-w, or a script"),
        ("nothing.py", "no file nothing.py"),
        ("empty.py", "does not declare STRATEGY"),
        ("broken.py", "cannot import .*broken.py: ZeroDivisionError"),
        ("ends.py", "cannot import .*ends.py: SystemExit"),
    ],
)
def test_a_mistake_in_naming_a_strategy_is_one_line(given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty.py").write_text("")
    Path("broken.py").write_text("1 / 0\n")
    Path("ends.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(UserError, match=said) as error:
        keypoints_of(Description(strategy="own", keypoints="own"), given)
    assert "\n" not in str(error.value)
