"""Checkpoints: plain state dicts that `torch.load(weights_only=True)` reads, beside a JSON file that describes them."""

import logging
import pickle
import warnings
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision

from tools.system.errors import UserError
from tools.system.files import read_json, reason, replace_file, write_json

StateDict = dict[str, torch.Tensor]


# What a description says of its checkpoint, where it says it.
DESCRIBED = {
    "architecture": (lambda value: isinstance(value, str), "a name"),
    "class_names": (lambda value: _are_names(value), "a list of names"),
    "image_size": (lambda value: type(value) is int and value > 0, "a number of pixels"),
}


def save_checkpoint(path: Path, state_dict: StateDict, description: dict[str, Any]) -> None:
    """Write a state dict and, beside it as `.json`, what is needed to use it again (architecture, classes, …)."""
    plain = {name: value.detach().cpu().contiguous() for name, value in state_dict.items()}
    replace_file(path, lambda temporary: torch.save(plain, temporary))
    write_json(path.with_suffix(".json"), description)


def read_description(path: Path) -> dict[str, Any]:
    """The description beside the checkpoint `path`; empty where there is none (a file of other origin).

    Raises:
        UserError: it is no description of a checkpoint.
    """
    beside = path.with_suffix(".json")
    description = read_json(beside) if beside.exists() else {}
    if not isinstance(description, dict):
        raise UserError(f"{beside} does not describe a checkpoint")
    for name, (holds, demand) in DESCRIBED.items():
        if name in description and not holds(description[name]):
            raise UserError(f"{beside}: {name} is not {demand}")
    return description


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(name, str) for name in value)


def read_tensors(path: Path) -> Any:
    """What `torch.save` wrote of tensors and plain values, on the CPU, without running any code in it.

    Raises:
        UserError: no such file, truncated, or no such content.
    """
    if not path.is_file():
        raise UserError(f"no file {path}: check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange pickles, which are refused or harmless
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is no file of plain tensors that PyTorch can read safely, or is damaged") from error
    except Exception as error:  # a damaged file can break the reader anywhere
        raise UserError(f"{path} is truncated or no PyTorch file: {reason(error)}") from error


def read_state_dict(path: Path) -> StateDict:
    """Read a state dict from a file, on the CPU, without running any code in it.

    Raises:
        UserError: no such file, truncated, no PyTorch file, or no state dict in it.
    """
    content = read_tensors(path)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise UserError(f"{path} holds no state dict (names with tensors)")
    return content


def imagenet_state_dict(architecture: str) -> StateDict:
    """ImageNet weights of a torchvision or `timm/` architecture, downloaded by those libraries once and then cached.

    Raises:
        UserError: they cannot be had; names both ways out.
    """
    ways_out = "give --weights FILE with weights that you have, or --weights none to start untrained"
    try:
        if architecture.startswith("timm/"):
            return _timm_state_dict(architecture.removeprefix("timm/"))
        weights = torchvision.models.get_model_weights(architecture).IMAGENET1K_V1
        return weights.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError, LookupError) as error:
        raise UserError(f"ImageNet weights of {architecture} could not be had ({reason(error)}): {ways_out}") from error


def _timm_state_dict(name: str) -> StateDict:
    import timm

    logging.getLogger("timm").setLevel(logging.ERROR)
    return timm.create_model(name, pretrained=True).state_dict()
