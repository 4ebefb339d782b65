"""From words on a command line to a network on a device."""

from pathlib import Path
from typing import Any

import torch

from core.networks import Classifier
from core.weights import load_weights
from tools.checkpoints import imagenet_state_dict, read_description, read_state_dict
from tools.errors import UserError

EXPERIMENTS = Path("experiments")


def make_network(architecture: str, weights: str, num_classes: int, channels_last: bool = True) -> Classifier:
    """A classifier with its first weights.

    Args:
        architecture: see `core.networks.Classifier`.
        weights: "imagenet", "none" or a file; see `core.weights.load_weights`.
        num_classes: V.
        channels_last: memory layout.

    Raises:
        UserError: unknown architecture, weights that cannot be had, or that do not fit.
    """
    try:
        network = Classifier(architecture, num_classes, channels_last)
    except (ValueError, ImportError) as error:
        raise UserError(f"--architecture: {error}") from error
    if weights == "none":
        return network
    state_dict = imagenet_state_dict(architecture) if weights == "imagenet" else read_state_dict(Path(weights))
    try:
        load_weights(network, state_dict)
    except ValueError as error:
        raise UserError(f"--weights {weights} for {architecture} with {num_classes} classes: {error}") from error
    return network


def trained_network(path: Path) -> tuple[Classifier, dict[str, Any]]:
    """A checkpoint of ours as a network in evaluation mode, and the description beside it.

    Returns:
        the network; its description, with the keys `architecture`, `class_names` and `image_size`.

    Raises:
        UserError: no such checkpoint, or no description of it.
    """
    state_dict = read_state_dict(path)
    description = read_description(path)
    missing = [key for key in ("architecture", "class_names", "image_size") if key not in description]
    if missing:
        raise UserError(f"{path.with_suffix('.json')} beside the checkpoint is missing or lacks {', '.join(missing)}")
    network = make_network(description["architecture"], "none", len(description["class_names"]))
    try:
        load_weights(network, state_dict)
    except ValueError as error:
        raise UserError(f"{path} does not fit the {description['architecture']} that it says it is: {error}") from error
    return network.eval(), description


def checkpoint_path(tag: str | None, weights: str | None) -> Path:
    """The checkpoint that `--tag` or `--weights` names."""
    return Path(weights) if weights else EXPERIMENTS / "models" / f"best_{tag}.pth"


def choose_device(name: str) -> torch.device:
    """The device that is asked for; "auto" is a GPU where there is one.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} is not to be had here ({str(error).splitlines()[0]}): try cpu") from error
    return device
