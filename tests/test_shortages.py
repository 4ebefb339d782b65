"""A machine that lacks memory, shared memory, loader processes or open files: one true line, never a hang."""

import errno
import multiprocessing.connection
import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from tests.helpers.command_line import ROOT
from tools.data import loader as loading
from tools.data.datasets import ImageFiles, image_loader
from tools.data.loader import stack, worker_options
from tools.system.errors import UserError, explain_shortages


def of_connection(number: int) -> Exception:
    """Return the error that Python's exchange between processes raises."""
    try:
        with multiprocessing.connection.Client("/nowhere/socket"):
            raise AssertionError
    except FileNotFoundError as error:
        error.errno, error.filename = number, None
        return error


BUS_ERROR = (
    "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit."
)
NO_SHARED_MEMORY = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
NOT_DETERMINISTIC = "pool_cuda does not have a deterministic implementation, but you set …. You can turn it off."
IN_WORKER = (
    "Caught {0} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File …\n{0}: {1}"
)


@pytest.mark.parametrize(
    "raised, said",
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), "out of memory"),
        (RuntimeError("can't start new thread"), "out of memory"),
        (RuntimeError("unable to mmap 3 bytes from file </torch_1>: Cannot allocate memory (12)"), "out of memory"),
        (ImportError("libx.so: failed to map segment from shared object"), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "out of memory"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a loader process was killed"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "a loader process was killed"),
        (of_connection(errno.ECONNREFUSED), "a loader process was killed"),
        (RuntimeError(BUS_ERROR), "shared memory is full"),
        (RuntimeError(IN_WORKER.format("RuntimeError", NO_SHARED_MEMORY)), "shared memory is full"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files"),
        (RuntimeError(IN_WORKER.format("OSError", "[Errno 24] Too many open files")), "too many open files"),
        (RuntimeError(IN_WORKER.format("RuntimeError", "too large")), "loader process: RuntimeError: too large"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), "cannot use xxx"),
        (
            RuntimeError(NOT_DETERMINISTIC),
            "--deterministic",
        ),
    ],
)
def test_each_shortage_is_one_line(raised, said):
    with pytest.raises(UserError, match=said) as error, explain_shortages():
        raise raised
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("raised", [RuntimeError("a bug"), ValueError("a bug"), OSError(errno.ENOSPC, "No space")])
def test_what_is_not_understood_keeps_its_traceback(raised):
    with pytest.raises(type(raised)), explain_shortages():
        raise raised


class Samples(torch.utils.data.Dataset):
    """Samples of 64 KiB, as the data sets have them."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int):
        return torch.full((128, 128, 4), index, dtype=torch.uint8), torch.tensor([1.0, index]), index


@pytest.mark.parametrize("free", [1e12, 0, 3 * 2 * 400_000])
def test_batches_arrive_the_same_by_shared_memory_and_by_value(monkeypatch, free):
    monkeypatch.setattr(loading, "_free_shared_memory", lambda: free)
    plain = list(DataLoader(Samples(), 6, **worker_options(0, stack, default_collate)))
    packed = list(DataLoader(Samples(), 6, **worker_options(2, stack, default_collate)))
    for ours, theirs in zip(packed, plain, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
        assert ours[0].add_(1).dtype == torch.uint8  # may be written to


def test_a_failure_to_share_falls_back_to_values(monkeypatch):
    packing = loading.Packing(stack, default_collate)
    packing._shares = True

    def fails(*_):
        raise RuntimeError(NO_SHARED_MEMORY)

    monkeypatch.setattr(loading.ForkingPickler, "dumps", fails)
    samples = [Samples()[index] for index in range(4)]
    content = packing._pack(samples, 2)
    assert torch.equal(loading.pickle.loads(content)[0], stack(samples)[0]) and packing._shares is False


def small_shared_memory(size: str, code: str, *words: object) -> subprocess.CompletedProcess:
    """Run Python code where /dev/shm has this size."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("needs root and unshare")
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$0" "$@"'
    command = ["unshare", "-m", "bash", "-c", mount, sys.executable, "-c", code, *map(str, words)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if "permission denied" in result.stderr.lower():
        pytest.skip("may not mount")
    return result


IMAGES = """
import sys
from pathlib import Path
from tools.data.datasets import ImageFiles, image_loader
from tools.system.errors import run_main

def main():
    paths = sorted(Path(sys.argv[1]).iterdir())
    seen = [item.path for batch in image_loader(ImageFiles(paths, 512), 4, 2) for item in batch if not item.problem]
    assert seen == [str(path) for path in paths]
    print(len(seen), "images")

run_main(main)
"""


@pytest.mark.parametrize("size", ["64k", "1m", "20m"])
def test_images_arrive_where_shared_memory_is_small(devkit, size):
    result = small_shared_memory(size, IMAGES, devkit / "JPEGImages")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "8 images\n" and "Traceback" not in result.stderr


def test_without_any_shared_memory_there_is_one_line(devkit):
    result = small_shared_memory("4k", IMAGES, devkit / "JPEGImages")
    assert result.returncode in (0, 2)
    if result.returncode:
        assert result.stderr.startswith("error: shared memory is full") and result.stderr.count("\n") == 1


HALF_MADE = """
import resource
from torch.utils.data import DataLoader
from tools.data.loader import stack, worker_options
from tools.system.errors import run_main

def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
    for _ in DataLoader(range(100), 1, **worker_options(1, stack) | {"num_workers": 60}):
        pass

run_main(main)
"""


def test_a_loader_that_is_half_made_does_not_keep_the_program():
    # With several started loader processes, it would last 5 seconds for each.
    command = [sys.executable, "-c", HALF_MADE]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=40)
    assert result.returncode == 2 and "error: too many open files" in result.stderr


def test_a_loader_that_dies_while_it_is_destroyed_is_no_error():
    code = """
from tools.system.errors import run_main

class Loader:
    def __init__(self, text):
        self.text = text
    def __del__(self):
        raise RuntimeError(self.text)

def main():
    Loader("DataLoader worker (pid 7) is killed by signal: Killed. ")
    print("done")
    Loader("a bug")

run_main(main)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=40)
    assert result.returncode == 0 and result.stdout == "done\n"
    assert "pid 7" not in result.stderr and "a bug" in result.stderr


def test_a_killed_loader_is_one_line_in_any_program(devkit):
    before = multiprocessing.active_children()  # loaders that other tests have not ended yet
    paths = sorted((devkit / "JPEGImages").iterdir()) * 200
    np.random.default_rng(0).shuffle(paths)
    with pytest.raises(UserError, match="a loader process was killed") as error, explain_shortages():
        batches = iter(image_loader(ImageFiles(paths, 64), 1, 1))
        next(batches)
        (worker,) = [process.pid for process in multiprocessing.active_children() if process not in before]
        threading.Timer(0.05, os.kill, (worker, signal.SIGKILL)).start()
        for _ in batches:
            pass
    assert "--num_workers" in str(error.value)
