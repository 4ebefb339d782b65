"""What the benchmarks share: arguments, processes, time, peak memory, and a description of the machine."""

import argparse
import multiprocessing
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

from core.evaluation.loading import check_image_size, choose_device
from tools.data.datasets import VOCClassification
from tools.data.devkit import read_class_names
from tools.data.loader import cores
from tools.runs.folder import Folder
from tools.system.command_line import Arguments, argument
from tools.system.errors import UserError
from tools.system.files import ROOT, provenance, recorded_in_json, result_path, write_json

AMP = {"float32": "off", "bf16": "bf16", "fp16": "fp16"}  # a precision as `--amp` of the training scripts names it
CPU = torch.device("cpu")
QUANTITIES = {  # of a result, in the order of its line: divisor, format and unit
    "seconds": (1, ".4f", "s"),
    "first_seconds": (1, ".2f", "s first"),
    "peak_memory": (1 << 20, ".0f", "MiB"),
    "images_per_second": (1, ".1f", "images/s"),
    "per_core": (1, ".1f", "images/s per core"),
}


@dataclass(frozen=True)
class TimingArguments(Arguments):
    repeats: int = argument(5, "timed repetitions, of which the median counts", above=0)
    warm_up: int = argument(2, "untimed repetitions before them", above=0)
    output: Path | None = argument(None, "JSON file of results (default: in experiments/benchmarks)", metavar="FILE")


@dataclass(frozen=True)
class NetworkArguments(TimingArguments):
    architecture: str = argument("resnet50", "see the training scripts")
    precision: str = argument("float32", "of our code", choices=AMP)
    batch_size: int = argument(4, "images per batch (batch_norm: crops)", above=0)
    image_size: int = argument(512, "side in pixels, divisible by 32", above=0)
    device: str = argument("auto", "auto, cpu, cuda or cuda:N; one device")
    tf32: bool = argument(False, "allow TF32 on GPUs: faster, less precise")
    cudnn_benchmark: bool = argument(False, "let cuDNN time its kernels for every new shape, on GPUs")
    channels_last: bool = argument(True, "memory layout of our code; see the training scripts")

    def check(self) -> None:
        check_image_size(self.image_size)


@dataclass(frozen=True)
class DataArguments(TimingArguments):
    data_dir: str | None = argument(None, "VOC devkit folder (default: a toy set of VOC's image size)", metavar="DIR")
    split: str = argument("val", "list in data/, or of the devkit as Main/val")
    class_file: str = argument("data/VOC_2012.json", "JSON file with class_names")
    images: int = argument(256, "images per repetition; a shorter split is read several times", above=0)


def toy_set(folder: str, image_size: int) -> str:
    """Draw a toy set, whose images have this longer side, into a folder, and return its path."""
    words = ("--out", f"{folder}/toy", "--images", "80", "--image_size", str(image_size))
    command = [sys.executable, "-m", "tools.make_toy_voc", *words]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"cannot draw toy images: {result.stderr.splitlines()[-1]}")
    return f"{folder}/toy"


@contextmanager
def image_data(config: DataArguments) -> Iterator[DataArguments]:
    """Yield the configuration with a data set: the given one, or a temporary toy set if `--data_dir` is missing."""
    with tempfile.TemporaryDirectory() as folder:
        if config.data_dir is None:
            config = replace(config, data_dir=toy_set(folder, 500), split="Main/train")  # 500: as in VOC
        yield config


def dataset(config: DataArguments, transform: Callable) -> Subset:
    """Return as many images as a repetition needs: those of the split, from the start again when it ends."""
    split = VOCClassification(config.data_dir, config.split, read_class_names(config.class_file), transform)
    return Subset(split, [index % len(split) for index in range(config.images)])


def numbers_with_commas(text: str) -> tuple[int, ...]:
    """Read whole numbers, as in 0,2."""
    return tuple(map(int, text.split(",")))


def names_argument(known: Iterable[str]) -> Any:
    """Declare an argument that takes several of the known names."""

    def parse_names(text: str) -> tuple[str, ...]:
        unknown = [name for name in text.split(",") if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown name '{unknown[0]}': choose from {', '.join(known)}")
        return tuple(text.split(","))

    return argument(tuple(known), f"{', '.join(known)}, or several with commas (default: all)", parse=parse_names)


def prepare_device(config: NetworkArguments, keep_memory: bool = True) -> torch.device:
    """Return a benchmark's only device (of several GPUs the first), set to the same rounding in every process."""
    device = choose_device(config.device, keep_memory)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.benchmark = config.cudnn_benchmark
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def measured(calls: dict[str, tuple], title: str = "") -> dict[str, dict[str, Any]]:
    """Call functions, each in a fresh process, and return their results by name; print a line for each.

    So no memory, cache or kernel choice of an earlier measurement is left. The result of a function that fails, for
    example for lack of memory, is `{"failed": reason}`; a `UserError` is raised here too.

    Args:
        calls: by name the function, which returns a result, and its arguments; title: begins the lines.
    """
    results = {}
    # Forked processes have their imports at once. On a CPU a process counts with all its memory: there it is a new one.
    context = multiprocessing.get_context("forkserver" if torch.cuda.is_available() else "spawn")
    context.set_forkserver_preload(["core.training.trainer"])
    for name, (function, *arguments) in calls.items():
        # Not `multiprocessing.Pool`: its processes are daemons, which cannot start loader processes.
        with ProcessPoolExecutor(1, mp_context=context) as executor:
            try:
                result = executor.submit(function, *arguments).result()
            except UserError:
                raise
            except Exception as error:  # whatever ended the process
                result = {"failed": traceback.format_exception_only(error)[-1].splitlines()[0]}
        cells = [f"{shown(result, quantity):>12}" for quantity in QUANTITIES if quantity in result]
        print(f"{f'{title} {name}'.strip():42s}", *cells, result.get("failed", ""), flush=True)
        results[name] = result
    return results


def shown(result: dict[str, Any], quantity: str) -> str:
    """Return one of `QUANTITIES` as text; a dash for what failed or was not measured."""
    divisor, form, unit = QUANTITIES[quantity]
    value = result.get(quantity)
    return "–" if value is None else f"{value / divisor:{form}} {unit}"


def ratios(results: dict[str, dict], quantity: str, *labels: str) -> dict[str, float]:
    """Return by label, such as "ours/limit", the ratio of a quantity of two results, where both were measured."""
    found = {}
    for label in labels:
        above, below = (results.get(name, {}).get(quantity) for name in label.split("/"))
        if above and below:
            found[label] = above / below
    return found


def print_ratios(values: dict[str, float]) -> dict[str, float]:
    for label, value in values.items():
        print(f"{label:42s} {value:12.3f}", flush=True)
    return values


def measurement(config: TimingArguments, device: torch.device, action: Callable, **further: Any) -> dict[str, Any]:
    """Return median, all and the first seconds of `action` in this process, peak memory in bytes, and `further`.

    If `further` says how many `images` the action takes, return images per second too.
    """
    everything = [seconds(action, device) for _ in range(config.warm_up + config.repeats)]
    times = everything[config.warm_up :]
    result = {"seconds": statistics.median(times), "all_seconds": [round(value, 5) for value in times]}
    result["first_seconds"] = round(everything[0], 5)  # with the choice of kernels
    if "images" in further:
        result["images_per_second"] = further["images"] / result["seconds"]
    return result | {"peak_memory": peak_memory(device)} | further


def seconds(action: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of one call of `action()`, until the device has finished."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else torch.cpu.synchronize
    synchronize(device)
    start = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - start


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory in bytes: of tensors on a GPU, of this whole process on a CPU; None if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage: its maximum is inherited from the process that started this one.
    kibibytes = _read_proc("self/status", "VmHWM")
    return 1024 * int(kibibytes.split()[0]) if kibibytes else None


def save(config: TimingArguments, name: str, results: Any) -> Path:
    """Write settings, machine and results as JSON to `--output`, or to experiments/benchmarks; return where.

    The published results, in benchmarks/results, are only replaced by `--output`.
    """
    device = CPU
    if isinstance(config, NetworkArguments):
        device = prepare_device(config)
        name += f"_{device.type}_{config.precision}"
    settings = {name: value for name, value in asdict(config).items() if name not in ("output", "data_dir")}
    own = Folder().benchmark(f"{name}.json")
    path = config.output or result_path(own, settings, partial(recorded_in_json, key="settings"))
    write_json(path, {"settings": settings, "machine": machine(device), "results": results})
    print(f"written: {path}")
    return path


def machine(device: torch.device) -> dict[str, Any]:
    """Return what measurements depend on: processor, memory, GPU and versions. No host name."""
    cpu = _read_proc("cpuinfo", "model name") or platform.machine()
    description = {"cpu": cpu, "cores": cores(), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        gpu, cudnn = torch.cuda.get_device_properties(device), torch.backends.cudnn.version()
        description |= {"gpu": gpu.name, "gpu_memory": gpu.total_memory, "cuda": torch.version.cuda, "cudnn": cudnn}
    return description | provenance()["versions"]


def _read_proc(file: str, key: str) -> str | None:
    """Return the first value of a key in a file of Linux's /proc; None on other systems."""
    path = Path("/proc") / file
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)
