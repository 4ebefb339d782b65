"""The baselines' steps against their losses written out, and their runs as a user types them."""

import importlib
import json

import pytest
import torch
import torch.nn.functional as F

from core.ema import make_teacher
from core.networks import Classifier
from core.strategy import Crops, Strategy
from tests.helpers import oracle
from tests.helpers.command_line import SMALL, run


def make_case(head: str = "instances"):
    torch.manual_seed(0)
    network = Classifier("resnet18", 3, head=head).train()
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    return network, torch.randn(2, 3, 64, 64), labels


def declared(name: str) -> Strategy:
    return importlib.import_module(f"baselines.{name}").STRATEGY


def step_of(name: str, *case, crops: Crops):
    strategy = declared(name)
    return strategy.training_step(*case, crops, strategy.options({"alpha_p": 0.5, "re_loss": "L1_Loss"}, alpha_re=2.0))


@pytest.mark.parametrize("name, head", [("plain", "gap"), ("instances", "instances")])
def test_without_a_puzzle_the_loss_is_the_class_loss(name, head):
    network, images, labels = make_case(head)
    logits, features = network(images)
    if head == "gap":
        assert torch.allclose(logits, features.mean((2, 3)), atol=1e-6)
    step = step_of(name, network, None, images, labels, crops=Crops.one_per_image(labels))
    assert torch.allclose(step.loss, F.multilabel_soft_margin_loss(logits, labels))
    assert step.losses().keys() == {"loss", "class_loss"} and torch.equal(step.losses()["class_loss"], step.loss)
    assert step.keypoints is None and declared(name).shown_keypoints() is None and declared(name).head == head
    step.loss.backward()
    moved = network.classifier.weight.grad is not None
    assert moved and (network.instances.weight.grad is None) == (head == "gap")


@pytest.mark.parametrize("with_teacher", [False, True])
def test_the_centre_cut_s_losses_are_those_of_four_equal_tiles(with_teacher):
    network, images, labels = make_case()
    teacher = make_teacher(network) if with_teacher else None
    sees_tiles = teacher or network
    logits, features = network(images)
    crops = Crops.one_per_class(labels) if with_teacher else Crops.one_per_image(labels)
    puzzle, reconstruction = [], []
    for image, label in zip(crops.image.tolist(), crops.label.tolist(), strict=True):
        tiles = oracle.cut_tiles(images[image], (32, 32))
        assert torch.equal(tiles[3], images[image][:, 32:, 32:])
        _, parts = sees_tiles(tiles[None])
        merged = torch.cat((torch.cat((parts[0, 0], parts[0, 1]), 2), torch.cat((parts[0, 2], parts[0, 3]), 2)), 1)
        target = F.one_hot(torch.tensor(label), 3).float() if with_teacher else labels[image]
        puzzle.append(F.multilabel_soft_margin_loss(merged.mean((1, 2))[None], target[None]))
        reconstruction.append(((features[image] - merged).abs() * target[:, None, None]).mean())
    name = "centre_ema" if with_teacher else "centre"
    step = step_of(name, network, teacher, images, labels, crops=crops)
    classification = F.multilabel_soft_margin_loss(logits, labels)
    expected = (classification, sum(puzzle) / len(puzzle), sum(reconstruction) / len(reconstruction))
    found = (step.class_loss, step.p_class_loss, step.re_loss)
    assert [value.item() for value in found] == pytest.approx([value.item() for value in expected], rel=1e-4)
    total = expected[0] + 0.5 * expected[1] + 2 * expected[2]
    assert step.loss.item() == pytest.approx(total.item(), rel=1e-4)
    assert step.keypoints.tolist() == [[32, 32]] * len(crops.image)
    step.loss.backward()
    if with_teacher:
        assert all(parameter.grad is None for parameter in teacher.parameters())


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("instances", "centre", "centre_ema")]


@pytest.mark.parametrize("name", ["plain", *SLOW])
def test_a_baseline_trains_and_is_evaluated_as_it_was_trained(name, toy, tmp_path):
    words = [*SMALL, "--data_dir", toy, "--tag", name, "--max_epoch", 1, "--lr", 0.01]
    result = run(tmp_path, "-m", f"baselines.{name}", *words)
    assert result.returncode == 0, result.stderr
    description = json.loads((tmp_path / f"experiments/models/best_{name}.json").read_text())
    assert description["head"] == ("gap" if name == "plain" else "instances")
    assert description["strategy"] == declared(name).name
    assert description["keypoints"] == ("centre" if name.startswith("centre") else None)
    words = ["--tag", name, "--data_dir", toy, "--split", "Main/val", "--num_workers", 0, "--bootstrap", 0]
    assert run(tmp_path, "evaluate_classification.py", *words).returncode == 0
    written = json.loads((tmp_path / f"experiments/evaluation/best_{name}_Main_val.json").read_text())
    assert written["mAP"] == pytest.approx(description["mAP"], abs=1e-3)
