"""Class activation maps from the features of the CAM branch."""

import torch


def make_cam(features: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """Return class activation maps, scaled to 0…1 per image and class (official code: `make_cam`).

    They have the shape of `features` `[..., h, w]`, the output of the CAM branch, and are
    relu(relu(features) − ε) / (max over the map of relu(features) + ε). So an all-zero map stays zero.
    """
    positive = torch.relu(features)
    return torch.relu(positive - epsilon) / (positive.amax(dim=(-2, -1), keepdim=True) + epsilon)
