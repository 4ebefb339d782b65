"""What a run says of itself on the console and in its log, while it runs and at its end."""

import json
import re
import shlex
import time
from pathlib import Path

import pytest
import torch

from core.training.pace import Pace
from tests.helpers.command_line import SCRIPTS, SMALL, refused, run, small_with
from tools.data.loader import cores, worker_options
from tools.runs import log as run_log
from tools.runs.folder import Folder
from tools.runs.log import RunLog


@pytest.fixture(scope="module")
def limited(toy, tmp_path_factory) -> tuple[Path, str]:
    """A folder with a run of three epochs on the first images of each list, and what it printed."""
    folder = tmp_path_factory.mktemp("limited")
    words = small_with(batch_size=8, num_workers=2, min_image_size=40)
    more = ["--data_dir", toy, "--tag", "a b", "--max_epoch", 3, "--lr", 0.01, "--limit", 20]
    result = run(folder, SCRIPTS["cTopk_w"], *words, *more)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""  # no progress bar where no terminal shows it
    return folder, result.stdout


def test_a_run_says_at_its_start_what_it_works_on(limited):
    _, text = limited
    assert "[i] 20 training images, 20 validation images, 20 classes, 2 iterations per epoch, on cpu" in text
    assert "an epoch leaves out 4 images" in text
    assert "[!] only 2 iterations per epoch" in text
    assert "[!] --limit 20: only the first images of each list" in text
    assert "[!] --min_image_size 40 exceeds --image_size 32" in text
    assert "try --min_image_size 20 --max_image_size 40" in text
    mean, std = "[0.485, 0.456, 0.406]", "[0.229, 0.224, 0.225]"
    assert f"[i] weights none: random; images are normalized with mean {mean}, std {std}" in text
    changed = re.search("settings other than the defaults: (.*)", text)[1]
    assert "limit=20" in changed and "lr=0.01" in changed and "wd=" not in changed
    assert "replicas=" not in changed and "tag=" not in changed  # not given


def test_every_line_on_training_says_where_the_run_is(limited):
    _, text = limited
    lines = re.findall(r"^\[i\] iteration=.*images/s, (.*)$", text, re.MULTILINE)
    places = [re.fullmatch(r"epoch (\d)/3, (\d+)% of 6 iterations, .* left, at \d\d:\d\d:\d\d", line) for line in lines]
    found = [place.groups() for place in places]
    assert found == sorted(found, key=lambda place: int(place[1]))
    assert {("1", "33"), ("2", "67"), ("3", "100")} <= set(found)


def test_an_epoch_ends_with_its_best_and_worst_classes_and_its_costs(limited):
    folder, text = limited
    best_epochs = re.findall(r"best epoch (\d)( \(new\))?, at", text)
    history = json.loads((folder / "experiments/data/a b.json").read_text())
    values = [row["map"] for row in history["validation"]]
    expected = [1 + values[:end].index(max(values[:end])) for end in (1, 2, 3)]
    assert [int(epoch) for epoch, _ in best_epochs] == expected
    assert [bool(new) for _, new in best_epochs] == [epoch == end for end, epoch in enumerate(expected, 1)]
    assert len(re.findall(r"of training \(.* waiting for data\), .* of validation, peak memory [\d.]+ GiB", text)) == 3
    known = sorted(history["validation"][-1]["average_precision"].items(), key=lambda item: -item[1])
    shown = re.findall("    best: (.*); worst: (.*)", text)[-1]
    assert shown[0] == ", ".join(f"{name} {value:.1f}" for name, value in known[:3])
    assert shown[1] == ", ".join(f"{name} {value:.1f}" for name, value in known[-3:])


def test_a_run_ends_with_commands_that_work(limited, toy):
    folder, text = limited
    commands = [shlex.split(line) for line in re.findall("^    (python3 .*)$", text, re.MULTILINE)]
    assert [words[1] for words in commands[:2]] == ["evaluate_classification.py", "inference_classification.py"]
    assert "written: experiments/logs/a b.txt" in text and "finished after" in text and "(--limit 20)" in text
    for words in commands:
        result = run(folder, *words[1:])
        assert result.returncode == 0, result.stderr


def test_evaluation_measures_the_run_s_own_split_and_mistakes_list_runs_and_splits(limited, toy):
    folder, _ = limited
    result = run(folder, "evaluate_classification.py", "--tag", "a b", "--data_dir", toy, "--num_workers", 0)
    assert result.returncode == 0 and "best_a b_Main_val.json" in result.stdout, result.stderr
    evaluate, lists = "evaluate_classification.py", "Main/train, Main/trainval, Main/val"
    for script, *more in (
        (evaluate, "--tag", "none", "--data_dir", toy),
        ("inference_classification.py", "--tag", "none", "--images", toy),
        ("export_classification.py", "--tag", "none"),
        ("-m", "tools.plot_history", "none"),
    ):
        assert "give the --tag of a run (here: a b)" in refused(folder, script, *more)
    for split, said in (("Main/none", f"choose one of .*{lists}"), ("val", f"lists of this folder: {lists}")):
        assert re.search(said, refused(folder, evaluate, "--tag", "a b", "--data_dir", toy, "--split", split))
    words = [word for word in SMALL if not word.startswith(("--train_split", "--val_split", "Main/"))]
    line = refused(folder, SCRIPTS["Max"], *words, "--data_dir", toy)
    assert f"lists of this folder: {lists}" in line


def test_rows_are_recorded_and_lines_written_seconds_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    now = [100.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
    log = RunLog(Folder(), "tag")
    for iteration, seconds in enumerate((0, 1, 2, 5, 6, 9), 1):
        now[0] = 100 + seconds
        log.training(iteration, 1, (0.1, 3.0), {"loss": 1.0}, 8, 1.0, "somewhere", must_show=iteration == 5)
    assert [row["iteration"] for row in log.history["train"]] == [1, 2, 3, 4, 5, 6]
    # A row's time is that since the row before, a line's that since the line before.
    assert [row["time"] for row in log.history["train"]] == [1.0] * 6
    lines = re.findall(r"iteration=(\d).*time=(\d)sec.* ([\d.]+) images/s", capsys.readouterr().out)
    assert lines == [("1", "1", "8.0"), ("4", "3", "8.0"), ("5", "1", "8.0"), ("6", "1", "8.0")]


def test_the_pace_tells_waiting_from_training():
    def loader():
        for batch in range(3):
            time.sleep(0.02)
            yield batch

    pace = Pace()
    for _ in pace.batches(loader()):
        time.sleep(0.01)
    assert pace.iterations == 3
    assert 0.06 <= pace.waiting <= pace.training - 0.03
    assert pace.left(6, 2) == pytest.approx(2 * pace.training)
    pace.validation, pace.validations = 4.0, 2
    assert pace.left(0, 3) == 6


def test_loader_processes_are_at_most_the_cores():
    assert worker_options(1000, list)["num_workers"] == cores() >= 1
    assert worker_options(0, list)["num_workers"] == 0


def test_the_same_images_are_trained_with_and_without_a_limit_that_takes_all(toy, tmp_path):
    weights = []
    for tag, more in (("all", []), ("limited", ["--limit", 1000])):
        words = [*SMALL, "--data_dir", toy, "--tag", tag, "--max_epoch", 1, "--lr", 0.01, *more]
        assert run(tmp_path, SCRIPTS["Max"], *words).returncode == 0
        weights.append(torch.load(tmp_path / f"experiments/models/last_{tag}.pth", weights_only=True))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
