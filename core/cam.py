"""Class activation maps from the features of the CAM branch."""

import torch


def make_cam(features: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """Class activation maps, scaled per image and class to 0…1 (official code: `make_cam`).

    Args:
        features: `[..., h, w]`, output of the CAM branch.
        epsilon: what a map loses and its maximum gains; it makes an all-zero map stay zero.

    Returns:
        maps of the same shape: relu(relu(features) − ε) / (max over the map of relu(features) + ε).
    """
    positive = torch.relu(features)
    strongest = positive.amax(dim=(-2, -1), keepdim=True)
    return torch.relu(positive - epsilon) / (strongest + epsilon)
