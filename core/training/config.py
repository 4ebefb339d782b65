"""Arguments of the training scripts. Names are the official code's; new ones follow their style."""

import os
import sys
from argparse import SUPPRESS
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from core.evaluation.loading import check_image_size
from core.evaluation.prediction import PRECISIONS
from core.keypoints import TOPK, TOPK_RADIUS
from core.losses import RECONSTRUCTION_LOSSES
from core.networks import ARCHITECTURES
from core.optimizer import MOMENTUM
from core.strategy import Strategy
from tools.data.devkit import DATA
from tools.data.transforms import AUGMENTATIONS
from tools.system.command_line import Argument, Arguments, Parser, argument, make_parser, nearest, with_arguments
from tools.system.errors import UserError
from tools.system.files import read_json

USAGE = "%(prog)s --data_dir DIR [argument ...]"
OWN_STATE = ""  # --resume without a file
# Arguments of the official code that it never read: old command lines keep running.
IGNORED_ARGUMENTS = ("num_pieces", "h_co", "w_co", "loss_option", "level", "re_loss_option")
NOT_REPLAYED = ("config", "force", "resume")  # they concern a single start
DATA_GROUP, NETWORK, METHOD, OPTIMIZATION = "data", "network", "method", "optimization"
RUN, OUTPUT = "run", "output"


@dataclass(frozen=True)
class Config(Arguments):
    """What a training run is told. `resumable` arguments may differ between a run and its continuation."""

    data_dir: str = argument(help="devkit folder: JPEGImages, Annotations, ImageSets", group=DATA_GROUP, resumable=True)
    train_split: str = argument("train_aug", "list in data/, or of the devkit as Main/train", group=DATA_GROUP)
    val_split: str = argument("val", "list in data/, or of the devkit as Main/val", group=DATA_GROUP)
    class_file: str = argument(
        str(DATA / "VOC_2012.json"), "JSON file with class_names", group=DATA_GROUP, resumable=True
    )
    image_size: int = argument(512, "side of the crop, pixels, divisible by 32", group=DATA_GROUP, above=0)
    min_image_size: int = argument(
        320, "minimum length of the longer side after random resizing, pixels", group=DATA_GROUP, above=0
    )
    max_image_size: int = argument(
        640, "maximum length of the longer side after random resizing, pixels", group=DATA_GROUP, above=0
    )
    augment: str = argument("", f"{', '.join(AUGMENTATIONS)}, or several with commas", group=DATA_GROUP)
    num_workers: int = argument(
        4, "loader processes; no influence on results", group=DATA_GROUP, least=0, resumable=True
    )

    architecture: str = argument("resnet50", f"{', '.join(ARCHITECTURES)} or timm/NAME", group=NETWORK)
    weights: str = argument(
        "imagenet",
        "imagenet (downloaded once), none, or a file: a backbone's, our checkpoint or the official code's",
        group=NETWORK,
        resumable=True,
    )
    channels_last: bool = argument(True, "memory layout; False is the official code's, slower", group=NETWORK)

    re_loss: str = argument(
        "L1_Loss", "reconstruction loss: absolute or squared", group=METHOD, choices=RECONSTRUCTION_LOSSES
    )
    alpha_re: float = argument(3.0, "final weight of the reconstruction loss, factor", group=METHOD, least=0)
    alpha_schedule_re: float = argument(
        0.05, "share of training until alpha_re is reached, 0 to 1", group=METHOD, least=0
    )
    alpha_p: float = argument(0.5, "weight of the puzzle classification loss, factor", group=METHOD, least=0)
    alpha_ema: float = argument(
        0.99, "weight of the teacher's past in each update (not Max), in [0, 1)", group=METHOD, least=0, below=1
    )
    topk: int = argument(TOPK, "number of local maxima per keypoint (cTopk, cTopk-w)", group=METHOD, above=0)
    topk_radius: float = argument(
        TOPK_RADIUS,
        "maximum distance to the arg-max, pixels at image size 512; 0 for no radius (cTopk)",
        group=METHOD,
        least=0,
    )

    batch_size: int = argument(32, "images per step", group=OPTIMIZATION, above=0)
    max_epoch: int = argument(15, "length of training, epochs", group=OPTIMIZATION, above=0)
    warmup_epoch: int = argument(0, "linear warm-up, epochs", group=OPTIMIZATION, least=0)
    lr: float = argument(
        0.1, "learning rate of backbone weights; the head's is ten times it", group=OPTIMIZATION, above=0
    )
    wd: float = argument(1e-4, "weight decay of weights, per step", group=OPTIMIZATION, least=0)
    momentum: float = argument(
        MOMENTUM,
        "SGD momentum in [0, 1); 1e-4 reproduces the official code (see README)",
        group=OPTIMIZATION,
        least=0,
        below=1,
    )
    nesterov: bool = argument(True, "Nesterov momentum", group=OPTIMIZATION)
    accumulate: int = argument(
        1, "split each batch into N micro-batches to save memory", group=OPTIMIZATION, above=0, metavar="N"
    )
    amp: str = argument("off", "mixed precision; off is the official code's", group=OPTIMIZATION, choices=PRECISIONS)

    config: str | None = argument(
        None, "repeat the run of experiments/data/TAG.config.json; flags override it", group=RUN, metavar="FILE"
    )
    seed: int = argument(0, "of weights, order and augmentation, whole number", group=RUN, least=0, below=2**63)
    resume: str | None = argument(
        None,
        "resume from the run's last state, or from FILE (default: start from scratch)",
        group=RUN,
        bare=OWN_STATE,
        metavar="FILE",
        resumable=True,
    )
    force: bool = argument(False, "with --resume: accept settings that change the result", group=RUN, resumable=True)
    on_nan: str = argument(
        "stop", "what to do when the loss is not finite", group=RUN, choices=("stop", "skip"), resumable=True
    )
    device: str = argument("auto", "auto (all visible GPUs), cpu, cuda (all) or cuda:N", group=RUN, resumable=True)
    replicas: int = argument(
        0,
        "compute batch statistics as the official code does on N GPUs; 0: as many as there are devices",
        group=RUN,
        least=0,
        metavar="N",
    )
    sync_bn: bool = argument(False, "under torchrun: batch statistics over all processes", group=RUN)
    tf32: bool = argument(False, "allow TF32 on GPUs: faster, less precise", group=RUN)
    deterministic: bool = argument(False, "the same bits every time on one device; slower", group=RUN)

    tag: str = argument(
        "", "name of the run's files in experiments/ (default: the script's name)", group=OUTPUT, resumable=True
    )
    print_ratio: float = argument(
        0.1, "log every this fraction of an epoch, above 0", group=OUTPUT, above=0, resumable=True
    )
    snapshot_every: int = argument(
        0, "draw validation snapshots every N epochs; 0: never", group=OUTPUT, least=0, metavar="N", resumable=True
    )
    save_minutes: float = argument(
        10, "minutes between saved states within an epoch", group=OUTPUT, above=0, resumable=True
    )
    tensorboard: bool = argument(False, "also write TensorBoard curves", group=OUTPUT, resumable=True)

    def check(self) -> None:
        if not _is_file_name(self.tag):
            raise UserError(f"--tag {self.tag}: must be a plain file name of at most 100 bytes")
        check_image_size(self.image_size)
        if self.min_image_size > self.max_image_size:
            raise UserError(f"--min_image_size {self.min_image_size} exceeds --max_image_size {self.max_image_size}")
        if self.batch_size % self.accumulate:
            raise UserError(
                f"--batch_size {self.batch_size} does not divide into --accumulate {self.accumulate} micro-batches"
            )
        if self.force and self.resume is None:
            raise UserError("--force belongs to --resume")
        if self.warmup_epoch >= self.max_epoch:
            raise UserError(f"--warmup_epoch {self.warmup_epoch} leaves nothing of --max_epoch {self.max_epoch}")

    def replayable(self) -> dict[str, Any]:
        """Return the arguments that `--config` reads back."""
        return {name: value for name, value in sorted(asdict(self).items()) if name not in NOT_REPLAYED}

    @classmethod
    def names_that_change_the_result(cls) -> list[str]:
        """Return the arguments that `--resume` compares."""
        return [item.name for item in fields(cls) if not item.metadata["argument"].resumable]


def _is_file_name(tag: str) -> bool:
    return Path(tag).name == tag and tag[0] not in ".-" and tag.isprintable() and len(os.fsencode(tag)) <= 100


def parse_config(strategy: Strategy, description: str | None, argv: list[str] | None = None) -> Config:
    """Read and check the arguments of a training script.

    Args:
        strategy: whose own arguments are added.
        description: the script's docstring, shown by --help.
        argv: the words of the command line; None takes the process's.

    Raises:
        UserError: an argument that no run could use.
    """
    config = config_class(strategy)
    parser = make_parser(config, description, USAGE)
    for name in IGNORED_ARGUMENTS:
        parser.add_argument(f"--{name}", nargs="?", default=SUPPRESS, help=SUPPRESS)
    argv = sys.argv[1:] if argv is None else argv
    # The words of --config come first, so that the typed ones win.
    values = vars(parser.parse_args([*_words_of_config(parser, strategy, argv), *argv]))
    ignored = [f"--{name}" for name in IGNORED_ARGUMENTS if values.pop(name, "absent") != "absent"]
    if ignored:
        print(f"note: ignored, as they never had an effect: {', '.join(ignored)}", file=sys.stderr)
    return config(**{**values, "tag": values["tag"] or Path(sys.argv[0]).stem})


def config_class(strategy: Strategy) -> type[Config]:
    """Return `Config` with the strategy's own arguments."""
    known = {item.name for item in fields(Config)}
    for name in strategy.arguments:
        if name in known or name in IGNORED_ARGUMENTS:
            raise UserError(f"strategy {strategy.name}: its argument --{name} exists already; give it another name")
    own = {
        name: (item.default, Argument(group=f"strategy {strategy.name}", **_without_default(item._asdict())))
        for name, item in strategy.arguments.items()
    }
    return with_arguments(Config, own)


def _without_default(declared: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in declared.items() if name != "default"}


def _words_of_config(parser: Parser, strategy: Strategy, argv: list[str]) -> list[str]:
    """Return the words that a run's `--config` file means.

    Raises:
        UserError: no such file, names in it that are not arguments, or the run of another strategy.
    """
    first = Parser(add_help=False)
    first.add_argument("--config")
    path = first.parse_known_args(argv)[0].config
    if path is None:
        return []
    content = read_json(Path(path))
    if not isinstance(content, dict):
        raise UserError(f"--config {path}: must hold one JSON object of argument names and values")
    trained = content.pop("strategy", None)
    if trained not in (None, strategy.name):
        raise UserError(
            f"--config {path} is of a run of strategy {trained}: use its script, not that of {strategy.name}"
        )
    if isinstance(content.get("arguments"), dict):
        content = content["arguments"]  # the description beside a checkpoint
    known = [flag.removeprefix("--") for flag in parser.flags()]
    for name, value in content.items():
        if name not in known:
            raise UserError(f"--config {path}: unknown argument {name}: {nearest(name, known)}")
        if not isinstance(value, str | int | float | None):
            raise UserError(f"--config {path}: {name} must be a word, a number, true or false")
    return [f"--{name}={value}" for name, value in content.items() if value is not None and name not in NOT_REPLAYED]
