"""From a name or a file to a network on a device, and to the keypoints of its strategy."""

import difflib
import runpy
from dataclasses import replace
from pathlib import Path

import torch

from core.networks import TIMM_PREFIX, Classifier
from core.strategy import KEYPOINTS, STRATEGIES, Keypoints, Options, Strategy
from core.weights import load_weights
from tools.runs.checkpoints import Description, imagenet_state_dict, read_description, read_state_dict
from tools.system.errors import UserError
from tools.system.memory import keep_freed_memory


def make_network(
    architecture: str, weights: str, num_classes: int, channels_last: bool = True, head: str = "instances"
) -> Classifier:
    """Return a classifier with its first weights: "imagenet", "none" or a file (see `core.weights.load_weights`).

    Raises:
        UserError: an unknown architecture, or weights that are not available or do not fit.
    """
    try:
        network = Classifier(architecture, num_classes, channels_last, head)
    except ImportError as error:
        raise UserError(f"--architecture {architecture} needs timm: pip install timm") from error
    except ValueError as error:
        raise UserError(f"--architecture: {error}{_similar_in_timm(architecture)}") from error
    if weights == "none":
        return network
    state_dict = imagenet_state_dict(architecture) if weights == "imagenet" else read_state_dict(Path(weights))
    try:
        load_weights(network, state_dict)
    except ValueError as error:
        raise UserError(f"--weights {weights} for {architecture} with {num_classes} classes: {error}") from error
    return network


def _similar_in_timm(architecture: str) -> str:
    """Name models of timm that are spelled like an unknown one."""
    if not architecture.startswith(TIMM_PREFIX):
        return ""
    import timm

    name = architecture.removeprefix(TIMM_PREFIX)
    similar = [] if timm.is_model(name) else difflib.get_close_matches(name, timm.list_models())
    return f" (similar: {', '.join(similar)})" if similar else ""


def trained_network(
    path: Path, architecture: str | None = None, class_names: list[str] | None = None, head: str | None = None
) -> tuple[Classifier, Description]:
    """Load a checkpoint of ours or of the official code, and the description in the .json file beside it.

    Args:
        architecture, class_names, head: replace what the description says; the first two suffice without one.

    Returns:
        the network in evaluation mode, and the description with these replacements.

    Raises:
        UserError: no such checkpoint, it does not fit, or its architecture or classes are unknown.
    """
    state_dict = read_state_dict(path)
    given = {"architecture": architecture, "class_names": class_names, "head": head}
    description = replace(read_description(path), **{name: value for name, value in given.items() if value is not None})
    missing = [name for name in ("architecture", "class_names") if getattr(description, name) is None]
    if missing:
        raise UserError(
            f"{path.with_suffix('.json')} beside the checkpoint is missing or lacks {', '.join(missing)}: put it "
            "there, or give --architecture and --class_file"
        )
    what = f"{description.architecture} with {len(description.class_names)} classes"
    network = make_network(description.architecture, "none", len(description.class_names), head=description.head)
    try:
        kind = load_weights(network, state_dict)
    except ValueError as error:
        raise UserError(f"{path} does not fit {what}: {error}") from error
    if kind == "backbone":
        raise UserError(f"{path} holds only a backbone, without a trained head: give a checkpoint of a training run")
    return network.eval(), description


def read_strategy(path: Path) -> Strategy:
    """Import a script and return the `STRATEGY` that it declares.

    Raises:
        UserError: no such file, it cannot be imported, or it declares no strategy.
    """
    if not path.is_file():
        raise UserError(f"no file {path}: give a script that declares a STRATEGY")
    try:
        strategy = runpy.run_path(str(path)).get("STRATEGY")
    except Exception as error:  # whatever the script does wrong
        raise UserError(f"cannot import {path}: {type(error).__name__}: {error}") from error
    if not isinstance(strategy, Strategy):
        raise UserError(f"{path} does not declare STRATEGY = Strategy(…): see docs/change-the-method.md")
    return strategy


def keypoints_of(description: Description, given: str | None = None) -> tuple[Keypoints | None, Options]:
    """Return how a checkpoint's keypoints are found (None: its strategy has none), and the options it was trained with.

    Args:
        given: `--strategy`: one of `STRATEGIES`, or the file of a strategy of one's own; None: the checkpoint's own.

    Raises:
        UserError: the strategy is unknown here.
    """
    if given and given.endswith(".py"):
        strategy = read_strategy(Path(given))
    else:
        strategy = Strategy(given or description.strategy or "", training_step=None, keypoints=given)
    options = strategy.options(description.arguments)
    if given and (given.endswith(".py") or given in STRATEGIES):
        return strategy.shown_keypoints(), options
    if given:
        raise UserError(
            f"--strategy {given}: choose one of {', '.join(STRATEGIES)}, or a script that declares STRATEGY"
        )
    if description.strategy is None:
        raise UserError(f"the checkpoint does not say its strategy: give --strategy ({', '.join(STRATEGIES)})")
    if description.keypoints is not None and description.keypoints not in KEYPOINTS:
        raise UserError(
            f"the checkpoint's strategy '{description.strategy}' is unknown here: give --strategy FILE.py, the script "
            f"that declares it, or one of {', '.join(STRATEGIES)}"
        )
    return KEYPOINTS.get(description.keypoints), options


def choose_device(name: str, keep_memory: bool = True) -> torch.device:
    """Return the device of this name; "auto" is a GPU if there is one.

    Args:
        keep_memory: on a CPU, let this process keep freed memory (see `tools.system.memory`).

    Raises:
        UserError: no such device here.
    """
    try:
        if name == "auto":
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        else:
            device = torch.device(name)
            if device.type not in ("cpu", "cuda"):
                raise ValueError("not a CPU or a GPU of CUDA")
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} is not available here ({reason}): use --device cpu") from error
    if keep_memory and device.type == "cpu":
        keep_freed_memory()
    return device


def check_image_size(image_size: int) -> None:
    """Refuse an image size whose tiles do not fit the feature cells.

    Raises:
        UserError: it is not divisible by 32; names the nearest size that is.
    """
    if image_size % 32 or image_size < 32:
        near = max(32, round(image_size / 32) * 32)
        raise UserError(f"--image_size {image_size} is not divisible by 32 (half-size tiles at stride 16): try {near}")
