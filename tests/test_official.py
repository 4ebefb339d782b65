"""What the official code does around its steps, against ours: first weights, defaults, names, the validation's loss.

Numbers are in tests/golden/official.npz, names and defaults in tests/golden/official.json (see the README there).
"""

import numpy as np
import pytest
import torch
from torch import nn

from core.networks import Classifier
from core.optimizer import parameter_groups
from tests.helpers import oracle
from tests.helpers.command_line import ROOT

CHANNELS, CLASSES = 2048, 20
SEEDS = range(5)


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    return dict(np.load(ROOT / "tests/golden/official.npz"))


def test_the_numbers_are_the_shared_ones(official):
    file = ROOT.parent / "shared/golden/rivals/units_rivals.npz"
    if not file.is_file():
        pytest.skip("needs ../shared/golden/rivals")
    shared = np.load(file)
    names = {name for name in shared.files if name.startswith(("init_", "eval_class_loss"))}
    assert names == {name for name in official if name in shared.files}
    assert all(np.array_equal(official[name], shared[name]) for name in names)


# First weights ------------------------------------------------------------------------------------------------------


def our_first_weights(monkeypatch) -> dict[str, torch.Tensor]:
    """Return the first weights of a network with D = 2048, under the official names, those of the classes stacked."""
    monkeypatch.setattr("core.networks.build_backbone", lambda name: (nn.Identity(), CHANNELS, 16))
    network = Classifier("resnet50", CLASSES)
    instances = network.instances
    return {
        "classifier": network.classifier.weight.flatten(1),
        "stage6": instances.weight,
        "bn_weight": instances.bn_weight,
        "bn_bias": instances.bn_bias,
    }


def literal_first_weights(monkeypatch) -> dict[str, torch.Tensor]:
    head = oracle.OracleClassifier(nn.Identity(), CHANNELS, CLASSES)
    return {
        "classifier": head.classifier.weight.flatten(1),
        "stage6": torch.stack([layer.weight.flatten() for layer in head.stage6]),
        "bn_weight": torch.stack([layer.weight for layer in head.BN]),
        "bn_bias": torch.stack([layer.bias for layer in head.BN]),
    }


@pytest.mark.parametrize("first_weights", [our_first_weights, literal_first_weights])
@pytest.mark.parametrize("seed", SEEDS)
def test_first_weights_are_distributed_as_the_official_ones(first_weights, seed, official, monkeypatch):
    torch.manual_seed(seed)
    weights = {name: value.detach().double().numpy() for name, value in first_weights(monkeypatch).items()}
    assert {name: value.shape for name, value in weights.items()} == dict.fromkeys(weights, (CLASSES, CHANNELS))
    assert weights["classifier"].std() == pytest.approx(official["init_classifier"][seed, 0], rel=0.03)
    deviations, least, most = official["init_stage6"][seed].T  # of each class
    assert weights["stage6"].std(1) == pytest.approx(deviations, rel=0.05)
    bound = CHANNELS**-0.5
    assert np.abs(weights["stage6"]).max() <= bound and max(-least.min(), most.max()) <= bound
    assert (np.abs(weights["stage6"]).max(1) > 0.98 * bound).all()  # uniform: it reaches its bound
    for name in ("bn_weight", "bn_bias"):
        found = np.stack([weights[name].std(1), weights[name].min(1), weights[name].max(1)], axis=1)
        assert np.array_equal(found, official[f"init_{name}"][seed])


def test_the_parameter_groups_hold_the_official_parameters(official):
    with torch.device("meta"):
        groups = parameter_groups(Classifier("resnet50", CLASSES), lr=0.1, wd=1e-4)
    # Ours stack the classes: three parameters of the head (two weights, one bias) are twenty each there.
    backbone_weights, backbone_biases, weights, biases = (len(group["params"]) for group in groups)
    counts = [backbone_weights, backbone_biases, 1 + CLASSES * (weights - 1), CLASSES * biases]
    assert counts == official["init_group_sizes"].tolist()
