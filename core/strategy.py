"""What a script declares (`Strategy`), and what step and training loop exchange (`Crops`, `Options`, `Step`)."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from core.keypoints import TOPK, TOPK_RADIUS, centre_keypoints, cmax_keypoints, ctopk_keypoints, ctopk_w_keypoints

MAX_TOPK = 1000  # more local maxima than fit into a map of usual size


class Crops(NamedTuple):
    """The crops of a batch: one per present class of every image, image by image, classes in order."""

    image: Tensor  # index of each crop's image, `[crops]` int64
    label: Tensor  # index of its class, `[crops]` int64

    @classmethod
    def one_per_class(cls, labels: Tensor) -> "Crops":
        """Return the crops of multi-hot labels `[B, V]`.

        The labels are on the CPU, where the loader leaves them: on a GPU, `nonzero` would synchronize.
        """
        return cls(*labels.nonzero(as_tuple=True))

    @classmethod
    def one_per_image(cls, labels: Tensor) -> "Crops":
        """Return one crop per image, whatever its classes (their indices are then -1)."""
        image = torch.arange(len(labels))
        return cls(image, torch.full_like(image, -1))

    def to(self, device: torch.device) -> "Crops":
        return Crops(*(index.to(device, non_blocking=True) for index in self))


class StepError(ValueError):
    """A step or a keypoint function does not return what `Step` and `Keypoints` describe."""


@dataclass(frozen=True)
class Options:
    """Settings of a step and of a keypoint function. The strategy's own arguments are attributes, `options.NAME`."""

    alpha_p: float = 0.0  # weight of the puzzle classification loss; 0: off
    alpha_re: float = 0.0  # weight of the reconstruction loss at this iteration (on its ramp); 0: off
    re_loss: str = "L1_Loss"  # or "L2_Loss"
    topk: int = TOPK  # number of local maxima (cTopk, cTopk-w)
    topk_radius: float = TOPK_RADIUS  # pixels at S = 512, 0 for none (cTopk)
    own: Mapping[str, Any] = field(default_factory=dict)  # values of the strategy's own arguments

    def __getattr__(self, name: str) -> Any:
        if name != "own" and name in self.own:  # `own` itself is missing while the dataclass is being copied
            return self.own[name]
        raise AttributeError(f"the strategy declares no argument '{name}'")


@dataclass(frozen=True)
class Step:
    """A step's losses, scalars, and the keypoints it cut at. A step without a puzzle returns `Step(class_loss)`.

    A batch may be split into micro-batches (`--accumulate`) or over processes, whose numbers of crops differ. So the
    loop has to know what is a mean over crops: everything in `loss` except `class_loss` and the `image_losses`.
    """

    loss: Tensor  # what is minimized: class_loss + sum of image_losses + means over crops, in any combination
    class_loss: Tensor | None = None  # mean over images, with weight 1 in `loss`; None: it is all of `loss`
    p_class_loss: Tensor | None = None  # mean over crops, before its weight; `re_loss` too
    re_loss: Tensor | None = None
    keypoints: Tensor | None = None  # `[crops, 2]`, (row, column) in pixels
    # Further losses by name: means over images as they enter `loss` (weights included), and, for the log, over crops.
    image_losses: Mapping[str, Tensor] = field(default_factory=dict)
    crop_losses: Mapping[str, Tensor] = field(default_factory=dict)

    def losses(self) -> dict[str, Tensor]:
        return {"loss": self.loss, **self.over_images(), **self.over_crops()}

    def over_images(self) -> dict[str, Tensor]:
        """Return the named losses that are means over images."""
        return {"class_loss": self.loss if self.class_loss is None else self.class_loss, **self.image_losses}

    def over_crops(self) -> dict[str, Tensor]:
        """Return the named losses that are means over crops."""
        losses = {"p_class_loss": self.p_class_loss, "re_loss": self.re_loss, **self.crop_losses}
        return {name: loss for name, loss in losses.items() if loss is not None}

    def check(self, crops: int, image_size: int) -> None:
        """Raise a `StepError` if a part is not as described. It synchronizes: call it for one step."""
        for name, loss in self.losses().items():
            if not torch.is_tensor(loss) or loss.dim():
                raise StepError(f"{name} of its Step is not a tensor of one number: return a mean, without .item()")
        for name in (*self.image_losses, *self.crop_losses):
            if name in Step.__dataclass_fields__ or name in self.image_losses.keys() & self.crop_losses.keys():
                raise StepError(f"two parts of its Step are named {name}: rename the further loss")
        if self.keypoints is not None:
            _check_keypoints(self.keypoints, crops, image_size)


def _check_keypoints(points: Tensor, crops: int, image_size: int) -> None:
    if not torch.is_tensor(points) or points.dtype != torch.int64 or points.shape != (crops, 2):
        found = f"{points.dtype} {list(points.shape)}" if torch.is_tensor(points) else type(points).__name__
        raise StepError(f"its keypoints are {found}, not torch.int64 {[crops, 2]}")
    if crops and not 1 <= points.min() <= points.max() < image_size:
        found = f"{points.min()} to {points.max()}, not 1 to {image_size - 1} pixels: clamp them"
        raise StepError(f"its keypoints are {found} (a map may be all zero)")


class Argument(NamedTuple):
    """An argument of a strategy's own, for the command line."""

    default: Any  # its type is the argument's: int, float, str or bool
    help: str  # one line, with the unit
    above: float | None = None  # bounds of a number
    least: float | None = None
    below: float | None = None
    most: float | None = None
    choices: tuple | None = None  # the accepted values

    def check(self, name: str, value: Any) -> None:
        """Raise a ValueError if a value, of a file that anyone may have written, is not one that the argument takes."""
        kind = type(self.default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"{name} is not of the type {kind.__name__}")
        bounds = {operator.gt: self.above, operator.ge: self.least, operator.lt: self.below, operator.le: self.most}
        inside = all(holds(value, bound) for holds, bound in bounds.items() if bound is not None)
        if not inside or (self.choices and value not in self.choices) or (kind is float and not abs(value) < 1e300):
            raise ValueError(f"{name} is not a value that --{name} takes")


# The arguments of every training that `Options` holds.
ARGUMENTS = {
    "alpha_p": Argument(0.0, "weight of the puzzle classification loss", least=0),
    "re_loss": Argument("L1_Loss", "reconstruction loss", choices=("L1_Loss", "L2_Loss")),
    "topk": Argument(TOPK, "number of local maxima", least=1, most=MAX_TOPK),
    "topk_radius": Argument(TOPK_RADIUS, "pixels at S = 512", least=0),
}


class Keypoints(NamedTuple):
    """How a strategy finds keypoints, for whatever shows them: localization, pictures, tables.

    `find` takes maps `[crops, n, n]`, the image size in pixels and `Options`, and returns (row, column) in pixels,
    `[crops, 2]` int64.
    """

    name: str  # what the keypoints are called
    find: Callable[[Tensor, int, Options], Tensor]
    per_image: bool = False  # one per image, on the maximum over its classes' maps; otherwise one per class, on its map

    def of_image(self, cams: Tensor, present: Tensor, image_size: int, options: Options) -> Tensor:
        """Return a keypoint for each present class of one image `[C, 2]`, the same for all of them if `per_image`.

        cams: the image's class activation maps `[V, n, n]`; present: indices of the classes `[C]`; image_size: pixels.
        """
        maps = cams[present].amax(0, keepdim=True) if self.per_image else cams[present]
        return self.find(maps, image_size, options).expand(len(present), -1)


STRATEGIES = ("Max", "cMax", "cTopk", "cTopk-w")
_KNOWN = (
    Keypoints("Max", lambda cams, size, _: cmax_keypoints(cams, size), per_image=True),
    Keypoints("cMax", lambda cams, size, _: cmax_keypoints(cams, size)),
    Keypoints("cTopk", lambda cams, size, options: ctopk_keypoints(cams, size, options.topk, options.topk_radius)),
    Keypoints("cTopk-w", lambda cams, size, options: ctopk_w_keypoints(cams, size, options.topk)),
    Keypoints("centre", lambda cams, size, _: centre_keypoints(len(cams), size, cams.device)),
)
KEYPOINTS = {keypoints.name: keypoints for keypoints in _KNOWN}


@dataclass(frozen=True)
class Strategy:
    """A strategy, declared once in its script and used by training, evaluation, pictures, tables and tests.

    Attributes:
        name: for logs, checkpoints and tables.
        training_step: the losses of one batch, called as `training_step(student, teacher, images, labels, crops,
            options)` and returning a `Step`:
            student: a `core.networks.Classifier` in train mode; called with images `[B, 3, S, S]` it returns logits
                `[B, V]` and features of the CAM branch `[B, V, n, n]`; called with tiles `[crops, 4, 3, S/2, S/2]`,
                logits `[crops, 4, V]` and features `[crops, 4, V, n/2, n/2]`. `features_only=True`: logits are None.
            teacher: its exponential moving average, also in train mode, or None. No gradient reaches its parameters.
            images: normalized, float32 `[B, 3, S, S]`; labels: multi-hot float32 `[B, V]`.
            crops: image and class of each crop.
            options: weights of the losses, and the strategy's own arguments.
        teacher: whether there is an EMA teacher.
        crops: the crops of a batch's labels `[B, V]`.
        head: what computes the logits, see `core.networks.Classifier`: a name, or a function (D, V, options) to the
            module. So that its checkpoints are found, the script is then in `baselines/`, with the strategy's name.
        keypoints: a function of its own (see `Keypoints.find`), or the name of the strategy in `KEYPOINTS` whose
            keypoints these are. By default the strategy's own name, where it is known; otherwise there are none.
        arguments: arguments of its own by name. They appear in --help, are saved with the run, and reach the step in
            `options`.
    """

    name: str
    training_step: Callable[..., Step]
    teacher: bool = True
    crops: Callable[[Tensor], Crops] = Crops.one_per_class
    head: str | Callable[[int, int, Options], nn.Module] = "instances"
    keypoints: Callable[[Tensor, int, Options], Tensor] | str | None = None
    arguments: Mapping[str, Argument] = field(default_factory=dict)

    def shown_keypoints(self) -> Keypoints | None:
        """Return how its keypoints are found; None for a strategy that has none."""
        if callable(self.keypoints):
            return Keypoints(self.name, self.keypoints, per_image=self.crops == Crops.one_per_image)
        return KEYPOINTS.get(self.keypoints or self.name)

    def check_keypoints(self, image_size: int, device: torch.device, options: Options) -> None:
        """Raise a `StepError` if a keypoint function of its own fails on a map of zeros or on a ramp."""
        if callable(self.keypoints):
            cells = image_size // 16
            ramp = torch.linspace(0, 1, cells**2, device=device).view(cells, cells)
            maps = torch.stack((torch.zeros_like(ramp), ramp))
            _check_keypoints(self.keypoints(maps, image_size, options), len(maps), image_size)

    def head_for(self, options: Options) -> str | Callable[[int, int], nn.Module]:
        """Return the head as `core.networks.Classifier` takes it."""
        return self.head if isinstance(self.head, str) else partial(self.head, options=options)

    def options(self, arguments: Mapping[str, Any], alpha_re: float = 0.0) -> Options:
        """Return the options that a run's arguments make; what they lack has its default.

        Args:
            arguments: values by name, as a config or the description of a checkpoint holds them.
            alpha_re: the reconstruction loss's weight at this iteration.

        Raises:
            ValueError: a value that its argument does not take.
        """
        declared = {**ARGUMENTS, **self.arguments}
        values = {name: arguments.get(name, argument.default) for name, argument in declared.items()}
        for name, argument in declared.items():
            argument.check(name, values[name])
        own = {name: values[name] for name in self.arguments}
        return Options(alpha_re=alpha_re, own=own, **{name: values[name] for name in ARGUMENTS})
