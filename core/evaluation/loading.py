"""From words on a command line to a network on a device."""

from pathlib import Path
from typing import Any

import torch

from core.networks import Classifier
from core.weights import load_weights
from tools.runs.checkpoints import imagenet_state_dict, read_description, read_state_dict
from tools.system.errors import UserError

IMAGE_SIZE = 512  # of a checkpoint that does not say (the official code's)


def make_network(
    architecture: str, weights: str, num_classes: int, channels_last: bool = True, head: str = "instances"
) -> Classifier:
    """A classifier with its first weights.

    Args:
        architecture: see `core.networks.Classifier`.
        weights: "imagenet", "none" or a file; see `core.weights.load_weights`.
        num_classes: V.
        channels_last: memory layout.
        head: what gives the logits, see `core.networks.Classifier`.

    Raises:
        UserError: unknown architecture, weights that cannot be had, or that do not fit.
    """
    try:
        network = Classifier(architecture, num_classes, channels_last, head)
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


def trained_network(path: Path, **overrides: Any) -> tuple[Classifier, dict[str, Any]]:
    """A checkpoint of ours, or of the official code, as a network in evaluation mode, and the description beside it.

    Args:
        path: the checkpoint.
        overrides: `architecture`, `class_names` or `head` in place of the description's; None changes nothing. The
            first two make a checkpoint without a description usable.

    Returns:
        the network; its description, with the keys `architecture`, `class_names` and `image_size`.

    Raises:
        UserError: no such checkpoint, it does not fit, or its architecture or classes are not known.
    """
    state_dict = read_state_dict(path)
    given = {key: value for key, value in overrides.items() if value is not None}
    description = {"image_size": IMAGE_SIZE, **read_description(path), **given}
    missing = [key for key in ("architecture", "class_names") if key not in description]
    if missing:
        raise UserError(
            f"{path.with_suffix('.json')} beside the checkpoint is missing or lacks {', '.join(missing)}: put it there "
            "or evaluate with --architecture and --class_file"
        )
    architecture, num_classes = description["architecture"], len(description["class_names"])
    network = make_network(architecture, "none", num_classes, head=description.get("head", "instances"))
    try:
        kind = load_weights(network, state_dict)
    except ValueError as error:
        raise UserError(f"{path} does not fit {architecture} with {num_classes} classes: {error}") from error
    if kind == "backbone":
        raise UserError(f"{path} holds a backbone alone, without a trained head: give a checkpoint of a training run")
    return network.eval(), description


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


def check_image_size(image_size: int) -> None:
    """Refuse an image size whose tiles do not fit the feature cells.

    Raises:
        UserError: not divisible by 32; a size that is, is named.
    """
    if image_size % 32 or image_size < 32:
        near = max(32, round(image_size / 32) * 32)
        raise UserError(f"--image_size {image_size} is not divisible by 32 (half-size tiles at stride 16): try {near}")
