"""Batch normalization folded into the convolutions before it: in evaluation mode both are one linear map."""

import copy

import torch
from torch import nn
from torch.fx import Tracer
from torch.nn.utils.fusion import fuse_conv_bn_eval

from core.networks import Classifier


class _LayerTracer(Tracer):
    """Records which layer reads which layer's output; convolutions and normalizations are not entered."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (nn.Conv2d, nn.BatchNorm2d)) or super().is_leaf_module(module, name)


@torch.no_grad()
def folded(network: Classifier) -> Classifier:
    """Return a copy for prediction, in evaluation mode, whose scores are those of `network` up to rounding.

    A convolution takes in the normalization behind it where nothing else reads its output. A backbone whose code
    torch.fx cannot follow keeps its layers.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for convolution, normalization in _pairs(network.backbone):
        norm = network.backbone.get_submodule(normalization)
        fused = fuse_conv_bn_eval(network.backbone.get_submodule(convolution), norm)
        network.backbone.set_submodule(convolution, fused.to(memory_format=network.memory_format))
        network.backbone.set_submodule(normalization, nn.Sequential(norm.drop, norm.act))
    return network


def _pairs(backbone: nn.Module) -> list[tuple[str, str]]:
    """Return the names of convolutions and of the normalizations that alone read them."""
    try:
        nodes = _LayerTracer().trace(backbone).nodes
    except Exception:  # whatever a backbone does with proxies instead of tensors
        return []
    layers = [node for node in nodes if node.op == "call_module"]
    calls = [node.target for node in layers]
    modules = dict(backbone.named_modules())
    pairs = []
    for node in layers:
        read = node.args[0] if node.args else None
        if not (isinstance(modules[node.target], nn.BatchNorm2d) and read in layers and len(read.users) == 1):
            continue
        if isinstance(modules[read.target], nn.Conv2d) and calls.count(read.target) == calls.count(node.target) == 1:
            pairs.append((read.target, node.target))
    return pairs
