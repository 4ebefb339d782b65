"""Class activation maps from the features of the CAM branch."""

import torch


def make_cam(features: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """Return class activation maps, scaled to 0…1 per image and class (official code: `make_cam`).

    Args:
        features: `[..., h, w]`, output of the CAM branch.
        epsilon: subtracted from the map and added to its maximum, so that an all-zero map stays zero.

    Returns:
        maps of the same shape: relu(relu(features) − ε) / (max over the map of relu(features) + ε).
    """
    positive = torch.relu(features)
    strongest = positive.amax(dim=(-2, -1), keepdim=True)
    return torch.relu(positive - epsilon) / (strongest + epsilon)
