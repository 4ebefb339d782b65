"""Networks for prediction: batch normalization folded into convolutions, the same scores."""

import copy

import pytest
import torch
from torch import nn

from core.batch_norm import GroupedBatchNorm2d
from core.evaluation.folding import folded
from core.networks import Classifier
from tools.data.transforms import _scale_and_shift, normalize


def used(network: Classifier) -> Classifier:
    """Give every normalization statistics and parameters of its own."""
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (layer.bias.data, layer.running_mean):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.5)
    return network


def count(network: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


@pytest.mark.parametrize(
    "architecture, head, channels_last",
    [("resnet18", "instances", True), ("resnet18", "gap", False), ("resnet50", "instances", True)],
)
def test_scores_and_maps_are_those_of_the_network(architecture, head, channels_last):
    torch.manual_seed(0)
    network = used(Classifier(architecture, 5, channels_last, head))
    ours = folded(network)
    assert count(ours) == 0 and count(network) > 0  # a copy: the network keeps its layers
    assert network.training and not ours.training
    network.eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        (logits, features), (expected_logits, expected) = ours(images), network(images)
        assert (torch.sigmoid(logits) - torch.sigmoid(expected_logits)).abs().max() <= 1e-5
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        tiles = torch.randn(2, 4, 3, 32, 32)
        assert ours(tiles, features_only=True)[1].shape == network(tiles, features_only=True)[1].shape


@pytest.mark.parametrize("name", ["resnet18d", "mobilenetv3_small_050", "tf_efficientnet_lite0", "resnest14d"])
def test_a_backbone_of_timm_keeps_its_activations(name):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    network = used(Classifier(f"timm/{name}", 3)).eval()
    ours = folded(network)
    assert count(ours) < count(network)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected, maps = network(images)
        logits, features = ours(images)
    assert (torch.sigmoid(logits) - torch.sigmoid(expected)).abs().max() <= 1e-5
    torch.testing.assert_close(features, maps, rtol=1e-3, atol=1e-4 * float(maps.abs().max()))


class Awkward(nn.Module):
    """A convolution that is used twice, one that is used once and, if wanted, one that is read twice."""

    def __init__(self, read_twice: bool):
        super().__init__()
        self.read_twice = read_twice
        self.first, self.norm = nn.Conv2d(3, 3, 1), GroupedBatchNorm2d(3)
        self.used_twice, self.second = nn.Conv2d(3, 3, 1), GroupedBatchNorm2d(3)
        self.plain, self.third = nn.Conv2d(3, 4, 1), GroupedBatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        y = self.norm(y) + (y if self.read_twice else x)
        y = self.second(self.used_twice(y)) + self.used_twice(x)
        return self.third(self.plain(y))


@pytest.mark.parametrize("read_twice, left", [(False, 1), (True, 3)])
def test_only_a_convolution_that_a_normalization_alone_reads_is_changed(read_twice, left):
    torch.manual_seed(0)
    network = Classifier("resnet18", 2)
    network.backbone, network.classifier = Awkward(read_twice), nn.Conv2d(4, 2, 1, bias=False)
    network = used(network).eval()
    ours = folded(copy.deepcopy(network))
    assert count(ours) == left
    images = torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        expected, found = (each(images, features_only=True)[1] for each in (network, ours))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_training_works_after_normalization_was_first_used_in_prediction():
    """Its constants are cached, and tensors made in inference mode cannot take part in a backward pass."""
    _scale_and_shift.cache_clear()
    pixels = torch.full((1, 32, 32, 4), 255, dtype=torch.uint8)
    with torch.inference_mode():
        expected = normalize(pixels).clone()
    network = Classifier("resnet18", 2)
    images = normalize(pixels)
    network(torch.cat((images, images)))[0].sum().backward()
    assert torch.equal(images, expected) and network.backbone.conv1.weight.grad is not None
