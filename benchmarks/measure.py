"""What the benchmarks share: arguments, processes, time, peak memory, and a description of the machine."""

import argparse
import multiprocessing
import os
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
import torchvision
from torch import nn
from torch.utils.data import Subset

from core.evaluation.loading import check_image_size, choose_device
from core.networks import build_backbone
from tools.data.datasets import VOCClassification
from tools.data.devkit import DATA, read_class_names
from tools.runs.folder import Folder
from tools.system.command_line import Arguments, argument
from tools.system.errors import UserError
from tools.system.files import ROOT, recorded_in_json, result_path, write_json

AMP = {"float32": "off", "bf16": "bf16", "fp16": "fp16"}  # a precision as `--amp` of the training scripts names it
MEBIBYTE = 1 << 20
TOY_SET = ("--images", "80", "--image_size", "500")  # VOC's usual size in pixels


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

    def check(self) -> None:
        check_image_size(self.image_size)


@dataclass(frozen=True)
class DataArguments(TimingArguments):
    data_dir: str | None = argument(None, "VOC devkit folder (default: a toy set of VOC's image size)", metavar="DIR")
    split: str = argument("val", "list in data/, or of the devkit as Main/val")
    class_file: str = argument(str(DATA / "VOC_2012.json"), "JSON file with class_names")
    images: int = argument(256, "images per repetition; a shorter split is read several times", above=0)


@contextmanager
def image_data(config: DataArguments) -> Iterator[DataArguments]:
    """Yield the configuration with a data set: the given one, or a temporary toy set if `--data_dir` is missing."""
    with tempfile.TemporaryDirectory() as folder:
        if config.data_dir is None:
            command = [sys.executable, "-m", "tools.make_toy_voc", "--out", f"{folder}/toy", *TOY_SET]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            config = replace(config, data_dir=f"{folder}/toy", split="Main/train")
        yield config


def dataset(config: DataArguments, transform: Callable) -> Subset:
    """Return as many images as a repetition needs: those of the split, from the start again when it ends."""
    split = VOCClassification(config.data_dir, config.split, read_class_names(config.class_file), transform)
    return Subset(split, [index % len(split) for index in range(config.images)])


def plain_backbone(architecture: str) -> tuple[nn.Module, int]:
    """Return an untrained backbone with the library's own batch normalization, and its number of output channels."""
    try:
        return build_backbone(architecture)[:2]
    except (ValueError, ImportError) as error:
        raise UserError(f"--architecture: {error}") from error


def numbers_with_commas(text: str) -> tuple[int, ...]:
    if not all(number.isdecimal() for number in text.split(",")):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of whole numbers with commas, as in 0,2")
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
    torch.backends.cudnn.benchmark = True
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def run_in_subprocess(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Return `measure(*arguments)` from a fresh process: no memory, cache or kernel choice of an earlier one is left.

    If it fails, for example for lack of memory, return `{"failed": reason}`; a `UserError` is raised here too.
    """
    # Not `multiprocessing.Pool`: its processes are daemons, which cannot start loader processes.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        try:
            return executor.submit(measure, *arguments).result()
        except UserError:
            raise
        except Exception as error:  # whatever ended the process
            return {"failed": traceback.format_exception_only(error)[-1].splitlines()[0]}


def measurement(config: TimingArguments, device: torch.device, action: Callable, **further: Any) -> dict[str, Any]:
    """Return median and all seconds of `action` in this process, peak memory in bytes, and `further`."""
    times = [seconds(action, device) for _ in range(config.warm_up + config.repeats)][config.warm_up :]
    result = {"seconds": statistics.median(times), "all_seconds": [round(value, 5) for value in times]}
    return result | {"peak_memory": peak_memory(device)} | further


def throughput(config: TimingArguments, device: torch.device, action: Callable, images: int) -> dict[str, Any]:
    """Return the measurement of `action`, which takes that many images, with images per second."""
    result = measurement(config, device, action, images=images)
    return result | {"images_per_second": images / result["seconds"]}


def seconds(action: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of one call of `action()`, until the device has finished."""
    start = _time_when_idle(device)
    action()
    return _time_when_idle(device) - start


def _time_when_idle(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory in bytes: of tensors on a GPU, of this whole process on a CPU; None if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage: its maximum is inherited from the process that started this one.
    kibibytes = _read_proc("self/status", "VmHWM")
    return 1024 * int(kibibytes.split()[0]) if kibibytes else None


def save(config: TimingArguments, name: str, device: torch.device, results: Any) -> Path:
    """Write settings, machine and results as JSON to `--output`, or to `name` in experiments/benchmarks; return where.

    The published results, in benchmarks/results, are only replaced by `--output`.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in ("output", "data_dir")}
    path = config.output or result_path(Folder().benchmark(name), settings, partial(recorded_in_json, key="settings"))
    write_json(path, {"settings": settings, "machine": machine(device), "results": results})
    print(f"written: {path}")
    return path


def machine(device: torch.device) -> dict[str, Any]:
    """Return what measurements depend on: processor, memory, GPU and versions. No host name."""
    description = {
        "cpu": _read_proc("cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        description |= {"gpu": gpu.name, "gpu_memory": gpu.total_memory}
        description |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return description


def _read_proc(file: str, key: str) -> str | None:
    """Return the first value of a key in a file of Linux's /proc; None on other systems."""
    path = Path("/proc") / file
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)


def cell(value: float | None, form: str, unit: int = 1) -> str:
    """Return a number for a table, in multiples of `unit`; a dash for what failed or was not measured."""
    return "–" if value is None else format(value / unit, form)
