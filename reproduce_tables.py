"""Train and evaluate the rows of the paper's tables, one after the other, and write the tables.

An interrupted series continues where it stopped: run the same command again. Arguments after -- go to every training
script, as in reproduce_tables.py --preset paper --data_dir VOC2012 -- --amp bf16. See docs/reproduction.md.
"""

import shlex
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from core.evaluation.loading import read_strategy, untrained_network
from core.keypoints import TOPK
from core.strategy import STRATEGIES, Crops
from core.training.config import Config as TrainingConfig
from core.training.config import accepted, parse_config
from core.training.devices import choose_devices
from core.training.trainer import Trainer
from tools.compare import Config as ComparisonConfig
from tools.compare import write_comparison
from tools.data.devkit import read_class_names, read_split
from tools.data.writing import CLASS_FILE
from tools.make_toy_voc import main as make_toy_voc
from tools.pictures.figure import COLUMN_HELP, WIDTHS, style
from tools.reproduction.presets import PRESETS
from tools.reproduction.published import published_table
from tools.reproduction.series import Experiment, complete
from tools.reproduction.study import CompletedRuns, TableSection, write_study
from tools.scale_devkit import longer_side_of, require_scaled_from, scale_devkit
from tools.system.command_line import Arguments, argument, parse, to_argv
from tools.system.console import duration
from tools.system.errors import UserError, run_main
from tools.system.files import ROOT, write_text
from tools.system.processes import Processes
from tools.system.text_table import fixed_width_table

CROPS_PER_IMAGE = 1.5  # the mean number of classes that a VOC image shows
STARTUP_SECONDS = 20  # per run: two starts of Python, and the checks of the data
NO_TABLE = "no table: each needs two of its rows finished"
CPU_PIXELS = 2**20  # of the batch that measures the speed of a CPU: four images of 512 px


# The rows ------------------------------------------------------------------------------------------------------------


class Row:
    """A row of a table: the script that trains it, and the arguments of the script that differ from the preset's.

    Attributes:
        tag: the row in file names. It depends on script and arguments alone, so that tables share runs.
        program: what follows `python3`: a module for a baseline, else the script.
        keypoints: the column of the localization that has the row's own; the maps' arg-max if it cuts nothing.
        passes: cost of an iteration, in forward and backward passes of the images; a forward pass is a third of one.
    """

    def __init__(self, file: Path, name: str = "", **arguments: Any):
        self.file, self.strategy, self.arguments = file, read_strategy(file), arguments
        self.name = name or self.strategy.name
        changes = "".join(f"_{name}{value}" for name, value in sorted(arguments.items()))
        self.tag = file.stem.removeprefix("train_classification_with_puzzle_") + changes
        self.program = ["-m", f"baselines.{file.stem}"] if file.parent == ROOT / "baselines" else [str(file)]
        own = self.strategy.shown_keypoints()
        self.keypoints = own.name if own else "cMax"
        crops = 1 if self.strategy.crops == Crops.one_per_image else CROPS_PER_IMAGE
        tiles = crops / 3 if self.strategy.teacher else crops
        self.passes = 1 + tiles if own else 1

    def changed(self, how: str = "", **arguments: Any) -> "Row":
        """Return this row with further arguments; `how` names the change, else they do."""
        how = how or ", ".join(f"{name} {value}" for name, value in arguments.items())
        return Row(self.file, f"{self.name}, {how}", **self.arguments, **arguments)


class Comparison(NamedTuple):
    """A table, whose first row the others are compared with."""

    name: str
    caption: str
    rows: list[Row]


PAPER = ("max", "cMax_ema", "cTopk_ema", "cTopk_w_ema")
BASELINES = ("plain", "instances", "centre", "centre_ema", "max_pool", "asl", "csra", "ml_decoder")
MAX, CMAX, CTOPK, CTOPK_W = (Row(ROOT / f"train_classification_with_puzzle_{name}.py") for name in PAPER)
PLAIN, INSTANCES, CENTRE, CENTRE_EMA, *_COUNTERPARTS = (Row(ROOT / f"baselines/{name}.py") for name in BASELINES)
_MAX_POOL, _ASL, _CSRA, _ML_DECODER = _COUNTERPARTS
_BEYOND = [Row(ROOT / "baselines/scale_free.py", f"{name}, scale-free", strategy=name) for name in STRATEGIES[1:]]
# A series may end early: the rows that are wanted most run first, then all others in the order of the tables.
WANTED = [PLAIN, INSTANCES, CMAX, _BEYOND[0], _CSRA, CTOPK_W, CTOPK, _ASL, _MAX_POOL, _ML_DECODER, CENTRE_EMA, MAX]
_STRATEGIES = [PLAIN, INSTANCES, CENTRE_EMA, MAX, CMAX, CTOPK, CTOPK_W]
_EMA, _TOPK = [CENTRE, CENTRE_EMA], []
for _row in (CMAX, CTOPK, CTOPK_W):  # without averaging the teacher equals the student, still without gradient
    _EMA += [_row.changed("no EMA", alpha_ema=0), _row]
for _row in (CTOPK, CTOPK_W):
    _TOPK += [_row.changed(f"k = {k}", **({} if k == TOPK else {"topk": k})) for k in (1, 3, TOPK, 10)]
_RADIUS = [CTOPK.changed("radius 128"), CTOPK.changed("no radius", topk_radius=0)]
_WEIGHT = [INSTANCES]  # which is cMax without re_loss
for _row in (CMAX, _BEYOND[0]):
    _WEIGHT += [_row.changed(alpha_re=0.03), _row.changed(alpha_re=0.3), _row, _row.changed(alpha_schedule_re=1)]
COMPARISONS = (
    Comparison("strategies", "Strategies and baselines", _STRATEGIES),
    Comparison("counterparts", "Counterparts, and beyond the paper", [PLAIN, *_COUNTERPARTS, *_BEYOND]),
    Comparison("ema", "With and without the teacher's average", _EMA),
    Comparison("topk", "Number of local maxima", _TOPK),
    Comparison("radius", "Local maxima within 128 px (at 512) of the arg-max, and anywhere", _RADIUS),
    Comparison("weight", "Weight of the reconstruction loss, and share of training in which it rises", _WEIGHT),
)
TABLES = tuple(comparison.name for comparison in COMPARISONS)


# The command line ----------------------------------------------------------------------------------------------------


_TABLES_HELP = f"comma-separated names, of {','.join(TABLES)} (default: the preset's)"
_ONLY_HELP = "comma-separated rows of these tables, named as --dry_run names them without the seed (default: all)"
_ROWS_HELP = "comma-separated scripts that declare a STRATEGY, each with its arguments: more rows of table strategies"


def _comma_separated(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


@dataclass(frozen=True)
class Config(Arguments):
    """The arguments before `--`."""

    preset: str = argument(help="; ".join(f"{name}: {one.about}" for name, one in PRESETS.items()), choices=[*PRESETS])
    data_dir: Path | None = argument(None, "devkit folder (toy draws its own)")
    weights: str | None = argument(None, "initial weights: imagenet, none or a file (default: the preset's)")
    seeds: list[int] | None = argument(None, "one run per seed and row (default: the preset's)", least=0)
    tables: tuple[str, ...] | None = argument(None, _TABLES_HELP, parse=_comma_separated, metavar="NAMES")
    only: tuple[str, ...] | None = argument(None, _ONLY_HELP, parse=_comma_separated, metavar="ROWS")
    rows: tuple[str, ...] | None = argument(None, _ROWS_HELP, parse=_comma_separated, metavar="FILES")
    out: Path | None = argument(None, "folder of runs and tables (default: reproduction/PRESET)")
    column: str = argument("screen", COLUMN_HELP, choices=WIDTHS)
    parallel: int = argument(1, "runs at a time, which share the device", above=0, most=64)
    time_limit: float | None = argument(None, "minutes until all states are saved and the tables written", least=0)
    dry_run: bool = argument(False, "list the runs and estimate how long they take")
    commands: bool = argument(False, "as --dry_run, and print the commands of every run")

    def check(self) -> None:
        for name in self.tables or ():
            if name not in TABLES:
                raise UserError(f"--tables {name}: choose from {', '.join(TABLES)}")
        if self.rows and "strategies" not in (self.tables or TABLES):
            raise UserError("--rows adds rows to the table strategies: name it in --tables too")
        if not PRESETS[self.preset].toy_images and not self.data_dir:
            raise UserError(f"--preset {self.preset} needs --data_dir: the devkit folder that holds JPEGImages")


def passed_through(argv: list[str], where: str = "after --") -> dict[str, str]:
    """Return the arguments after `--`, or of a row, by name; the scripts check their values."""
    names, values = argv[::2], argv[1::2]
    if len(argv) % 2 or not all(name.startswith("--") for name in names):
        raise UserError(f"{where} names and values have to alternate, as in --amp bf16 --tf32 True")
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
            script, *words = shlex.split(file) or [""]
            row, arguments = Row(Path(script).resolve()), passed_through(words, "after the script")
            row = row.changed(**arguments) if arguments else row
        except (UserError, ValueError) as error:
            raise UserError(f"--rows {file}: {error}") from error
        for other in (*known, *rows):
            if (row.file, row.tag) == (other.file, other.tag):
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
        tables = self.config.tables or self.preset.tables or TABLES
        chosen, further = [one for one in COMPARISONS if one.name in tables], {"strategies": self.own_rows}
        self.comparisons = [one._replace(rows=one.rows + further.get(one.name, [])) for one in chosen]
        rows = {row.tag: row for comparison in self.comparisons for row in comparison.rows}  # each once
        only = self.config.only or tuple(rows)
        if unknown := [tag for tag in only if tag not in rows]:
            raise UserError(f"--only {unknown[0]}: choose from {', '.join(rows)}")
        self.rows = {tag: rows[tag] for tag in dict.fromkeys([*(row.tag for row in WANTED), *rows]) if tag in only}
        self.own_rows = [row for row in self.own_rows if row.tag in self.rows]
        self.passed = passed_through(argv[end + 1 :])
        self.settings = self._settings(self.passed)
        # The runs read the given folder, or one that is made for them.
        scaled_here = self.preset.longer_side and not longer_side_of(self.config.data_dir)
        self.data_dir = self.out / "data" if self.preset.toy_images or scaled_here else self.config.data_dir
        self.runs = {(tag, seed): self._run(row, seed) for seed in self.seeds for tag, row in self.rows.items()}

    def _settings(self, passed: dict[str, str]) -> dict[str, Any]:
        """Return the shared arguments, with absolute paths: the runs have a working folder of their own."""
        given = {"weights": self.config.weights} if self.config.weights else {}
        if self.preset.own_classes:
            given["class_file"] = str(self.config.data_dir / CLASS_FILE)
        settings = {**self.preset.arguments, **given, **passed}
        for name in ("weights", "class_file"):
            value = settings.get(name, "none")
            if value not in ("imagenet", "none"):
                if not Path(value).is_file() and self.config.time_limit != 0:  # 0 trains nothing
                    raise UserError(f"--{name} {value}: no such file")
                settings[name] = str(Path(value).resolve())
        return settings

    def _run(self, row: Row, seed: int) -> Experiment:
        tag, own_file = f"{row.tag}_seed{seed}", row.file if row in self.own_rows else None
        shared = {"data_dir": str(self.data_dir.resolve()), "tag": tag}
        recipe = self.preset.recipes.get(row.tag, {}).items()
        own = {name: value for name, value in recipe if name not in self.passed} | row.arguments
        # The defaults of one's own script are given too: once they change, its runs are those of other settings.
        defaults = {name: one.default for name, one in row.strategy.arguments.items() if own_file}
        arguments = {**shared, "seed": seed, **defaults, **accepted(row.strategy, self.settings), **own}
        evaluation = {**shared, "split": self.settings["val_split"], "localization": True}
        evaluation |= {name: self.settings.get(name) for name in ("num_workers", "batch_size", "device")}
        evaluation["strategy"] = own_file
        return Experiment(tag, row.program, arguments, evaluation, self.out, own_file)

    def check_settings(self) -> TrainingConfig:
        """Return the shared arguments as the training scripts read them; refuse what a script would refuse later."""
        try:
            for run in self.runs.values():
                run.state()
        except UserError as error:
            raise UserError(f"{error}: choose another --out") from error
        settings = {"data_dir": self.data_dir, **self.settings}
        for row in self.own_rows:
            for name in self.passed.keys() & row.strategy.arguments.keys():
                alone = f"--{name}: what follows -- reaches every row, and {row.name} alone has it: give it in --rows"
                raise UserError(f'{alone} "{row.file.name} --{name} {self.passed[name]}"')
            parse_config(row.strategy, __doc__, to_argv(self.runs[row.tag, self.seeds[0]].arguments))
        return parse_config(CMAX.strategy, __doc__, to_argv(settings))  # with the arguments of a teacher

    def make_data(self) -> None:
        """Draw the toy images or scale the given ones, unless they exist already."""
        preset, source, out = self.preset, self.config.data_dir, self.data_dir
        size, usual = int(self.settings["image_size"]), preset.arguments["image_size"]
        longer_side = preset.longer_side * size // usual
        if preset.toy_images:
            # The longer side is at most image_size: evaluation sees whole images.
            make_toy_voc(to_argv({"out": out, "images": preset.toy_images, "image_size": usual}))
        elif out != source and out.exists():
            require_scaled_from(source, out, longer_side)
        elif out != source:
            scale_devkit(source, out, longer_side)
        elif longer_side_of(source) > size:
            raise UserError(f"{source} holds images of over {size} pixels: scale the original ones to at most these")

    def estimates(self) -> dict[str, float]:
        """Return the seconds of a run of each row, by tag: as measured in a finished run, else a rate times its passes.

        A pass is forward and backward, of an image; validating one, after each epoch and at the end, counts as a third.
        The rate is the median of the finished runs; if there are none, that of training steps on random images.
        """
        shared = self.check_settings()
        toy, splits = self.preset.toy_images, (shared.train_split, shared.val_split)
        counts = [0.75 * toy, 0.25 * toy] if toy else [len(read_split(self.config.data_dir, split)) for split in splits]
        training, validation = (min(count, shared.limit or count) for count in counts)
        epochs = {tag: int(run.arguments.get("max_epoch", shared.max_epoch)) for (tag, _), run in self.runs.items()}
        passes = {tag: epochs[tag] * row.passes * training for tag, row in self.rows.items()}
        passes = {tag: count + (epochs[tag] + 1) * validation / 3 for tag, count in passes.items()}
        finished = [(tag, run.seconds()) for (tag, _), run in self.runs.items() if run.state() == "finished"]
        seconds = {tag: spent for tag, spent in finished if spent}
        rates = [spent / passes[tag] for tag, spent in seconds.items()]
        start, rate = (0, median(rates)) if rates else (STARTUP_SECONDS, seconds_per_image(shared))
        return {tag: start + rate * count for tag, count in passes.items()} | seconds

    def list_runs(self) -> None:
        """Print the state and the minutes of every run, and with `--commands` its commands."""
        seconds, left, rows = self.estimates(), 0.0, [("row", "state", "minutes")]
        for (tag, _), run in self.runs.items():
            left += max(seconds[tag] - run.seconds(), 0) if run.state() != "finished" else 0
            rows.append((run.tag, run.state(), f"{seconds[tag] / 60:.1f}"))
        print(fixed_width_table(rows, widths=(6, 9, 9)))
        print(f"{len(self.runs)} runs, about {duration(left)} left, in {self.out}")
        for run in self.runs.values() if self.config.commands else ():
            print(run.in_shell(run.training_command()), run.in_shell(run.evaluation_command()), sep="\n")

    def comparable(self) -> tuple[list[str], list[int]]:
        """Return the tags of the rows whose run of the first seed is finished, and the seeds that all these have."""
        finished = {key for key, run in self.runs.items() if run.state() == "finished"}
        tags = [tag for tag in self.rows if (tag, self.seeds[0]) in finished]
        return tags, [seed for seed in self.seeds if tags and all((tag, seed) in finished for tag in tags)]

    def published(self) -> str:
        """Return the public figures of the rows beside ours, in Markdown; nothing if the preset knows none."""
        tags, seeds = self.comparable()
        scores = {tag: [self.runs[tag, seed].evaluated(".npz") for seed in seeds] for tag in tags}
        rows = [(row.name, self.preset.published.get(tag, []), scores.get(tag, [])) for tag, row in self.rows.items()]
        return published_table(rows) if self.preset.published else ""

    def write_tables(self) -> None:
        """Write the tables and charts of the finished runs, and the public figures beside ours; print the mAPs."""
        (tags, seeds), folder, sections = self.comparable(), self.out / "tables", []
        for one in self.comparisons:
            rows = {row: [self.runs[row.tag, seed] for seed in seeds] for row in one.rows if row.tag in tags}
            if len(rows) > 1:
                completed = [CompletedRuns.read(row.name, row.keypoints, runs) for row, runs in rows.items()]
                sections.append(TableSection(one.name, one.caption, completed))
                scores = {row.name: [run.evaluated(".npz") for run in runs] for row, runs in rows.items()}
                base = folder / f"{one.name}_comparison"  # of all pairs of rows, as `tools.compare` writes it
                write_comparison(ComparisonConfig(files=[], out=base, column=self.config.column), scores)
        title = f"Preset {self.config.preset}: {self.preset.about}"
        with style(self.config.column):
            shown = write_study(folder, title, sections) if sections else [NO_TABLE]
        if table := self.published():
            write_text(folder / "published.md", table)
        counts = f"{len(tags)} of {len(self.rows)} rows, {len(seeds)} of {len(self.seeds)} seeds"
        print("\n".join([f"tables of {counts}: {folder}", *shown]))


def seconds_per_image(config: TrainingConfig) -> float:
    """Return the seconds per image of training without tiles: random images, five steps after two of warm-up.

    A batch is a run's; on a CPU, where small batches are about as fast per image, it is one that any memory holds.
    """
    devices, size = choose_devices(config, Processes()), config.image_size
    batch, classes = config.batch_size // config.accumulate, len(read_class_names(config.class_file))
    if devices.first.type == "cpu":
        batch = min(batch, max(2, CPU_PIXELS // size**2))
    network = untrained_network(config.architecture, classes, config.channels_last).to(devices.first)
    trainer = Trainer(network, PLAIN.strategy, replace(config, accumulate=1), epoch_iterations=1, gpus=devices.gpus)
    times = []
    for _ in range(7):
        started = time.perf_counter()
        trainer.iterate(torch.randn(batch, 3, size, size), torch.ones(batch, classes))  # it waits for the device
        times.append(time.perf_counter() - started)
    return median(times[2:]) / batch


def main() -> None:
    study = Study(sys.argv[1:])
    if study.config.dry_run or study.config.commands:
        study.list_runs()
        print(study.published(), end="")
        return
    study.check_settings()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    failures = []
    if study.config.time_limit != 0:
        study.make_data()
        failures = complete([*study.runs.values()], study.config.parallel, study.config.time_limit)
    study.write_tables()
    if failures:
        raise failures[0]


if __name__ == "__main__":
    run_main(main)
