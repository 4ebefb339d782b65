"""Whole training steps against the official code's numbers: every strategy, as its script computes it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from core.networks import Classifier
from core.training.trainer import Trainer
from tests.golden import fill
from tests.helpers.golden import SCRIPTS, golden_trainer, iterate_and_keep_logits, named_as_official, one_list


def gradient_norms(trainer: Trainer) -> list[float]:
    return [
        float(torch.stack([parameter.grad.detach().norm() for parameter in group["params"]]).norm())
        for group in trainer.optimizer.param_groups
    ]


def check_tensors(network: Classifier, expected: dict[str, list[float]], skip: str = " ") -> None:
    for name, (total, norm) in expected.items():
        if name.startswith(skip):
            continue
        value = named_as_official(network, name).double()
        assert float(value.norm()) == pytest.approx(norm, rel=1e-4), name
        assert float(value.sum()) == pytest.approx(total, abs=1e-3 * norm), name


def check_case(strategy: str, case: dict, replicas: int, device: torch.device) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    trainer = golden_trainer(strategy, case, replicas, device)
    for expected in case["steps"]:
        batch_key = f"{case['batch_key']}{expected['iteration']}"
        images, labels = map(torch.from_numpy, fill.batch(batch_key, case["batch_size"]))
        assert trainer.alpha_re == pytest.approx(expected["alpha_re"])
        step, logits = iterate_and_keep_logits(trainer, images, labels)
        assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx(expected["learning_rates"])
        assert step.keypoints.tolist() == one_list(expected["keypoints"])
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
