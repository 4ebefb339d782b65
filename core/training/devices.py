"""Which devices a run computes on, how they share a batch, and how exactly they compute."""

import os
from dataclasses import dataclass, replace

import torch

from core.evaluation.loading import choose_device
from core.networks import TILES, Classifier
from core.training.config import Config
from tools.system.errors import UserError
from tools.system.processes import Processes


@dataclass(frozen=True)
class Devices:
    """What this process computes on.

    Attributes:
        first: the device that holds the networks.
        gpus: indices of the GPUs that share each batch by `nn.DataParallel`; empty where `first` works alone.
        processes: those that share each batch by torch.distributed.
        replicas: number of parts of a batch with batch statistics of their own, over all devices.
    """

    first: torch.device
    gpus: list[int]
    processes: Processes
    replicas: int = 1

    @property
    def count(self) -> int:
        """Devices that share a batch, over all processes."""
        return max(len(self.gpus), 1) * self.processes.size

    def describe(self) -> str:
        """Describe the devices, for the log."""
        if len(self.gpus) > 1:
            return f"{len(self.gpus)} GPUs ({', '.join(map(torch.cuda.get_device_name, self.gpus))})"
        return f"{self.first} ({torch.cuda.get_device_name(self.first)})" if self.first.type == "cuda" else "cpu"

    def configure(self, network: Classifier, sync_bn: bool) -> None:
        """Tell the network whose batch statistics to compute."""
        replicas = 1 if sync_bn else self.replicas
        network.set_replicas(replicas, self.count, self.processes.is_first, synchronize=sync_bn)


def choose_devices(config: Config, processes: Processes) -> Devices:
    """Return the devices that the arguments ask for, `replicas` resolved.

    Raises:
        UserError: no such device here, or a batch that they cannot share as asked.
    """
    _set_exactness(config)
    if processes.size > 1:
        devices = Devices(_process_device(config.device, processes), [], processes)
    else:
        first = choose_device(config.device)
        all_gpus = config.device in ("auto", "cuda") and first.type == "cuda"
        gpus = list(range(torch.cuda.device_count())) if all_gpus else []
        devices = Devices(torch.device("cuda:0") if gpus else first, gpus if len(gpus) > 1 else [], processes)
    _check_sharing(config, devices)
    return replace(devices, replicas=config.replicas or (1 if config.sync_bn else devices.count))


def _process_device(name: str, processes: Processes) -> torch.device:
    """Return this process's device: of several processes on a machine, each has the GPU of its own number."""
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


def _check_sharing(config: Config, devices: Devices) -> None:
    replicas, count = config.replicas, devices.count
    if config.sync_bn and (devices.processes.size == 1 or replicas > 1):
        raise UserError("--sync_bn needs several processes of torchrun, and excludes --replicas above 1")
    images = config.batch_size // config.accumulate
    if config.batch_size % (devices.processes.size * config.accumulate):
        raise UserError(
            f"--batch_size {config.batch_size} is the whole batch and does not divide by {devices.processes.size} "
            f"processes times --accumulate {config.accumulate}"
        )
    if replicas > 1 and (replicas % count or images % replicas):
        raise UserError(
            f"--replicas {replicas} must be a multiple of the {count} devices and divide the {images} images of a "
            "micro-batch"
        )
    if replicas >= TILES and config.image_size < 64:
        raise UserError(
            f"--image_size {config.image_size} with --replicas {replicas}: a tile of one feature cell has no variance; "
            "try --image_size 64"
        )


def _set_exactness(config: Config) -> None:
    """Configure TF32, cuDNN autotuning and determinism."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.benchmark = not config.deterministic
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def lower_memory(config: Config) -> str:
    """Return what to do where memory is short."""
    return (
        f" at --batch_size {config.batch_size}, --image_size {config.image_size}: try --accumulate "
        f"{2 * config.accumulate} or more (batch statistics are then those of a micro-batch), --amp bf16, or a "
        "smaller batch"
    )
