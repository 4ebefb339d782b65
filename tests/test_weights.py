"""Architectures, and weights of every supported source."""

from pathlib import Path

import pytest
import torch
from torchvision.models import ResNet18_Weights, get_model

from core.evaluation.loading import trained_network
from core.networks import ARCHITECTURES, RESNESTS, Classifier
from core.weights import load_weights
from tests.helpers.golden import make_network
from tools.runs.checkpoints import Description, imagenet_state_dict, read_state_dict, save_checkpoint
from tools.system.errors import UserError
from tools.system.files import replace_file


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name not in RESNESTS])
def test_every_resnet_has_output_stride_16_and_loads_torchvision_s_weights(architecture):
    network = Classifier(architecture, num_classes=3).eval()
    with torch.no_grad():
        logits, features = network(torch.zeros(1, 3, 64, 96))
    assert logits.shape == (1, 3) and features.shape == (1, 3, 4, 6)
    assert not any(layer.dilation != (1, 1) for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
    theirs = get_model(architecture, weights=None).state_dict()
    assert load_weights(network, theirs) == "backbone"
    assert torch.equal(
        network.backbone.layer4[-1].conv2.weight, theirs[f"layer4.{len(network.backbone.layer4) - 1}.conv2.weight"]
    )


@pytest.mark.parametrize("name", ["convnext_atto", "resnest14d", "efficientnet_b0", "resnet18"])
def test_timm_s_networks_have_output_stride_16_and_load_timm_s_weights(name):
    timm = pytest.importorskip("timm")
    network = Classifier(f"timm/{name}", num_classes=3)
    logits, features = network(torch.randn(2, 4, 3, 64, 64))
    assert logits.shape == (2, 4, 3) and features.shape == (2, 4, 3, 4, 4)
    assert load_weights(network, timm.create_model(name).state_dict()) == "backbone"


def test_real_imagenet_weights_are_loaded(imagenet_weights):
    pytest.importorskip("timm")
    network = make_network("timm/tf_efficientnet_lite0", str(imagenet_weights), 20)
    state_dict = read_state_dict(imagenet_weights)
    torch.testing.assert_close(network.backbone.model.conv_stem.weight, state_dict["conv_stem.weight"].float())
    assert network.classifier.in_channels == 320


def official_checkpoint(classes: int, channels: int) -> dict[str, torch.Tensor]:
    """Return what the official code writes for a ResNet-18, random, with its duplicates."""
    state_dict = {
        f"model.{name}": torch.rand_like(value.float()) for name, value in get_model("resnet18").state_dict().items()
    }
    duplicates = {
        "stage2." + name.removeprefix("model."): value for name, value in state_dict.items() if "layer1" in name
    }
    state_dict |= duplicates | {"stage1.0.weight": state_dict["model.conv1.weight"]}
    state_dict["classifier.weight"] = torch.rand(classes, channels, 1, 1)
    for v in range(classes):
        for kind in ("weight", "bias", "running_mean", "running_var"):
            state_dict[f"BN.{v}.{kind}"] = torch.rand(channels)
        state_dict[f"BN.{v}.num_batches_tracked"] = torch.tensor(7)
        state_dict[f"stage6.{v}.weight"] = torch.rand(1, channels, 1, 1)
    return state_dict


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_official_checkpoint_is_loaded_completely(prefix):
    theirs = official_checkpoint(3, 512)
    network = Classifier("resnet18", 3)
    assert load_weights(network, {prefix + name: value for name, value in theirs.items()}) == "official checkpoint"
    assert torch.equal(network.backbone.layer1[0].conv1.weight, theirs["model.layer1.0.conv1.weight"])
    assert torch.equal(network.instances.weight[2], theirs["stage6.2.weight"].flatten())
    assert torch.equal(network.instances.running_var[1], theirs["BN.1.running_var"])
    assert network.instances.num_batches_tracked == 7


@pytest.mark.parametrize("drop", ["model.layer2.0.conv1.weight", "BN.1.running_mean", "stage6.0.weight"])
def test_an_incomplete_official_checkpoint_is_refused(drop):
    theirs = official_checkpoint(3, 512)
    del theirs[drop]
    with pytest.raises(ValueError, match="1 missing"):
        load_weights(Classifier("resnet18", 3), theirs)


def test_a_checkpoint_of_other_classes_is_refused():
    with pytest.raises(ValueError, match="of another shape"):
        load_weights(Classifier("resnet18", 3), Classifier("resnet18", 4).state_dict())


def test_imagenet_weights_come_from_torchvision_s_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub/checkpoints" / Path(ResNet18_Weights.IMAGENET1K_V1.url).name
    cache.parent.mkdir(parents=True)
    theirs = get_model("resnet18").state_dict()
    torch.save(theirs, cache)
    assert torch.equal(imagenet_state_dict("resnet18")["conv1.weight"], theirs["conv1.weight"])


def test_a_checkpoint_loads_as_the_network_that_was_saved(tmp_path):
    network = Classifier("resnet18", 2).eval()
    description = Description(architecture="resnet18", class_names=["a", "b"], image_size=64, strategy="cMax")
    save_checkpoint(tmp_path / "x.pth", network.state_dict(), description)
    again, read = trained_network(tmp_path / "x.pth")
    images = torch.randn(1, 3, 64, 64)
    assert read == description
    assert torch.equal(network(images)[0], again(images)[0])
    (tmp_path / "x.json").unlink()
    with pytest.raises(UserError, match=r"x\.json"):
        trained_network(tmp_path / "x.pth")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04broken"])
def test_a_file_that_is_not_a_checkpoint_is_named_in_one_line(tmp_path, content):
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.pth") as error:
        read_state_dict(tmp_path / "bad.pth")
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({"x": Path("somewhere")}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="plain tensors"):
        read_state_dict(tmp_path / "bad.pth")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "model.pth"
    path.write_text("old")

    def full_disk(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        replace_file(path, full_disk)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
