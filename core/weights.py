"""Load a state dict from any supported source into a `Classifier`. Tensors only, no files."""

import torch

from core.networks import Classifier

StateDict = dict[str, torch.Tensor]


def load_weights(network: Classifier, state_dict: StateDict) -> str:
    """Load a checkpoint of ours, one of the official code, or a backbone's weights; in place.

    Args:
        network: the classifier to fill.
        state_dict: any of
            a `Classifier`'s own state dict;
            the official code's (`model.*`, `classifier.weight`, `BN.{v}.*`, `stage6.{v}.weight`, with duplicates
            `stage1…5.*` that are ignored);
            a backbone's, with torchvision's or timm's names, its classification head ignored;
            each with or without `module.` before the names (`nn.DataParallel`).

    Returns:
        the kind: "checkpoint", "official checkpoint" or "backbone".

    Raises:
        ValueError: it does not fit; says what is missing, extra or of another shape.
    """
    state_dict = {name.removeprefix("module."): value for name, value in state_dict.items()}
    try:
        return _load_by_kind(network, state_dict)
    except (RuntimeError, TypeError) as error:  # tensors that no network has: sparse, without values, …
        raise ValueError(f"the weights do not fit this network: {str(error).splitlines()[-1].strip()}") from error


def _load_by_kind(network: Classifier, state_dict: StateDict) -> str:
    if is_official(state_dict):
        _load(network, from_official(state_dict))
        return "official checkpoint"
    if "instances.weight" in state_dict:
        _load(network, state_dict)
        return "checkpoint"
    _load(network.backbone, _backbone_names(network.backbone, state_dict))
    return "backbone"


def is_official(state_dict: StateDict) -> bool:
    """Whether the names are those of a full checkpoint written by the official code."""
    return "classifier.weight" in state_dict and any(name.startswith("stage6.") for name in state_dict)


def from_official(state_dict: StateDict) -> StateDict:
    """Return the official code's full state dict under our names, its entries per class stacked to `[V, D]`."""
    num_classes = len(state_dict["classifier.weight"])
    ours = {
        name.replace("model.", "backbone.", 1): value
        for name, value in state_dict.items()
        if name.startswith("model.") and not name.startswith("model.fc.")
    }
    ours["classifier.weight"] = state_dict["classifier.weight"]
    stacked = {
        "weight": "stage6.{}.weight",
        "bn_weight": "BN.{}.weight",
        "bn_bias": "BN.{}.bias",
        "running_mean": "BN.{}.running_mean",
        "running_var": "BN.{}.running_var",
    }
    for name, theirs in stacked.items():
        values = [state_dict.get(theirs.format(v)) for v in range(num_classes)]
        if all(value is not None for value in values):
            ours[f"instances.{name}"] = torch.stack([value.flatten() for value in values])
    ours["instances.num_batches_tracked"] = state_dict.get("BN.0.num_batches_tracked", torch.tensor(0))
    return ours


def _backbone_names(backbone: torch.nn.Module, state_dict: StateDict) -> StateDict:
    """Return the entries of a backbone's file under the backbone's own names.

    timm flattens some module names when it extracts features (`stages.0` → `stages_0`), so dots and underscores count
    as the same. Modules that the backbone does not have are its classification head, which is skipped; a name that is
    neither is kept, so that it is reported.
    """
    own = {_flat(name): name for name in backbone.state_dict()}
    modules = {_module(name) for name in own.values()}

    def is_head(name: str) -> bool:
        return not any(f"{module}_".startswith(f"{_module(name)}_") for module in modules)

    return {
        own.get(_flat(name), name): value
        for name, value in state_dict.items()
        if _flat(name) in own or not is_head(name)
    }


def _module(name: str) -> str:
    """The first part of a name: the module of the backbone that holds the tensor."""
    return name.removeprefix("model.").split(".")[0]


def _flat(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")


def _load(module: torch.nn.Module, state_dict: StateDict) -> None:
    own = module.state_dict()
    # Counters do not influence anything here, and old files lack them.
    missing = [name for name in own if name not in state_dict and not name.endswith("num_batches_tracked")]
    extra = [name for name in state_dict if name not in own]
    mismatched = [
        f"{name} {list(state_dict[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in state_dict and state_dict[name].shape != own[name].shape
    ]
    kinds = {"missing": missing, "extra": extra, "of another shape": mismatched}
    problems = [_few(kind, names) for kind, names in kinds.items() if names]
    if problems:
        raise ValueError("the weights do not fit this network: " + "; ".join(problems))
    module.load_state_dict(state_dict, strict=False)


def _few(kind: str, names: list[str]) -> str:
    return f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
