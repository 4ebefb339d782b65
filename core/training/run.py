"""A run and what it leaves on the disk: log, history, models, and the state from which it can go on."""

import argparse
import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from core.strategy import Step
from core.training.config import OWN_STATE, replayable
from core.training.trainer import LOSSES, Trainer
from tools.runs.checkpoints import save_checkpoint
from tools.runs.folder import RunFiles
from tools.runs.log import RunLog
from tools.system.errors import UserError
from tools.system.files import write_json
from tools.system.interruption import Interrupted, Interruption

# Arguments that may differ between a run and its continuation without another result (but for rounding).
FREE = ("data_dir", "device", "force", "num_workers", "print_ratio", "resume", "save_minutes", "tag", "tensorboard")
FREE += ("class_file", "on_nan", "snapshot_every", "weights")


class Run:
    """Where a training run stands, and its files. Only the first of several processes writes.

    Args:
        root: the `experiments` folder.
        args: the arguments.
        trainer: what is trained.
        class_names: V names.
        loader: of the training images.
        interruption: notes the signals that ask the run to end.

    Attributes:
        epoch: that is going on, from 0; position: iterations of it that are done.
        losses: of the iterations since the last log line, each `[4]` in the order of `LOSSES`.
        log: text, history and curves.
    """

    def __init__(
        self,
        root: Path,
        args: argparse.Namespace,
        trainer: Trainer,
        class_names: list[str],
        loader: DataLoader,
        interruption: Interruption,
    ):
        self.args = args
        self.trainer = trainer
        self.class_names = class_names
        self.interruption = interruption
        self.epoch = self.position = 0
        self.losses: list[torch.Tensor] = []
        self.best = -1.0
        self.files = RunFiles(root, args.tag)
        self._images = _fingerprint(loader)
        self._writes = trainer.processes.is_first
        self._saved_at = time.monotonic()

    def __enter__(self) -> "Run":
        if self._writes:
            self.files.take()
        return self

    def __exit__(self, *_: object) -> None:
        if self._writes:
            self.files.release()

    def start(self, summary: str) -> None:
        """Begin, or go on where `--resume` says; the first state is written at once, so that what cannot be written is
        found before anything is computed."""
        state, source = self._read_state()
        differing = self._restore(state, source) if state else []
        goes_on = state is not None and self._is_own_state()
        aside = self.files.put_aside() if self._writes and not goes_on else None
        if self._writes:
            write_json(self.files.config, replayable(self.args))
        self.log = RunLog(self.files, self.args.tensorboard, silent=not self._writes)
        if state:
            self.log.load_state_dict(state["log"])
            changed = f", with other settings: {'; '.join(differing)}" if differing else ""
            place = f"iteration {self.trainer.iteration:,}, epoch {self.epoch + 1}"
            self.log.line(f"[i] resumed at {place}, from {source}{changed}")
        else:
            self.log.line("[i] " + ", ".join(f"{name}={value}" for name, value in sorted(vars(self.args).items())))
            if self.args.resume is not None:
                self.log.line(f"[i] nothing to resume at {self.files.state}: starting at the beginning")
        if aside:
            self.log.line(f"[i] what an earlier run of this tag left is now in {aside}")
        self.log.line(summary)
        if not goes_on:
            self._save_state()

    # The state ---------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        random = {"cpu": torch.get_rng_state(), "cuda": [torch.cuda.get_rng_state(gpu) for gpu in self.trainer.gpus]}
        return {
            "trainer": self.trainer.state_dict(),
            "random": self.trainer.processes.gather(random),
            "epoch": self.epoch,
            "samples": self.position * self.args.batch_size,
            "losses": torch.stack(self.losses).cpu() if self.losses else torch.zeros(0, len(LOSSES)),
            "best": self.best,
            "log": self.log.state_dict() if self._writes else {},
            "arguments": {name: value for name, value in vars(self.args).items()},
            "images": self._images,
        }

    def _save_state(self) -> None:
        state = self._state()
        self._saved_at = time.monotonic()
        if self._writes:
            self.files.save_state(state)

    def _read_state(self) -> tuple[dict[str, Any] | None, str]:
        """What `--resume` asks for, and which file it is from; the first process reads for all."""
        if self.args.resume is None:
            return None, ""
        path = None if self.args.resume == OWN_STATE else Path(self.args.resume)
        found = self.files.load_state(path) if self._writes else None
        return self.trainer.processes.broadcast(found) or (None, "")

    def _is_own_state(self) -> bool:
        """Whether `--resume` goes on with the files of this tag, not with a state from elsewhere."""
        return self.args.resume == OWN_STATE or self.files.owns(Path(self.args.resume))

    def _restore(self, state: dict[str, Any], source: str) -> list[str]:
        """Take the state over; touches no file. Gives the settings that differ, as text."""
        differing = self._compare(state)
        batches = state["samples"] // self.args.batch_size
        self.epoch, self.position = state["epoch"], min(batches, self.trainer.epoch_iterations)
        iteration = self.epoch * self.trainer.epoch_iterations + self.position
        try:
            self.trainer.load_state_dict(state["trainer"], iteration)
            self._restore_random(state["random"])
            self.losses = list(state["losses"].to(self.trainer.device))
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"--resume: {source} is of another network or strategy: {str(error)[:300]}") from error
        self.best = state["best"]
        return differing

    def _restore_random(self, states: list[dict[str, Any]]) -> None:
        """Each process takes its own; more of them than there were start anew."""
        rank = self.trainer.processes.rank
        if rank < len(states):
            torch.set_rng_state(states[rank]["cpu"])
            for gpu, generator in zip(self.trainer.gpus, states[rank]["cuda"]):
                torch.cuda.set_rng_state(generator, gpu)

    def _compare(self, state: dict[str, Any]) -> list[str]:
        """The settings that differ from the saved ones, as text.

        Raises:
            UserError: some change the result, and `--force` is not given.
        """
        saved = state["arguments"]
        differing = {
            name: f"{name} {saved[name]} there, {value} here"
            for name, value in vars(self.args).items()
            if name in saved and saved[name] != value and name not in ("resume", "force", "tag")
        }
        if state["images"] != self._images:
            differing["images"] = "the list of training images"
        grave = [text for name, text in differing.items() if name not in FREE]
        if grave and not self.args.force:
            raise UserError(
                f"--resume: settings differ from the saved ones and would change the result: {'; '.join(grave)}; "
                "give the saved ones, or --force to go on with these"
            )
        return list(differing.values())

    # On the way --------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Between two iterations: end if somebody asked for it, save if it is time. All processes agree."""
        due = self._writes and time.monotonic() - self._saved_at > 60 * self.args.save_minutes
        asked, due = self.trainer.processes.any(self.interruption.asked, due)
        if asked:
            raise Interrupted(self.interruption.number or 15)
        if due:
            self._save_state()

    def check(self) -> None:
        """During validation: end if somebody asked for it. All processes agree."""
        if self.trainer.processes.any(self.interruption.asked)[0]:
            raise Interrupted(self.interruption.number or 15)

    def mean_losses(self) -> dict[str, float]:
        """Mean of each loss since the last log line, over all processes. Waits for the device."""
        if not self.losses:
            return dict.fromkeys(LOSSES, float("nan"))
        processes = self.trainer.processes
        means = processes.sum(torch.stack(self.losses).mean(0)) / processes.size
        self.losses = []
        return dict(zip(LOSSES, means.tolist()))

    def log_losses(self, values: dict[str, float], speed: float) -> None:
        """One log line and history row; `speed` in images per second."""
        iteration = self.trainer.iteration
        losses = ", ".join(f"{name}={values[name]:.4f}" for name in LOSSES)
        weights = f"lr={values['lr']:.5f}, alpha_re={values['alpha_re']:.2f}"
        self.log.line(f"[i] iteration={iteration:,}, {weights}, {losses}, {speed:.1f} images/s")
        row = {"epoch": self.epoch + 1, **values, "images_per_second": round(speed, 2)}
        self.log.record("train", iteration, row)

    def not_finite(self, step: Step, lr: float, ids: list[str]) -> None:
        """A loss that is no number: stop, or say so and go on (`--on_nan skip`).

        Raises:
            UserError: to stop; the states on the disk are from before.
        """
        processes = self.trainer.processes
        losses = processes.sum(torch.stack([getattr(step, name).float() for name in LOSSES])) / processes.size
        parts = ", ".join(f"{name}={value:.3g}" for name, value in zip(LOSSES, losses.tolist()))
        ids = [image_id for part in processes.gather(ids) for image_id in part]
        what = f"the loss or its gradient is not finite at iteration {self.trainer.iteration} ({parts}; lr={lr:.3g})"
        batch = f"images {', '.join(ids)}"
        if self.args.on_nan == "stop":
            raise UserError(
                f"{what}, {batch}: try a lower --lr, a --warmup_epoch or --on_nan skip; the last state and the models "
                "of earlier epochs are intact"
            )
        self.log.line(f"[!] {what}, {batch}: skipped")

    # Ends --------------------------------------------------------------------------------------------------------

    def finish_epoch(self, mean: float) -> None:
        """After validation with this mAP: models, and a state that begins with the next epoch."""
        improved = not mean <= self.best
        self.best = mean if improved else self.best
        for kind in ("", "best_") if improved else ("",):
            self._save_model(kind, mean)
        self.epoch, self.position = self.epoch + 1, 0
        self._save_state()

    def finish(self) -> None:
        """The last model, and where the best one is."""
        self._save_model("last_", self.log.history["validation"][-1]["mAP"])
        best = self.files.model("best_")
        place = f"in {best}" if best.exists() else "from before this tag: its model lies with the state resumed from"
        self.log.line(f"[i] best mAP={self.best:.2f}, {place}")
        self.log.close()

    def interrupt(self, interrupted: Interrupted) -> None:
        """Save the state and leave with the signal's status."""
        self._save_state()
        self.log.line(f"[i] {interrupted}: saved at iteration {self.trainer.iteration:,}; go on with --resume")
        self.log.close()
        sys.exit(interrupted.status)

    def _save_model(self, kind: str, mean: float) -> None:
        if not self._writes:
            return
        description = {
            "architecture": self.args.architecture,
            "head": self.trainer.student.head,
            "class_names": self.class_names,
            "image_size": self.args.image_size,
            "iteration": self.trainer.iteration,
            "mAP": mean,
            "script": self.trainer.script,
            "arguments": vars(self.args),
        }
        save_checkpoint(self.files.model(kind), self.trainer.student.state_dict(), description)


def _fingerprint(loader: DataLoader) -> str:
    """Of the training images' ids and labels: whether two runs see the same data."""
    dataset = loader.dataset.dataset
    digest = hashlib.sha256("\n".join(dataset.ids).encode())
    digest.update(dataset.labels.numpy().tobytes())
    return digest.hexdigest()
