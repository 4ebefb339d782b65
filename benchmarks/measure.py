"""What the benchmarks share: a figure in a process of its own, times, peak memory, and the machine they are of."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch.utils.data import Subset

from tools.data.datasets import VOCClassification
from tools.data.devkit import DATA, read_class_names
from tools.system.errors import UserError
from tools.system.files import ROOT, write_json

RESULTS = ROOT / "benchmarks" / "results"
MEBIBYTE = 1 << 20
TOY_IMAGES = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that every benchmark of a network has."""
    parser.add_argument("--architecture", default="resnet50", help="see the training scripts")
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16", "fp16"), help="of ours and limit")
    parser.add_argument("--batch_size", type=positive, default=4, help="images")
    parser.add_argument("--image_size", type=positive, default=512, help="pixels, divisible by 32")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; one device")
    parser.add_argument("--tf32", action="store_true", help="GPU: coarser float32 products, in every figure")
    parser.add_argument("--repeats", type=positive, default=5, help="timed repetitions; the median counts")
    parser.add_argument("--warm_up", type=positive, default=2, help="repetitions before them")
    parser.add_argument("--output", type=Path, help="JSON file of the results")


def add_data_arguments(parser: argparse.ArgumentParser, images: int) -> None:
    """Arguments of the benchmarks that read images; `images` is the default number of a repetition."""
    parser.add_argument("--data_dir", help="VOC devkit folder; default: a toy set of VOC's image size, drawn first")
    parser.add_argument("--split", default="val", help="list in data/, or of the devkit as Main/val")
    parser.add_argument("--class_file", default=str(DATA / "VOC_2012.json"), help="JSON file with class_names")
    parser.add_argument("--images", type=positive, default=images, help="of a repetition; a short split repeats")


@contextmanager
def some_data(args: argparse.Namespace) -> Iterator[None]:
    """Where no `--data_dir` is given, a toy data set of VOC's usual image size, 500 pixels, for as long as needed."""
    if args.data_dir is not None:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        args.data_dir, args.split = str(Path(folder) / "toy"), "Main/train"
        words = ["--out", args.data_dir, "--images", str(TOY_IMAGES), "--image_size", "500"]
        command = [sys.executable, "-m", "tools.make_toy_voc", *words]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        yield


def dataset(args: argparse.Namespace, transform: Callable) -> Subset:
    """The split's images over and over, as many as a repetition needs."""
    split = VOCClassification(args.data_dir, args.split, read_class_names(args.class_file), transform)
    return Subset(split, [index % len(split) for index in range(args.images)])


def positive(word: str) -> int:
    """A whole number above 0, for argparse."""
    if not word.isdecimal() or int(word) == 0:
        raise argparse.ArgumentTypeError(f"'{word}' is no whole number above 0")
    return int(word)


def one_device(name: str) -> torch.device:
    """The single device that a benchmark runs on; of several GPUs the first.

    Raises:
        UserError: no such device here.
    """
    from core.evaluation.loading import choose_device

    device = choose_device(name)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def amp_of(precision: str) -> str:
    """The training scripts' word (`--amp`) for a precision."""
    return "off" if precision == "float32" else precision


def set_exactness(tf32: bool) -> None:
    """How GPUs round float32 products, and that they look for their fastest kernels, in every figure alike."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True


def seconds(action: Callable[[], Any], device: torch.device, repeats: int, warm_up: int) -> list[float]:
    """Seconds of each of `repeats` runs of `action`, after `warm_up` that do not count; the device is waited for."""
    times = []
    for _ in range(warm_up + repeats):
        _wait_for(device)
        start = time.perf_counter()
        action()
        _wait_for(device)
        times.append(time.perf_counter() - start)
    return times[warm_up:]


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int | None:
    """Bytes. GPU: the most that tensors took at once. CPU: the most of this whole process that lay in memory, with
    the interpreter and its libraries; None where the system does not tell (anywhere but on Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage: its maximum is inherited from the process that started this one.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def figure(times: list[float], device: torch.device, **more: Any) -> dict[str, Any]:
    """A figure as its process hands it on: median, all times, peak memory, and whatever else belongs to it."""
    return {
        "seconds": statistics.median(times),
        "all_seconds": [round(value, 5) for value in times],
        "peak_memory": peak_memory(device),
        **more,
    }


def hand_on(result: dict[str, Any]) -> None:
    """Print a figure as the last line of its process."""
    print(json.dumps(result), flush=True)


def alone(script: str, words: list[str]) -> dict[str, Any]:
    """A figure from a process of its own, so that none leaves memory, caches or kernels behind for the next.

    Args:
        script: the benchmark's file.
        words: its command line, which makes it `hand_on` a single figure.

    Returns:
        the figure, or `{"failed": the last line that the process said}`: a figure may need more memory than there is.

    Raises:
        UserError: the process stopped with one.
    """
    process = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    last = (process.stderr.strip().splitlines() or [f"ended by signal or status {process.returncode}"])[-1]
    if process.returncode == 2:
        raise UserError(last.removeprefix("error: "))
    if process.returncode:
        return {"failed": last}
    return json.loads(process.stdout.splitlines()[-1])


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on: processor, memory, GPU and versions. No host name."""
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


def save(output: Path | None, default: str, device: torch.device, settings: dict[str, Any], results: Any) -> None:
    """Write settings, machine and results as JSON and say where; `default` is the file's name in `RESULTS`."""
    path = output or RESULTS / default
    settings = {name: value for name, value in settings.items() if name not in ("output", "data_dir")}
    write_json(path, {"settings": settings, "machine": machine(device), "results": results})
    print(f"written: {path}")
