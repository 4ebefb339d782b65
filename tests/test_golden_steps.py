"""Whole training steps against the official code's numbers: every strategy, as its script computes it."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from core.networks import Classifier
from core.strategy import Crops, Step
from core.training.config import parse_arguments
from core.training.trainer import Trainer
from core.weights import load_weights
from tests.golden import fill

SCRIPTS = {
    "max": "train_classification_with_puzzle_max",
    "cMax": "train_classification_with_puzzle_cMax_ema",
    "cTopk": "train_classification_with_puzzle_cTopk_ema",
    "cTopk_w": "train_classification_with_puzzle_cTopk_w_ema",
}


def official_state_dict(network: Classifier) -> dict[str, torch.Tensor]:
    """The golden parameters under the official code's names, running statistics at 0 and 1."""
    channels, classes = network.classifier.in_channels, network.num_classes
    state = {}
    for name, value in network.backbone.state_dict().items():
        is_parameter = name.endswith(("weight", "bias"))
        filled = torch.from_numpy(fill.parameter(name, tuple(value.shape))) if is_parameter else value
        state[f"model.{name}"] = filled
    state["classifier.weight"] = torch.from_numpy(fill.parameter("classifier.weight", (classes, channels, 1, 1)))
    for v in range(classes):
        for kind in ("weight", "bias"):
            state[f"BN.{v}.{kind}"] = torch.from_numpy(fill.parameter(f"BN.{v}.{kind}", (channels,)))
        state[f"BN.{v}.running_mean"] = torch.zeros(channels)
        state[f"BN.{v}.running_var"] = torch.ones(channels)
        state[f"stage6.{v}.weight"] = torch.from_numpy(fill.parameter(f"stage6.{v}.weight", (1, channels, 1, 1)))
    return state


def named_as_official(network: Classifier, name: str) -> torch.Tensor:
    """The tensor of `network` that the official code calls `name`."""
    state = network.state_dict()
    if name.startswith("model."):
        return state["backbone." + name.removeprefix("model.")]
    if name.startswith("classifier."):
        return state[name]
    layer, v, kind = name.split(".")
    ours = "weight" if layer == "stage6" else {"weight": "bn_weight", "bias": "bn_bias"}.get(kind, kind)
    return state[f"instances.{ours}"][int(v)]


def make_trainer(strategy: str, case: dict, replicas: int, device: torch.device) -> Trainer:
    hyper = case["hyper"]
    words = ["--data_dir", "none", "--tag", "golden", "--max_epoch", str(case["max_iteration"])]
    words += [word for name, value in hyper.items() for word in (f"--{name}", str(value))]
    if case["alpha_ema"] is not None:
        words += ["--alpha_ema", str(case["alpha_ema"])]
    torch.manual_seed(0)
    # Rounding grows from step to step, so the third step's keypoints need the official code's memory layout.
    network = Classifier("resnet50", 20, channels_last=False)
    assert load_weights(network, official_state_dict(network)) == "official checkpoint"
    network.to(device).set_replicas(replicas)
    script = importlib.import_module(SCRIPTS[strategy])
    args = parse_arguments(script.__doc__, words)
    crops_of = Crops.one_per_image if strategy == "max" else Crops.of
    return Trainer(network, script.training_step, args, 1, case["alpha_ema"] is not None, crops_of)


def gradient_norms(trainer: Trainer) -> list[float]:
    return [
        float(torch.stack([parameter.grad.detach().norm() for parameter in group["params"]]).norm())
        for group in trainer.optimizer.param_groups
    ]


def one_list(keypoints: list) -> list[list[int]]:
    """Keypoints per image (Max), or per image and class, as one list of (row, column)."""
    return [point for image in keypoints for point in (image if isinstance(image[0], list) else [image])]


def check_tensors(network: Classifier, expected: dict[str, list[float]], skip: str = " ") -> None:
    for name, (total, norm) in expected.items():
        if name.startswith(skip):
            continue
        value = named_as_official(network, name).double()
        assert float(value.norm()) == pytest.approx(norm, rel=1e-4), name
        assert float(value.sum()) == pytest.approx(total, abs=1e-3 * norm), name


def iterate_and_keep_logits(trainer: Trainer, images: torch.Tensor, labels: torch.Tensor) -> tuple[Step, torch.Tensor]:
    """One iteration, and the logits of its first forward pass (in Max the tiles follow)."""
    passes = []
    hook = trainer.student.register_forward_hook(lambda module, inputs, output: passes.append(output[0].detach().cpu()))
    step = trainer.iterate(images, labels)
    hook.remove()
    return step, passes[0]


def check_case(strategy: str, case: dict, replicas: int, device: torch.device) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    trainer = make_trainer(strategy, case, replicas, device)
    for expected in case["steps"]:
        batch_key = f"{case['batch_key']}{expected['iteration']}"
        images, labels = map(torch.from_numpy, fill.batch(batch_key, case["batch_size"]))
        assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx(expected["learning_rates"])
        assert trainer.alpha_re == pytest.approx(expected["alpha_re"])
        step, logits = iterate_and_keep_logits(trainer, images, labels)
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
