"""Arguments of the training scripts. Names are the official code's; new ones follow their style."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.evaluation.loading import check_image_size
from core.evaluation.prediction import PRECISIONS
from core.keypoints import TOPK, TOPK_RADIUS
from core.losses import RECONSTRUCTION_LOSSES
from core.networks import ARCHITECTURES
from core.optimizer import MOMENTUM
from tools.data.devkit import DATA
from tools.system.command_line import Parser, near
from tools.system.errors import UserError
from tools.system.files import read_json

OWN_STATE = ""  # --resume without a file


DEAD = ("--num_pieces", "--h_co", "--w_co", "--loss_option", "--level", "--re_loss_option")


NOT_REPLAYED = ("config", "force", "resume")


def parse_arguments(description: str, argv: list[str] | None = None) -> argparse.Namespace:
    """Read and check the arguments of a training script.

    Args:
        description: the script's docstring, shown by --help.
        argv: the words of the command line; None takes the process's.

    Raises:
        UserError: an argument that no run could use.
    """
    parser = Parser(usage="%(prog)s --data_dir DIR [argument ...]", description=description.strip())
    for add_group in (_data, _network, _method, _optimization, _run, _output):
        add_group(parser)
    _dead(parser)
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args([*_words_of_config(parser, argv), *argv])
    _notice_dead(args)
    del args.config  # what it says has become the arguments
    args.tag = args.tag or Path(sys.argv[0]).stem
    _check(args)
    return args


def replayable(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments that `--config` reads back: all but those that concern a single start."""
    return {name: value for name, value in sorted(vars(args).items()) if name not in NOT_REPLAYED}


def _words_of_config(parser: Parser, argv: list[str]) -> list[str]:
    """The words that a run's `--config` file stands for. They go before the typed ones, which therefore win.

    Raises:
        UserError: no such file, or names in it that are no arguments.
    """
    first = Parser(add_help=False)
    first.add_argument("--config")
    path = first.parse_known_args(argv)[0].config
    if path is None:
        return []
    content = read_json(Path(path))
    if isinstance(content, dict) and isinstance(content.get("arguments"), dict):
        content = content["arguments"]  # the description beside a checkpoint
    if not isinstance(content, dict):
        raise UserError(f"--config {path}: has to hold one JSON object of argument names and values")
    known = [flag.removeprefix("--") for flag in parser.flags()]
    for name, value in content.items():
        if name not in known:
            raise UserError(f"--config {path}: unknown argument {name}: {near(name, known)}")
        if not isinstance(value, (str, int, float, type(None))):
            raise UserError(f"--config {path}: {name} has to be a word, a number, true or false")
    return [f"--{name}={value}" for name, value in content.items() if value is not None and name not in NOT_REPLAYED]


def _dead(parser: argparse.ArgumentParser) -> None:
    """Arguments of the official code that it never read: old command lines go on running."""
    for flag in DEAD:
        parser.add_argument(flag, nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _notice_dead(args: argparse.Namespace) -> None:
    given = [flag for flag in DEAD if hasattr(args, flag.removeprefix("--"))]
    for flag in given:
        delattr(args, flag.removeprefix("--"))
    if given:
        print(f"note: ignored, as they never had an effect: {', '.join(given)}", file=sys.stderr)


def _data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--data_dir", required=True, help="devkit folder: JPEGImages, Annotations, ImageSets")
    group.add_argument("--train_split", default="train_aug", help="list in data/, or of the devkit as Main/train")
    group.add_argument("--val_split", default="val", help="list in data/, or of the devkit as Main/val")
    group.add_argument("--class_file", default=str(DATA / "VOC_2012.json"), help="JSON file with class_names")
    group.add_argument("--image_size", type=int, default=512, help="crop side, pixels, divisible by 32")
    group.add_argument("--min_image_size", type=int, default=320, help="shortest longer side after resizing, pixels")
    group.add_argument("--max_image_size", type=int, default=640, help="longest longer side after resizing, pixels")
    group.add_argument("--augment", default="", help="colorjitter, randaugment, or both with a comma")
    group.add_argument("--num_workers", type=int, default=4, help="loader processes; no influence on results")


def _network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--architecture", default="resnet50", help=f"{', '.join(ARCHITECTURES)} or timm/NAME")
    group.add_argument(
        "--weights",
        default="imagenet",
        help="imagenet (downloaded once), none, or a file: a backbone's, our checkpoint or the official code's",
    )
    group.add_argument(
        "--channels_last", type=_boolean, default=True, help="memory layout; False is the official code's, slower"
    )


def _method(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("method")
    group.add_argument(
        "--re_loss", default="L1_Loss", choices=RECONSTRUCTION_LOSSES, help="reconstruction loss: absolute or squared"
    )
    group.add_argument("--alpha_re", type=float, default=3.0, help="final weight of the reconstruction loss, factor")
    group.add_argument(
        "--alpha_schedule_re", type=float, default=0.05, help="share of training until alpha_re is reached, 0 to 1"
    )
    group.add_argument("--alpha_p", type=float, default=0.5, help="weight of the puzzle classification loss, factor")
    group.add_argument(
        "--alpha_ema", type=float, default=0.99, help="weight of the teacher's past (not Max), 0 to below 1"
    )
    group.add_argument("--topk", type=int, default=TOPK, help="local maxima per keypoint, number (cTopk, cTopk-w)")
    group.add_argument(
        "--topk_radius",
        type=float,
        default=TOPK_RADIUS,
        help="largest distance to the arg-max, pixels at image size 512; 0 for no radius (cTopk)",
    )


def _optimization(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimization")
    group.add_argument("--batch_size", type=int, default=32, help="images per step")
    group.add_argument("--max_epoch", type=int, default=15, help="length of training, epochs")
    group.add_argument("--warmup_epoch", type=int, default=0, help="linear warm-up, epochs")
    group.add_argument(
        "--lr", type=float, default=0.1, help="learning rate of backbone weights, per step; the head's is ten times it"
    )
    group.add_argument("--wd", type=float, default=1e-4, help="weight decay of weights, per step")
    group.add_argument(
        "--momentum", type=float, default=MOMENTUM, help="share of the last step, 0 to below 1; not 0.9, by a slip kept"
    )
    group.add_argument("--nesterov", type=_boolean, default=True, help="Nesterov momentum, True or False")
    group.add_argument(
        "--accumulate", type=int, default=1, help="parts in which a batch goes through the network, to save memory"
    )
    group.add_argument("--amp", default="off", choices=PRECISIONS, help="mixed precision; off is the official code's")


def _run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--config", metavar="FILE", help="repeat the run of experiments/data/TAG.config.json; flags win")
    group.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation, whole number")
    group.add_argument(
        "--resume",
        nargs="?",
        const=OWN_STATE,
        metavar="FILE",
        help="go on from the run's last state, or from FILE (default: begin anew)",
    )
    _switch(group, "--force", help="with --resume: accept settings that change the result")
    group.add_argument("--on_nan", default="stop", choices=("stop", "skip"), help="what a loss that is no number does")
    _devices(group)


def _devices(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", default="auto", help="auto (all visible GPUs), cpu, cuda (all) or cuda:N")
    group.add_argument(
        "--replicas",
        type=int,
        default=0,
        help="batch statistics as the official code has them on so many GPUs; 0: as many as there are devices",
    )
    _switch(group, "--sync_bn", help="under torchrun: batch statistics over all processes")
    _switch(group, "--tf32", help="GPU: faster, coarser float32 products")
    _switch(group, "--deterministic", help="the same bits every time on one device; slower")


def _output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--tag", default="", help="name of the run's files in experiments/ (default: the script's name)")
    group.add_argument(
        "--print_ratio", type=float, default=0.1, help="from one log line to the next, share of an epoch, above 0"
    )
    group.add_argument(
        "--snapshot_every", type=int, default=0, help="between two sheets of validation images, epochs; 0: none"
    )
    group.add_argument("--save_minutes", type=float, default=10, help="between two states within an epoch, minutes")
    _switch(group, "--tensorboard", help="also write TensorBoard curves")


def _switch(group: argparse._ArgumentGroup, flag: str, help: str) -> None:
    """Off unless given; the words True and False may follow, so that a `--config` can be overridden either way."""
    group.add_argument(flag, type=_boolean, nargs="?", const=True, default=False, metavar="True|False", help=help)


def _boolean(word: str) -> bool:
    if word.lower() in ("true", "1", "yes"):
        return True
    if word.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"'{word}' is neither True nor False")


def _check(args: argparse.Namespace) -> None:
    """Refuse values that no run could use, each in one line."""
    above_0 = ["image_size", "min_image_size", "max_image_size", "batch_size", "max_epoch", "topk", "lr", "print_ratio"]
    above_0 += ["accumulate", "save_minutes"]
    from_0 = ["num_workers", "warmup_epoch", "wd", "alpha_re", "alpha_schedule_re", "alpha_p", "topk_radius", "seed"]
    from_0 += ["replicas", "snapshot_every"]
    _require(args, above_0, lambda value: 0 < value < float("inf"), "must be above 0")
    _require(args, from_0, lambda value: 0 <= value < float("inf"), "must be 0 or more")
    _require(args, ["momentum", "alpha_ema"], lambda value: 0 <= value < 1, "must be at least 0 and below 1")
    _require(args, ["seed"], lambda seed: seed < 2**63, "must be below 2^63")
    _require(args, ["tag"], _is_file_name, "must be a plain file name of at most 100 signs")
    check_image_size(args.image_size)
    if args.min_image_size > args.max_image_size:
        raise UserError(f"--min_image_size {args.min_image_size} exceeds --max_image_size {args.max_image_size}")
    if args.batch_size % args.accumulate:
        raise UserError(f"--batch_size {args.batch_size} does not divide into --accumulate {args.accumulate} parts")
    if args.force and args.resume is None:
        raise UserError("--force belongs to --resume")
    if args.warmup_epoch >= args.max_epoch:
        raise UserError(f"--warmup_epoch {args.warmup_epoch} leaves nothing of --max_epoch {args.max_epoch}")


def _is_file_name(tag: str) -> bool:
    return Path(tag).name == tag and tag[0] not in ".-" and tag.isprintable() and len(os.fsencode(tag)) <= 100


def _require(args: argparse.Namespace, names: list[str], holds: Callable[[Any], bool], demand: str) -> None:
    for name in names:
        value = getattr(args, name)
        if not holds(value):
            raise UserError(f"--{name} {value}: {demand}")
