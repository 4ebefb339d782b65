"""Batch normalization folded into the convolutions before it: in evaluation mode both are one linear map."""

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from core.networks import Classifier

PROBE = 64  # pixels: the side of the random image that shows which layers follow each other
TOLERANCE = 1e-3  # of the largest feature: rounding stays far below, a layer in the wrong place far above


@torch.no_grad()
def folded(network: Classifier) -> Classifier:
    """Return a copy for prediction, in evaluation mode on the same device, with the same scores up to rounding.

    A convolution takes in the normalization that reads its output. If the features of a random image then differ, as
    they do where something else reads that output too, the copy keeps its layers.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    changed = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, PROBE, PROBE, generator=generator).to(network.classifier.weight.device)
    expected = network(image, features_only=True)[1]
    for convolution, normalization in _pairs(changed, image):
        norm = changed.backbone.get_submodule(normalization)
        fused = fuse_conv_bn_eval(changed.backbone.get_submodule(convolution), norm)
        changed.backbone.set_submodule(convolution, fused.to(memory_format=network.memory_format))
        changed.backbone.set_submodule(normalization, nn.Sequential(norm.drop, norm.act))
    difference = (changed(image, features_only=True)[1] - expected).abs().max()
    return changed if difference <= TOLERANCE * expected.abs().max() else network


def _pairs(network: Classifier, image: Tensor) -> list[tuple[str, str]]:
    """Return the names of convolutions and of the normalizations that read their output, each used once per image."""
    names = {layer: name for name, layer in network.backbone.named_modules()}
    outputs, pairs, calls = [], [], Counter()  # outputs of convolutions

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[names[layer]] += 1
        if isinstance(layer, nn.Conv2d):
            outputs.append((names[layer], output))
        else:
            pairs.extend((convolution, names[layer]) for convolution, read in outputs if read is inputs[0])

    watched = [layer for layer in names if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))]
    hooks = [layer.register_forward_hook(note) for layer in watched]
    network(image, features_only=True)
    for hook in hooks:
        hook.remove()
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]
