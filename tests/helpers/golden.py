"""What tests of whole steps share: the golden network, trainers, and steps whose logits are kept."""

import importlib
from dataclasses import asdict
from pathlib import Path

import torch

from core.evaluation.loading import load_first_weights, untrained_network
from core.networks import Classifier
from core.strategy import Step, Strategy
from core.training.config import Config, parse_config
from core.training.trainer import Trainer
from core.weights import load_weights
from tests.golden import fill
from tests.helpers import command_line

# By the golden files' spelling of the strategies.
SCRIPTS = {"max" if name == "Max" else name: Path(script).stem for name, script in command_line.SCRIPTS.items()}


def strategy_of(name: str) -> Strategy:
    """Return what the script of a strategy declares."""
    return importlib.import_module(SCRIPTS[name]).STRATEGY


def config_of(strategy: Strategy, **arguments: object) -> Config:
    """Return a config of arguments by name, without data."""
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    return parse_config(strategy, "", ["--data_dir", "none", "--tag", "test", *words])


def make_network(architecture: str, weights: str, num_classes: int, **about: object) -> Classifier:
    """Return a network as a training starts with it; `about`: see `load_first_weights`."""
    network = untrained_network(architecture, num_classes)
    load_first_weights(network, architecture, weights, **about)
    return network


def trainer_of(strategy: str | Strategy, network: Classifier, **arguments: object) -> Trainer:
    """Return a trainer with one iteration per epoch."""
    declared = strategy_of(strategy) if isinstance(strategy, str) else strategy
    return Trainer(network, declared, config_of(declared, **arguments), epoch_iterations=1)


def golden_trainer(strategy: str, case: dict, replicas: int, device: torch.device) -> Trainer:
    """Return the trainer of a golden case, with its weights and settings."""
    torch.manual_seed(0)
    # Rounding grows from step to step, so the third step's keypoints need the official code's memory layout.
    network = Classifier("resnet50", 20, channels_last=False)
    assert load_weights(network, official_state_dict(network)) == "official checkpoint"
    network.to(device).set_replicas(replicas)
    alpha_ema = {} if case["alpha_ema"] is None else {"alpha_ema": case["alpha_ema"]}
    trainer = trainer_of(strategy, network, max_epoch=case["max_iteration"], **case["hyper"], **alpha_ema)
    assert (trainer.teacher is None) == (case["alpha_ema"] is None)
    assert asdict(trainer.config).items() >= case["hyper"].items()
    return trainer


def official_state_dict(network: Classifier) -> dict[str, torch.Tensor]:
    """Return the golden parameters under the official code's names, running statistics at 0 and 1."""
    channels, classes = network.classifier.in_channels, network.num_classes
    state = {}
    for name, value in network.backbone.state_dict().items():
        is_parameter = name.endswith(("weight", "bias"))
        filled = torch.from_numpy(fill.parameter(name, tuple(value.shape))) if is_parameter else value
        state[f"model.{name}"] = filled
    state["classifier.weight"] = torch.from_numpy(fill.parameter("classifier.weight", (classes, channels, 1, 1)))
    for v in range(classes):
        for kind in ("weight", "bias"):
            state[f"BN.{v}.{kind}"] = torch.from_numpy(fill.parameter(f"BN.{v}.{kind}", (channels,)))
        state[f"BN.{v}.running_mean"] = torch.zeros(channels)
        state[f"BN.{v}.running_var"] = torch.ones(channels)
        state[f"stage6.{v}.weight"] = torch.from_numpy(fill.parameter(f"stage6.{v}.weight", (1, channels, 1, 1)))
    return state


def named_as_official(network: Classifier, name: str) -> torch.Tensor:
    """Return the tensor of `network` that the official code calls `name`."""
    state = network.state_dict()
    if name.startswith("model."):
        return state["backbone." + name.removeprefix("model.")]
    if name.startswith("classifier."):
        return state[name]
    layer, v, kind = name.split(".")
    ours = "weight" if layer == "stage6" else {"weight": "bn_weight", "bias": "bn_bias"}.get(kind, kind)
    return state[f"instances.{ours}"][int(v)]


def iterate_and_keep_logits(trainer: Trainer, images: torch.Tensor, labels: torch.Tensor) -> tuple[Step, torch.Tensor]:
    """Run one iteration; return its step and the logits of its first forward pass (in Max the tiles follow)."""
    step, logits, _ = iterate_and_keep_outputs(trainer, images, labels)
    return step, logits


def iterate_and_keep_outputs(
    trainer: Trainer, images: torch.Tensor, labels: torch.Tensor
) -> tuple[Step, torch.Tensor, torch.Tensor]:
    """Run one iteration; return its step, and logits and features of its first forward pass."""
    passes = []
    hook = trainer.student.register_forward_hook(lambda module, inputs, output: passes.append(output))
    step, finite = trainer.iterate(images, labels)
    hook.remove()
    assert finite
    logits, features = passes[0]
    return step, logits.detach().cpu(), features.detach().cpu()


def one_list(keypoints: list) -> list[list[int]]:
    """Return keypoints per image (Max), or per image and class, as one list of (row, column)."""
    return [point for image in keypoints for point in (image if isinstance(image[0], list) else [image])]
