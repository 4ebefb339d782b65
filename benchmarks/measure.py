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
from pathlib import Path
from typing import Any, TypeVar

import torch
import torchvision
from torch import nn
from torch.utils.data import Subset

from core.evaluation.loading import check_image_size, choose_device
from core.networks import build_backbone
from tools.data.datasets import VOCClassification
from tools.data.devkit import DATA, read_class_names
from tools.system.command_line import Arguments, argument
from tools.system.errors import UserError
from tools.system.files import ROOT, write_json

RESULTS = ROOT / "benchmarks" / "results"
AMP = {"float32": "off", "bf16": "bf16", "fp16": "fp16"}  # a precision as `--amp` of the training scripts names it
MEBIBYTE = 1 << 20
TOY_SET = ("--images", "80", "--image_size", "500")  # VOC's usual size in pixels


@dataclass(frozen=True)
class TimingArguments(Arguments):
    """Arguments of every benchmark."""

    repeats: int = argument(5, "timed repetitions, of which the median counts", above=0)
    warm_up: int = argument(2, "untimed repetitions before them", above=0)
    output: Path | None = argument(None, "JSON file of the results (default: in benchmarks/results)", metavar="FILE")


@dataclass(frozen=True)
class NetworkArguments(TimingArguments):
    """Arguments of the benchmarks of a network."""

    architecture: str = argument("resnet50", "see the training scripts")
    precision: str = argument("float32", "of ours and limit", choices=AMP)
    batch_size: int = argument(4, "images per batch", above=0)
    image_size: int = argument(512, "side in pixels, divisible by 32", above=0)
    device: str = argument("auto", "auto, cpu, cuda or cuda:N; one device")
    tf32: bool = argument(False, "allow TF32 on GPUs: faster, less precise")

    def check(self) -> None:
        check_image_size(self.image_size)


@dataclass(frozen=True)
class DataArguments(TimingArguments):
    """Arguments of the benchmarks that read images."""

    data_dir: str | None = argument(None, "VOC devkit folder (default: a toy set of VOC's image size)", metavar="DIR")
    split: str = argument("val", "list in data/, or of the devkit as Main/val")
    class_file: str = argument(str(DATA / "VOC_2012.json"), "JSON file with class_names")
    images: int = argument(256, "images per repetition; a shorter split is read several times", above=0)


AnyConfig = TypeVar("AnyConfig", bound=TimingArguments)


def names_from(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a parser of names with commas, for `argument(parse=...)`, that refuses unknown ones."""

    def parse_names(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown name '{unknown[0]}': choose from {', '.join(known)}")
        return names

    return parse_names


@contextmanager
def image_data(config: AnyConfig) -> Iterator[AnyConfig]:
    """Yield the configuration with a data set: the given one, or a temporary toy set if `--data_dir` is missing."""
    if config.data_dir is not None:
        yield config
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tools.make_toy_voc", "--out", f"{folder}/toy", *TOY_SET]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        yield replace(config, data_dir=f"{folder}/toy", split="Main/train")


def dataset(config: DataArguments, transform: Callable) -> Subset:
    """Return as many images as a repetition needs: those of the split, from the start again when it ends."""
    split = VOCClassification(config.data_dir, config.split, read_class_names(config.class_file), transform)
    return Subset(split, [index % len(split) for index in range(config.images)])


def plain_backbone(architecture: str) -> tuple[nn.Module, int]:
    """Return an untrained backbone with the library's own batch normalization, and its number of output channels.

    Raises:
        UserError: unknown architecture, or one that needs timm.
    """
    try:
        backbone, channels, _ = build_backbone(architecture)
    except (ValueError, ImportError) as error:
        raise UserError(f"--architecture: {error}") from error
    return backbone, channels


def prepare_device(config: NetworkArguments) -> torch.device:
    """Return the single device of a benchmark (of several GPUs the first), set to the same rounding in every process.

    Raises:
        UserError: no such device here.
    """
    device = choose_device(config.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.benchmark = True
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def run_in_subprocess(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Return `measure(*arguments)` from a fresh process: no memory, cache or kernel choice of an earlier one is left.

    Returns:
        the measurement, or `{"failed": reason}`: it may need more memory than there is.

    Raises:
        UserError: raised by `measure`.
    """
    # Not `multiprocessing.Pool`: its processes are daemons, which cannot start loader processes.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        try:
            return executor.submit(measure, *arguments).result()
        except UserError:
            raise
        except Exception as error:  # whatever ended the process
            return {"failed": traceback.format_exception_only(error)[-1].splitlines()[0]}


def measurement(
    config: TimingArguments, device: torch.device, action: Callable[[], Any], **further: Any
) -> dict[str, Any]:
    """Time `action` in the current process.

    Returns:
        median and all times of the repetitions in seconds, peak memory in bytes, and `further`.
    """
    times = [seconds(action, device) for _ in range(config.warm_up + config.repeats)][config.warm_up :]
    return {
        "seconds": statistics.median(times),
        "all_seconds": [round(value, 5) for value in times],
        "peak_memory": peak_memory(device),
        **further,
    }


def seconds(action: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of one run of `action`, until the device has finished."""
    _synchronize(device)
    start = time.perf_counter()
    action()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory in bytes: of tensors on a GPU, of this whole process on a CPU; None if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux only. Not getrusage: its maximum is inherited from the process that started this one.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def save(config: TimingArguments, name: str, device: torch.device, results: Any) -> None:
    """Write settings, machine and results as JSON to `--output`, or to `name` in benchmarks/results."""
    path = config.output or RESULTS / name
    settings = {name: value for name, value in asdict(config).items() if name not in ("output", "data_dir")}
    write_json(path, {"settings": settings, "machine": machine(device), "results": results})
    print(f"written: {path}")


def machine(device: torch.device) -> dict[str, Any]:
    """Describe what measurements depend on: processor, memory, GPU and versions. No host name."""
    description = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        description |= {
            "gpu": properties.name,
            "gpu_memory": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return description


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
