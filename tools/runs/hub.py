"""Hub-style folders: weights beside a `config.json`, as timm and Hugging Face write them."""

from pathlib import Path
from typing import Any

from tools.system.errors import UserError, reported

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CONFIG = "config.json"


def weights_file(path: Path) -> Path:
    """Return the weights in a hub-style folder; a path that is not a folder is returned as it is."""
    found = [path / name for name in WEIGHTS if (path / name).is_file()] if path.is_dir() else [path]
    if not found:
        raise UserError(f"the folder {path} has no {' or '.join(WEIGHTS)}: give a checkpoint")
    return found[0]


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read tensors by name with the optional safetensors, which comes with timm."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f"{path} needs safetensors: pip install safetensors") from error
    # A damaged file can break the reader anywhere.
    with reported(f"{path} is damaged or not in the format of safetensors", Exception):
        return load_file(path)


def described(config: dict[str, Any]) -> dict[str, Any]:
    """Return a `config.json` in the words of a checkpoint's description, where it uses others."""
    published = config.get("pretrained_cfg")
    content = {**(published if isinstance(published, dict) else {}), **config}
    labels, size = content.get("id2label"), content.get("input_size")
    if isinstance(labels, dict):
        content.setdefault("class_names", [labels.get(str(index)) for index in range(len(labels))])
    if "label_names" in content:
        content.setdefault("class_names", content["label_names"])
    if isinstance(size, list) and size:
        content.setdefault("image_size", size[-1])
    return content
