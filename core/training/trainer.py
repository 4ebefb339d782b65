"""One iteration after another: how student, teacher, optimizer and schedule move."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from core.ema import make_teacher, update_teacher
from core.evaluation.prediction import autocast, to_device
from core.losses import ramp
from core.networks import Classifier
from core.optimizer import make_optimizer, poly_schedule
from core.parallel import (
    CropDataParallel,
    RunningStatistics,
    average_gradients,
    read_statistics,
    sync_running_stats,
    write_statistics,
)
from core.strategy import Crops, Options, Step
from tools.system.processes import Processes

TrainingStep = Callable[..., Step]
LOSSES = ("loss", "class_loss", "p_class_loss", "re_loss")


class NotFinite(Exception):
    """The loss is no number any more.

    Attributes:
        step: the losses of the batch.
    """

    def __init__(self, step: Step):
        super().__init__("the loss is not finite")
        self.step = step


class Trainer:
    """Student, teacher, optimizer and schedule, and how one iteration moves them.

    Args:
        network: the student, on its device.
        training_step: the strategy.
        args: arguments of `core.training.config`.
        epoch_iterations: iterations in an epoch.
        with_teacher: whether the strategy has an EMA teacher.
        crops_of: which crops the strategy makes of a batch's labels, see `core.strategy.Crops`.
        processes: those that share each batch.
        gpus: indices of the GPUs that share this process's part, the network's own first; empty for its device alone.
    """

    def __init__(
        self,
        network: Classifier,
        training_step: TrainingStep,
        args: argparse.Namespace,
        epoch_iterations: int,
        with_teacher: bool,
        crops_of: Callable[[torch.Tensor], Crops] = Crops.of,
        processes: Processes | None = None,
        gpus: list[int] | None = None,
    ):
        self.args = args
        self.training_step = training_step
        self.crops_of = crops_of
        self.processes = processes or Processes()
        self.student = network.train()
        self.teacher = make_teacher(network) if with_teacher else None
        several = gpus is not None and len(gpus) > 1
        self._forward_student = CropDataParallel(self.student, gpus) if several else self.student
        self._forward_teacher = CropDataParallel(self.teacher, gpus) if several and with_teacher else self.teacher
        self.device = next(network.parameters()).device
        self.gpus = gpus if several else [self.device.index or 0] if self.device.type == "cuda" else []
        self.epoch_iterations = epoch_iterations
        self.max_iteration = args.max_epoch * epoch_iterations
        self.iteration = 0
        self.optimizer = make_optimizer(network, args.lr, args.wd, args.momentum, args.nesterov)
        self.schedule = poly_schedule(self.optimizer, self.max_iteration, args.warmup_epoch * epoch_iterations)
        # Float16 gradients underflow without a scale; in every other precision the scaler does nothing.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=args.amp == "fp16")

    @property
    def script(self) -> str:
        """Name of the script that the strategy stands in, without suffix."""
        return Path(self.training_step.__code__.co_filename).stem

    @property
    def lr(self) -> float:
        """The backbone weights' learning rate at this iteration."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def alpha_re(self) -> float:
        """The reconstruction loss's weight at this iteration."""
        return ramp(self.args.alpha_re, self.args.alpha_schedule_re, self.iteration, self.max_iteration)

    @property
    def evaluated(self) -> torch.nn.Module:
        """The student on all of this process's devices."""
        return self._forward_student

    def iterate(self, images: torch.Tensor, labels: torch.Tensor) -> Step:
        """One iteration: losses, gradients, optimizer, teacher, schedule.

        Args:
            images: see `core.evaluation.prediction.to_device`, labels: multi-hot `[B, V]`: this process's part of the
                batch, on the CPU, as the loader gives it.

        Returns:
            the losses, whose mean over the processes is that of the whole batch.

        Raises:
            NotFinite: a loss or a gradient is no number, here or in another process. Weights, teacher and (with
                `--on_nan skip`) running statistics are then as before.
        """
        before = read_statistics(self.student) if self.processes.size > 1 or self.args.on_nan == "skip" else None
        self.optimizer.zero_grad()
        step = self._losses_and_gradients(images, labels)
        finite = self._agree(torch.isfinite(step.loss)) and self._gradients_finite()
        if finite:
            self._move(before)
        elif before is not None:
            write_statistics(self.student, before)
        self.schedule.step()
        self.iteration += 1
        if not finite:
            raise NotFinite(step)
        return step

    def _losses_and_gradients(self, images: torch.Tensor, labels: torch.Tensor) -> Step:
        """Forward and backward passes of the batch's parts, one after another (`--accumulate`)."""
        parts = list(zip(images.chunk(self.args.accumulate), labels.chunk(self.args.accumulate)))
        crops = [self.crops_of(part_labels) for _, part_labels in parts]
        counts = torch.tensor([float(len(part.image)) for part in crops])
        # Crop losses are means over crops: a part, or a process, counts as much as it has crops.
        mean_count = self.processes.sum(counts.mean()) / self.processes.size
        shares = (counts / mean_count).nan_to_num(1.0).tolist()
        steps = [
            self._part(part_images, part_labels, part_crops, share)
            for (part_images, part_labels), part_crops, share in zip(parts, crops, shares)
        ]
        losses = [torch.stack([getattr(step, name) for step in steps]).mean() for name in LOSSES]
        return Step(*losses, torch.cat([step.keypoints for step in steps]))

    def _part(self, images: torch.Tensor, labels: torch.Tensor, crops: Crops, share: float) -> Step:
        args = self.args
        options = Options(args.alpha_p, self.alpha_re, args.re_loss, args.topk, args.topk_radius)
        images = to_device(images, self.device, self.student.memory_format)
        labels = labels.to(self.device, non_blocking=True)
        with autocast(self.device, args.amp):
            step = self.training_step(
                self._forward_student, self._forward_teacher, images, labels, crops.to(self.device), options
            )
        # The part of the loss that is a mean over crops is what class_loss leaves of it.
        loss = step.loss if share == 1 else torch.lerp(step.class_loss, step.loss, share)
        self.scaler.scale(loss / args.accumulate).backward()
        losses = (loss, step.class_loss, share * step.p_class_loss, share * step.re_loss)
        return Step(*(value.detach() for value in losses), step.keypoints)

    def _agree(self, holds: torch.Tensor) -> bool:
        """Whether it holds in every process. The only place of an iteration where the device is waited for."""
        return not self.processes.any(not bool(holds))[0]

    def _gradients_finite(self) -> bool:
        if self.processes.size > 1:
            average_gradients(self.student)
        if self.scaler.is_enabled():  # float16's first scales overflow; the scaler then leaves the step out
            return True
        norms = torch._foreach_norm([p.grad for p in self.student.parameters() if p.grad is not None])
        return bool(torch.isfinite(torch.stack(norms)).all())

    def _move(self, before: RunningStatistics | None) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.processes.size > 1:
            sync_running_stats(self.student, before)
        if self.teacher is not None:
            update_teacher(self.teacher, self.student, self.iteration, self.args.alpha_ema)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the iterations to come depend on, but for random numbers: plain values and tensors."""
        return {
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict() if self.teacher is not None else {},
            "optimizer": self.optimizer.state_dict()["state"],
            "scaler": self.scaler.state_dict(),
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: dict[str, Any], iteration: int) -> None:
        """Go on from a `state_dict`, at `iteration` of the schedule that the arguments make.

        Raises:
            RuntimeError, ValueError, KeyError: it is of another network or strategy.
        """
        self.student.load_state_dict(state["student"])
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])
        # Learning rates, weight decays and the schedule are the arguments', which --force may have changed.
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state["optimizer"]})
        self.scaler.load_state_dict(state["scaler"])
        self.iteration = iteration
        self.schedule.load_state_dict({"last_epoch": iteration, "_step_count": iteration + 1, "lr_lambdas": [None] * 4})
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.schedule.lr_lambdas[0](iteration)
