"""The oracle itself against the official code's numbers: every part, and whole training steps (marked slow)."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from tests.golden import fill
from tests.helpers import oracle
from tests.helpers.golden import one_list

STRATEGIES = oracle.STRATEGIES
CLASSES = 20


@pytest.fixture(scope="module")
def units(golden_folder):
    return np.load(golden_folder / "units.npz")


def filled(network: oracle.OracleClassifier) -> oracle.OracleClassifier:
    """`network` with every parameter from `fill.parameter`, which knows the backbone without its prefix."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            value = fill.parameter(name.removeprefix("model."), tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(value))
    return network


def error(value, expected) -> float:
    """Largest absolute deviation, in units of the largest expected value."""
    value, expected = np.asarray(value, np.float64), np.asarray(expected, np.float64)
    assert value.shape == expected.shape
    return float(np.abs(value - expected).max() / max(np.abs(expected).max(), 1e-30))


def check(deviations: dict[str, float], tolerances: dict[str, float]) -> None:
    """Print the deviations (`pytest -rA` shows them) and compare each with its tolerance."""
    print(json.dumps({name: float(f"{value:.2g}") for name, value in deviations.items()}))
    assert {name: value for name, value in deviations.items() if not value <= tolerances[name]} == {}


# ------------------------------------------------------------------------------------------------------------ parts


@pytest.fixture(scope="module")
def responses(units) -> np.ndarray:
    """Resized maps [55,512,512] of the golden pairs of image and class."""
    cam = oracle.make_cam(torch.from_numpy(units["cam_features"]))
    image, class_index = units["image_and_class"].T
    assert error(cam[image, class_index].numpy(), units["cam"]) < 1e-6
    return oracle.resize_cam(cam[image, class_index], 512)


def test_keypoints_of_max(units):
    cams = oracle.make_cam(torch.from_numpy(units["cam_features"]))
    maps = [oracle.strongest_class(*pair) for pair in zip(cams, torch.from_numpy(units["labels"]), strict=True)]
    found = [oracle.max_keypoint(response) for response in oracle.resize_cam(torch.cat(maps), 512)]
    assert found == [tuple(point) for point in units["keypoints_max"]]


def test_max_takes_the_strongest_class_before_it_resizes():
    """units.npz cannot tell the two orders apart; a plateau that two classes share can, like the golden steps."""
    features = torch.zeros(1, 2, 8, 8)
    features[0, 0, 2, 2], features[0, 0, 2, 3] = 1.0, 0.5  # resized: 0.953, the peak of either class by itself
    features[0, 0, 5, 6] = features[0, 0, 6, 5] = 0.97  # resized: 0.911 alone, above 0.97 with the next line
    features[0, 1, 5, 5] = features[0, 1, 6, 6] = 1.0  # resized: 0.939 alone
    crop = oracle.find_crops("max", features, torch.ones(1, 2), 128, oracle.Hyper())[0]
    assert [coordinate // oracle.FEATURE_STRIDE for coordinate in crop.keypoint] == [5, 5]


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_keypoints_per_class(strategy, units, responses):
    found = [oracle.class_keypoint(strategy, response, oracle.Hyper()) for response in responses]
    assert found == [tuple(point) for point in units[f"keypoints_{strategy}"]]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_crops_come_image_by_image_and_class_by_class(strategy, units):
    features, labels = torch.from_numpy(units["cam_features"][:4]), torch.from_numpy(units["labels"][:4])
    crops = oracle.find_crops(strategy, features, labels, 512, oracle.Hyper())
    expected = units[f"keypoints_{strategy}"][: len(crops)]
    assert len(crops) == (4 if strategy == "max" else int(labels.sum()))
    assert [crop.keypoint for crop in crops] == [tuple(point) for point in expected]


def golden_crops(units) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[oracle.Crop]]:
    """Images [2,3,512,512], tile features [8,4,20,16,16], features [2,20,32,32] and the eight golden crops."""
    r = fill.rng("goldentiles")
    shapes = (2, 3, 512, 512), (8, 4, CLASSES, 16, 16), (2, CLASSES, 32, 32)
    images, tile_features, features = [
        torch.from_numpy(r.standard_normal(shape).astype(np.float32)) for shape in shapes
    ]
    targets = torch.eye(CLASSES)
    crops = [
        oracle.Crop(image, int(v), (int(row), int(column)), targets[v])
        for image in range(2)
        for (row, column), v in zip(units["tile_keypoints"][image], units["tile_classes"][image], strict=True)
    ]
    return images, tile_features, features, crops


def test_tiles(units):
    images, _, _, crops = golden_crops(units)
    tiles = torch.stack([oracle.cut_tiles(images[crop.image], crop.keypoint) for crop in crops])
    assert np.array_equal(tiles[..., ::17, ::13].numpy(), units["tiles_sample"])
    assert error(tiles.double().sum(dim=(2, 3, 4)), units["tiles_sum"]) < 1e-6


def test_merged_maps_and_losses(units):
    _, tile_features, features, crops = golden_crops(units)
    merged = [oracle.merge_tiles(tiles, crop.keypoint, 32) for tiles, crop in zip(tile_features, crops, strict=True)]
    stacked = torch.stack(merged)
    assert np.array_equal(stacked[:, [0, 5, 10, 15]].numpy(), units["merged"])
    assert error(stacked.double().sum(dim=(1, 2, 3)), units["merged_sum"]) < 1e-6
    nothing = torch.zeros(2, CLASSES)
    _, p_class_loss, re_loss = oracle.step_losses(nothing, nothing, features, crops, merged, oracle.Hyper())
    deviations = {
        "p_class_loss": error(p_class_loss, units["tile_p_class_loss"]),
        "re_loss": error(re_loss, units["tile_re_loss"]),
    }
    check(deviations, dict.fromkeys(deviations, 1e-6))


def test_class_specific_instances(units):
    r = fill.rng("goldencsi")
    x = torch.from_numpy((2 * np.maximum(r.standard_normal((3, 2048, 8, 8)), 0)).astype(np.float32)).requires_grad_()
    weight = r.standard_normal((3, CLASSES)).astype(np.float32)
    assert np.array_equal(weight, units["csi_weight_in_sum"])
    head = filled(oracle.OracleClassifier(nn.Identity(), 2048, CLASSES)).train()
    logits, features = head(x)
    (logits * torch.from_numpy(weight)).sum().backward()
    with torch.no_grad():
        eval_logits, _ = head.eval()(x)

    def rows(tensors) -> torch.Tensor:
        return torch.stack([tensor.detach().flatten()[::64] for tensor in tensors])

    deviations = {
        "csi_logits": error(logits.detach(), units["csi_logits"]),
        "csi_cam": error(oracle.make_cam(features.detach()), units["csi_cam"]),
        "csi_grad_x_norm": error(x.grad.double().norm(), units["csi_grad_x_norm"]),
        "csi_grad_x_sample": error(x.grad[:, ::97, 3, 5], units["csi_grad_x_sample"]),
        "csi_grad_stage6": error(rows(layer.weight.grad for layer in head.stage6), units["csi_grad_stage6"]),
        "csi_grad_bn_weight": error(rows(layer.weight.grad for layer in head.BN), units["csi_grad_bn_weight"]),
        "csi_grad_bn_bias": error(rows(layer.bias.grad for layer in head.BN), units["csi_grad_bn_bias"]),
        "csi_grad_classifier": error(rows(head.classifier.weight.grad), units["csi_grad_classifier"]),
        "csi_running_mean": error(rows(layer.running_mean for layer in head.BN), units["csi_running_mean"]),
        "csi_running_var": error(rows(layer.running_var for layer in head.BN), units["csi_running_var"]),
        "csi_eval_logits": error(eval_logits, units["csi_eval_logits"]),
    }
    check(deviations, dict.fromkeys(deviations, 1e-4))


# ------------------------------------------------------------------------------------------------------ whole steps

LOSSES = ("class_loss", "p_class_loss", "re_loss", "loss")
TOLERANCES = dict.fromkeys(LOSSES, 1e-4) | {
    "logits": 1e-4,  # absolute
    "gradient_norms": 2e-3,
    "learning_rates": 1e-6,
    "alpha_re": 1e-6,
    "norms": 1e-4,
    "sums": 1e-3,  # of the norm
    "eval_logits": 5e-3,  # absolute
}


def gradient_norms(optimizer: torch.optim.Optimizer) -> list[float]:
    """Norm of all gradients of each parameter group."""
    return [
        float(torch.stack([parameter.grad.double().norm() for parameter in group["params"]]).norm())
        for group in optimizer.param_groups
    ]


def relative(value: float, expected: float) -> float:
    return abs(value - expected) / abs(expected) if expected else abs(value)


def step_deviations(result: dict, optimizer: torch.optim.Optimizer, expected: dict) -> dict[str, float]:
    """Deviations of one step's losses, logits, gradients and settings from the golden ones."""
    assert result["keypoints"] == one_list(expected["keypoints"])
    norms = zip(gradient_norms(optimizer), expected["grad_norm_per_group"], strict=True)
    return {name: relative(result[name], expected[name]) for name in LOSSES} | {
        "logits": float(np.abs(result["logits"].numpy() - np.array(expected["logits"])).max()),
        "gradient_norms": max(relative(*pair) for pair in norms),
        "learning_rates": error(result["learning_rates"], expected["learning_rates"]),
        "alpha_re": relative(result["alpha_re"], expected["alpha_re"]),
    }


def tensor_deviations(network: nn.Module, expected: dict[str, list[float]]) -> dict[str, float]:
    """Largest deviations of [sum, norm] of the tensors named in `expected`, relative to their norms."""
    state = {name: network.state_dict()[name].double() for name in expected}
    return {
        "sums": max(abs(float(state[name].sum()) - total) / norm for name, (total, norm) in expected.items()),
        "norms": max(relative(float(state[name].norm()), norm) for name, (_, norm) in expected.items()),
    }


def check_steps(strategy: str, case: dict, replicas: int) -> None:
    """All steps of a golden case, then the networks they leave, then an evaluation."""
    settings = {name: value for name, value in case["hyper"].items() if name != "image_size"}
    hyper = oracle.Hyper(**settings) if strategy == "max" else oracle.Hyper(**settings, alpha_ema=case["alpha_ema"])
    student = filled(oracle.resnet_classifier("resnet50", CLASSES))
    teacher = None if strategy == "max" else oracle.make_teacher(student)
    optimizer = oracle.make_optimizer(student, hyper)
    for expected in case["steps"]:
        iteration = expected["iteration"]
        images, labels = map(torch.from_numpy, fill.batch(f"{case['batch_key']}{iteration}", case["batch_size"]))
        result = oracle.training_step(
            strategy, student, teacher, optimizer, images, labels, iteration, case["max_iteration"], hyper, replicas
        )
        check(step_deviations(result, optimizer, expected), TOLERANCES)
    check(tensor_deviations(student, case["parameters_after"]), TOLERANCES)
    check(tensor_deviations(student, case["buffers_after"]), TOLERANCES)
    if teacher is not None:
        check(tensor_deviations(teacher, case["ema_parameters_after"]), TOLERANCES)
        check(tensor_deviations(teacher, case["ema_buffers_after"]), TOLERANCES)
    check({"eval_logits": evaluation_deviation(student, case)}, TOLERANCES)


def evaluation_deviation(student: oracle.OracleClassifier, case: dict) -> float:
    """Largest absolute deviation of the logits in evaluation mode."""
    images, _ = fill.batch(f"{case['batch_key']}-eval", 2)
    with torch.no_grad():
        logits, _ = student.eval()(torch.from_numpy(images))
    return float(np.abs(logits.numpy() - np.array(case["eval_logits"])).max())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_three_steps(strategy, golden_folder):
    check_steps(strategy, json.loads((golden_folder / "steps.json").read_text())[strategy], replicas=1)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["max", "cMax"])
def test_two_steps_on_two_replicas(strategy, golden_folder):
    case = json.loads((golden_folder / "steps_replicas2.json").read_text())[strategy]
    check_steps(strategy, case, replicas=case["replicas"])
