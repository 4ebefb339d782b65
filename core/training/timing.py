"""How fast a network is here, to tell beforehand how long a study will take."""

import time

import torch

from core.networks import Classifier
from tools.system.errors import UserError

BATCH = 2


def seconds_an_image(architecture: str, image_size: int, num_classes: int, device: torch.device) -> float:
    """Seconds of a float32 forward and backward pass, by image: the faster of two batches after a first one.

    Raises:
        UserError: no such architecture.
    """
    try:
        network = Classifier(architecture, num_classes).to(device).train()
    except (ValueError, ImportError) as error:
        raise UserError(f"--architecture: {error}") from error
    images = torch.randn(BATCH, 3, image_size, image_size, device=device).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        network(images)[0].sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:]) / BATCH
