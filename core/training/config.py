"""Arguments of the training scripts. Names are the official code's; new ones follow their style."""

import os
import sys
from argparse import SUPPRESS
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from core.evaluation.loading import check_image_size
from core.evaluation.prediction import PRECISIONS
from core.keypoints import TOPK, TOPK_RADIUS
from core.losses import RECONSTRUCTION_LOSSES
from core.networks import ARCHITECTURES
from core.optimizer import MOMENTUM
from core.strategy import MAX_TOPK, Strategy
from tools.data.devkit import DATA
from tools.data.transforms import AUGMENTATIONS
from tools.system.command_line import Arguments, Parser, argument, make_parser, nearest, with_arguments
from tools.system.errors import UserError
from tools.system.files import read_object

# Arguments of the official code that it never read: old command lines keep running.
IGNORED_ARGUMENTS = ("num_pieces", "h_co", "w_co", "loss_option", "level", "re_loss_option")
SELECT_HELP = "choose the best epoch on this list, or this share of the training list, instead of --val_split"
TEACHER_CROPS_HELP = "crops that the teacher sees at a time, to save memory; -1: as many as images, 0: all"
RESIZED = "length of the longer side after random resizing, pixels"
KEEP = {  # of a finished run, besides its log, history, settings, curves and snapshots
    "best": "the best and last models, not the states",
    "all": "also the model of every epoch, and the states to train longer",
}
NOT_REPLAYED = ("config", "force", "resume")  # they concern a single start

_data, _network, _method = (partial(argument, group=name) for name in ("data", "network", "method"))
_optimization, _run, _output = (partial(argument, group=name) for name in ("optimization", "run", "output"))
OF_TEACHERS = {  # arguments that only strategies with a teacher have
    "alpha_ema": _method(0.99, "weight of the teacher's past per update, in [0, 1)", least=0, below=1),
    "teacher_crops": _optimization(-1, TEACHER_CROPS_HELP, least=-1, metavar="N", resumable=True),
}


@dataclass(frozen=True)
class Config(Arguments):
    """The arguments of a training run. `resumable` arguments may differ between a run and its continuation."""

    data_dir: str = _data(help="devkit folder: JPEGImages, Annotations, ImageSets", resumable=True)
    train_split: str = _data("train_aug", "list in data/, or of the devkit as Main/train")
    val_split: str = _data("val", "list in data/, or of the devkit as Main/val")
    train_difficult: str = _data(
        "positive", "training label of a class whose objects are all difficult", choices=("positive", "negative")
    )
    select_split: str | None = _data(None, SELECT_HELP, metavar="SPLIT|SHARE")
    limit: int = _data(0, "to try out: use only the first N images of each list; 0: all", least=0, metavar="N")
    class_file: str = _data(str(DATA / "VOC_2012.json"), "JSON file with class_names", resumable=True)
    image_size: int = _data(512, "side of the training image, pixels, divisible by 32; see min_image_size", above=0)
    eval_resize: bool = _data(False, "validate whole images, fitted to image_size, not their top-left square")
    min_image_size: int = _data(320, f"minimum {RESIZED}; scale it with image_size (5/8)", above=0)
    max_image_size: int = _data(640, f"maximum {RESIZED}; scale it with image_size (5/4)", above=0)
    augment: str = _data("", f"{', '.join(AUGMENTATIONS)} (FixMatch's, with a black square), or both")
    num_workers: int = _data(4, "loader processes; no influence on results", least=0, resumable=True)

    architecture: str = _network("resnet50", f"{', '.join(ARCHITECTURES)} or timm/NAME (resnest needs timm too)")
    weights: str = _network("imagenet", "imagenet (downloaded), none, a checkpoint or a backbone file", resumable=True)
    channels_last: bool = _network(True, "memory layout; False is the official code's, slower")

    re_loss: str = _method("L1_Loss", "reconstruction loss: absolute or squared", choices=RECONSTRUCTION_LOSSES)
    alpha_re: float = _method(1.0, "final weight of the reconstruction loss", least=0)
    alpha_schedule_re: float = _method(0.5, "share of training until alpha_re is reached, 0 to 1", least=0)
    alpha_p: float = _method(1.0, "weight of the puzzle classification loss (with a teacher only a monitor)", least=0)
    topk: int = _method(TOPK, "number of local maxima per keypoint (cTopk, cTopk-w)", above=0, most=MAX_TOPK)
    topk_radius: float = _method(TOPK_RADIUS, "maximum distance to the arg-max, pixels at 512; 0: none", least=0)

    batch_size: int = _optimization(32, "images per step", above=0)
    max_epoch: int = _optimization(15, "length of training, epochs", above=0)
    warmup_epoch: int = _optimization(0, "linear warm-up, epochs", least=0)
    lr: float = _optimization(0.1, "learning rate of backbone weights; the head's is ten times it", above=0, most=1e30)
    wd: float = _optimization(1e-4, "weight decay of weights (biases have none)", least=0, most=1e30)
    momentum: float = _optimization(MOMENTUM, "SGD momentum; 1e-4 as in the official code (README)", least=0, below=1)
    nesterov: bool = _optimization(True, "Nesterov momentum")
    accumulate: int = _optimization(1, "split each batch into N micro-batches to save memory", above=0, metavar="N")
    amp: str = _optimization("off", "mixed precision; off is the official code's", choices=PRECISIONS)

    config: str | None = _run(None, "repeat the run of experiments/data/TAG.config.json; flags win", metavar="FILE")
    seed: int = _run(0, "random seed of weights, order and augmentation", least=0, below=2**63)
    resume: str | None = _run(None, "resume from the last state, or from FILE", bare="", metavar="FILE", resumable=True)
    force: bool = _run(False, "with --resume: accept settings that change the result", resumable=True)
    on_nan: str = _run("stop", "what to do when the loss is not finite", choices=("stop", "skip"), resumable=True)
    device: str = _run("auto", "auto (all visible GPUs), cpu, cuda (all) or cuda:N", resumable=True)
    replicas: int = _run(0, "batch statistics of the official code on N GPUs; 0: all devices", least=0, metavar="N")
    sync_bn: bool = _run(False, "under torchrun: batch statistics over all processes")
    tf32: bool = _run(False, "allow TF32 on GPUs: faster, less precise")
    deterministic: bool = _run(False, "the same bits every time on one device; slower")

    tag: str = _output("", "name of the run's files in experiments/ (default: the script's name)", resumable=True)
    print_ratio: float = _output(0.1, "log every this fraction of an epoch, above 0", above=0, resumable=True)
    snapshot_every: int = _output(0, "draw validation snapshots every N epochs; 0: never", least=0, resumable=True)
    save_minutes: float = _output(10, "minutes between saved states within an epoch", above=0, resumable=True)
    keep: str = _output("best", "when finished, best: {best}; all: {all}".format(**KEEP), choices=KEEP, resumable=True)
    tensorboard: bool = _output(False, "also write TensorBoard curves", resumable=True)

    def check(self) -> None:
        is_file_name = Path(self.tag).name == self.tag and self.tag[0] not in ".-" and self.tag.isprintable()
        if not is_file_name or len(os.fsencode(self.tag)) > 100:
            raise UserError(f"--tag {self.tag}: must be a plain file name of at most 100 bytes")
        if self.tag.startswith(("best_", "last_")) or self.tag.endswith((".earlier", ".config")):
            used = "names that begin with best_ or last_ or end with .earlier or .config are those of other runs' files"
            raise UserError(f"--tag {self.tag}: {used}: choose another")
        check_image_size(self.image_size)
        if self.min_image_size > self.max_image_size:
            raise UserError(f"--min_image_size {self.min_image_size} exceeds --max_image_size {self.max_image_size}")
        if self.batch_size % self.accumulate:
            raise UserError(f"--batch_size {self.batch_size} does not divide by --accumulate {self.accumulate}")
        if self.force and self.resume is None:
            raise UserError("--force belongs to --resume")
        if self.warmup_epoch >= self.max_epoch:
            raise UserError(f"--warmup_epoch {self.warmup_epoch} leaves nothing of --max_epoch {self.max_epoch}")
        if self.select_share is not None and not 0 < self.select_share < 1:
            raise UserError(f"--select_split {self.select_split}: must be a list, or a share above 0 and below 1")

    @property
    def select_share(self) -> float | None:
        """The share that `--select_split` cuts from the training list; None: it names a list, or is not given."""
        try:
            return float(self.select_split)
        except (TypeError, ValueError):
            return None

    def replayable(self) -> dict[str, Any]:
        """Return the arguments that `--config` reads back."""
        return {name: value for name, value in sorted(asdict(self).items()) if name not in NOT_REPLAYED}

    def changed(self) -> str:
        """Return the arguments, besides the tag, that differ from the defaults, as text."""
        defaults = {item.name: item.default for item in fields(self)} | {"tag": self.tag}
        return ", ".join(f"{name}={value}" for name, value in self.replayable().items() if value != defaults[name])

    def resumable(self, name: str) -> bool:
        return next(item for item in fields(self) if item.name == name).metadata["argument"].resumable


def parse_config(strategy: Strategy, description: str | None, argv: list[str] | None = None) -> Config:
    """Read the arguments of a strategy's script and refuse what no run could use; `argv` None takes the process's."""
    config = config_class(strategy)
    parser = make_parser(config, description, "%(prog)s --data_dir DIR [argument ...]")
    for name in IGNORED_ARGUMENTS:
        parser.add_argument(f"--{name}", nargs="?", default=SUPPRESS, help=SUPPRESS)
    argv = sys.argv[1:] if argv is None else argv
    for name in () if strategy.teacher else OF_TEACHERS:
        if any(word.split("=")[0] == f"--{name}" for word in argv):
            hint = "; --accumulate 2 or more saves memory" if name == "teacher_crops" else ""
            raise UserError(f"unknown argument --{name}: strategy {strategy.name} has no teacher{hint}")
    # The words of --config come first, so that the typed ones win.
    values = vars(parser.parse_args([*_words_of_config(parser, strategy, argv), *argv]))
    ignored = [f"--{name}" for name in IGNORED_ARGUMENTS if values.pop(name, "absent") != "absent"]
    if ignored:
        print(f"note: ignored, as they never had an effect: {', '.join(ignored)}", file=sys.stderr)
    return config(**{**values, "tag": values["tag"] or Path(sys.argv[0]).stem})


def config_class(strategy: Strategy) -> type[Config]:
    """Return `Config` with the arguments of the strategy: those of teachers, if it has one, and its own."""
    own = dict(OF_TEACHERS) if strategy.teacher else {}
    for name, declared in strategy.arguments.items():
        if name in IGNORED_ARGUMENTS or name in {*OF_TEACHERS, *(item.name for item in fields(Config))}:
            raise UserError(f"strategy {strategy.name}: its argument --{name} exists already; give it another name")
        own[name] = argument(group=f"strategy {strategy.name}", **declared._asdict())
    return with_arguments(Config, own)


def accepted(strategy: Strategy, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return arguments by name without those of teachers, if the strategy has none."""
    return {name: value for name, value in arguments.items() if strategy.teacher or name not in OF_TEACHERS}


def _words_of_config(parser: Parser, strategy: Strategy, argv: list[str]) -> list[str]:
    """Return the words that `--config` means: the file of a run of the same strategy, with names of its arguments."""
    first = Parser(add_help=False)
    first.add_argument("--config")
    path = first.parse_known_args(argv)[0].config
    if path is None:
        return []
    content = read_object(Path(path))
    if isinstance(content.get("arguments"), dict):  # the description beside a checkpoint
        content = {"trained": content.get("strategy"), **content["arguments"]}
    # Files of earlier versions name the strategy as "strategy", unless it has an argument of this name.
    trained = content.pop("trained", None if "strategy" in strategy.arguments else content.pop("strategy", None))
    if trained not in (None, strategy.name):
        raise UserError(f"--config {path} is of strategy {trained}: use its script, not that of {strategy.name}")
    known, words = [flag.removeprefix("--") for flag in parser.flags()], []
    for name, value in accepted(strategy, content).items():  # earlier versions gave every run the teacher's arguments
        if name not in known:
            raise UserError(f"--config {path}: unknown argument {name}: {nearest(name, known)}")
        if not isinstance(value, str | int | float | None):
            raise UserError(f"--config {path}: {name} must be a string, a number, true or false")
        if value is not None and name not in NOT_REPLAYED:
            words.append(f"--{name}={value}")
    return words
