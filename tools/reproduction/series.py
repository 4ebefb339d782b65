"""Run training and evaluation of many runs one after the other, so that an interrupted series can continue."""

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.runs.folder import Folder, is_number
from tools.system.command_line import to_argv
from tools.system.errors import UserError
from tools.system.files import ROOT, read_object, write_json

RSS_UNIT = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss per GiB: bytes on macOS, KiB on Linux


@dataclass(frozen=True)
class Experiment:
    """A training run and its evaluation."""

    tag: str
    program: list[str]  # what follows `python3` to train it: a script, or -m and a module of the repository
    arguments: dict[str, Any]  # of the program, by name
    evaluation: dict[str, Any]  # of evaluate_classification.py, by name
    folder: Path  # the working folder of both, which holds `experiments`

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
        """Return "new", "begun", "trained" or "finished"; raise `UserError` if the saved run has other settings."""
        config = self.files.config(self.tag)
        if not config.exists():
            return "new"
        saved = read_object(config)
        pairs = {name: (saved.get(name), value) for name, value in self.arguments.items()}
        differing = [f"{name}: saved {old}, now {new}" for name, (old, new) in pairs.items() if not _same(old, new)]
        if differing:
            raise UserError(f"{config} belongs to a run with other settings ({'; '.join(differing)})")
        if not self.files.model(self.tag, "last_").exists():
            return "begun"
        return "finished" if self.evaluated(".json").exists() else "trained"

    def run(self) -> None:
        """Do what is left of training and evaluation; raise `UserError` if one of them fails."""
        if self.state() in ("new", "begun"):
            self._call(self.training_command(), "training")
        if self.state() == "trained":
            self._call(self.evaluation_command(), "evaluation")

    def usage(self) -> dict[str, float]:
        """Return `training_seconds`, `training_gib` (peak memory of the main process), …, as far as noted.

        Seconds include the start of Python and all parts of an interrupted run.
        """
        path = self.files.usage(self.tag)
        usage = read_object(path) if path.exists() else {}
        if not all(map(is_number, usage.values())):
            raise UserError(f"{path} holds something that is not a number: delete it")
        return usage

    def seconds(self) -> float:
        """Return the seconds of training and evaluation so far, as far as noted."""
        return sum(value for name, value in self.usage().items() if name.endswith("_seconds"))

    def _call(self, command: list[str], part: str) -> None:
        print(f"$ {self.in_shell(command)}", flush=True)
        usage, started, interruption = self.usage(), time.monotonic(), None
        process = subprocess.Popen([sys.executable, *command[1:]], cwd=self.folder, env=environment())
        while process.returncode is None:
            try:
                # Not getrusage(RUSAGE_CHILDREN): its ru_maxrss is the maximum over all runs of the series so far.
                _, status, resources = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            except BaseException as error:
                # Ctrl-C, which has reached the run too (it counts both signals as one), or the SystemExit of SIGTERM.
                interruption = error
                os.kill(process.pid, signal.SIGTERM)  # the run saves its state and ends
        seconds, gib = time.monotonic() - started, resources.ru_maxrss / RSS_UNIT
        usage[f"{part}_seconds"] = round(usage.get(f"{part}_seconds", 0) + seconds, 1)
        usage[f"{part}_gib"] = round(max(usage.get(f"{part}_gib", 0), gib), 2)
        write_json(self.files.usage(self.tag), usage)
        if interruption:
            raise interruption
        if process.returncode:
            raise UserError(
                f"the {part} of {self.tag} ended with status {process.returncode}: see the message above; fix it and "
                "run the same command again (finished runs are not repeated)"
            )


def environment() -> dict[str, str]:
    """Return the environment of the runs: the repository is importable although they work in another folder."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def _same(saved: Any, given: Any) -> bool:
    """Return whether two values of an argument mean the same, as 0 and "0.0" do."""
    try:
        return float(saved) == float(given)
    except (TypeError, ValueError, OverflowError):
        return str(saved) == str(given)
