"""SGD in four parameter groups with the poly schedule (official code: `PolyOptimizer`); others for baselines."""

import math

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

# The official optimizer passes its weight decay in place of the momentum; the learning rate of 0.1 depends on it.
MOMENTUM = 1e-4
POWER = 0.9


def parameter_groups(network: nn.Module, lr: float, wd: float) -> list[dict]:
    """Return backbone weights, backbone biases, head weights and head biases, with their rates and weight decays.

    The backbone's weights have the learning rate `lr`, biases twice, the head ten times as much; weights have the
    weight decay `wd`, biases none. Both include those of batch normalization; the head is all except the backbone.
    """
    rates = {"backbone weight": lr, "backbone bias": 2 * lr, "head weight": 10 * lr, "head bias": 20 * lr}
    groups: dict[str, dict] = {name: {"params": [], "name": name, "full_lr": rate} for name, rate in rates.items()}
    for name, parameter in network.named_parameters():
        part = "backbone" if name.startswith("backbone.") else "head"
        kind = "bias" if name.endswith("bias") else "weight"
        groups[f"{part} {kind}"]["weight_decay"] = 0.0 if kind == "bias" else wd
        groups[f"{part} {kind}"]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def make_optimizer(
    network: nn.Module, lr: float, wd: float, momentum: float = MOMENTUM, nesterov: bool = True, kind: str = "sgd"
) -> Optimizer:
    """Return "sgd" over `parameter_groups` (Nesterov requires momentum > 0), or "adamw", at `lr` in every group."""
    groups = parameter_groups(network, lr, wd)
    if kind == "adamw":
        return AdamW([{**group, "full_lr": lr} for group in groups], lr=lr)
    return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0)


def learning_rate_at(
    iteration: int, lr: float, max_iteration: int, warmup_iterations: int = 0, schedule: str = "poly"
) -> float:
    """Return the learning rate of an iteration, multiplied by (t + 1)/W during the first W iterations.

    Args:
        iteration: t, counted from 0.
        lr: the learning rate at full strength.
        max_iteration: T, warm-up included.
        warmup_iterations: W; the official code assumes 661 iterations per epoch, here it is the real number.
        schedule: "poly", lr · (1 − t/T)^0.9; "cosine", from lr to 0; "onecycle", torch's `OneCycleLR(pct_start=0.2)`.
    """
    left = max(0.0, 1 - iteration / max_iteration)
    cycle = _one_cycle(iteration, max_iteration)
    factor = {"poly": left**POWER, "cosine": _cosine(0, 1, left), "onecycle": cycle}[schedule]
    return lr * (factor * min(1.0, (iteration + 1) / max(warmup_iterations, 1)))


def _one_cycle(iteration: int, max_iteration: int) -> float:
    """Return the factor of a rise from 1/25 to 1 in the first fifth of training, and of the fall to 1/250,000."""
    top = max(0.2 * max_iteration - 1, 0)
    if iteration < top:
        return _cosine(1 / 25, 1, iteration / top)
    return _cosine(1, 1 / 250_000, min((iteration - top) / max(max_iteration - 1 - top, 1), 1))


def _cosine(start: float, end: float, share: float) -> float:
    """Return the value on half a cosine wave from start to end."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def set_learning_rates(
    optimizer: Optimizer, iteration: int, max_iteration: int, warmup_iterations: int = 0, schedule: str = "poly"
) -> None:
    """Set the learning rate of every group for this iteration; see `learning_rate_at`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(iteration, group["full_lr"], max_iteration, warmup_iterations, schedule)
