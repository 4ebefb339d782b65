"""Train and evaluate the rows of the paper's tables, one after the other, and write the tables.

An interrupted series continues where it stopped: run the same command again. Arguments after -- go to every training
script, as in reproduce_tables.py --preset paper --data_dir VOC2012 -- --amp bf16. See docs/reproduction.md.
"""

import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.evaluation.loading import choose_device, read_strategy, untrained_network
from core.keypoints import TOPK
from core.strategy import STRATEGIES, Crops
from core.training.config import Config as TrainingConfig
from core.training.config import accepted, parse_config
from tools.data.devkit import read_class_names, read_split
from tools.reproduction.presets import PRESETS
from tools.reproduction.series import Experiment, environment
from tools.reproduction.study import CompletedRuns, TableSection, write_study
from tools.scale_devkit import require_scaled_from, scale_devkit
from tools.system.command_line import Arguments, argument, parse, to_argv
from tools.system.console import duration
from tools.system.errors import UserError, run_main
from tools.system.files import ROOT

CROPS_PER_IMAGE = 1.5  # the mean number of classes that a VOC image shows
STARTUP_SECONDS = 20  # per run: two starts of Python, and the checks of the data


# The rows ------------------------------------------------------------------------------------------------------------


class Row:
    """A row of a table: the script that trains it, and the arguments of the script that differ from the preset's."""

    def __init__(self, file: Path, name: str = "", **arguments: Any):
        self.file, self.strategy, self.arguments = file, read_strategy(file), arguments
        self.name = name or self.strategy.name

    @property
    def tag(self) -> str:
        """The row in file names. It depends on script and arguments alone, so that tables share runs."""
        changed = "".join(f"_{name}{value}" for name, value in sorted(self.arguments.items()))
        return self.file.stem.removeprefix("train_classification_with_puzzle_") + changed

    @property
    def program(self) -> list[str]:
        """What follows `python3`: a module for a baseline, else the script."""
        return ["-m", f"baselines.{self.file.stem}"] if self.file.parent == ROOT / "baselines" else [str(self.file)]

    @property
    def keypoints(self) -> str:
        """The column of the localization that has the row's own keypoints; the maps' arg-max if it cuts nothing."""
        own = self.strategy.shown_keypoints()
        return own.name if own else "cMax"

    @property
    def passes(self) -> float:
        """Cost of an iteration, in forward and backward passes of the images; a forward pass is a third of one."""
        crops = 1 if self.strategy.crops == Crops.one_per_image else CROPS_PER_IMAGE
        tiles = crops / 3 if self.strategy.teacher else crops
        return 1 + tiles if self.strategy.shown_keypoints() else 1


class Comparison(NamedTuple):
    """A table, whose first row the others are compared with."""

    name: str
    caption: str
    rows: list[Row]


BASELINES = ("plain", "instances", "centre", "centre_ema")
COUNTERPARTS = ("max_pool", "asl", "csra", "ml_decoder", "scale_free")
PAPER = ("max", "cMax_ema", "cTopk_ema", "cTopk_w_ema")
PLAIN, INSTANCES, CENTRE, CENTRE_EMA = (Row(ROOT / "baselines" / f"{name}.py") for name in BASELINES)
MAX, CMAX, CTOPK, CTOPK_W = (Row(ROOT / f"train_classification_with_puzzle_{name}.py") for name in PAPER)
*_COUNTERPARTS, _SCALE_FREE = (Row(ROOT / "baselines" / f"{name}.py") for name in COUNTERPARTS)
_BEYOND = [Row(_SCALE_FREE.file, f"{name}, scale-free", strategy=name) for name in STRATEGIES[1:]]
_STRATEGIES = [PLAIN, INSTANCES, CENTRE_EMA, MAX, CMAX, CTOPK, CTOPK_W]
_EMA, _TOPK = [CENTRE, CENTRE_EMA], []
for _row in (CMAX, CTOPK, CTOPK_W):  # without averaging the teacher equals the student, still without gradient
    _EMA += [Row(_row.file, f"{_row.name}, no EMA", alpha_ema=0), _row]
for _row in (CTOPK, CTOPK_W):
    for _k in ({"topk": 1}, {"topk": 3}, {}, {"topk": 10}):
        _TOPK.append(Row(_row.file, f"{_row.name}, k = {_k.get('topk', TOPK)}", **_k))
_RADIUS = [Row(CTOPK.file, "cTopk, radius 128"), Row(CTOPK.file, "cTopk, no radius", topk_radius=0)]
COMPARISONS = (
    Comparison("strategies", "Strategies and baselines", _STRATEGIES),
    Comparison("counterparts", "Counterparts, and beyond the paper", [PLAIN, *_COUNTERPARTS, *_BEYOND]),
    Comparison("ema", "With and without the teacher's average", _EMA),
    Comparison("topk", "Number of local maxima", _TOPK),
    Comparison("radius", "Local maxima within 128 px (at 512) of the arg-max, and anywhere", _RADIUS),
)
TABLES = tuple(comparison.name for comparison in COMPARISONS)


# The command line ----------------------------------------------------------------------------------------------------


_TABLES_HELP = f"comma-separated names (default: {','.join(TABLES)})"
_ROWS_HELP = "comma-separated scripts that declare a STRATEGY: further rows of the table strategies"


def _comma_separated(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


@dataclass(frozen=True)
class Config(Arguments):
    """The arguments before `--`."""

    preset: str = argument(help="; ".join(f"{name}: {one.about}" for name, one in PRESETS.items()), choices=[*PRESETS])
    data_dir: Path | None = argument(None, "devkit folder (toy draws its own)")
    weights: str | None = argument(None, "initial weights: imagenet, none or a file (default: the preset's)")
    seeds: list[int] | None = argument(None, "one run per seed and row (default: the preset's)", least=0)
    tables: tuple[str, ...] = argument(TABLES, _TABLES_HELP, parse=_comma_separated, metavar="NAMES")
    rows: tuple[str, ...] | None = argument(None, _ROWS_HELP, parse=_comma_separated, metavar="FILES")
    out: Path | None = argument(None, "folder of runs and tables (default: reproduction/PRESET)")
    dry_run: bool = argument(False, "list the runs and estimate how long they take")

    def check(self) -> None:
        for name in self.tables:
            if name not in TABLES:
                raise UserError(f"--tables {name}: choose from {', '.join(TABLES)}")
        if self.rows and "strategies" not in self.tables:
            raise UserError("--rows adds rows to the table strategies: name it in --tables too")
        if not PRESETS[self.preset].toy_images and not self.data_dir:
            raise UserError(f"--preset {self.preset} needs --data_dir: the devkit folder that holds JPEGImages")


def passed_through(argv: list[str]) -> dict[str, str]:
    """Return the arguments after `--` by name; the scripts check their values."""
    names, values = argv[::2], argv[1::2]
    if len(argv) % 2 or not all(name.startswith("--") for name in names):
        raise UserError("after -- names and values have to alternate, as in -- --amp bf16 --tf32 True")
    arguments = {name.removeprefix("--"): value for name, value in zip(names, values, strict=True)}
    for name in ("seed", "tag", "data_dir", "resume", "config"):
        if name in arguments:
            raise UserError(f"--{name} cannot be passed through: use --seeds, --data_dir, --out")
    return arguments


def own_rows(files: tuple[str, ...]) -> list[Row]:
    """Return the rows of `--rows`, whose scripts, names and runs have to differ from all other rows'."""
    known = [row for comparison in COMPARISONS for row in comparison.rows]
    rows: list[Row] = []
    for file in files:
        try:
            row = Row(Path(file).resolve())
        except UserError as error:
            raise UserError(f"--rows {file}: {error}") from error
        for other in (*known, *rows):
            if row.file == other.file:
                raise UserError(f"--rows {file}: this script has a row already")
            if row.name == other.name:
                raise UserError(f"--rows {file}: a strategy {row.name!r} is a row already: rename it in its STRATEGY")
            if row.tag == other.tag:
                raise UserError(f"--rows {file}: runs named {row.tag} belong to {other.file}: rename the file")
        rows.append(row)
    return rows


# The study -----------------------------------------------------------------------------------------------------------


class Study:
    """The runs and tables that a command line asks for."""

    def __init__(self, argv: list[str]):
        end = argv.index("--") if "--" in argv else len(argv)
        usage = "%(prog)s --preset NAME [argument ...] [-- argument of the scripts ...]"
        self.config = parse(Config, __doc__, argv[:end], usage)
        self.preset = PRESETS[self.config.preset]
        self.out = self.config.out or Path("reproduction") / self.config.preset
        self.seeds = list(dict.fromkeys(self.config.seeds or self.preset.seeds))
        self.own_rows = own_rows(self.config.rows or ())
        self.comparisons = [one for one in COMPARISONS if one.name in self.config.tables]
        if self.own_rows:
            strategies, *others = self.comparisons
            self.comparisons = [strategies._replace(rows=[*strategies.rows, *self.own_rows]), *others]
        self.rows = {row.tag: row for comparison in self.comparisons for row in comparison.rows}  # each once
        self.settings = self._settings(passed_through(argv[end + 1 :]))
        self.runs = {(tag, seed): self._run(row, seed) for seed in self.seeds for tag, row in self.rows.items()}

    def _settings(self, passed: dict[str, str]) -> dict[str, Any]:
        """Return the shared arguments, with absolute paths: the runs have a working folder of their own."""
        given = {"weights": self.config.weights} if self.config.weights else {}
        settings = {**self.preset.arguments, **given, **passed}
        for name in ("weights", "class_file"):
            value = settings.get(name, "none")
            if value not in ("imagenet", "none"):
                if not Path(value).is_file():
                    raise UserError(f"--{name} {value}: no such file")
                settings[name] = str(Path(value).resolve())
        return settings

    def _run(self, row: Row, seed: int) -> Experiment:
        tag = f"{row.tag}_seed{seed}"
        shared = {"data_dir": str(self.data_dir.resolve()), "tag": tag}
        arguments = {**shared, "seed": seed, **accepted(row.strategy, self.settings), **row.arguments}
        evaluation = {**shared, "split": self.settings["val_split"], "localization": True}
        evaluation |= {name: self.settings.get(name) for name in ("num_workers", "batch_size", "device")}
        evaluation["strategy"] = str(row.file) if row in self.own_rows else None
        return Experiment(tag, row.program, arguments, evaluation, self.out)

    def check_settings(self) -> TrainingConfig:
        """Return the shared arguments as the training scripts read them; refuse what a script would refuse later."""
        try:
            for run in self.runs.values():
                run.state()
        except UserError as error:
            raise UserError(f"{error}: choose another --out") from error
        settings = {"data_dir": self.data_dir, **self.settings}
        for row in self.own_rows:
            parse_config(row.strategy, __doc__, to_argv(accepted(row.strategy, settings)))
        return parse_config(CMAX.strategy, __doc__, to_argv(settings))  # with the arguments of a teacher

    @property
    def data_dir(self) -> Path:
        """The devkit folder that the runs read."""
        return self.out / "data" if self.preset.toy_images or self.preset.longer_side else self.config.data_dir

    def make_data(self) -> None:
        """Draw the toy images or scale the given ones, unless they exist already."""
        preset, source, out = self.preset, self.config.data_dir, self.data_dir
        if preset.toy_images:
            # The longer side is at most image_size: evaluation sees whole images.
            words = to_argv({"out": out, "images": preset.toy_images, "image_size": preset.arguments["image_size"]})
            print(f"$ python3 -m tools.make_toy_voc {shlex.join(words)}", flush=True)
            if subprocess.run([sys.executable, "-m", "tools.make_toy_voc", *words], env=environment()).returncode:
                raise UserError(f"could not make {out}: see the message above")
        elif preset.longer_side and out.exists():
            require_scaled_from(source, out, preset.longer_side)
        elif preset.longer_side:
            scale_devkit(source, out, preset.longer_side)

    def estimates(self) -> dict[str, float]:
        """Return the seconds of a run of each row, by tag: those of a finished run, otherwise from a measured pass.

        The validation of an image, after each epoch and at the end, counts as a third of a pass.
        """
        shared = self.check_settings()
        training, validation = round(0.75 * self.preset.toy_images), round(0.25 * self.preset.toy_images)
        if not self.preset.toy_images:
            splits = (shared.train_split, shared.val_split)
            training, validation = (len(read_split(self.config.data_dir, split)) for split in splits)
        classes = len(read_class_names(shared.class_file))
        second = seconds_per_image(shared.architecture, shared.image_size, classes, choose_device(shared.device))
        seconds = {}
        for tag, row in self.rows.items():
            passes = shared.max_epoch * (row.passes * training + validation / 3) + validation / 3
            seconds[tag] = second * passes + STARTUP_SECONDS
        for (tag, _), run in self.runs.items():
            if run.state() == "finished":
                noted = sum(value for name, value in run.usage().items() if name.endswith("_seconds"))
                seconds[tag] = noted or seconds[tag]
        return seconds

    def list_runs(self) -> None:
        """Print the state, the expected time and the commands of every run."""
        seconds, left = self.estimates(), 0.0
        for (tag, _), run in self.runs.items():
            left += seconds[tag] if run.state() != "finished" else 0
            print(f"{run.tag:45s} {run.state():9s} about {duration(seconds[tag])}")
            for command in (run.training_command(), run.evaluation_command()):
                print(f"    {run.in_shell(command)}")
        print(f"{len(self.runs)} runs, about {duration(left)} left, in {self.out}")

    def complete_runs(self) -> None:
        for number, run in enumerate(self.runs.values(), 1):
            finished = " is finished" if run.state() == "finished" else ""
            print(f"== {number} of {len(self.runs)}: {run.tag}{finished}", flush=True)
            run.run()

    def write_tables(self) -> None:
        """Write the tables and charts of the finished runs."""

        def read(row: Row) -> CompletedRuns:
            return CompletedRuns.read(row.name, row.keypoints, [self.runs[row.tag, seed] for seed in self.seeds])

        sections = [TableSection(one.name, one.caption, [*map(read, one.rows)]) for one in self.comparisons]
        title = f"Preset {self.config.preset}: {self.preset.about}"
        for path in write_study(self.out / "tables", title, sections):
            print(f"written: {path}")


def seconds_per_image(architecture: str, image_size: int, num_classes: int, device: torch.device) -> float:
    """Return a float32 forward and backward pass's seconds per image: the faster of two batches after a warm-up."""
    network = untrained_network(architecture, num_classes).to(device).train()
    images = torch.randn(2, 3, image_size, image_size, device=device).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        network(images)[0].sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:]) / len(images)


def main() -> None:
    study = Study(sys.argv[1:])
    if study.config.dry_run:
        study.list_runs()
        return
    study.check_settings()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    study.make_data()
    study.complete_runs()
    study.write_tables()


if __name__ == "__main__":
    run_main(main)
