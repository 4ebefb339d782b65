"""Checkpoints: plain state dicts that `torch.load(weights_only=True)` reads, beside a JSON file that describes them."""

import hashlib
import logging
import os
import pickle
import re
import shlex
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision

from tools.data.devkit import class_names_problem
from tools.data.transforms import IMAGENET, Normalization
from tools.runs.hub import CONFIG, WEIGHTS, described, read_safetensors
from tools.system.errors import Shortage, UserError, first_few, quoted, reason
from tools.system.files import CHECKSUM, read_object, replace_file, require_regular_file, write_json
from tools.system.shortages import shortage

StateDict = dict[str, torch.Tensor]
WEIGHTS_CHECKSUM = "weights_sha256"  # the key under which a description says of which weights it is
# Under which of its names a file may hold the state dict; the first that is there counts.
STATE_DICTS = (
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "student", "module", "weights"),
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "teacher", "params", "backbone", "encoder"),
)
# A command that keeps of a checkpoint what PyTorch reads safely: tensors, and dictionaries of tensors.
CONVERT = (
    'python3 -c "import sys, torch; T = torch.Tensor; c = torch.load(sys.argv[1], weights_only=False); '
    "c = c.state_dict() if isinstance(c, torch.nn.Module) else c; torch.save({k: v for k, v in c.items() "
    'if isinstance(v, T) or isinstance(v, dict) and all(isinstance(t, T) for t in v.values())}, sys.argv[2])"'
)
# The strategies by what earlier descriptions held instead of their names: stems of scripts, without their beginning.
SCRIPTS = {"max": "Max", "cMax_ema": "cMax", "cTopk_ema": "cTopk", "cTopk_w_ema": "cTopk-w"}
SCRIPTS |= {"plain": "plain", "instances": "instances", "centre": "centre, no EMA", "centre_ema": "centre"}


@dataclass(frozen=True)
class Description:
    """What the JSON file beside a checkpoint says of it; None or the default where it says nothing."""

    architecture: str | None = None
    class_names: list[str] | None = None  # V names, in the order of the logits
    image_size: int = 512  # S, pixels; by default the official code's
    head: str = "instances"  # see `core.networks.Classifier`
    strategy: str | None = None
    keypoints: str | None = None  # the name under which the strategy's keypoints are known; None: it has none
    iteration: int | None = None  # when it was saved
    mAP: float | None = None  # %, of the validation then
    mean: tuple[float, ...] = IMAGENET.mean  # with which its images were normalized
    std: tuple[float, ...] = IMAGENET.std
    arguments: dict[str, Any] = field(default_factory=dict)  # of the training script, by name

    @property
    def normalization(self) -> Normalization:
        return Normalization(self.mean, self.std)


def save_checkpoint(path: Path, state_dict: StateDict, description: Description) -> None:
    """Write a state dict, and beside it, as `.json`, its description. Equal contents make equal files."""
    write_tensors(path, {name: value.detach().cpu().contiguous() for name, value in state_dict.items()})
    content = {**asdict(description), WEIGHTS_CHECKSUM: _weights_checksum(path)}
    write_json(path.with_suffix(".json"), content, checksum=True)


def _weights_checksum(path: Path) -> str | None:
    """Return a SHA-256 of the checksums that an archive of PyTorch has of its tensors; None for a file without them.

    It does not read the tensors. It does not depend on the names of the file and the tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sums = [member.CRC for member in archive.infolist() if "/data/" in member.filename]
        return hashlib.sha256(repr(sums).encode()).hexdigest()
    except Exception:  # a damaged file can break the reader anywhere
        return None


def write_tensors(path: Path, content: Any, keep: Path | None = None) -> None:
    """Write tensors and plain values in PyTorch's format, in one step; `keep` and errors as `replace_file`.

    The file's own name, which `torch.save` would write into its archive, is not in it.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            torch.save(content, file)

    replace_file(path, write, keep)


def read_description(path: Path) -> Description:
    """Read the description beside the checkpoint `path`, or the hub's; an empty one if there is no such file.

    Raises:
        UserError: it cannot be read, was altered, is of other weights, or a value in it is not what `Description` says.
    """
    beside = path.with_suffix(".json")
    if path.name in WEIGHTS and not os.path.exists(beside):
        beside = path.with_name(CONFIG)
    if not os.path.exists(beside):
        return Description()
    content = read_object(beside)
    content = described(content) if beside.name == CONFIG else content
    for name, (kind, is_kind) in _KINDS.items():
        if name in content and not is_kind(content[name]):
            raise UserError(f"{beside}: {name} is not {kind}")
    if content.get(WEIGHTS_CHECKSUM) not in (None, _weights_checksum(path)):
        killed = "if a run was killed between writing the two, continue it with --resume"
        fix = f"{killed}; if they belong together, remove {WEIGHTS_CHECKSUM} and {CHECKSUM} from it"
        raise UserError(f"{beside} describes other weights than those in {path}: {fix}")
    if problem := class_names_problem(content.get("class_names", ["any"])):
        raise UserError(f"{beside}{problem}")
    if "script" in content and "strategy" not in content:
        stem = content["script"].removeprefix("train_").removeprefix("classification_with_puzzle_")
        name = SCRIPTS.get(stem, content["script"])
        content |= {"strategy": name, "keypoints": None if name in ("plain", "instances") else name.split(",")[0]}
    content |= {name: tuple(content[name]) for name in ("mean", "std") if name in content}
    return Description(**{item.name: content[item.name] for item in fields(Description) if item.name in content})


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= 200


def _are_channels(value: Any, least: float) -> bool:
    numbers = isinstance(value, list) and all(isinstance(one, int | float) for one in value)
    return numbers and len(value) == 3 and all(least <= one <= 1 for one in value)


# What a value of a description is, in words, and whether a value is that.
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("architecture", "head", "script"), ("a name", _is_name)),
    **dict.fromkeys(("strategy", "keypoints"), ("a name", lambda value: value is None or _is_name(value))),
    "class_names": ("a list of names", lambda value: isinstance(value, list)),
    "image_size": ("a multiple of 32 up to 8192", lambda value: type(value) is int and value in range(32, 8193, 32)),
    "iteration": ("a whole number", lambda value: value is None or type(value) is int),
    "mAP": ("a number", lambda value: value is None or isinstance(value, int | float)),
    "mean": ("three numbers in 0…1", lambda value: _are_channels(value, 0)),
    "std": ("three numbers in 0.001…1", lambda value: _are_channels(value, 0.001)),
    "arguments": ("an object of names and values", lambda value: isinstance(value, dict)),
}


def read_tensors(path: Path) -> Any:
    """Read tensors and plain values that `torch.save` wrote, onto the CPU, without running any code in the file.

    The checksums of the archive are verified, which PyTorch does not do.

    Raises:
        UserError: there is no such file, it is damaged, or it holds other things.
    """
    if not os.path.exists(path):
        raise UserError(f"no file {path}: check the path")
    require_regular_file(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        _verify_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are refused or harmless
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if not refused:
            raise UserError(f"{path} is damaged, or does not hold plain tensors that PyTorch reads safely") from error
        problem = f"holds not only plain tensors but also {refused[1]}, which PyTorch does not read safely"
        fix = f"if you trust the file, convert it once: {CONVERT} {shlex.quote(str(path))} OUT.pth"
        raise UserError(f"{path} {problem}; {fix}") from error
    except Exception as error:  # a damaged file can break the reader anywhere
        if lacking := shortage(error):
            raise Shortage(f"cannot read {path}: {lacking}") from error
        raise UserError(f"{path} is truncated or not a PyTorch file: {reason(error)}") from error


def _verify_archive(path: Path) -> None:
    """Raise an error if a checksum of a zip archive is wrong; files of PyTorch before 1.6 have none."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise ValueError("its archive is compressed, or claims to hold more than the file")
        if damaged := archive.testzip():
            raise ValueError(f"a checksum shows damage in {damaged}")


def read_state_dict(path: Path) -> StateDict:
    """Read a state dict from a file, onto the CPU, without running any code in it."""
    content = read_tensors(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a state dict (names with tensors) but a {type(content).__name__}")
    for _ in range(5):  # at most: dictionaries around the state dict
        content = next((content[name] for name in STATE_DICTS if isinstance(content.get(name), dict)), content)
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and torch.is_tensor(value)}
    if not tensors:
        held = first_few([quoted(str(name)) for name in content]) or "nothing"
        raise UserError(f"{path} does not hold a state dict (names with tensors) but {held}")
    return tensors


def imagenet_state_dict(architecture: str) -> StateDict:
    """Return ImageNet weights of a torchvision or `timm/` architecture; those libraries download them once."""
    try:
        if not architecture.startswith("timm/"):
            weights = torchvision.models.get_model_weights(architecture).IMAGENET1K_V1
            return weights.get_state_dict(progress=True, check_hash=True)
        import timm

        logging.getLogger("timm").setLevel(logging.ERROR)
        return timm.create_model(architecture.removeprefix("timm/"), pretrained=True).state_dict()
    except (URLError, OSError, RuntimeError, LookupError) as error:
        fix = "give --weights FILE with weights that you have, or --weights none to start untrained"
        problem = f"could not download the ImageNet weights of {architecture} ({reason(error)})"
        raise UserError(f"{problem}: {fix}") from error


def normalization_of(architecture: str) -> Normalization:
    """Return how images are normalized for the published weights of an architecture; ImageNet's if it is unknown."""
    if not architecture.startswith("timm/"):
        return IMAGENET
    import timm

    published = timm.get_pretrained_cfg(architecture.removeprefix("timm/"))
    known = published is not None and len(published.mean) == 3
    return Normalization(tuple(published.mean), tuple(published.std)) if known else IMAGENET
