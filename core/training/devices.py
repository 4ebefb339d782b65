"""Which devices a run computes on, how they share a batch, and how exactly they compute."""

import os
from dataclasses import dataclass, replace

import torch

from core.evaluation.loading import choose_device
from core.networks import TILES
from core.training.config import Config
from tools.system.errors import UserError
from tools.system.processes import Processes


@dataclass(frozen=True)
class Devices:
    first: torch.device  # which holds the networks
    gpus: list[int]  # indices of the GPUs that share each batch by `nn.DataParallel`; empty where `first` works alone
    processes: Processes  # those that share each batch by torch.distributed
    replicas: int = 1  # parts of a batch with batch statistics of their own, over all devices

    @property
    def count(self) -> int:
        """Devices that share a batch, over all processes."""
        return max(len(self.gpus), 1) * self.processes.size

    def describe(self) -> str:
        if len(self.gpus) > 1:
            return f"{len(self.gpus)} GPUs ({', '.join(map(torch.cuda.get_device_name, self.gpus))})"
        return f"{self.first} ({torch.cuda.get_device_name(self.first)})" if self.first.type == "cuda" else "cpu"


def choose_devices(config: Config, processes: Processes) -> Devices:
    """Return the devices that the arguments ask for, if they are here and can share a batch so, `replicas` resolved."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    first, count = choose_device(config.device), torch.cuda.device_count()
    gpus: list[int] = []
    if processes.size > 1 and first.type == "cuda":  # of several processes on a machine, each has the GPU of its number
        if processes.local_rank >= count:
            found = f"process {processes.local_rank} of this machine finds {count} GPUs"
            raise UserError(f"{found}: start as many processes (--nproc_per_node), or give --device cpu")
        first = torch.device("cuda", processes.local_rank)
        torch.cuda.set_device(first)
    elif first.type == "cuda" and config.device in ("auto", "cuda"):
        first, gpus = torch.device("cuda:0"), list(range(count)) if count > 1 else []
    devices = Devices(first, gpus, processes)
    _check_sharing(config, devices)
    return replace(devices, replicas=config.replicas or (1 if config.sync_bn else devices.count))


def _check_sharing(config: Config, devices: Devices) -> None:
    replicas, count, processes = config.replicas, devices.count, devices.processes.size
    if config.sync_bn and (processes == 1 or replicas > 1):
        raise UserError("--sync_bn needs several processes of torchrun, and excludes --replicas above 1")
    images = config.batch_size // config.accumulate
    if config.batch_size % (processes * config.accumulate):
        parts = f"{processes} processes times --accumulate {config.accumulate}"
        raise UserError(f"--batch_size {config.batch_size} is the whole batch and does not divide by {parts}")
    if replicas > 1 and (replicas % count or images % replicas):
        of_images = f"divide the {images} images of a micro-batch"
        raise UserError(f"--replicas {replicas} must be a multiple of the {count} devices and {of_images}")
    if replicas >= TILES and config.image_size < 64:
        given = f"--image_size {config.image_size} with --replicas {replicas}"
        raise UserError(f"{given}: a tile of one feature cell has no variance; try --image_size 64")


def lower_memory(config: Config) -> str:
    """Return what to do where memory is short."""
    given = f"--batch_size {config.batch_size}, --image_size {config.image_size}"
    split = f"--accumulate {2 * config.accumulate} or more (batch statistics are then those of a micro-batch)"
    return f" at {given}: try {split}, --amp bf16, or a smaller batch"
