"""Whole training steps against the official code's numbers: every strategy, as its script computes it."""

import copy
import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from core.cam import make_cam
from core.keypoints import strongest_peaks
from core.networks import Classifier
from core.strategy import Crops
from core.training.trainer import Trainer
from tests.golden import fill
from tests.helpers.golden import SCRIPTS, golden_trainer, iterate_and_keep_outputs, named_as_official, one_list


def gradient_norms(trainer: Trainer) -> list[float]:
    return [
        float(torch.stack([parameter.grad.detach().norm() for parameter in group["params"]]).norm())
        for group in trainer.optimizer.param_groups
    ]


def check_tensors(network: Classifier, expected: dict[str, list[float]], skip: str = " ") -> None:
    # A sum of values of one sign is as exact as the norm: seen on a GPU, 1.2 times the other bound of a sum of 2,048.
    relative = 1e-4 if next(network.parameters()).is_cuda else 0
    for name, (total, norm) in expected.items():
        if name.startswith(skip):
            continue
        value = named_as_official(network, name).double()
        assert float(value.norm()) == pytest.approx(norm, rel=1e-4), name
        assert float(value.sum()) == pytest.approx(total, rel=relative, abs=1e-3 * norm), name


def assert_same_before_truncation(
    found: torch.Tensor, expected: list[list[int]], features: torch.Tensor, labels: torch.Tensor, size: int
) -> None:
    """Keypoints of cTopk-w equal the golden ones, or differ where truncation hides that they are the same.

    Two steps amplify the rounding of another processor's float32 kernels to about 1e-4 of the maps. cTopk-w truncates
    every weighted coordinate, so one that lies that close to a whole number may come out a pixel lower. The golden
    keypoint must then be the sum of the terms after they move by at most 0.05 pixels; the step is repeated with it.
    """
    crops = Crops.one_per_class(labels)
    coordinates, values, taken = strongest_peaks(make_cam(features)[crops.image, crops.label], size)
    weights = values.double() * taken
    terms = coordinates * (weights / weights.sum(1, keepdim=True))[..., None]  # [crops, k, 2], before truncation
    low, high = (torch.floor(terms + shift).clamp_min(0).sum(1) for shift in (-0.05, 0.05))
    golden = torch.tensor(expected)
    assert ((found.cpu() == golden) | ((low <= golden) & (golden <= high))).all()
    assert (found.cpu() - golden).abs().max() <= 1


def check_case(strategy: str, case: dict, replicas: int, device: torch.device) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    trainer = golden_trainer(strategy, case, replicas, device)
    for expected in case["steps"]:
        batch_key = f"{case['batch_key']}{expected['iteration']}"
        images, labels = map(torch.from_numpy, fill.batch(batch_key, case["batch_size"]))
        assert trainer.alpha_re == pytest.approx(expected["alpha_re"])
        before = copy.deepcopy(trainer.state_dict())
        step, logits, features = iterate_and_keep_outputs(trainer, images, labels)
        keypoints = one_list(expected["keypoints"])
        if strategy == "cTopk_w" and step.keypoints.tolist() != keypoints:
            assert_same_before_truncation(step.keypoints, keypoints, features, labels, images.shape[-1])
            trainer.load_state_dict(before, expected["iteration"])
            golden = torch.tensor(keypoints, device=device)
            with mock.patch(f"{SCRIPTS[strategy]}.ctopk_w_keypoints", return_value=golden):
                step, logits, _ = iterate_and_keep_outputs(trainer, images, labels)
        assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx(expected["learning_rates"])
        assert step.keypoints.tolist() == keypoints
        for name in ("loss", "class_loss", "p_class_loss", "re_loss"):
            assert float(getattr(step, name).detach()) == pytest.approx(expected[name], rel=1e-4), name
        assert np.abs(logits.numpy() - np.array(expected["logits"])).max() < 1e-4
        assert gradient_norms(trainer) == pytest.approx(expected["grad_norm_per_group"], rel=2e-3)
    check_tensors(trainer.student, case["parameters_after"])
    check_tensors(trainer.student, case["buffers_after"])
    if trainer.teacher is not None:
        check_tensors(trainer.teacher, case["ema_parameters_after"])
        # The teacher's class-specific-instance branch is never used and does not run.
        check_tensors(trainer.teacher, case["ema_buffers_after"], skip="BN.")
    images = torch.from_numpy(fill.batch(f"{case['batch_key']}-eval", 2)[0])
    with torch.no_grad():
        logits, _ = trainer.student.eval()(images.to(device))
    assert np.abs(logits.cpu().numpy() - np.array(case["eval_logits"])).max() < 5e-3


def _cases(folder: Path, file: str) -> dict:
    return json.loads((folder / file).read_text())


@pytest.mark.parametrize("strategy", SCRIPTS)
def test_three_steps_match_the_official_code(strategy, golden_folder, golden_device):
    check_case(strategy, _cases(golden_folder, "steps.json")[strategy], replicas=1, device=golden_device)


@pytest.mark.parametrize("strategy", ["max", "cMax"])
def test_two_replicas_match_the_official_code_on_two_gpus(strategy, golden_folder, golden_device):
    check_case(strategy, _cases(golden_folder, "steps_replicas2.json")[strategy], replicas=2, device=golden_device)
