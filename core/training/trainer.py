"""One iteration: how losses, gradients, optimizer and teacher move the networks."""

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from core import parallel
from core.batch_norm import OneValuePerChannel
from core.ema import make_teacher, update_teacher
from core.evaluation.prediction import autocast, to_device
from core.losses import alpha_re_at
from core.networks import Classifier
from core.optimizer import learning_rate_at, make_optimizer, set_learning_rates
from core.strategy import Crops, Step, StepError, Strategy
from core.training.config import Config
from tools.data.transforms import IMAGENET, Normalization
from tools.system.errors import UserError
from tools.system.processes import Processes


class Trainer:
    """Student, teacher and optimizer, and how one iteration moves them.

    Args:
        network: the student, on its device.
        gpus: indices of those that share this process's part of a batch, the network's own first; None: it alone.
    """

    def __init__(
        self,
        network: Classifier,
        strategy: Strategy,
        config: Config,
        epoch_iterations: int,
        processes: Processes | None = None,
        gpus: list[int] | None = None,
    ):
        self.strategy = strategy
        self.config = config
        self.arguments = asdict(config)
        self.processes = processes or Processes()
        self.student = network.train()
        self.teacher = make_teacher(network) if strategy.teacher else None
        # What a step calls: the networks themselves, or their replicas on several GPUs.
        self.student_forward, self.teacher_forward = self.student, self.teacher
        several = gpus is not None and len(gpus) > 1
        if several:
            self.student_forward = parallel.CropDataParallel(self.student, gpus)
            self.teacher_forward = self.teacher and parallel.CropDataParallel(self.teacher, gpus)
        self.device = next(network.parameters()).device
        self.gpus = gpus if several else [self.device.index or 0] if self.device.type == "cuda" else []
        if self.teacher is not None:
            images = config.batch_size // (config.accumulate * self.processes.size * max(len(self.gpus), 1))
            given = self.arguments["teacher_crops"]
            self.teacher.crops_at_once = images if given < 0 else given
        self.epoch_iterations = epoch_iterations
        self.max_iteration = config.max_epoch * epoch_iterations
        self.iteration, self._checked = 0, False
        # Baselines alone have these arguments (baselines/recipe.py).
        schedule = self.arguments.get("schedule", "poly")
        self._schedule = self.max_iteration, config.warmup_epoch * epoch_iterations, schedule
        self.average = make_teacher(network) if self.arguments.get("evaluate_ema") else None
        kind = self.arguments.get("optimizer", "sgd")
        self.optimizer = make_optimizer(network, config.lr, config.wd, config.momentum, config.nesterov, kind)
        # Float16 gradients underflow without a scale; in every other precision the scaler does nothing.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")

    @property
    def lr(self) -> float:
        return learning_rate_at(self.iteration, self.config.lr, *self._schedule)

    @property
    def evaluated(self) -> Classifier:
        """The network that is validated and saved: the student, or the average of its weights (`--evaluate_ema`)."""
        return self.average or self.student

    @property
    def alpha_re(self) -> float:
        return alpha_re_at(self.iteration, self.max_iteration, self.config.alpha_re, self.config.alpha_schedule_re)

    def iterate(self, images: Tensor, labels: Tensor) -> tuple[Step, bool]:
        """Compute losses and gradients of this process's part of a batch, and move optimizer and teacher.

        Args:
            images: see `core.evaluation.prediction.to_device`; labels: multi-hot `[B, V]`. Both are on the CPU.

        Returns:
            the losses, whose mean over the processes is that of the whole batch; and whether loss and gradients (with
            fp16 only the loss) are finite in every process. If not, weights and teacher are as before; so are the
            running statistics with `--on_nan skip` or several processes.
        """
        several = self.processes.size > 1
        before = parallel.read_statistics(self.student) if several or self.config.on_nan == "skip" else None
        set_learning_rates(self.optimizer, self.iteration, *self._schedule)
        self.optimizer.zero_grad()
        try:
            step = self._losses_and_gradients(images, labels)
        except OneValuePerChannel as error:
            fix = "give a larger --batch_size or --image_size, or fewer --accumulate or --replicas"
            raise UserError(f"{error}, which has no variance: {fix}") from error
        except StepError as error:
            raise UserError(f"strategy {self.strategy.name}: {error}") from error
        self._checked = True
        if several:
            parallel.average_gradients(self.student)
        finite = self._all_finite(step.loss)
        if finite:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if several:
                parallel.sync_running_stats(self.student, before)
            if self.teacher is not None:
                update_teacher(self.teacher, self.student, self.iteration, self.arguments["alpha_ema"])
            if self.average is not None:
                update_teacher(self.average, self.student, self.iteration, self.arguments["ema_decay"], buffers=True)
        elif before is not None:
            parallel.write_statistics(self.student, before)
        self.iteration += 1
        return step, finite

    def _losses_and_gradients(self, images: Tensor, labels: Tensor) -> Step:
        """Run forward and backward passes of the micro-batches, one after another (`--accumulate`).

        Losses over crops are means over the crops of one micro-batch. Their mean over all crops of the batch is
        mean_i(w_i · loss_i) with w_i = crops_i / mean_j(crops_j), over the micro-batches i of all processes.
        """
        labels_of = labels.chunk(self.config.accumulate)
        crops_of = [self.strategy.crops(part) for part in labels_of]
        counts = torch.tensor([float(len(crops.image)) for crops in crops_of])
        mean_count = self.processes.sum(counts.mean()) / self.processes.size
        crop_weights = (counts / mean_count).nan_to_num(1.0).tolist()
        parts = zip(images.chunk(self.config.accumulate), labels_of, crops_of, crop_weights, strict=True)
        return _mean_step([self._micro_batch(*part) for part in parts], crop_weights)

    def _micro_batch(self, images: Tensor, labels: Tensor, crops: Crops, crop_weight: float) -> Step:
        images = to_device(images, self.device, self.student)
        labels = labels.to(self.device, non_blocking=True)
        crops = crops.to(self.device)
        options = self.strategy.options(self.arguments, self.alpha_re)
        if not self._checked:
            self.strategy.check_keypoints(images.shape[-1], self.device, options)
        with autocast(self.device, self.config.amp):
            step = self.strategy.training_step(
                self.student_forward, self.teacher_forward, images, labels, crops, options
            )
        if not self._checked:
            step.check(len(crops.image), images.shape[-1])
        if crop_weight != 1:
            over_images = sum(step.over_images().values())
            step = replace(step, loss=over_images + crop_weight * (step.loss - over_images))
        self.scaler.scale(step.loss / self.config.accumulate).backward()
        return step

    def _all_finite(self, loss: Tensor) -> bool:
        """Whether loss and gradients are finite everywhere: without fp16 the only synchronization per iteration."""
        finite = torch.isfinite(loss)
        # The first loss scales of float16 overflow by design; GradScaler skips those steps by itself.
        if not self.scaler.is_enabled():
            gradients = [parameter.grad for parameter in self.student.parameters() if parameter.grad is not None]
            finite = finite & torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all()
        return not self.processes.any(not bool(finite))[0]

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue except RNG states: plain values and tensors."""
        return {
            "student": self.student.state_dict(),
            "normalization": torch.tensor(self.student.normalization or IMAGENET, dtype=torch.float64),
            "teacher": self.teacher.state_dict() if self.teacher is not None else {},
            "average": self.average.state_dict() if self.average is not None else {},
            "optimizer": self.optimizer.state_dict()["state"],
            "scaler": self.scaler.state_dict(),
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: dict[str, Any], iteration: int) -> None:
        """Continue from a `state_dict`, at `iteration` of the schedule that the arguments make.

        A state of a different network or strategy raises a RuntimeError, ValueError, LookupError or AttributeError.
        """
        self.student.load_state_dict(state["student"])
        normalization = state["normalization"].double()
        if normalization.shape != (2, 3):
            raise ValueError(f"its normalization has the shape {tuple(normalization.shape)}")
        self.student.normalization = Normalization(*map(tuple, normalization.tolist()))
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
            self.average.normalization = self.student.normalization
        # Learning rates and weight decays are those of the arguments, which --force may have changed.
        self._check_optimizer(state["optimizer"])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state["optimizer"]})
        self.scaler.load_state_dict(state["scaler"])
        self.iteration = iteration

    def _check_optimizer(self, saved: dict[int, dict[str, Any]]) -> None:
        """Raise a `ValueError` for buffers of another optimizer, shape or kind, which this one would accept."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for index, entry in saved.items():
            if ("exp_avg" in entry) != isinstance(self.optimizer, AdamW):
                raise ValueError("its state is that of another --optimizer")
            for buffer in map(entry.get, ("momentum_buffer", "exp_avg", "exp_avg_sq")):
                if buffer is not None and buffer.shape != parameters[index].shape:
                    raise ValueError(f"the momentum of parameter {index} has the shape {tuple(buffer.shape)}")
                if buffer is not None and (buffer.is_sparse or not buffer.is_floating_point()):
                    raise ValueError(f"the momentum of parameter {index} is {buffer.layout}, {buffer.dtype}")


@torch.no_grad()
def _mean_step(steps: list[Step], crop_weights: list[float]) -> Step:
    """Return the losses of a batch from those of its micro-batches."""

    def means(losses: list[dict[str, Tensor]], weights: list[float]) -> dict[str, Tensor]:
        weighted = {name: [w * part[name] for w, part in zip(weights, losses, strict=True)] for name in losses[0]}
        return {name: torch.stack(values).mean() for name, values in weighted.items()}

    images = means([{**step.over_images(), "loss": step.loss} for step in steps], [1.0] * len(steps))
    crops = means([step.over_crops() for step in steps], crop_weights)
    keypoints = None if steps[0].keypoints is None else torch.cat([step.keypoints for step in steps])
    official = {name: images.pop(name) for name in ("loss", "class_loss")}
    official |= {name: crops.pop(name) for name in ("p_class_loss", "re_loss") if name in crops}
    return Step(**official, keypoints=keypoints, image_losses=images, crop_losses=crops)
