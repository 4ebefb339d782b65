"""Training, the same for every strategy: only the step is the strategy's own."""

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from core.ema import make_teacher, update_teacher
from core.losses import ramp
from core.networks import Classifier
from core.optimiser import make_optimiser, poly_schedule
from core.training.arguments import parse_arguments
from core.training.evaluation import autocast, predict
from core.training.setup import EXPERIMENTS, choose_device, make_network
from core.training.step import Crops, Options, Step
from tools.augmentation import evaluation_transform, training_transform
from tools.average_precision import average_precisions, mean_average_precision
from tools.checkpoints import save_checkpoint
from tools.errors import UserError, run_main
from tools.loader import evaluation_loader, training_loader
from tools.run_log import RunLog
from tools.voc import VOCClassification, read_class_names

LOSSES = ("loss", "class_loss", "p_class_loss", "re_loss")
TrainingStep = Callable[..., Step]


def main(training_step: TrainingStep, description: str, with_teacher: bool = True) -> None:
    """A training script: read the arguments, train, and turn a user's mistake into one line and exit status 2.

    Args:
        training_step: the strategy.
        description: the script's docstring.
        with_teacher: whether the strategy has an EMA teacher.
    """
    run_main(lambda: train(parse_arguments(description), training_step, with_teacher))


def train(args: argparse.Namespace, training_step: TrainingStep, with_teacher: bool) -> None:
    """Train a strategy from its arguments to its last checkpoint.

    Raises:
        UserError: something the user can mend; found before the first iteration wherever that is possible.
    """
    device = choose_device(args.device)
    class_names = read_class_names(args.class_file)
    train_loader, val_loader = make_loaders(args, class_names)
    torch.manual_seed(args.seed)
    network = make_network(args.architecture, args.weights, len(class_names), args.channels_last).to(device)
    trainer = Trainer(network, training_step, args, len(train_loader), with_teacher)
    log = RunLog(EXPERIMENTS, args.tag, args.tensorboard)
    log.line(_summary(args, device, train_loader, val_loader))
    best = -1.0
    for epoch in range(args.max_epoch):
        train_epoch(trainer, train_loader, epoch, log)
        mean = validate(network, val_loader, class_names, trainer, epoch, log)
        improved = not mean <= best
        best = mean if improved else best
        for name in [args.tag, f"best_{args.tag}"] if improved else [args.tag]:
            _save(name, network, args, class_names, trainer.iteration, mean)
    _save(f"last_{args.tag}", network, args, class_names, trainer.iteration, mean)
    log.line(f"[i] best mAP={best:.2f}, in {EXPERIMENTS / 'models'}/best_{args.tag}.pth")
    log.close()


class Trainer:
    """Student, teacher, optimiser and schedule, and how one iteration moves them.

    Args:
        network: the student, on its device.
        training_step: the strategy.
        args: arguments of `core.training.arguments`.
        epoch_iterations: iterations in an epoch.
        with_teacher: whether the strategy has an EMA teacher.
    """

    def __init__(
        self,
        network: Classifier,
        training_step: TrainingStep,
        args: argparse.Namespace,
        epoch_iterations: int,
        with_teacher: bool,
    ):
        self.args = args
        self.training_step = training_step
        self.student = network.train()
        self.teacher = make_teacher(network) if with_teacher else None
        self.device = next(network.parameters()).device
        self.epoch_iterations = epoch_iterations
        self.max_iteration = args.max_epoch * epoch_iterations
        self.iteration = 0
        self.optimiser = make_optimiser(network, args.lr, args.wd, args.momentum, args.nesterov)
        self.schedule = poly_schedule(self.optimiser, self.max_iteration, args.warmup_epoch * epoch_iterations)
        # Float16 gradients underflow without a scale; in every other precision the scaler does nothing.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=args.amp == "fp16")

    @property
    def lr(self) -> float:
        """The backbone weights' learning rate at this iteration."""
        return self.optimiser.param_groups[0]["lr"]

    @property
    def alpha_re(self) -> float:
        """The reconstruction loss's weight at this iteration."""
        return ramp(self.args.alpha_re, self.args.alpha_schedule_re, self.iteration, self.max_iteration)

    def iterate(self, images: torch.Tensor, labels: torch.Tensor) -> Step:
        """One iteration: losses, gradients, optimiser, teacher, schedule.

        Args:
            images: `[B, 3, S, S]`, labels: multi-hot `[B, V]`; both on the CPU, as the loader gives them.
        """
        args = self.args
        options = Options(args.alpha_p, self.alpha_re, args.re_loss, args.topk, args.topk_radius)
        crops = Crops.of(labels).to(self.device)
        images = images.to(self.device, non_blocking=True, memory_format=self.student.memory_format)
        labels = labels.to(self.device, non_blocking=True)
        with autocast(self.device, args.amp):
            step = self.training_step(self.student, self.teacher, images, labels, crops, options)
        self.optimiser.zero_grad()
        self.scaler.scale(step.loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.teacher is not None:
            update_teacher(self.teacher, self.student, self.iteration, args.alpha_ema)
        self.schedule.step()
        self.iteration += 1
        return step


def train_epoch(trainer: Trainer, loader: DataLoader, epoch: int, log: RunLog) -> None:
    """One pass over the training images, with a progress bar and log lines."""
    loader.sampler.set_epoch(epoch)
    interval = max(1, int(len(loader) * trainer.args.print_ratio))
    losses, started = [], time.perf_counter()
    bar = tqdm(total=len(loader) * loader.batch_size, unit="img", desc=f"epoch {epoch + 1}/{trainer.args.max_epoch}")
    with bar:
        for position, (images, labels, _) in enumerate(loader, start=1):
            lr, alpha_re = trainer.lr, trainer.alpha_re
            step = trainer.iterate(images, labels)
            losses.append(torch.stack([getattr(step, name).detach() for name in LOSSES]))
            bar.update(len(images))
            if position % interval == 0 or position == len(loader):
                # The only place where the loop waits for the device.
                means = torch.stack(losses).mean(0).tolist()
                _require_finite(means, trainer)
                speed = len(losses) * loader.batch_size / (time.perf_counter() - started)
                row = {"epoch": epoch + 1, "lr": lr, "alpha_re": alpha_re, **dict(zip(LOSSES, means))}
                bar.set_postfix(loss=f"{means[0]:.4f}", lr=f"{lr:.2g}")
                log.line(_line(trainer.iteration, row, speed))
                log.record("train", trainer.iteration, {**row, "images_per_second": round(speed, 2)})
                losses, started = [], time.perf_counter()


def _require_finite(means: list[float], trainer: Trainer) -> None:
    """Stop a run whose loss is no number any more: nothing after it would mean anything."""
    if not all(map(math.isfinite, means)):
        parts = ", ".join(f"{name}={value:.3g}" for name, value in zip(LOSSES, means))
        raise UserError(
            f"the loss is not finite at iteration {trainer.iteration} ({parts}; lr={trainer.lr:.3g}): "
            "try a lower --lr or a --warmup_epoch; the checkpoints of earlier epochs are intact"
        )


def validate(
    network: Classifier, loader: DataLoader, class_names: list[str], trainer: Trainer, epoch: int, log: RunLog
) -> float:
    """Mean average precision on the validation split, in per cent, logged with that of every class."""
    scores, labels = predict(network, loader, trainer.device, trainer.args.amp)
    precisions = 100 * average_precisions(scores, labels)
    mean = 100 * mean_average_precision(scores, labels)
    per_class = {name: round(float(value), 4) for name, value in zip(class_names, precisions) if value == value}
    left_out = [name for name in class_names if name not in per_class]
    note = f" (no positive of {', '.join(left_out)})" if left_out else ""
    log.line(f"[i] iteration={trainer.iteration:,}, epoch={epoch + 1}, mAP={mean:.2f}%{note}")
    log.line("    " + ", ".join(f"{name} {value:.1f}" for name, value in per_class.items()))
    row = {"epoch": epoch + 1, "mAP": mean, "average_precision": per_class, "without_positive": left_out}
    log.record("validation", trainer.iteration, row)
    return mean


def make_loaders(args: argparse.Namespace, class_names: list[str]) -> tuple[DataLoader, DataLoader]:
    """Loaders of the training and the validation split; every file is looked for before the first iteration."""
    transform = training_transform(args.image_size, args.min_image_size, args.max_image_size, args.augment)
    training = VOCClassification(args.data_dir, args.train_split, class_names, transform)
    validation = VOCClassification(args.data_dir, args.val_split, class_names, evaluation_transform(args.image_size))
    return (
        training_loader(training, args.batch_size, args.num_workers, args.seed),
        evaluation_loader(validation, args.batch_size, args.num_workers),
    )


def _save(
    name: str, network: Classifier, args: argparse.Namespace, class_names: list[str], iteration: int, mean: float
):
    description = {
        "architecture": args.architecture,
        "class_names": class_names,
        "image_size": args.image_size,
        "iteration": iteration,
        "mAP": mean,
        "arguments": vars(args),
    }
    save_checkpoint(EXPERIMENTS / "models" / f"{name}.pth", network.state_dict(), description)


def _summary(args: argparse.Namespace, device: torch.device, train_loader: DataLoader, val_loader: DataLoader) -> str:
    given = ", ".join(f"{name}={value}" for name, value in sorted(vars(args).items()))
    return (
        f"[i] {given}\n"
        f"[i] {len(train_loader.dataset):,} training images, {len(val_loader.dataset):,} validation images, "
        f"{len(train_loader):,} iterations an epoch, on {device}"
    )


def _line(iteration: int, row: dict[str, float], speed: float) -> str:
    losses = ", ".join(f"{name}={row[name]:.4f}" for name in LOSSES)
    weights = f"lr={row['lr']:.5f}, alpha_re={row['alpha_re']:.2f}"
    return f"[i] iteration={iteration:,}, {weights}, {losses}, {speed:.1f} images/s"
