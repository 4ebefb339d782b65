"""Checkpoints: plain state dicts that `torch.load(weights_only=True)` reads, beside a JSON file that describes them."""

import logging
import pickle
import warnings
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision

from tools.system.errors import UserError
from tools.system.files import read_json, reason, replace_file, write_json

StateDict = dict[str, torch.Tensor]
OFFICIAL_IMAGE_SIZE = 512  # of a checkpoint without a description
# What descriptions had in place of a strategy's name: the stem of its script.
SCRIPTS = {
    "train_classification_with_puzzle_max": "Max",
    "train_classification_with_puzzle_cMax_ema": "cMax",
    "train_classification_with_puzzle_cTopk_ema": "cTopk",
    "train_classification_with_puzzle_cTopk_w_ema": "cTopk-w",
    "train_plain": "plain",
    "train_instances": "instances",
    "train_centre": "centre, no EMA",
    "train_centre_ema": "centre",
}
SCRIPTS_WITHOUT_KEYPOINTS = ("train_plain", "train_instances")


@dataclass(frozen=True)
class Description:
    """What the JSON file beside a checkpoint says of it; None or the default where it says nothing.

    Attributes:
        architecture, head: see `core.networks.Classifier`.
        class_names: V names, in the order of the logits.
        image_size: S, pixels.
        strategy: the strategy's name.
        keypoints: the name under which its keypoints are known; None: it has none. Not meaningful without a strategy.
        iteration, mAP: when it was saved; mAP in %.
        arguments: of the training script, by name.
    """

    architecture: str | None = None
    class_names: list[str] | None = None
    image_size: int = OFFICIAL_IMAGE_SIZE
    head: str = "instances"
    strategy: str | None = None
    keypoints: str | None = None
    iteration: int | None = None
    mAP: float | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, state_dict: StateDict, description: Description) -> None:
    """Write a state dict, and beside it, as `.json`, its description."""
    plain = {name: value.detach().cpu().contiguous() for name, value in state_dict.items()}
    write_tensors(path, plain)
    write_json(path.with_suffix(".json"), asdict(description))


def write_tensors(path: Path, content: Any, keep: Path | None = None) -> None:
    """Write tensors and plain values in PyTorch's format, in one step; `keep` and errors as `replace_file`.

    The file's own name, which `torch.save` would write into its archive, is not in it.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            torch.save(content, file)

    replace_file(path, write, keep)


def read_description(path: Path) -> Description:
    """Read the description beside the checkpoint `path`; an empty one if there is no such file."""
    beside = path.with_suffix(".json")
    if not beside.exists():
        return Description()
    content = read_json(beside)
    if not isinstance(content, dict):
        raise UserError(f"{beside} does not describe a checkpoint")
    holds = {
        "architecture": ("a name", lambda value: isinstance(value, str)),
        "class_names": ("a list of names", _are_names),
        "image_size": ("a number of pixels", lambda value: type(value) is int and value > 0),
        "head": ("a name", lambda value: isinstance(value, str)),
        "strategy": ("a name", lambda value: isinstance(value, str | None)),
        "keypoints": ("a name", lambda value: isinstance(value, str | None)),
        "script": ("a name", lambda value: isinstance(value, str)),
        "arguments": ("an object of names and values", lambda value: isinstance(value, dict)),
    }
    for name, (kind, is_kind) in holds.items():
        if name in content and not is_kind(content[name]):
            raise UserError(f"{beside}: {name} is not {kind}")
    if "script" in content and "strategy" not in content:
        content |= _strategy_of(content["script"])
    return Description(**{item.name: content[item.name] for item in fields(Description) if item.name in content})


def _strategy_of(script: str) -> dict[str, Any]:
    """Return strategy and keypoints of a description that names a script instead."""
    name = SCRIPTS.get(script, script)
    return {"strategy": name, "keypoints": None if script in SCRIPTS_WITHOUT_KEYPOINTS else name.split(",")[0]}


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(name, str) for name in value)


def read_tensors(path: Path) -> Any:
    """Read tensors and plain values that `torch.save` wrote, onto the CPU, without running any code in the file."""
    if not path.is_file():
        raise UserError(f"no file {path}: check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are refused or harmless
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is damaged, or does not hold plain tensors that PyTorch can read safely") from error
    except Exception as error:  # a damaged file can break the reader anywhere
        raise UserError(f"{path} is truncated or not a PyTorch file: {reason(error)}") from error


def read_state_dict(path: Path) -> StateDict:
    """Read a state dict from a file, onto the CPU, without running any code in it."""
    content = read_tensors(path)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise UserError(f"{path} does not hold a state dict (names with tensors)")
    return content


def imagenet_state_dict(architecture: str) -> StateDict:
    """Return ImageNet weights of a torchvision or `timm/` architecture; those libraries download them once."""
    ways_out = "give --weights FILE with weights that you have, or --weights none to start untrained"
    try:
        if architecture.startswith("timm/"):
            return _timm_state_dict(architecture.removeprefix("timm/"))
        weights = torchvision.models.get_model_weights(architecture).IMAGENET1K_V1
        return weights.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError, LookupError) as error:
        raise UserError(
            f"could not download the ImageNet weights of {architecture} ({reason(error)}): {ways_out}"
        ) from error


def _timm_state_dict(name: str) -> StateDict:
    import timm

    logging.getLogger("timm").setLevel(logging.ERROR)
    return timm.create_model(name, pretrained=True).state_dict()
