"""ResNeSt at output stride 16, against numbers of the official code (tests/golden/README.md)."""

import hashlib
import json

import numpy as np
import pytest
import torch

from core.networks import RESNESTS, Classifier
from core.weights import load_weights
from tests.helpers.command_line import ROOT
from tests.helpers.golden import trainer_of
from tools.system.errors import UserError

pytest.importorskip("timm")
CLASSES, CHANNELS = 20, 2048
GOLDEN = dict(np.load(ROOT / "tests/golden/resnest.npz"))
KEY = str(GOLDEN["key"])


def generator(name: str) -> np.random.RandomState:
    """NumPy's legacy generator never changes, so the same name draws the same numbers everywhere."""
    return np.random.RandomState(int.from_bytes(hashlib.sha256((KEY + name).encode()).digest()[:4], "big"))


def images(shape: tuple[int, ...]) -> torch.Tensor:
    """Return the images of the golden numbers: squares of 8 × 8 pixels plus noise."""
    r = generator("resnest images")
    coarse = r.standard_normal((*shape[:2], shape[2] // 8, shape[3] // 8))
    return torch.from_numpy((np.kron(coarse, np.ones((8, 8))) + 0.3 * r.standard_normal(shape)).astype(np.float32))


def parameter(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a parameter or buffer of the golden numbers by its official name, after that of the network."""
    r = generator("parameter " + name)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith("running_var"):
        value = 0.8 + 0.4 * r.random_sample(shape)
    elif name.endswith("running_mean") or (len(shape) == 1 and not name.endswith("weight")):
        value = 0.1 * r.standard_normal(shape)
    elif len(shape) == 1:
        value = (1 + 0.1 * r.standard_normal(shape)) * (0.25 if name.endswith("bn3.weight") else 1)
    else:
        value = r.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(value.astype(np.float32))


def official(architecture: str, backbone: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return an official checkpoint of the whole classifier, with its duplicates and its running counters."""
    entries = {f"model.{name}": tuple(value.shape) for name, value in backbone.state_dict().items()}
    for v in range(CLASSES):
        entries |= {f"BN.{v}.{kind}": (CHANNELS,) for kind in ("weight", "bias", "running_mean", "running_var")}
        entries |= {f"BN.{v}.num_batches_tracked": (), f"stage6.{v}.weight": (1, CHANNELS, 1, 1)}
    entries["classifier.weight"] = (CLASSES, CHANNELS, 1, 1)
    state_dict = {
        name: parameter(f"{architecture}.{name.removeprefix('model.')}", shape) for name, shape in entries.items()
    }
    stages = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")
    places = ("stage1.0.", "stage1.1.", "stage2.0.", "stage3.0.", "stage4.0.", "stage5.0.")
    for stage, place in zip(stages, places, strict=True):
        inside = {name: value for name, value in state_dict.items() if name.startswith(f"model.{stage}")}
        state_dict |= {name.replace(f"model.{stage}", place, 1): value for name, value in inside.items()}
    return state_dict


def digest(state_dict: dict[str, torch.Tensor]) -> str:
    """Return a hash of names and shapes."""
    return hashlib.sha256(json.dumps(sorted([name, list(value.shape)] for name, value in state_dict.items())).encode())


@pytest.mark.parametrize("architecture", RESNESTS)
def test_names_and_shapes_are_the_official_ones(architecture):
    with torch.device("meta"):
        backbone = Classifier(architecture, 2).backbone
    assert digest(backbone.state_dict()).hexdigest() == GOLDEN[f"{architecture}_names"]


@pytest.mark.parametrize("architecture", ["resnest50", "resnest101"])
def test_every_stage_and_both_heads_are_the_official_ones(architecture):
    with torch.device("meta"):  # drawing first weights takes longer than the rest
        network = Classifier(architecture, CLASSES).eval()
    network.to_empty(device="cpu")
    checkpoint = official(architecture, network.backbone)
    if architecture == "resnest50":
        assert digest(checkpoint).hexdigest() == GOLDEN["oass_classifier_resnest50_names"]
    assert load_weights(network, checkpoint) == "official checkpoint"
    x, outputs = images((1, 3, 64, 96)), []
    for name in ("maxpool", "layer1", "layer2", "layer3", "layer4"):
        getattr(network.backbone, name).register_forward_hook(lambda *call: outputs.append(call[-1].numpy()))
    with torch.no_grad():
        logits, features = network(x)
    for i, output in enumerate(outputs):
        assert list(output.shape) == list(GOLDEN[f"{architecture}_stage_shapes"][i])
        stats = [output.mean(), output.std()]
        np.testing.assert_allclose(stats, GOLDEN[f"{architecture}_stage_stats"][i], atol=1e-4)
        steps = (max(1, output.shape[1] // 16), max(1, output.shape[2] // 6), max(1, output.shape[3] // 6))
        sample = output[:, :: steps[0], :: steps[1], :: steps[2]]
        np.testing.assert_allclose(sample, GOLDEN[f"{architecture}_stage{i + 1}_sample"], atol=1e-4)
    if architecture == "resnest50":
        np.testing.assert_allclose(outputs[-1][:, ::16], GOLDEN["resnest50_features"], atol=1e-4)
    np.testing.assert_allclose(features, GOLDEN[f"{architecture}_classifier_map"], atol=2e-4)
    np.testing.assert_allclose(features.mean((2, 3)), GOLDEN[f"{architecture}_logits_pooled"], atol=2e-4)
    np.testing.assert_allclose(logits, GOLDEN[f"{architecture}_logits_instances"], atol=2e-4)


def test_one_image_in_a_layer_that_sees_one_pixel_is_refused_in_one_line():
    trainer = trainer_of("max", Classifier("timm/resnest14d", 2), image_size=64, batch_size=1)
    with pytest.raises(UserError, match="one value per channel, which has no variance: give a larger --batch_size"):
        trainer.iterate(torch.randn(1, 3, 64, 64), torch.ones(1, 2))


def test_a_backbone_file_of_the_official_or_of_timm_s_weights_loads():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        network = Classifier("resnest50", 2)
    network.to_empty(device="cpu")
    theirs = timm.create_model("resnest50d").state_dict()
    assert load_weights(network, theirs) == "backbone"
    assert torch.equal(network.backbone.layer4[2].conv2.conv.weight, theirs["layer4.2.conv2.conv.weight"])
