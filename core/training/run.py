"""A training run and its files: the resumable state, models, and what is logged on the way."""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from core.strategy import Step
from core.training.config import OWN_STATE, Config
from core.training.trainer import Trainer
from tools.data.datasets import VOCClassification
from tools.data.transforms import IMAGENET
from tools.runs.checkpoints import Description, read_description, save_checkpoint
from tools.runs.folder import Folder, RunFiles, values_of
from tools.runs.log import RunLog
from tools.runs.states import States
from tools.system.errors import UserError, first_few, quoted
from tools.system.files import write_json
from tools.system.interruption import Interrupted, Interruption
from tools.system.shortages import shortage


class Run:
    """The progress of a training run, and its files. Only the first of several processes writes.

    Attributes:
        epoch: current epoch, 0-based; position: completed iterations in it.
    """

    def __init__(
        self,
        folder: Folder,
        config: Config,
        trainer: Trainer,
        data_sets: dict[str, VOCClassification],  # "training" and "validation"
        interruption: Interruption,
    ):
        self.folder = folder
        self.config = config
        self.trainer = trainer
        self.class_names = data_sets["training"].class_names
        self.epoch = self.position = 0
        self._losses: dict[str, list[torch.Tensor]] = {"loss": []}  # of the iterations since the last log line
        self._best = -1.0
        self._interruption = interruption
        self._files = RunFiles(folder, config.tag)
        self._states = States(folder, config.tag)
        self._data = {
            f"{kind} {name}": digest
            for kind, images in data_sets.items()
            for name, digest in images.fingerprint().items()
        }
        self._writes = trainer.processes.is_first
        self._saved_at = time.monotonic()

    def __enter__(self) -> "Run":
        if self._writes:
            self._files.claim()
        return self

    def __exit__(self, *_: object) -> None:
        if self._writes:
            self._files.release()

    def start(self, summary: str, notes: Sequence[str] = ()) -> None:
        """Start from scratch, or continue from what `--resume` names; log the lines of `summary`.

        The order matters: every check, also whether the disk has room, comes before an earlier run is archived, and
        the first state is written at once, so that an unwritable folder fails before training starts.

        Args:
            notes: sentences for the log on the first weights, which a continued run does not have.
        """
        state, source = self._load_state()
        differing = self._restore(state, source) if state else []
        same_run = state is not None and self._resumes_own_state()
        self.log = RunLog(self.folder, self.config.tag, self.config.tensorboard, silent=not self._writes)
        if not same_run:
            self._archive_earlier_run()
        if self._files.archived_to:
            self.log.line(f"[i] files of an earlier run with this tag were moved to {self._files.archived_to}")
        self.log.open()
        if self._writes and not (same_run and self._is_finished()):
            saved = {"strategy": self.trainer.strategy.name, **self.config.replayable()}
            write_json(self.folder.config(self.config.tag), saved)
        self._log_start(state, source, differing)
        for line in [*summary.splitlines(), *(f"[i] {note}" for note in notes if not state)]:
            self.log.line(line)
        if not same_run:
            self._save_state()

    def _archive_earlier_run(self) -> None:
        state = self._state()
        if self._writes and self._files.find_earlier():
            self._states.try_space(state)
            self._files.archive()

    def _log_start(self, state: dict[str, Any] | None, source: str, differing: list[str]) -> None:
        if state:
            self.log.load_state_dict(state["log"])
            changed = f", with other settings: {'; '.join(differing)}" if differing else ""
            position = f"iteration {self.trainer.iteration:,}, epoch {self.epoch + 1}"
            self.log.line(f"[i] resumed at {position}, from {source}{changed}")
            return
        arguments = ", ".join(f"{name}={value}" for name, value in sorted(asdict(self.config).items()))
        self.log.line(f"[i] strategy {self.trainer.strategy.name}: {arguments}")
        if self.config.resume is not None:
            self.log.line(f"[i] no saved state at {self.folder.state(self.config.tag)}: starting from scratch")

    def _is_finished(self) -> bool:
        return self.epoch >= self.config.max_epoch

    # The state -------------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        trainer = self.trainer
        random = {"cpu": torch.get_rng_state(), "cuda": [torch.cuda.get_rng_state(gpu) for gpu in trainer.gpus]}
        return {
            "strategy": trainer.strategy.name,
            "trainer": trainer.state_dict(),
            "random": trainer.processes.gather(random),
            "epoch": self.epoch,
            "samples": self.position * self.config.batch_size,
            "losses": {name: torch.stack(losses).cpu() for name, losses in self._losses.items() if losses},
            "best": self._best,
            "log": self.log.state_dict() if self._writes else {},
            "arguments": asdict(self.config),
            "class_names": self.class_names,
            "data": self._data,
        }

    def _save_state(self) -> None:
        state = self._state()
        self._saved_at = time.monotonic()
        if self._writes:
            self._states.save(state)

    def _load_state(self) -> tuple[dict[str, Any] | None, str]:
        """Return the state that `--resume` names, and which file it is from; the first process reads for all."""
        if self.config.resume is None:
            return None, ""
        path = None if self.config.resume == OWN_STATE else Path(self.config.resume)
        found = self._states.load(path) if self._writes else None
        return self.trainer.processes.broadcast(found) or (None, "")

    def _resumes_own_state(self) -> bool:
        """Whether `--resume` continues the files of this tag, not a state from elsewhere."""
        resume = self.config.resume
        return resume == OWN_STATE or self._states.include(Path(resume))

    def _restore(self, state: dict[str, Any], source: str) -> list[str]:
        """Restore a state without touching a file; return the settings that differ, as text."""
        if state["strategy"] != self.trainer.strategy.name:
            raise UserError(
                f"--resume: {source} is of strategy {state['strategy']}: use its script, not that of "
                f"{self.trainer.strategy.name}"
            )
        differing = self._compare(state)
        batches = state["samples"] // self.config.batch_size
        self.epoch, self.position = state["epoch"], min(batches, self.trainer.epoch_iterations)
        iteration = self.epoch * self.trainer.epoch_iterations + self.position
        try:
            self.trainer.load_state_dict(state["trainer"], iteration)
            self._restore_random(state["random"])
            losses = {name: list(values.to(self.trainer.device)) for name, values in state["losses"].items()}
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            if shortage(error):
                raise
            raise UserError(
                f"--resume: {source} was saved by a different network or strategy: {str(error)[:300]}"
            ) from error
        self._losses = losses or self._losses
        self._best = state["best"]
        return differing

    def _restore_random(self, states: list[dict[str, Any]]) -> None:
        """Restore the RNG states; each process has its own, and additional processes keep fresh ones."""
        rank = self.trainer.processes.rank
        if rank < len(states):
            torch.set_rng_state(states[rank]["cpu"])
            for gpu, generator in zip(self.trainer.gpus, states[rank]["cuda"], strict=False):  # GPUs may have gone
                torch.cuda.set_rng_state(generator, gpu)

    def _compare(self, state: dict[str, Any]) -> list[str]:
        """Return the settings that differ from the saved ones, as text.

        Raises:
            UserError: some change the result, and `--force` is not given.
        """
        saved = state["arguments"]
        differing = {
            name: f"{name}: saved {saved[name]}, now {value}"
            for name, value in asdict(self.config).items()
            if name in saved and saved[name] != value and name not in ("config", "resume", "force", "tag")
        }
        if state["class_names"] != self.class_names:
            shown = (
                first_few([quoted(str(name)) for name in names]) for names in (state["class_names"], self.class_names)
            )
            differing["class_names"] = "class names: saved {}, now {}".format(*shown)
        for name in [name for name, digest in self._data.items() if state["data"].get(name) != digest]:
            differing[name] = f"other {name}"
        changing = [*self.config.names_that_change_the_result(), "class_names", *self._data]
        blocking = [text for name, text in differing.items() if name in changing]
        if blocking and not self.config.force:
            raise UserError(
                f"--resume: these settings differ from the saved run and would change the result: "
                f"{'; '.join(blocking)}; restore them, or pass --force to continue"
            )
        return list(differing.values())

    # On the way ------------------------------------------------------------------------------------------------------

    def between_iterations(self) -> None:
        """Stop if a signal arrived, save if due; a collective decision of all processes."""
        due = self._writes and time.monotonic() - self._saved_at > 60 * self.config.save_minutes
        requested, due = self.trainer.processes.any(self._interruption.requested, due)
        if requested:
            raise self._interruption.error()
        if due:
            self._save_state()

    def stop_if_requested(self) -> None:
        """Stop if a signal arrived; a collective decision of all processes."""
        if self.trainer.processes.any(self._interruption.requested)[0]:
            raise self._interruption.error()

    def add_losses(self, step: Step) -> None:
        """Count the losses of an iteration toward the next log line."""
        for name, loss in step.losses().items():
            self._losses.setdefault(name, []).append(loss)

    def mean_losses(self) -> dict[str, float]:
        """Return the mean of each loss since the last log line, over all processes. Synchronizes with the device."""
        names, processes = list(self._losses), self.trainer.processes
        if not self._losses["loss"]:
            return dict.fromkeys(names, float("nan"))
        unknown = torch.full_like(self._losses["loss"][0], float("nan"))  # a loss that no iteration computed
        means = torch.stack([torch.stack(losses or [unknown]).mean() for losses in self._losses.values()])
        self._losses = {name: [] for name in names}
        return dict(zip(names, (processes.sum(means) / processes.size).tolist(), strict=True))

    def not_finite(self, step: Step, lr: float, ids: list[str]) -> None:
        """Report a batch whose loss or gradient is not finite: stop, or skip it (`--on_nan skip`).

        Raises:
            UserError: to stop; the states on the disk are from before.
        """
        processes, losses = self.trainer.processes, step.losses()
        values = processes.sum(torch.stack([loss.float() for loss in losses.values()])) / processes.size
        parts = ", ".join(f"{name}={value:.3g}" for name, value in zip(losses, values.tolist(), strict=True))
        ids = [image_id for part in processes.gather(ids) for image_id in part]
        what = f"the loss or its gradient is not finite at iteration {self.trainer.iteration} ({parts}; lr={lr:.3g})"
        batch = f"images {', '.join(ids)}"
        if self.config.on_nan == "stop":
            raise UserError(
                f"{what}, {batch}: try a lower --lr, a --warmup_epoch or --on_nan skip; the last state and the models "
                "of earlier epochs are intact"
            )
        self.log.line(f"[!] {what}, {batch}: skipped")

    # Ends ------------------------------------------------------------------------------------------------------------

    def finish_epoch(self, mean: float) -> None:
        """Save models after a validation with this mAP, and a state that starts with the next epoch."""
        improved = not mean <= self._best  # the first mAP may be NaN, and is then the best so far
        self._best = mean if improved else self._best
        for kind in ("", "best_") if improved else ("",):
            self._save_model(kind, mean)
        self.epoch, self.position = self.epoch + 1, 0
        self._save_state()

    def finish(self) -> None:
        """Save the last model, unless a finished run was only resumed, and say where the best one is."""
        if not self._has_last_model():
            means = values_of(self.log.history, "validation", "map") or [float("nan")]
            self._save_model("last_", means[-1])
        best = self.folder.model(self.config.tag, "best_")
        where = f"in {best}" if best.exists() else "saved under the tag this run was resumed from"
        self.log.line(f"[i] best mAP={self._best:.2f}, {where}")
        self.log.close()

    def _has_last_model(self) -> bool:
        last = self.folder.model(self.config.tag, "last_")
        try:
            # The description is written after the model.
            return last.exists() and read_description(last).iteration == self.trainer.iteration
        except UserError:
            return False

    def interrupt(self, interrupted: Interrupted) -> None:
        """Save the state and exit with the signal's status."""
        self._save_state()
        saved = f"state saved at iteration {self.trainer.iteration:,}"
        self.log.line(f"[i] {interrupted}: {saved}; continue with --resume")
        self.log.close()
        sys.exit(interrupted.status)

    def _save_model(self, kind: str, mean: float) -> None:
        if not self._writes:
            return
        strategy = self.trainer.strategy
        keypoints = strategy.shown_keypoints()
        description = Description(
            architecture=self.config.architecture,
            class_names=self.class_names,
            image_size=self.config.image_size,
            head=self.trainer.student.head,
            strategy=strategy.name,
            keypoints=keypoints and keypoints.name,
            iteration=self.trainer.iteration,
            mAP=None if math.isnan(mean) else mean,
            **(self.trainer.student.normalization or IMAGENET)._asdict(),
            arguments=asdict(self.config),
        )
        save_checkpoint(self.folder.model(self.config.tag, kind), self.trainer.evaluated.state_dict(), description)
