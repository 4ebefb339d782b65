"""Load a state dict from any supported source into a `Classifier`. Tensors only, no files."""

import re
import sys
from collections import Counter
from collections.abc import Collection, Sequence

import torch

from core.networks import Classifier

StateDict = dict[str, torch.Tensor]
# What PyTorch puts into the names of the modules that it wraps: DataParallel, compile, FSDP, activation checkpointing.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# The names in which full checkpoints differ from a backbone's file, and what may be before them.
FULL_CHECKPOINTS = {
    "checkpoint": re.compile(r"(.*?)instances\.\w+"),
    "official checkpoint": re.compile(r"(.*?)stage6\.\d+\.weight"),
}
# The instances' entries, one row per class, and the official code's, one entry per class.
INSTANCES = {"instances.weight": "stage6.{}.weight", "instances.bn_weight": "BN.{}.weight"}
INSTANCES |= {"instances.bn_bias": "BN.{}.bias", "instances.running_mean": "BN.{}.running_mean"}
INSTANCES |= {"instances.running_var": "BN.{}.running_var"}
PER_CLASS = [*INSTANCES, "classifier.weight"]
# What tensors that no network has (sparse, without values, …) and names that no family of timm has raise.
UNFIT = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError)


def load_weights(network: Classifier, state_dict: StateDict, rows: Sequence[int | None] | None = None) -> str:
    """Load a checkpoint of ours, one of the official code, or a backbone's weights; in place.

    Args:
        network: the classifier to fill.
        state_dict: any of
            a `Classifier`'s own state dict;
            the official code's (`model.*`, `classifier.weight`, `BN.{v}.*`, `stage6.{v}.weight`, with duplicates
            `stage1…5.*` that are ignored);
            a backbone's, with torchvision's or timm's names, its classification head ignored;
            each with any prefix before its names (`module.`, `_orig_mod.`, `model.`, `encoder.`, …).
        rows: for each class of the network, which row of the checkpoint's head it takes; None: it keeps its own.
            Without `rows` the head's classes are the network's, in its order. A backbone has no head.

    Returns:
        the kind: "checkpoint", "official checkpoint" or "backbone".

    Raises:
        ValueError: it does not fit, or is not finite; says what is missing, extra or of another shape.
        RuntimeError: memory is short.
    """
    try:
        kind, ours = _kind(_unwrapped(state_dict))
        if kind == "backbone":
            _load(network.backbone, _backbone_names(network.backbone, ours), state_dict)
            return kind
        ours = ours if kind == "checkpoint" else from_official(ours)
        _load(network, ours if rows is None else _with_rows(network, ours, rows), state_dict)
    except UNFIT as error:
        if any(lack in str(error) for lack in ("out of memory", "allocate memory")):
            raise  # the weights may fit
        why = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise ValueError(f"the weights do not fit this network: {why}") from error
    return kind


def head_classes(state_dict: StateDict) -> int | None:
    """Return the number of classes of a full checkpoint; None for a backbone's and any other state dict."""
    kind, inside = _kind(_unwrapped(state_dict))
    head = None if kind == "backbone" else inside["classifier.weight"]
    return len(head) if head is not None and head.dim() else None


def _kind(state_dict: StateDict) -> tuple[str, StateDict]:
    """Return what a state dict is, see `load_weights`, and the entries of a full checkpoint without their prefix."""
    for kind, head in FULL_CHECKPOINTS.items():
        prefixes = dict.fromkeys(match[1] for name in state_dict if (match := head.fullmatch(name)))
        for inside in (_below(prefix, state_dict) for prefix in prefixes):
            if "classifier.weight" in inside:
                return kind, inside
    return "backbone", state_dict


def from_official(state_dict: StateDict) -> StateDict:
    """Return the official code's full state dict under our names, its entries per class stacked to `[V, D]`."""
    num_classes = min(len(state_dict["classifier.weight"]), len(state_dict))  # a tensor may claim any size
    backbone = _below("model.", state_dict)
    ours = {f"backbone.{name}": value for name, value in backbone.items() if not name.startswith("fc.")}
    ours["classifier.weight"] = state_dict["classifier.weight"]
    for name, theirs in INSTANCES.items():
        values = [state_dict.get(theirs.format(v)) for v in range(num_classes)]
        if all(value is not None for value in values):
            ours[name] = torch.stack([value.flatten() for value in values])
    ours["instances.num_batches_tracked"] = state_dict.get("BN.0.num_batches_tracked", torch.tensor(0))
    return ours


def _with_rows(network: Classifier, state_dict: StateDict, rows: Sequence[int | None]) -> StateDict:
    """Return a checkpoint whose row v of the head is its row `rows[v]`, or where that is None the network's own row.

    Raises:
        ValueError: another order of classes, and a head that mixes classes.
    """
    own, result = network.state_dict(), dict(state_dict)
    names = network.own_head.per_class if network.own_head else ()
    if network.own_head and not names and list(rows) != list(range(len(state_dict["classifier.weight"]))):
        raise ValueError("its head mixes classes: give the classes that it was trained on, in their order")
    taken = {ours: theirs for ours, theirs in enumerate(rows) if theirs is not None}
    ours, theirs = (torch.tensor(list(side), dtype=torch.long) for side in (taken, taken.values()))
    for name in (*PER_CLASS, *(f"own_head.{name}" for name in names)):
        if name in result and result[name].shape[1:] == own[name].shape[1:]:
            result[name] = own[name].cpu().index_copy(0, ours, result[name][theirs].to(own[name].dtype))
    return result


def _unwrapped(state_dict: StateDict) -> StateDict:
    names = [".".join(part for part in name.split(".") if part not in WRAPPERS) for name in state_dict]
    return dict(zip(names, state_dict.values(), strict=True))


def _below(prefix: str, state_dict: StateDict) -> StateDict:
    """Return the entries whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}


def _backbone_names(backbone: torch.nn.Module, state_dict: StateDict) -> StateDict:
    """Return the entries of a backbone's file under the backbone's own names.

    timm flattens some module names when it extracts features (`stages.0` → `stages_0`), so dots and underscores count
    as the same. Modules that the backbone does not have are its classification head, which is skipped; a name that is
    neither is kept, so that it is reported. A whole model of timm takes the files that its family takes: position
    embeddings of another image size are resampled, buffers of earlier versions dropped.
    """
    own, renamed = {_flat(name): name for name in backbone.state_dict()}, {}
    entries = _below(_prefix(own, state_dict), state_dict)
    entries = {name.removeprefix("model."): value for name, value in entries.items()}
    model = getattr(backbone, "model", backbone)
    if adapt := getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None):
        entries = adapt(entries, model)
    for name, value in entries.items():
        module = name.split(".")[0]
        if _flat(name) in own or any(known.startswith(f"{module}_") for known in own):
            renamed[own.get(_flat(name), name)] = value
    return renamed


def _prefix(flat_names: Collection[str], state_dict: StateDict) -> str:
    """Return the prefix of names, as "encoder.", below which a file holds most of the given names; "" if none."""
    found: Counter[str] = Counter()
    for name in state_dict:
        starts = [0, *(position + 1 for position, character in enumerate(name) if character == ".")]
        found.update(name[:start] for start in starts if _flat(name[start:]) in flat_names)
    return max(found, key=found.get, default="")


def _flat(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")


def _load(module: torch.nn.Module, state_dict: StateDict, origin: StateDict) -> None:
    """Load entries under the module's own names; `origin`, as they were called in the file, is named in the error."""
    own = module.state_dict()
    # Counters do not influence anything here, and old files lack them.
    missing = [name for name in own if name not in state_dict and not name.endswith("num_batches_tracked")]
    extra = [name for name in state_dict if name not in own]
    shapes = {name: (list(state_dict[name].shape), list(own[name].shape)) for name in own if name in state_dict}
    mismatched = [f"{name} {theirs} instead of {ours}" for name, (theirs, ours) in shapes.items() if theirs != ours]
    kinds = {"missing": missing, "extra": extra, "of another shape": mismatched}
    problems = [_few(kind, names) for kind, names in kinds.items() if names]
    if missing and not extra:
        problems.append(_few("in the file", list(origin)))
    if problems:
        raise ValueError("the weights do not fit this network: " + "; ".join(problems))
    not_finite = [name for name in shapes if not torch.isfinite(state_dict[name]).all()]
    if not_finite:
        raise ValueError(f"the weights are not finite: {_few('with NaN or infinity', not_finite)}")
    module.load_state_dict(state_dict, strict=False)


def _few(kind: str, names: list[str]) -> str:
    shown = [name if name.isprintable() else ascii(name) for name in names[:3]]
    return f"{len(names)} {kind} ({', '.join(name[:80] for name in shown)}{', …' if len(names) > 3 else ''})"
