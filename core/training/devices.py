"""Which devices a run computes on, how they share a batch, and how exactly they compute."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from core.evaluation.loading import choose_device
from core.networks import TILES, Classifier
from tools.system.errors import UserError
from tools.system.processes import Processes


@dataclass(frozen=True)
class Devices:
    """What this process computes on.

    Attributes:
        first: the device that holds the networks.
        gpus: indices of the GPUs that share each batch by `nn.DataParallel`; empty where `first` works alone.
        processes: those that share each batch by torch.distributed.
    """

    first: torch.device
    gpus: list[int]
    processes: Processes

    @property
    def count(self) -> int:
        """Devices at work on a batch, over all processes."""
        return max(len(self.gpus), 1) * self.processes.size

    def describe(self) -> str:
        """The devices, for the log."""
        if len(self.gpus) > 1:
            return f"{len(self.gpus)} GPUs ({', '.join(map(torch.cuda.get_device_name, self.gpus))})"
        return f"{self.first} ({torch.cuda.get_device_name(self.first)})" if self.first.type == "cuda" else "cpu"

    def share(self, network: Classifier, replicas: int, sync_bn: bool) -> None:
        """Tell the network whose batch statistics to compute."""
        leads = self.processes.is_first
        network.set_replicas(1 if sync_bn else replicas, self.count, leads, synchronize=sync_bn)


def choose_devices(args: argparse.Namespace, processes: Processes) -> Devices:
    """The devices that the arguments ask for; sets `args.replicas` where it was left to them.

    Raises:
        UserError: no such device here, or a batch that they cannot share as asked.
    """
    _set_exactness(args)
    if processes.size > 1:
        devices = Devices(_process_device(args.device, processes), [], processes)
    else:
        first = choose_device(args.device)
        share = args.device in ("auto", "cuda") and first.type == "cuda"
        gpus = list(range(torch.cuda.device_count())) if share else []
        devices = Devices(torch.device("cuda:0") if gpus else first, gpus if len(gpus) > 1 else [], processes)
    _check_sharing(args, devices)
    args.replicas = args.replicas or (1 if args.sync_bn else devices.count)
    return devices


def _process_device(name: str, processes: Processes) -> torch.device:
    """Of several processes on a machine, each has the GPU of its own number."""
    device = choose_device(name)
    if device.type != "cuda":
        return device
    if processes.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {processes.local_rank} of this machine finds {torch.cuda.device_count()} GPUs: "
            "start as many processes (--nproc_per_node) as there are, or give --device cpu"
        )
    device = torch.device("cuda", processes.local_rank)
    torch.cuda.set_device(device)
    return device


def _check_sharing(args: argparse.Namespace, devices: Devices) -> None:
    replicas, count = args.replicas, devices.count
    if args.sync_bn and (devices.processes.size == 1 or replicas > 1):
        raise UserError("--sync_bn joins the processes that torchrun starts, and excludes --replicas above 1")
    per_part = args.batch_size // args.accumulate
    if args.batch_size % (devices.processes.size * args.accumulate):
        raise UserError(
            f"--batch_size {args.batch_size} is the whole batch and does not divide by {devices.processes.size} "
            f"processes times --accumulate {args.accumulate}"
        )
    if replicas > 1 and (replicas % count or per_part % replicas):
        raise UserError(
            f"--replicas {replicas} has to be a multiple of the {count} devices and to divide the {per_part} images "
            "of a batch"
        )
    if replicas >= TILES and args.image_size < 64:
        raise UserError(
            f"--image_size {args.image_size} with --replicas {replicas}: a tile of one feature cell has no variance; "
            "try --image_size 64"
        )


def _set_exactness(args: argparse.Namespace) -> None:
    """How float32 products are rounded, and whether the fastest kernels may be chosen by trial."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
    torch.backends.cudnn.benchmark = not args.deterministic
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


@contextmanager
def explain_resource_errors(args: argparse.Namespace) -> Iterator[None]:
    """Turn what the machine lacks, memory above all, into one line that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # The signal of a dead loader process may come anywhere, not only where its batch is waited for.
        if "DataLoader worker" in str(error):
            raise UserError(
                f"a loader process was killed ({str(error).splitlines()[0]}): memory may be short, try a lower "
                "--num_workers; --resume goes on from the last state"
            ) from error
        if "deterministic implementation" in str(error):
            raise UserError(
                f"--deterministic: {str(error).split('.')[0]}: leave it out, or use --device cpu"
            ) from error
        if not _lacks_memory(error):
            raise
        raise UserError(
            f"out of memory at --batch_size {args.batch_size}, --image_size {args.image_size}: try --accumulate "
            f"{2 * args.accumulate} or more (batch statistics then are those of a part), --amp bf16, or a smaller "
            "batch; --resume goes on from the last state"
        ) from error


def _lacks_memory(error: Exception) -> bool:
    """On a GPU, in its libraries, or on the CPU."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return any(word in str(error) for word in ("out of memory", "ALLOC_FAILED", "can't allocate memory"))
