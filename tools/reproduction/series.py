"""Running programs of the repository one after the other, so that a broken series goes on where it stopped."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.system.errors import UserError
from tools.system.files import ROOT, read_json, write_json


@dataclass(frozen=True)
class Experiment:
    """A training run and its evaluation.

    Attributes:
        tag: the run's name.
        script: the training script, from the repository's root.
        arguments: of the script, by name, `tag` among them.
        evaluation: arguments of evaluate_classification.py, by name; True stands for a switch.
        folder: where both run: the folder of `experiments`.
    """

    tag: str
    script: str
    arguments: dict[str, Any]
    evaluation: dict[str, Any]
    folder: Path

    @property
    def experiments(self) -> Path:
        """The folder of all results."""
        return self.folder / "experiments"

    @property
    def result(self) -> Path:
        """What the evaluation writes last; the same name with .npz holds the scores."""
        split = self.evaluation["split"].replace("/", "_")
        return self.experiments / "evaluation" / f"best_{self.tag}_{split}.json"

    def training_command(self) -> list[str]:
        """Begins the run, or goes on with it."""
        return ["python3", str(ROOT / self.script), *words(self.arguments), "--resume"]

    def evaluation_command(self) -> list[str]:
        """Evaluates the best epoch."""
        return ["python3", str(ROOT / "evaluate_classification.py"), *words(self.evaluation)]

    def in_shell(self, command: Sequence[str]) -> str:
        """A command as one may type it."""
        return f"cd {shlex.quote(str(self.folder))} && {shlex.join(command)}"

    def state(self) -> str:
        """Where the run stands: "new", "begun", "trained" or "finished".

        Raises:
            UserError: the folder holds a run of this name with other settings.
        """
        config = self.experiments / "data" / f"{self.tag}.config.json"
        if not config.exists():
            return "new"
        self._require_same_settings(read_json(config), config)
        if not (self.experiments / "models" / f"last_{self.tag}.pth").exists():
            return "begun"
        return "finished" if self.result.exists() else "trained"

    def _require_same_settings(self, saved: dict[str, Any], path: Path) -> None:
        differing = [
            f"{name} {saved.get(name)} there, {value} here"
            for name, value in self.arguments.items()
            if not _same(saved.get(name), value)
        ]
        if differing:
            raise UserError(f"{path} is of a run with other settings ({'; '.join(differing)}): choose another --out")

    def run(self) -> None:
        """Do what is left of training and evaluation.

        Raises:
            UserError: one of them failed; its own message stands above.
        """
        if self.state() in ("new", "begun"):
            self._call(self.training_command(), "training")
        if self.state() == "trained":
            self._call(self.evaluation_command(), "evaluation")

    def usage(self) -> dict[str, float]:
        """What it took so far: `training_seconds` and `evaluation_seconds` (start of Python included, parts of a broken
        run added up), `training_gib` and `evaluation_gib` (largest resident memory of the main process)."""
        return read_json(self._usage_path) if self._usage_path.exists() else {}

    @property
    def _usage_path(self) -> Path:
        return self.experiments / "usage" / f"{self.tag}.json"

    def _note_usage(self, part: str, seconds: float, gib: float) -> None:
        usage = self.usage()
        usage[f"{part}_seconds"] = round(usage.get(f"{part}_seconds", 0) + seconds, 1)
        usage[f"{part}_gib"] = round(max(usage.get(f"{part}_gib", 0), gib), 2)
        write_json(self._usage_path, usage)

    def _call(self, command: Sequence[str], part: str) -> None:
        """Run a command to its end."""
        print(f"$ {self.in_shell(command)}", flush=True)
        started = time.monotonic()
        process = subprocess.Popen([sys.executable, *command[1:]], cwd=self.folder)
        try:
            _, status, resources = os.wait4(process.pid, 0)
        except BaseException:
            # The run saves its state and ends. Ctrl-C has reached it already; it takes both signals for one.
            process.send_signal(signal.SIGTERM)
            _, status, resources = os.wait4(process.pid, 0)
            raise
        finally:
            process.returncode = os.waitstatus_to_exitcode(status)
            self._note_usage(part, time.monotonic() - started, resources.ru_maxrss / 2**20)
        if process.returncode:
            raise UserError(
                f"the {part} of {self.tag} ended with status {process.returncode}, for the reason above: mend it and "
                "give the same command again; what is finished is not repeated"
            )


def sum_of_seconds(usage: dict[str, float]) -> float:
    """Training and evaluation together; 0 where nothing was noted.

    >>> sum_of_seconds({"training_seconds": 60.0, "evaluation_seconds": 5.0, "training_gib": 1.5})
    65.0
    """
    return sum(value for name, value in usage.items() if name.endswith("_seconds"))


def _same(saved: Any, given: Any) -> bool:
    """Whether two values of an argument mean the same: 0 and "0.0" do."""
    try:
        return float(saved) == float(given)
    except (TypeError, ValueError):
        return str(saved) == str(given)


def words(arguments: dict[str, Any]) -> list[str]:
    """Arguments by name as words of a command line.

    >>> words({"lr": 0.1, "flip": True, "amp": False})
    ['--lr', '0.1', '--flip']
    """
    given = {name: value for name, value in arguments.items() if value is not False}
    pairs = [[f"--{name}"] if value is True else [f"--{name}", str(value)] for name, value in given.items()]
    return [word for pair in pairs for word in pair]
