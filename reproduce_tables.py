"""Train and evaluate the rows of the paper's tables, one after the other, and write the tables.

A broken series goes on where it stopped: give the same command again. Words after -- go to every training script, as in
reproduce_tables.py --preset paper --data_dir VOC2012 -- --amp bf16. See docs/reproduction.md.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.evaluation.loading import choose_device
from core.training.config import parse_arguments as parse_script_arguments
from core.training.timing import seconds_an_image
from tools.data.devkit import read_class_names, read_split
from tools.reproduction.series import ROOT, Experiment, sum_of_seconds, words
from tools.reproduction.study import CompletedRuns, TableSection, write_study
from tools.scale_devkit import require_scaled_from
from tools.system.command_line import Parser
from tools.system.errors import UserError, run_main

CROPS = 1.5  # of an image, on average: a VOC image's present classes
STARTS = 20  # seconds: Python twice, checks of the data


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: in the tables.
        script: from the repository's root.
        cost: of an iteration, in forward and backward passes of the images (a forward pass is a third of it).
        arguments: of the script, where they differ from the preset's.
        keypoint: the column of the evaluation's localization that is this row's own.
    """

    name: str
    script: str
    cost: float
    keypoint: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """The row's name as a name of files: it follows from script and arguments, so that tables share runs."""
        changed = "".join(f"_{name}{value}" for name, value in sorted(self.arguments.items()))
        return Path(self.script).stem.removeprefix("train_").removeprefix("classification_with_puzzle_") + changed

    def but(self, name: str, **arguments: Any) -> "Row":
        """This row with other arguments, under another name."""
        return Row(name, self.script, self.cost, self.keypoint, arguments)


WITH_TEACHER = 1 + CROPS / 3
PLAIN = Row("plain", "baselines/plain.py", 1, "cMax")
INSTANCES = Row("instances", "baselines/instances.py", 1, "cMax")
CENTRE = Row("centre, no EMA", "baselines/centre.py", 2, "centre")
CENTRE_EMA = Row("centre", "baselines/centre_ema.py", WITH_TEACHER, "centre")
MAX = Row("Max", "train_classification_with_puzzle_max.py", 2, "Max")
CMAX = Row("cMax", "train_classification_with_puzzle_cMax_ema.py", WITH_TEACHER, "cMax")
CTOPK = Row("cTopk", "train_classification_with_puzzle_cTopk_ema.py", WITH_TEACHER, "cTopk")
CTOPK_W = Row("cTopk-w", "train_classification_with_puzzle_cTopk_w_ema.py", WITH_TEACHER, "cTopk-w")


def _without_average(row: Row) -> Row:
    """The teacher is the student as it is: no average over its past, and still no gradient."""
    return row.but(f"{row.name}, no EMA", alpha_ema=0)


def _with_k(row: Row, k: int) -> Row:
    return row.but(f"{row.name}, k = {k}", **({} if k == 5 else {"topk": k}))


@dataclass(frozen=True)
class Comparison:
    """A table: its name, what it compares, its rows, and the one that the others are set against."""

    name: str
    caption: str
    rows: list[Row]
    baseline: Row


COMPARISONS = (
    Comparison(
        "strategies",
        "Strategies and baselines",
        [PLAIN, INSTANCES, CENTRE_EMA, MAX, CMAX, CTOPK, CTOPK_W],
        PLAIN,
    ),
    Comparison(
        "ema",
        "With and without the teacher's average",
        [CENTRE, CENTRE_EMA, *(row for one in (CMAX, CTOPK, CTOPK_W) for row in (_without_average(one), one))],
        CENTRE,
    ),
    Comparison(
        "topk",
        "Number of local maxima",
        [_with_k(row, k) for row in (CTOPK, CTOPK_W) for k in (1, 3, 5, 10)],
        _with_k(CTOPK, 1),
    ),
    Comparison(
        "radius",
        "Local maxima within 128 px (at 512) of the arg-max, and anywhere",
        [CTOPK.but("cTopk, radius 128"), CTOPK.but("cTopk, no radius", topk_radius=0)],
        CTOPK.but("cTopk, radius 128"),
    ),
)


@dataclass(frozen=True)
class Preset:
    """Data and settings of a study.

    Attributes:
        about: one sentence.
        arguments: of the training scripts.
        seeds: unless --seeds says otherwise.
        toy_images: draw so many; 0: --data_dir names the data.
        longer_side: scale the data's images down to it first, pixels; 0: leave them.
    """

    about: str
    arguments: dict[str, Any]
    seeds: tuple[int, ...] = (0,)
    toy_images: int = 0
    longer_side: int = 0


METHOD = {"alpha_p": 0.5, "alpha_re": 3.0, "alpha_schedule_re": 0.05}
DEVKIT_LISTS = {"train_split": "Main/train", "val_split": "Main/val"}
PRESETS = {
    "paper": Preset(
        "the paper's: ResNet-50, VOC 2012 (train_aug and val), 512 px, batch 32, 15 epochs",
        {
            **{"train_split": "train_aug", "val_split": "val", "architecture": "resnet50", "weights": "imagenet"},
            **{"image_size": 512, "min_image_size": 320, "max_image_size": 640, "num_workers": 4},
            **{"batch_size": 32, "max_epoch": 15, "lr": 0.1, "momentum": 1e-4, **METHOD},
        },
        seeds=(0, 1, 2),
    ),
    "voc-sample": Preset(
        "EfficientNet-Lite0 on a few thousand photographs at 160 px, which two cores can do",
        {
            **{**DEVKIT_LISTS, "architecture": "timm/tf_efficientnet_lite0", "weights": "imagenet"},
            **{"image_size": 160, "min_image_size": 100, "max_image_size": 200, "num_workers": 0},
            **{"batch_size": 16, "max_epoch": 7, "lr": 0.03, "momentum": 0.9, **METHOD},
        },
        longer_side=156,
    ),
    "toy": Preset(
        "ResNet-18, untrained, on drawn images: whether everything runs, not which strategy is best",
        {
            **{**DEVKIT_LISTS, "architecture": "resnet18", "weights": "none"},
            **{"image_size": 64, "min_image_size": 48, "max_image_size": 80, "num_workers": 0},
            **{"batch_size": 16, "max_epoch": 5, "lr": 0.05, "momentum": 0.9, **METHOD, "alpha_re": 1.0},
        },
        toy_images=400,
    ),
}


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: whatever is wrong with it.
    """
    place = argv.index("--") if "--" in argv else len(argv)
    own, passed_on = argv[:place], argv[place + 1 :]
    parser = Parser(usage="%(prog)s --preset NAME [argument ...] [-- argument of the scripts ...]", description=__doc__)
    about = "; ".join(f"{name}: {preset.about}" for name, preset in PRESETS.items())
    names = ",".join(comparison.name for comparison in COMPARISONS)
    parser.add_argument("--preset", required=True, choices=PRESETS, help=about)
    parser.add_argument("--data_dir", help="devkit folder (toy draws its own)")
    parser.add_argument("--weights", help="first weights: imagenet, none or a file (default: the preset's)")
    parser.add_argument("--seeds", type=int, nargs="+", help="a run for each (default: the preset's)")
    parser.add_argument("--tables", default=names, help="which, with commas")
    parser.add_argument("--out", type=Path, help="folder of runs and tables (default: reproduction/PRESET)")
    parser.add_argument("--dry_run", action="store_true", help="list the runs and how long they will take")
    args = parser.parse_args(own)
    args.preset_name, args.preset = args.preset, PRESETS[args.preset]
    args.out = args.out or Path("reproduction") / args.preset_name
    args.seeds = list(dict.fromkeys(args.seeds or args.preset.seeds))
    args.passed_on = _arguments(passed_on)
    args.comparisons = _comparisons(args.tables)
    if not args.preset.toy_images and not args.data_dir:
        raise UserError(f"--preset {args.preset_name} needs --data_dir: the devkit folder that holds JPEGImages")
    if min(args.seeds) < 0:
        raise UserError(f"--seeds {min(args.seeds)}: must be 0 or more")
    return args


def _arguments(argv: list[str]) -> dict[str, str]:
    """Words for the training scripts as arguments by name; the scripts check them.

    Raises:
        UserError: words that are not --name value.
    """
    pairs = list(zip(argv[::2], argv[1::2]))
    if len(argv) % 2 or not all(name.startswith("--") for name, _ in pairs):
        raise UserError("after -- names and values have to alternate, as in -- --amp bf16 --tf32 True")
    arguments = {name.removeprefix("--"): value for name, value in pairs}
    for name in ("seed", "tag", "data_dir", "resume", "config"):
        if name in arguments:
            raise UserError(f"--{name} cannot follow --: it is this program's own matter (--seeds, --data_dir, --out)")
    return arguments


def _comparisons(names: str) -> list[Comparison]:
    known = {comparison.name: comparison for comparison in COMPARISONS}
    for name in names.split(","):
        if name not in known:
            raise UserError(f"--tables {name}: choose of {', '.join(known)}")
    return [known[name] for name in known if name in names.split(",")]


# The runs ------------------------------------------------------------------------------------------------------------


def plan(args: argparse.Namespace) -> dict[tuple[str, int], Experiment]:
    """The runs that the tables need, by the tag of their row and their seed, each once."""
    rows = {row.tag: row for comparison in args.comparisons for row in comparison.rows}
    return {(tag, seed): _experiment(args, row, seed) for seed in args.seeds for tag, row in rows.items()}


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments that all rows share; files by their whole path, for the runs have a folder of their own."""
    weights = {"weights": args.weights} if args.weights else {}
    shared = {**args.preset.arguments, **weights, **args.passed_on}
    for name in ("weights", "class_file"):
        if name in shared and shared[name] not in ("imagenet", "none"):
            if not Path(shared[name]).is_file():
                raise UserError(f"--{name} {shared[name]}: no such file")
            shared[name] = str(Path(shared[name]).resolve())
    return shared


def checked_settings(args: argparse.Namespace) -> argparse.Namespace:
    """The shared arguments as the training scripts read them.

    Raises:
        UserError: what they would refuse; found before the first run.
    """
    return parse_script_arguments(__doc__, words({"data_dir": data_folder(args), **settings(args)}))


def _experiment(args: argparse.Namespace, row: Row, seed: int) -> Experiment:
    tag = f"{row.tag}_seed{seed}"
    data_dir = str(data_folder(args).resolve())
    shared = settings(args)
    evaluation = {
        **{"tag": tag, "data_dir": data_dir, "split": shared["val_split"], "localization": True},
        **{"num_workers": shared["num_workers"], "batch_size": shared["batch_size"]},
        **({"device": shared["device"]} if "device" in shared else {}),
    }
    arguments = {"data_dir": data_dir, "tag": tag, "seed": seed, **shared, **row.arguments}
    return Experiment(tag, row.script, arguments, evaluation, args.out)


# The data ------------------------------------------------------------------------------------------------------------


def data_folder(args: argparse.Namespace) -> Path:
    """The devkit folder that the runs read."""
    made_here = args.preset.toy_images or args.preset.longer_side
    return args.out / "data" if made_here else Path(args.data_dir)


def make_data(args: argparse.Namespace) -> None:
    """Draw the toy images, or scale the given ones down, unless that has been done."""
    folder, preset = data_folder(args), args.preset
    if preset.toy_images:
        # The longer side is below image_size: evaluation sees whole images.
        size = preset.arguments["image_size"]
        _module("tools.make_toy_voc", {"out": folder, "images": preset.toy_images, "image_size": size})
    elif preset.longer_side and folder.exists():
        require_scaled_from(Path(args.data_dir), folder, preset.longer_side)
    elif preset.longer_side:
        scaled = {"data_dir": args.data_dir, "out": folder, "longer_side": preset.longer_side}
        _module("tools.scale_devkit", scaled)


def _module(name: str, arguments: dict[str, Any]) -> None:
    command = [name, *words(arguments)]
    print(f"$ python3 -m {shlex.join(command)}", flush=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    if subprocess.run([sys.executable, "-m", *command], env={**os.environ, "PYTHONPATH": path}).returncode:
        raise UserError(f"{arguments['out']} could not be made, for the reason above")


# How long it takes ---------------------------------------------------------------------------------------------------


def estimates(args: argparse.Namespace, runs: dict[tuple[str, int], Experiment]) -> dict[tuple[str, int], float]:
    """Seconds of each run: what a finished run of the row took with another seed, else its passes times the measured
    time of one, in float32, plus validation's."""
    rows = {row.tag: row for comparison in args.comparisons for row in comparison.rows}
    taken = {tag: sum_of_seconds(run.usage()) for (tag, _), run in runs.items() if run.state() == "finished"}
    shared = checked_settings(args)
    training, validation = _images(args, shared)
    classes = len(read_class_names(shared.class_file))
    second = seconds_an_image(shared.architecture, shared.image_size, classes, choose_device(shared.device))

    def seconds(tag: str) -> float:
        passes = shared.max_epoch * (rows[tag].cost * training + validation / 3) + validation / 3
        return taken.get(tag) or second * passes + STARTS

    return {(tag, seed): seconds(tag) for tag, seed in runs}


def _images(args: argparse.Namespace, shared: argparse.Namespace) -> tuple[int, int]:
    """Training and validation images."""
    if args.preset.toy_images:
        return round(0.75 * args.preset.toy_images), round(0.25 * args.preset.toy_images)
    return len(read_split(args.data_dir, shared.train_split)), len(read_split(args.data_dir, shared.val_split))


def list_runs(args: argparse.Namespace, runs: dict[tuple[str, int], Experiment]) -> None:
    """Print every run: where it stands, how long it takes, and its commands."""
    seconds = estimates(args, runs)
    left = 0.0
    for key, run in runs.items():
        state = run.state()
        left += 0 if state == "finished" else seconds[key]
        print(f"{run.tag:45s} {state:9s} about {duration(seconds[key])}")
        for command in (run.training_command(), run.evaluation_command()):
            print(f"    {run.in_shell(command)}")
    print(f"{len(runs)} runs, about {duration(left)} left, in {args.out}")


def duration(seconds: float) -> str:
    """Readable hours and minutes.

    >>> duration(20), duration(3700), duration(500000)
    ('1 min', '1 h 2 min', '138 h 53 min')
    """
    minutes = max(1, round(seconds / 60)) if seconds else 0
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def main() -> None:
    """Make the data, run what is left, write the tables."""
    args = parse_arguments(sys.argv[1:])
    runs = plan(args)
    if args.dry_run:
        list_runs(args, runs)
        return
    checked_settings(args)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    make_data(args)
    for number, run in enumerate(runs.values(), 1):
        state = run.state()
        print(f"== {number} of {len(runs)}: {run.tag}{' is finished' if state == 'finished' else ''}", flush=True)
        run.run()
    sections = [
        TableSection(
            one.name, one.caption, [_finished(row, args, runs) for row in one.rows], one.baseline.name, peak="cMax"
        )
        for one in args.comparisons
    ]
    for path in write_study(args.out / "tables", f"Preset {args.preset_name}: {args.preset.about}", sections):
        print(f"written: {path}")


def _finished(row: Row, args: argparse.Namespace, runs: dict[tuple[str, int], Experiment]) -> CompletedRuns:
    return CompletedRuns.read(row.name, row.keypoint, [runs[row.tag, seed] for seed in args.seeds])


if __name__ == "__main__":
    run_main(main)
