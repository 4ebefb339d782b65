"""The runs in the experiments folder: how far they are, their best mAP, and the disk space that they take.

python3 -m tools.list_runs                    all runs
python3 -m tools.list_runs A B --compare      the settings and results in which two runs differ
python3 -m tools.list_runs A B --remove       name and remove these runs' files, not their results, pictures and exports
"""

import contextlib
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.runs.folder import Folder, RunFiles, best_validation, read_histories
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, run_main
from tools.system.files import read_object, remove
from tools.system.text_table import fixed_width_table

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Config(Arguments):
    tags: list[str] | None = argument(None, "runs, by their --tag (default: all)", metavar="TAG", positional=True)
    experiments: Path = argument(Path("experiments"), "folder of runs")
    compare: bool = argument(False, "show in what two runs differ", at_most_one_of="what")
    remove: bool = argument(False, "remove the files of the named runs", at_most_one_of="what")

    def check(self) -> None:
        if self.compare and len(self.tags or ()) != 2:
            raise UserError("--compare: name two runs")
        if self.remove and not self.tags:
            raise UserError("--remove: name the runs to remove")


@dataclass(frozen=True)
class Found:
    """A run, as far as its files tell."""

    tag: str
    arguments: dict[str, Any]  # empty if its configuration is missing
    state: str  # how far it is; "damaged" if its history or configuration cannot be read
    best: float | None  # mAP of the best epoch, %
    size: int  # bytes of all its files

    def values(self) -> dict[str, str]:
        """Return what a comparison shows, by name."""
        best, size = "–" if self.best is None else f"{self.best:.2f}", f"{self.size / MEBIBYTE:,.1f}"
        shown = {"mAP": best, "MiB": size, "state": self.state}
        return shown | {name: str(value) for name, value in sorted(self.arguments.items()) if name != "tag"}


def find_runs(folder: Folder) -> list[str]:
    """Return the tags that have a log or a configuration."""
    logs = folder.log("x").parent.glob("*.txt")
    configs = folder.config("x").parent.glob("*.config.json")
    return sorted({path.stem for path in logs} | {path.name.removesuffix(".config.json") for path in configs})


def read_run(folder: Folder, tag: str) -> Found:
    """Return what the files of a run tell; a damaged one costs its row alone, and the run can still be removed."""
    config, history = folder.config(tag), None
    size = sum(map(size_of, RunFiles(folder, tag).find_earlier()))
    try:
        if folder.history(tag).exists():
            (history,) = read_histories(folder, [tag])
        arguments = read_object(config) if config.exists() else {}
    except UserError as error:
        print(f"note: {error}", file=sys.stderr)
        return Found(tag, {}, "damaged", None, size)
    validated, wanted = len(history["validation"]) if history else 0, arguments.get("max_epoch")
    state = "finished" if validated == wanted else f"epoch {validated} of {wanted or '?'}"
    best = best_validation(history, tag)["map"] if validated else None
    return Found(tag, arguments, state, best, size)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    if not path.is_dir():
        return os.lstat(path).st_size
    return sum(os.lstat(file).st_size for file in path.rglob("*") if not file.is_dir())


def table_of(runs: list[Found]) -> str:
    """Return a line for each run, and their sum."""
    rows = [("tag", "strategy", "state", "best mAP", "MiB")]
    for run in runs:
        shown = run.values()
        rows.append((run.tag, shown.get("strategy", "?"), run.state, shown["mAP"], shown["MiB"]))
    count, size = f"{len(runs)} run{'s' * (len(runs) != 1)}", sum(run.size for run in runs)
    rows.append((count, "", "", "", f"{size / MEBIBYTE:,.1f}"))
    return fixed_width_table(rows, widths=(20, 10, 12, 9, 9))


def unlisted(folder: Folder) -> str:
    """Return a line on the disk space of what belongs to no listed run, or "" if nothing is there."""
    sizes: Counter[Path] = Counter()
    for path in folder.lasting():
        sizes[path.parent] += size_of(path)
    shown = ", ".join(f"{part.name}/ {size / MEBIBYTE:,.1f} MiB" for part, size in sizes.items())
    how = f"an earlier run: --experiments {folder.root}/earlier/TAG.1; delete what you do not need"
    return f"\nnot listed: {shown} ({how})" if shown else ""


def differences(first: Found, second: Found) -> str:
    """Return the settings and results in which two runs differ, a line each."""
    values = first.values(), second.values()
    names = [name for name in {**values[0], **values[1]} if values[0].get(name) != values[1].get(name)]
    rows = [("", first.tag, second.tag), *((name, *(each.get(name, "–") for each in values)) for name in names)]
    return fixed_width_table(rows, widths=(20, 12, 12)) if names else "no difference"


def remove_runs(folder: Folder, runs: list[Found]) -> None:
    """Name and remove the files of runs; a `UserError`, and nothing is removed, if one of them is running."""
    claimed = [RunFiles(folder, run.tag) for run in runs]
    for files in claimed:
        files.claim()  # until this process ends
    for run, files in zip(runs, claimed, strict=True):
        paths = files.find_earlier()[::-1]  # the log comes last: a run that is half removed is still listed
        print(f"removing {run.tag} ({run.values()['MiB']} MiB): {', '.join(map(str, paths))}", flush=True)
        for path in (*paths, folder.state(run.tag, ".lock")):
            remove(path)
        if kept := folder.lasting(run.tag):
            print(f"kept: {', '.join(map(str, kept))}")
    for part in folder.root.iterdir():
        with contextlib.suppress(OSError):
            part.rmdir()  # an empty folder


def main() -> None:
    config = parse(Config, __doc__)
    folder = Folder(config.experiments)
    known = find_runs(folder)
    if unknown := [tag for tag in config.tags or () if tag not in known]:
        raise UserError(f"no run {', '.join(unknown)} in {folder.root} (here: {', '.join(known) or 'none'})")
    runs = [read_run(folder, tag) for tag in config.tags or known]
    if config.remove:
        remove_runs(folder, runs)
    else:
        print(differences(*runs) if config.compare else table_of(runs) + unlisted(folder))


if __name__ == "__main__":
    run_main(main)
