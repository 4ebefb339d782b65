"""From a name or a file to a network on a device, and to the keypoints of its strategy."""

import difflib
import runpy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from core.networks import HEADS, RESNESTS, TIMM_PREFIX, Classifier, Head
from core.strategy import KEYPOINTS, STRATEGIES, Keypoints, Options, Strategy
from core.weights import StateDict, head_classes, load_weights
from tools.data.devkit import class_columns
from tools.data.transforms import IMAGENET
from tools.runs.checkpoints import Description, imagenet_state_dict, normalization_of, read_description, read_state_dict
from tools.system.errors import UserError, advice, first_few, printable, quoted, reason, shorten
from tools.system.files import ROOT
from tools.system.memory import keep_freed_memory

SIMILAR = 10  # names at most, in place of one that timm does not know


class UnknownStrategy(UserError):
    """The script that declares a checkpoint's strategy is not given: its keypoints are unknown, its scores are not."""


def load_first_weights(
    network: Classifier,
    architecture: str,
    weights: str,
    class_names: list[str] | None = None,
    say: Callable[[str], None] = print,
) -> str:
    """Load a classifier's first weights: "imagenet", "none" or a file (see `core.weights.load_weights`).

    Return a sentence: what was loaded, and how images are normalized for it. Raise a UserError for weights that are not
    available or do not fit.

    Args:
        class_names: of the V classes. From the checkpoint of a training on other classes, the classes with the same
            name are taken; None: its classes are these.
        say: called with a sentence that says so.
    """
    source, rows, loaded = f"--weights {weights} for {architecture}", None, "random"
    if weights == "imagenet":
        state_dict = imagenet_state_dict(RESNESTS.get(architecture, architecture))
    elif weights != "none":
        path = Path(weights)
        state_dict = read_state_dict(path)
        if (count := head_classes(state_dict)) is not None:
            description = read_description(path)
            network.normalization = description.normalization
            if class_names is not None:
                rows = _rows_by_name(weights, count, description.class_names, class_names, say)
    if weights != "none":
        is_backbone = _fill(network, state_dict, rows, source) == "backbone"
        count = sum(not name.endswith("num_batches_tracked") for name in network.backbone.state_dict())
        new = (rows or []).count(None)
        untrained = "the head" if is_backbone else f"the head's rows of {new} classes" if new else "nothing"
        loaded = f"they fill all {count} tensors of the backbone; untrained: {untrained}"
    mean, std = ([round(value, 3) for value in values] for values in network.normalization or IMAGENET)
    return f"weights {printable(weights)}: {loaded}; images are normalized with mean {mean}, std {std}"


def trained_network(
    path: Path,
    architecture: str | None = None,
    class_names: list[str] | None = None,
    head: str | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Classifier, Description]:
    """Return the network of a checkpoint, ours or the official code's, in evaluation mode, and its description.

    Args:
        architecture, class_names, head: replace what the description says; the first two suffice without one. Class
            names are matched by name, so they may have another order than the description's.
        say: called with a sentence if they have.

    Raises:
        UserError: no such checkpoint, it does not fit, or its architecture or classes are unknown.
    """
    state_dict, described = read_state_dict(path), read_description(path)
    given = {"architecture": architecture, "class_names": class_names, "head": head}
    description = replace(described, **{name: value for name, value in given.items() if value is not None})
    if missing := [name for name in ("architecture", "class_names") if getattr(description, name) is None]:
        problem = f"{path.with_suffix('.json')} beside the checkpoint is missing or lacks {', '.join(missing)}"
        raise UserError(f"{problem}: put it there, or give --architecture and --class_file")
    if (count := head_classes(state_dict)) is None:
        raise UserError(f"{path} does not hold a trained head: give a checkpoint of a training run")
    trained_on = described.class_names or description.class_names
    with advice(f"--class_file must name the classes of {path}, in any order"):
        class_columns(description.class_names, trained_on)
    rows = _rows_by_name(str(path), count, trained_on, description.class_names, say)
    # A head that is not of `HEADS` is what the baseline of its strategy declares.
    strategy = None if description.head in HEADS else _baseline(description)
    head = strategy.head_for(_options_of(description, strategy)) if strategy else description.head
    network = untrained_network(description.architecture, len(rows), head=head)
    network.normalization = description.normalization
    _fill(network, state_dict, rows, f"{path} for {description.architecture}")
    return network.eval(), description


def untrained_network(
    architecture: str, num_classes: int, channels_last: bool = True, head: str | Head = "instances"
) -> Classifier:
    """Return a classifier that takes images as the published weights of its architecture do."""
    if isinstance(head, str) and head not in HEADS:
        raise UserError(f"unknown head {quoted(head)}: choose one of {', '.join(HEADS)}")
    try:
        network = Classifier(architecture, num_classes, channels_last, head)
    except ImportError as error:
        raise UserError(f"--architecture {architecture} needs timm: pip install timm") from error
    except ValueError as error:
        raise UserError(f"--architecture: {error}{_meant(architecture)}") from error
    network.normalization = normalization_of(RESNESTS.get(architecture, architecture))
    return network


def _meant(architecture: str) -> str:
    """Return which models of timm an unknown name may mean, to append to its error; nothing for a known name."""
    name = architecture.removeprefix(TIMM_PREFIX)
    with suppress(ImportError):
        import timm

        if timm.is_model(name):
            return "" if name != architecture else f"; did you mean {TIMM_PREFIX}{name}?"
        names = timm.list_models()
        containing = sorted((known for known in names if name in known), key=len)
        similar = containing[:SIMILAR] or difflib.get_close_matches(name, names, SIMILAR)
        return f" (similar: {', '.join(similar)})" if name != architecture and similar else ""
    return ""


def _fill(network: Classifier, state_dict: StateDict, rows: list[int | None] | None, what: str) -> str:
    try:
        return load_weights(network, state_dict, rows)
    except ValueError as error:
        raise UserError(f"{what} with {network.num_classes} classes: {error}") from error


def _rows_by_name(
    path: str, count: int, trained_on: list[str] | None, class_names: list[str], say: Callable[[str], None]
) -> list[int | None]:
    """Return which row of a head of `count` classes each class takes, by name; None: it is not one of them.

    Without the head's classes, `trained_on`, they are those of the network if they are as many.
    """
    if trained_on is None:
        trained_on = class_names if len(class_names) == count else []
    elif len(trained_on) != count:
        raise UserError(f"{path} has a head of {count} classes, but {len(trained_on)} class names are given for it")
    index = {name: row for row, name in enumerate(trained_on)}
    kept, new = ([shorten(name) for name in class_names if (name in index) is known] for known in (True, False))
    if len(kept) == len(class_names) == count:
        how = "" if trained_on == class_names else "the same classes in another order, matched by name"
    else:
        taken = f"{len(kept)} of its {count} classes ({first_few(kept) or 'no equal name'})"
        how = f"the backbone and {taken} are taken; untrained: {first_few(new) or 'none'}"
    if how:
        say(f"note: {printable(path)}: {how}")
    return [index.get(name) for name in class_names]


def _options_of(description: Description, strategy: Strategy) -> Options:
    try:
        return strategy.options(description.arguments)
    except ValueError as error:
        raise UserError(f"the checkpoint's description: among its arguments, {error}") from error


def _baseline(description: Description) -> Strategy | None:
    """Return the strategy that the file in `baselines/` of its name declares; None if there is no such file."""
    files = {file.stem: file for file in (ROOT / "baselines").glob("*.py")}
    return read_strategy(files[description.strategy]) if description.strategy in files else None


def read_strategy(path: Path) -> Strategy:
    """Import a script and return the `STRATEGY` that it declares; a `UserError` if there is none."""
    if not path.is_file():
        raise UserError(f"no file {path}: give a script that declares a STRATEGY")
    try:
        strategy = runpy.run_path(str(path)).get("STRATEGY")
    except (Exception, SystemExit) as error:  # whatever the script does wrong
        raise UserError(f"cannot import {path}: {type(error).__name__}: {error}") from error
    if not isinstance(strategy, Strategy):
        raise UserError(f"{path} does not declare STRATEGY = Strategy(…): see docs/change-the-method.md")
    return strategy


def keypoints_of(description: Description, given: str | None = None) -> tuple[Keypoints | None, Options]:
    """Return how a checkpoint's keypoints are found (None: its strategy has none), and the options it was trained with.

    `given` is `--strategy`: one of `STRATEGIES`, or the file of a strategy of one's own; None: the checkpoint's own,
    which may be unknown here: a `UserError`.
    """
    is_file, names = bool(given) and given.endswith(".py"), ", ".join(STRATEGIES)
    if given and not is_file and given not in STRATEGIES:
        raise UserError(f"--strategy {given}: choose one of {names}, or a script that declares STRATEGY")
    if not given and description.strategy is None:
        raise UserError(f"the checkpoint does not say its strategy: give --strategy ({names})")
    strategy = Strategy("", None, keypoints=given or description.keypoints)
    if is_file:
        strategy = read_strategy(Path(given))
    elif not given and description.keypoints not in (None, *KEYPOINTS):
        strategy = _baseline(description)
    if strategy is None:
        problem = f"the checkpoint's strategy '{description.strategy}' is unknown here"
        raise UnknownStrategy(f"{problem}: give --strategy FILE.py, the script that declares it, or one of {names}")
    return strategy.shown_keypoints(), _options_of(description, strategy)


def choose_device(name: str, keep_memory: bool = True) -> torch.device:
    """Return the device of this name ("auto": a GPU if there is one), or raise a `UserError` if it is not here.

    `keep_memory`: on a CPU, let this process keep freed memory (see `tools.system.memory`).
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        if device.type not in ("cpu", "cuda"):
            raise ValueError("not a CPU or a GPU of CUDA")
        if name != "auto":
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"--device {name} is not available here ({reason(error)}): use --device cpu") from error
    if keep_memory and device.type == "cpu":
        keep_freed_memory()
    return device


def check_image_size(image_size: int | None) -> None:
    """Refuse an image size whose tiles do not fit the feature cells; the `UserError` names the nearest that do."""
    if image_size is not None and (image_size % 32 or image_size < 32):
        near = max(32, round(image_size / 32) * 32)
        raise UserError(f"--image_size {image_size} is not divisible by 32 (half-size tiles at stride 16): try {near}")
