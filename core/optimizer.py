"""SGD in four parameter groups with the poly schedule (official code: `PolyOptimizer`)."""

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

# The official optimizer passes its weight decay in momentum's place; the learning rate of 0.1 depends on it.
MOMENTUM = 1e-4
POWER = 0.9


def parameter_groups(network: nn.Module, lr: float, wd: float) -> list[dict]:
    """Backbone weights, backbone biases, head weights, head biases, with their learning rates and weight decays.

    Weights and biases include those of batch normalization; the head is everything but the backbone.

    Args:
        network: a `core.networks.Classifier`.
        lr: the backbone weights' learning rate; biases have twice, the head ten times as much.
        wd: weight decay of weights; biases have none.
    """
    groups: dict[tuple[str, str], list] = {
        (part, kind): [] for part in ("backbone", "head") for kind in ("weight", "bias")
    }
    for name, parameter in network.named_parameters():
        part = "backbone" if name.startswith("backbone.") else "head"
        groups[part, "bias" if name.endswith("bias") else "weight"].append(parameter)
    part_factor = {"backbone": 1, "head": 10}
    return [
        {
            "params": parameters,
            "name": f"{part} {kind}",
            "lr": lr * part_factor[part] * (2 if kind == "bias" else 1),
            "weight_decay": 0.0 if kind == "bias" else wd,
        }
        for (part, kind), parameters in groups.items()
        if parameters
    ]


def make_optimizer(network: nn.Module, lr: float, wd: float, momentum: float = MOMENTUM, nesterov: bool = True) -> SGD:
    """SGD over `parameter_groups`. Without momentum there is nothing for Nesterov to look ahead with."""
    return SGD(parameter_groups(network, lr, wd), lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0)


def poly_schedule(optimizer: SGD, max_iteration: int, warmup_iterations: int = 0) -> LambdaLR:
    """Learning rate lr · (1 − t/T)^0.9, after a linear warm-up from lr/W to lr over the first W iterations.

    Args:
        optimizer: its groups' learning rates are the ones at full strength.
        max_iteration: T, warm-up included.
        warmup_iterations: W; the official code assumes 661 iterations an epoch, here it is the real number.
    """

    def factor(iteration: int) -> float:
        poly = max(0.0, 1 - iteration / max_iteration) ** POWER
        return poly * min(1.0, (iteration + 1) / max(warmup_iterations, 1))

    return LambdaLR(optimizer, factor)
