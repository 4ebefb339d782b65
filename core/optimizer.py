"""SGD in four parameter groups with the poly schedule (official code: `PolyOptimizer`)."""

from torch import nn
from torch.optim import SGD

# The official optimizer passes its weight decay in place of the momentum; the learning rate of 0.1 depends on it.
MOMENTUM = 1e-4
POWER = 0.9


def parameter_groups(network: nn.Module, lr: float, wd: float) -> list[dict]:
    """Return backbone weights, backbone biases, head weights and head biases, with their rates and weight decays.

    Weights and biases include those of batch normalization; the head is everything except the backbone.

    Args:
        network: a `core.networks.Classifier`.
        lr: the backbone weights' learning rate; biases have twice, the head ten times as much.
        wd: weight decay of weights; biases have none.
    """
    rates = {"backbone weight": lr, "backbone bias": 2 * lr, "head weight": 10 * lr, "head bias": 20 * lr}
    groups: dict[str, dict] = {name: {"params": [], "name": name, "full_lr": rate} for name, rate in rates.items()}
    for name, parameter in network.named_parameters():
        part = "backbone" if name.startswith("backbone.") else "head"
        kind = "bias" if name.endswith("bias") else "weight"
        groups[f"{part} {kind}"]["weight_decay"] = 0.0 if kind == "bias" else wd
        groups[f"{part} {kind}"]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def make_optimizer(network: nn.Module, lr: float, wd: float, momentum: float = MOMENTUM, nesterov: bool = True) -> SGD:
    """Return SGD over `parameter_groups`; Nesterov requires momentum > 0."""
    groups, nesterov = parameter_groups(network, lr, wd), nesterov and momentum > 0
    return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)  # fused: one pass over the parameters


def learning_rate_at(iteration: int, lr: float, max_iteration: int, warmup_iterations: int = 0) -> float:
    """Return lr · (1 − t/T)^0.9, multiplied by (t + 1)/W during the first W iterations.

    Args:
        iteration: t, counted from 0.
        lr: the learning rate at full strength.
        max_iteration: T, warm-up included.
        warmup_iterations: W; the official code assumes 661 iterations per epoch, here it is the real number.
    """
    poly = max(0.0, 1 - iteration / max_iteration) ** POWER
    return lr * (poly * min(1.0, (iteration + 1) / max(warmup_iterations, 1)))


def set_learning_rates(optimizer: SGD, iteration: int, max_iteration: int, warmup_iterations: int = 0) -> None:
    """Set the learning rate of every group for this iteration; see `learning_rate_at`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(iteration, group["full_lr"], max_iteration, warmup_iterations)
