"""Run training and evaluation of many runs, so that an interrupted series can continue."""

import hashlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tools.runs.folder import Folder, is_number
from tools.system.command_line import to_argv
from tools.system.errors import UserError
from tools.system.files import ROOT, read_object, write_json

POLL_SECONDS = 0.2  # between two looks at a run
FREE = ("num_workers", "device")  # without influence on the results: another machine may need others
RSS_UNIT = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss per GiB: bytes on macOS, KiB on Linux


@dataclass(frozen=True)
class Experiment:
    """A training run and its evaluation."""

    tag: str
    program: list[str]  # what follows `python3` to train it: a script, or -m and a module of the repository
    arguments: dict[str, Any]  # of the program, by name
    evaluation: dict[str, Any]  # of evaluate_classification.py, by name
    folder: Path  # the working folder of both, which holds `experiments`
    script: Path | None = None  # of a strategy of one's own, which may change
    stop: threading.Event = field(default_factory=threading.Event)  # once it is set, the run saves its state and ends
    beside_others: bool = False  # whether other runs share the cores; what it prints then goes to its log alone

    @property
    def files(self) -> Folder:
        return Folder(self.folder / "experiments")

    def evaluated(self, suffix: str) -> Path:
        """Return a file that the evaluation writes: ".npz" holds the scores, ".json", written last, the results."""
        base = self.files.results(self.files.model(self.tag, "best_"), self.evaluation["split"])
        return base.with_name(base.name + suffix)  # with_suffix would cut a tag at its last dot

    def training_command(self) -> list[str]:
        return ["python3", *self.program, *to_argv(self.arguments), "--resume"]  # it also starts the training

    def evaluation_command(self) -> list[str]:
        return ["python3", str(ROOT / "evaluate_classification.py"), *to_argv(self.evaluation)]

    def in_shell(self, command: list[str]) -> str:
        """Return a command as it can be typed in any folder."""
        path = shlex.quote(environment()["PYTHONPATH"])
        return f"cd {shlex.quote(str(self.folder))} && PYTHONPATH={path} {shlex.join(command)}"

    def state(self) -> str:
        """Return "new", "begun", "trained" or "finished" (even without models); `UserError`: it has other settings."""
        config = self.files.config(self.tag)
        if not config.exists():
            return "new"
        saved = read_object(config)
        pairs = {name: (saved.get(name), value) for name, value in self.arguments.items() if name not in FREE}
        differing = [f"{name}: saved {old}, now {new}" for name, (old, new) in pairs.items() if not _same(old, new)]
        if differing:
            raise UserError(f"{config} belongs to a run with other settings ({'; '.join(differing)})")
        if self.script and self._noted().get("script", digest := self._digest()) != digest:
            raise UserError(f"{self.script.name} has changed since the run {self.tag} began")
        if not self.files.model(self.tag, "last_").exists() and "evaluation_seconds" not in self.usage():
            return "begun"
        return "finished" if self.evaluated(".json").exists() else "trained"

    def run(self) -> None:
        """Do what is left of training and evaluation, until `stop`; raise `UserError` if one of them fails."""
        if self.state() == "new":  # what an earlier run of this tag has left, removed since, does not count
            self.evaluated(".json").unlink(missing_ok=True)
            write_json(self.files.usage(self.tag), {"script": self._digest()} if self.script else {})
        if self.state() in ("new", "begun"):
            self._call(self.training_command(), "training")
        if self.state() == "trained" and not self.stop.is_set():
            self._call(self.evaluation_command(), "evaluation")

    def usage(self) -> dict[str, float]:
        """Return `training_seconds`, `training_gib` (peak memory of the main process), …, as far as noted.

        Seconds include the start of Python and all parts of an interrupted run.
        """
        usage = {name: value for name, value in self._noted().items() if name != "script"}
        if not all(map(is_number, usage.values())):
            raise UserError(f"{self.files.usage(self.tag)} holds something that is not a number: delete it")
        return usage

    def _noted(self) -> dict[str, Any]:
        """Return the usage and, of a strategy of one's own, the SHA-256 that its script had when the run began."""
        path = self.files.usage(self.tag)
        return read_object(path) if path.exists() else {}

    def _digest(self) -> str:
        return hashlib.sha256(self.script.read_bytes()).hexdigest()

    def seconds(self) -> float:
        """Return the seconds of training and evaluation so far, as far as noted."""
        return sum(value for name, value in self.usage().items() if name.endswith("_seconds"))

    def _call(self, command: list[str], part: str) -> None:
        print(f"$ {self.in_shell(command)}", flush=True)
        usage, started = self.usage(), time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {"cwd": self.folder, "env": environment(self.beside_others)}
        options["stdout"] = subprocess.DEVNULL if self.beside_others else None
        process, asked = subprocess.Popen([sys.executable, *command[1:]], **options), False
        # Not getrusage(RUSAGE_CHILDREN): its ru_maxrss is the maximum over all runs of the series so far.
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            if self.stop.is_set() and not asked:
                os.kill(process.pid, signal.SIGTERM)  # once: a second signal ends a run without a state
                asked = True
            time.sleep(POLL_SECONDS)
        _, status, resources = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds, gib = time.monotonic() - started, resources.ru_maxrss / RSS_UNIT
        usage[f"{part}_seconds"] = round(usage.get(f"{part}_seconds", 0) + seconds, 1)
        usage[f"{part}_gib"] = round(max(usage.get(f"{part}_gib", 0), gib), 2)
        write_json(self.files.usage(self.tag), {**self._noted(), **usage})
        if process.returncode and not asked:
            raise UserError(
                f"the {part} of {self.tag} ended with status {process.returncode}: see the message above; fix it and "
                "run the same command again (finished runs are not repeated)"
            )


def complete(runs: Sequence[Experiment], parallel: int = 1, minutes: float | None = None) -> list[BaseException]:
    """Do what is left of the runs in their order, `parallel` at a time; return what failed.

    A failure ends the series, unless it has a time limit in minutes. The runs save their states when the time is over,
    and when a signal raises an exception here.
    """
    stop = threading.Event()

    def run_one(number: int, run: Experiment) -> None:
        if not stop.is_set():
            print(f"== {number} of {len(runs)}: {run.tag} is {run.state()}", flush=True)
            try:
                replace(run, stop=stop, beside_others=parallel > 1).run()
            except Exception:
                if minutes is None:
                    stop.set()
                raise

    pool = ThreadPoolExecutor(parallel)
    futures = [pool.submit(run_one, *numbered) for numbered in enumerate(runs, 1)]
    try:
        wait(futures, None if minutes is None else 60 * minutes)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    return [error for future in futures if not future.cancelled() and (error := future.exception())]


def environment(beside_others: bool = False) -> dict[str, str]:
    """Return the environment of the runs: the repository is importable although they work in another folder.

    Threads of a run beside others sleep while they wait for each other: by default they stay awake for a while, which
    takes the cores from the other runs (docs/performance.md, "What was tried", has figures).
    """
    usual = {"OMP_WAIT_POLICY": "passive"} if beside_others else {}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**usual, **os.environ, "PYTHONPATH": path}


def _same(saved: Any, given: Any) -> bool:
    """Return whether two values of an argument mean the same, as 0 and "0.0" or two places of a file do."""
    try:
        return float(saved) == float(given)
    except (TypeError, ValueError, OverflowError):
        saved, given = (Path(text).name if os.path.isabs(text) else text for text in (str(saved), str(given)))
        return saved == given
