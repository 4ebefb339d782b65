"""A training run and its files: the resumable state, models, and what is logged on the way."""

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from core.strategy import KEYPOINTS, Step
from core.training.config import KEEP, NOT_REPLAYED, Config
from core.training.pace import Pace
from core.training.trainer import Trainer
from tools.data.datasets import VOCClassification
from tools.data.transforms import IMAGENET
from tools.runs.checkpoints import Description, read_description, save_checkpoint
from tools.runs.folder import Folder, RunFiles, values_of
from tools.runs.log import RunLog
from tools.runs.states import States
from tools.system.console import duration
from tools.system.errors import UserError, first_few, quoted
from tools.system.files import write_json
from tools.system.interruption import Interrupted, Interruption
from tools.system.shortages import shortage


class Run:
    """The progress of a training run, and its files. Only the first of several processes writes."""

    def __init__(self, config: Config, trainer: Trainer, sets: dict[str, VOCClassification], signals: Interruption):
        self.folder = Folder()
        self.config = config
        self.trainer = trainer
        self.class_names = sets["training"].class_names
        self.epoch = self.position = 0  # current epoch, 0-based; completed iterations in it
        self._losses: dict[str, list[torch.Tensor]] = {"loss": []}  # of the iterations since the last log line
        self._best = -1.0
        self._signals = signals
        self._files = RunFiles(self.folder, config.tag)
        self._states = States(self.folder, config.tag)
        self._data: dict[str, str] = {}
        for part, images in sets.items():
            self._data |= {f"{part} {name}": digest for name, digest in images.fingerprint().items()}
        self._writes = trainer.processes.is_first
        self._saved_at = time.monotonic()
        self.pace = Pace()
        self._estimated = False

    def __enter__(self) -> "Run":
        if self._writes:
            self._files.claim()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """After a signal, keep the state as of the last iteration."""
        if isinstance(error, Interrupted):
            self._save_state()
            self.log.line(f"[i] {error}: state saved at iteration {self.trainer.iteration:,}; continue with --resume")
            self.log.close()
        if self._writes:
            self._files.release()

    def start(self, summary: Sequence[str], notes: Sequence[str]) -> bool:
        """Start from scratch, or continue from what `--resume` names; log `summary`, and `notes` if from scratch.

        The order matters: every check, also whether the disk has room, comes before an earlier run is archived, and
        the first state is written at once, so that an unwritable folder fails before training starts. Return False if
        there is nothing to do: the run to resume is finished and has no states.
        """
        resume, tag, found, finished = self.config.resume, self.config.tag, None, False
        if resume is not None and self._writes:
            found = self._states.load(Path(resume) if resume else None)
            finished = found is None and self._is_finished()
        found, finished = self.trainer.processes.broadcast((found, finished))
        self.log = RunLog(self.folder, tag, self.config.tensorboard, silent=not self._writes)
        if finished:
            self.log.line(f"[i] nothing to resume: the run {tag} is finished; --keep best removed its states")
            return False
        state, source = found or (None, "")
        differing = self._restore(state, source) if state else []
        same_run = state is not None and (not resume or self._states.include(Path(resume)))
        if not same_run:
            first_state = self._state()
            if self._writes and self._files.find_earlier():
                self._states.try_space(first_state)
                self._files.archive()
        if self._files.archived_to:
            self.log.line(f"[i] files of an earlier run with this tag were moved to {self._files.archived_to}")
        self.log.open()
        if self._writes and not (same_run and self.epoch >= self.config.max_epoch):
            name = self.trainer.strategy.name  # "strategy" is the value of the strategy's own --strategy, if it has one
            write_json(self.folder.config(tag), {"trained": name, "strategy": name, **self.config.replayable()})
        self._log_start(state, source, differing)
        for line in [*summary, *(f"[i] {note}" for note in notes if not state)]:
            self.log.line(line)
        if not same_run:
            self._save_state()
        return True

    def _log_start(self, state: dict[str, Any] | None, source: str, differing: list[str]) -> None:
        if state:
            self.log.load_state_dict(state["log"])
            changed = f", with other settings: {'; '.join(differing)}" if differing else ""
            position = f"iteration {self.trainer.iteration:,}, epoch {self.epoch + 1}"
            self.log.line(f"[i] resumed at {position}, from {source}{changed}")
            return
        listed = ", ".join(f"{name}={value}" for name, value in sorted(asdict(self.config).items()))
        self.log.line(f"[i] strategy {self.trainer.strategy.name}: {listed}")
        if self.config.resume is not None:
            self.log.line(f"[i] no saved state at {self.folder.state(self.config.tag)}: starting from scratch")

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

    def _is_finished(self) -> bool:
        """Return whether the run has its last model; a `UserError` if it had other settings: no state can continue."""
        last = self.folder.model(self.config.tag, "last_")
        saved = read_description(last) if last.exists() else Description()
        if saved.arguments:
            known = {"strategy": saved.strategy, "arguments": saved.arguments, "class_names": saved.class_names}
            self._compare({**known, "data": {}}, last, finished=True)
        return bool(saved.arguments)

    def _restore(self, state: dict[str, Any], source: str) -> list[str]:
        """Restore a state without touching a file; return the settings that differ, as text."""
        trainer, differing = self.trainer, self._compare(state, source)
        batches = state["samples"] // self.config.batch_size
        self.epoch, self.position = state["epoch"], min(batches, trainer.epoch_iterations)
        rank, random = trainer.processes.rank, state["random"]
        try:
            trainer.load_state_dict(state["trainer"], self.epoch * trainer.epoch_iterations + self.position)
            if rank < len(random):  # further processes keep fresh generators
                torch.set_rng_state(random[rank]["cpu"])
                for gpu, generator in zip(trainer.gpus, random[rank]["cuda"], strict=False):  # GPUs may have gone
                    torch.cuda.set_rng_state(generator, gpu)
            losses = {name: list(values.to(trainer.device)) for name, values in state["losses"].items()}
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            if shortage(error):
                raise
            text = f"--resume: {source} was saved by a different network or strategy: {str(error)[:300]}"
            raise UserError(text) from error
        self._losses = losses or self._losses
        # Of other images, the best mAP so far says nothing about the epochs to come.
        if state["arguments"].get("select_split") == self.config.select_split:
            self._best = state["best"]
        return differing

    def _compare(self, state: dict[str, Any], source: str | Path, finished: bool = False) -> list[str]:
        """Return the settings that differ from the saved ones, as text; only `--force` lets them change the result."""
        saved, name = state["strategy"], self.trainer.strategy.name
        if saved != name:
            raise UserError(f"--resume: {source} is of strategy {saved}: use its script, not that of {name}")
        saved = state["arguments"]
        differing = {
            name: f"{name}: saved {saved[name]}, now {value}"
            for name, value in asdict(self.config).items()
            if name in saved and saved[name] != value and name not in (*NOT_REPLAYED, "tag")
        }
        blocking = [text for name, text in differing.items() if not self.config.resumable(name)]
        # States of earlier versions do not know the contents of the images.
        known = state["data"]
        others = {name: f"other {name}" for name, digest in self._data.items() if known.get(name, digest) != digest}
        if state["class_names"] != self.class_names:
            names = (first_few([quoted(str(name)) for name in of]) for of in (state["class_names"], self.class_names))
            others["class_names"] = "class names: saved {}, now {}".format(*names)
        blocking += others.values()
        if blocking and (finished or not self.config.force):
            fix = "pass --force to continue"
            if finished:  # its states were removed
                fix = "start again without --resume; only a run with --keep all can continue after its end"
            problem = "these settings differ from the saved run and would change the result"
            raise UserError(f"--resume: {problem}: {'; '.join(blocking)}; restore them, or {fix}")
        return [*differing.values(), *others.values()]

    def stop_or_save(self, may_save: bool = True) -> None:
        """Stop if a signal arrived, save if due; a collective decision of all processes."""
        due = may_save and self._writes and time.monotonic() - self._saved_at > 60 * self.config.save_minutes
        requested, due = self.trainer.processes.any(self._signals.requested, due)
        if requested:
            raise self._signals.error()
        if due:
            self._save_state()

    def add_losses(self, step: Step) -> None:
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
        """Report a batch whose loss or gradient is not finite: raise a `UserError`, or skip it (`--on_nan skip`)."""
        processes, losses = self.trainer.processes, step.losses()
        values = processes.sum(torch.stack([loss.float() for loss in losses.values()])) / processes.size
        parts = ", ".join(f"{name}={value:.3g}" for name, value in zip(losses, values.tolist(), strict=True))
        ids = [image_id for part in processes.gather(ids) for image_id in part]
        where = f"at iteration {self.trainer.iteration} ({parts}; lr={lr:.3g}), images {', '.join(ids)}"
        what = f"the loss or its gradient is not finite {where}"
        if self.config.on_nan == "stop":
            kept = "the last state and the models of earlier epochs are intact"
            raise UserError(f"{what}: try a lower --lr, a --warmup_epoch or --on_nan skip; {kept}")
        self.log.line(f"[!] {what}: skipped")

    def progress(self) -> str:
        """Return where the run is and what is left of it, to read; after its first minute, log how long it takes."""
        trainer, epochs = self.trainer, self.config.max_epoch
        left = self.pace.left(trainer.max_iteration - trainer.iteration, epochs - self.epoch)
        if not self._estimated and time.perf_counter() - self.pace.started > 60:
            self._estimated = True
            until = time.strftime("%a %H:%M", time.localtime(time.time() + left))
            counted = "" if self.pace.validations else ", besides validations"
            self.log.line(f"[i] about {duration(left)} are left of this run{counted}, until {until}")
        share = f"{trainer.iteration / trainer.max_iteration:.0%} of {trainer.max_iteration:,} iterations"
        return f"epoch {self.epoch + 1}/{epochs}, {share}, {duration(left)} left"

    def finish_epoch(self, values: dict[str, float]) -> None:
        """Save models after a validation with these values, and a state that starts with the next epoch."""
        tag, epoch = self.config.tag, self.epoch + 1
        decisive = values.get("select_map", values["map"])
        improved = not decisive <= self._best  # the first mAP may be NaN, and is then the best so far
        self._best = decisive if improved else self._best
        paths = [self.folder.model(tag, kind) for kind in (("", "best_") if improved else ("",))]
        if self.config.keep == "all":
            paths.append(self.folder.epochs(tag) / f"{tag}_epoch_{epoch:03d}.pth")
        for path in paths:
            self._save_model(path, values["map"])
        self.epoch, self.position = epoch, 0
        self._save_state()

    def finish(self) -> None:
        """Save the last model, unless a finished run was only resumed, say where the best one is, and tidy up."""
        if not self._has_last_model():
            means = values_of(self.log.history, "validation", "map") or [float("nan")]
            self._save_model(self.folder.model(self.config.tag, "last_"), means[-1])
        best = self.folder.model(self.config.tag, "best_")
        where = f"in {best}" if best.exists() else "saved under the tag this run was resumed from"
        of = "" if self.config.select_split is None else f" of --select_split {self.config.select_split}"
        limited = f" (--limit {self.config.limit})" if self.config.limit else ""
        self.log.line(f"[i] best mAP{of}={self._best:.2f}{limited}, {where}")
        tag, keep, took = self.config.tag, self.config.keep, duration(time.perf_counter() - self.pace.started)
        files = self.folder.log(tag), self.folder.history(tag), self.folder.model(tag, "last_")
        written = ", ".join(map(str, files))
        self.log.line(f"[i] finished after {took}; written: {written}; kept (--keep {keep}): {KEEP[keep]}")
        images = ["--tag", tag, "--data_dir", self.config.data_dir, "--split", self.config.val_split]
        shown = self.trainer.strategy.shown_keypoints()
        script = ["--strategy", sys.argv[0]] if shown and shown.name not in KEYPOINTS else []
        for command in (
            ["evaluate_classification.py", *images, "--report", "reports"],
            ["inference_classification.py", *images, "--compare", "--count", "6", *script],
            ["-m", "tools.plot_history", tag],
        ):
            self.log.line(f"    {shlex.join(['python3', *command])}")
        self.log.close()
        # Models, history and log are on the disk by now: nothing needs a state anymore.
        if self._writes and keep == "best":
            self._states.remove()

    def _has_last_model(self) -> bool:
        last = self.folder.model(self.config.tag, "last_")
        try:
            # The description is written after the model.
            return last.exists() and read_description(last).iteration == self.trainer.iteration
        except UserError:
            return False

    def _save_model(self, path: Path, mean: float) -> None:
        if not self._writes:
            return
        config, student, strategy = self.config, self.trainer.student, self.trainer.strategy
        keypoints = strategy.shown_keypoints()
        about = {"architecture": config.architecture, "class_names": self.class_names, "image_size": config.image_size}
        about |= {"head": student.head, "strategy": strategy.name, "keypoints": keypoints and keypoints.name}
        about |= {"iteration": self.trainer.iteration, "mAP": mean, "arguments": asdict(config)}
        about |= (student.normalization or IMAGENET)._asdict()
        save_checkpoint(path, self.trainer.evaluated.state_dict(), Description(**about))
