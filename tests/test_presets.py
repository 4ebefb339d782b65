"""The presets of reproduce_tables.py: their rows and recipes, public figures beside ours, a series within a time."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tools.scale_devkit as scaling
from core.training.config import parse_config
from reproduce_tables import COMPARISONS, TABLES, Study
from tests.helpers.command_line import ROOT, refused, run
from tools.data.devkit import read_split
from tools.metrics.protocols import PROTOCOLS, protocol_tables
from tools.metrics.scores import Scores, write_scores
from tools.reproduction.presets import PRESETS
from tools.reproduction.published import published_table
from tools.reproduction.series import Experiment, complete
from tools.runs.folder import Folder
from tools.system.command_line import to_argv
from tools.system.errors import UserError

SCRIPT = "reproduce_tables.py"
ROWS = {row.tag: row for comparison in COMPARISONS for row in comparison.rows}


def planned(*given: object) -> Study:
    return Study([*map(str, given)])


@pytest.fixture
def devkit_80(devkit) -> Path:
    """A devkit folder that brings its own classes, as COCO's does."""
    (devkit / "classes.json").write_text(json.dumps({"class_names": ["cat", "dog"]}))
    return devkit


# Rows and recipes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_every_run_of_every_preset_has_arguments_that_its_script_takes(name, devkit_80):
    preset = PRESETS[name]
    study = planned("--preset", name, "--data_dir", devkit_80, "--weights", "none", "--tables", ",".join(TABLES))
    assert {*preset.recipes, *preset.published} <= ROWS.keys()
    for (tag, _), one in study.runs.items():
        config = parse_config(study.rows[tag].strategy, None, to_argv(one.arguments))
        assert config.data_dir == str(study.data_dir.resolve()) and config.tag == one.tag
    assert set(preset.tables or ()) <= set(TABLES)


@pytest.mark.parametrize("name, epochs", [("voc07-r101-448", 30), ("coco14-r101-448", 30)])
def test_a_row_has_the_recipe_of_its_paper_unless_another_is_typed(name, epochs, devkit_80):
    given = ("--preset", name, "--data_dir", devkit_80, "--weights", "none")
    runs = planned(*given).runs
    plain, csra, decoder = (runs[tag, 0].arguments for tag in ("plain", "csra", "ml_decoder"))
    assert (plain["lr"], plain["momentum"], plain["batch_size"], plain["max_epoch"]) == (0.01, 0.9, 16, epochs)
    assert csra["num_heads"] == (1 if name.startswith("voc") else 4) and csra["lr"] == 0.01
    assert (decoder["optimizer"], decoder["schedule"], decoder["lr"]) == ("adamw", "onecycle", 1e-4)
    assert decoder["evaluate_ema"] is True and decoder["augment"] == "randaugment"
    assert decoder["cutout"] == 0.5 and "cutout" not in csra
    assert "optimizer" not in runs["cMax_ema", 0].arguments
    assert plain["train_difficult"] == ("negative" if name.startswith("voc") else "positive")
    typed = planned(*given, "--", "--max_epoch", 2).runs
    assert {one.arguments["max_epoch"] for one in typed.values()} == {"2"}


def test_coco_s_classes_are_those_of_its_folder(devkit_80, tmp_path):
    study = planned("--preset", "coco14-r101-448", "--data_dir", devkit_80, "--weights", "none")
    assert {one.arguments["class_file"] for one in study.runs.values()} == {str(devkit_80 / "classes.json")}
    with pytest.raises(UserError, match="classes.json: no such file"):
        planned("--preset", "coco14-r101-448", "--data_dir", ROOT / "data", "--weights", "none")


def test_the_studies_on_photographs_are_those_of_the_official_optimizer(devkit):
    for name, size, seeds in (("voc-sample", 160, 1), ("gpu-study", 320, 10)):
        study = planned("--preset", name, "--data_dir", devkit, "--weights", "none")
        settings = study.settings
        recipe = [settings[argument] for argument in ("lr", "momentum", "max_epoch", "batch_size")]
        assert recipe == [0.1, 1e-4, 15, 16]
        assert settings["architecture"] == "timm/tf_efficientnet_lite0" and settings["image_size"] == size
        assert float(settings["select_split"]) == 0.1 and len(study.seeds) == seeds


def test_the_rows_that_are_wanted_most_run_first_one_seed_after_the_other(devkit):
    study = planned("--preset", "gpu-study", "--data_dir", devkit, "--weights", "none", "--seeds", 0, 1)
    wanted = ["plain", "instances", "cMax_ema", "scale_free_strategycMax", "csra", "cTopk_w_ema", "cTopk_ema", "asl"]
    wanted += ["max_pool", "ml_decoder", "centre_ema", "max", "scale_free_strategycTopk", "scale_free_strategycTopk-w"]
    assert [*study.runs] == [(tag, seed) for seed in (0, 1) for tag in wanted]


# Public figures ------------------------------------------------------------------------------------------------------


def test_every_public_figure_has_a_source_and_a_protocol():
    figures = [figure for preset in PRESETS.values() for row in preset.published.values() for figure in row]
    assert len(figures) >= 10
    for figure in figures:
        assert figure["protocol"] in PROTOCOLS and "/" in figure["source"] and 50 < figure["mAP"] < 100
    csra = PRESETS["voc07-r101-448"].published["csra"]
    assert [figure["mAP"] for figure in csra] == [94.7, 94.98]


def scores_file(path: Path, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    labels = rng.choice([1, 0, -1], (40, 2), p=[0.3, 0.2, 0.5]).astype(np.int8)
    scored = Scores([f"im_{i}" for i in range(40)], ["cat", "dog"], rng.normal(size=(40, 2)).astype(np.float32), labels)
    write_scores(path, scored)
    return scored


def cells(table: str) -> list[list[str]]:
    """Return the cells of a Markdown table, below its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_ours_is_measured_as_the_source_measures_and_empty_until_a_run_is_finished(tmp_path):
    figures = [{"mAP": 90.0, "source": "a/b", "protocol": name} for name in ("csra", "q2l")]
    paths = [tmp_path / f"{seed}.npz" for seed in range(2)]
    scored = [scores_file(path, seed) for seed, path in enumerate(paths)]
    rows = [("csra", figures, []), ("csra", figures, paths), ("cMax", [], paths[:1]), ("Max", [], [])]
    lines = cells(published_table(rows))
    assert [line[0] for line in lines] == [*["csra"] * 4, "cMax", "Max"]
    assert [line[1] for line in lines[:2]] == ["", ""] and {line[2] for line in lines[:4]} == {"90.0"}
    for line, protocol in zip(lines[2:4], ("csra", "q2l"), strict=True):
        found = [protocol_tables([protocol], one)[2]["protocols"][protocol]["mAP"] for one in scored]
        assert line[1] == f"{np.mean(found):.2f} ± {np.std(found, ddof=1):.2f}"
        assert line[3:] == ["a/b", protocol]
    assert lines[2][1] != lines[3][1]
    assert float(lines[4][1]) > 0 and lines[4][2] == "" and lines[5][1:4] == ["", "", ""]


def test_a_row_that_has_not_run_shows_its_public_figure(devkit, tmp_path):
    given = ("--preset", "voc07-r101-448", "--data_dir", devkit, "--weights", "none", "--out", tmp_path / "out")
    result = run(tmp_path, SCRIPT, *given, "--time_limit", 0)
    assert result.returncode == 0, result.stderr
    assert "tables of 0 of 14 rows" in result.stdout
    lines = cells((tmp_path / "out/tables/published.md").read_text(encoding="utf-8"))
    assert [line[1:3] for line in lines if line[0] == "csra"] == [["", "94.7"], ["", "94.98"]]
    assert {line[0] for line in lines} >= {"plain", "cMax", "cTopk-w, scale-free"}


def test_a_dry_run_shows_the_public_figures(devkit, tmp_path):
    for name in ("trainval", "test"):
        (devkit / f"ImageSets/Main/{name}.txt").write_text("im_0\nim_1\n")
    given = ("--preset", "voc07-r101-448", "--data_dir", devkit, "--weights", "none", "--tables", "counterparts")
    sizes = ("--image_size", 64, "--min_image_size", 64, "--max_image_size", 64, "--architecture", "resnet18")
    result = run(tmp_path, SCRIPT, *given, "--out", tmp_path / "out", "--dry_run", "--", *sizes)
    assert result.returncode == 0, result.stderr
    assert "| csra |  | 94.98 | open-mmlab/mmpretrain" in result.stdout
    assert not (tmp_path / "out").exists()


# A series ------------------------------------------------------------------------------------------------------------

# Trains for some seconds, and saves its state when it is asked to end, as the training scripts do.
PROGRAM = """
import argparse, json, os, pathlib, signal, sys, time
parser = argparse.ArgumentParser()
for name in ("tag", "seconds", "status"):
    parser.add_argument(f"--{name}")
parser.add_argument("--resume", action="store_true")
args = parser.parse_args()
folder = pathlib.Path("experiments")
for name in ("data", "models", "states", "log"):
    (folder / name).mkdir(parents=True, exist_ok=True)
(folder / f"data/{args.tag}.config.json").write_text(json.dumps(vars(args)))
(folder / f"log/{args.tag}.policy").write_text(os.environ.get("OMP_WAIT_POLICY", ""))
state = folder / f"states/{args.tag}.pth"
done = float(state.read_text()) if state.exists() else 0.0
with (folder / f"log/{args.tag}").open("a") as log:
    log.write(f"{time.time()} {done}\\n")

def save(number, _):
    state.write_text(str(done))
    sys.exit(128 + number)

signal.signal(signal.SIGTERM, save)
while done < float(args.seconds):
    time.sleep(0.1)
    done += 0.1
if int(args.status):
    sys.exit(int(args.status))
(folder / f"models/last_{args.tag}.pth").touch()
with (folder / f"log/{args.tag}").open("a") as log:
    log.write(f"{time.time()} {done}\\n")
"""


class Trained(Experiment):
    """Its evaluation is a moment."""

    def evaluation_command(self) -> list[str]:
        path = str(self.evaluated(".json"))
        make = f"path = pathlib.Path({path!r}); path.parent.mkdir(exist_ok=True); path.touch()"
        return ["python3", "-c", f"import pathlib; {make}"]


def trained(folder: Path, tag: str, seconds: float, status: int = 0) -> Trained:
    (folder / "program.py").write_text(PROGRAM)
    arguments = {"tag": tag, "seconds": seconds, "status": status}
    return Trained(tag, ["program.py"], arguments, {"split": "Main/val"}, folder)


def times(folder: Path, tag: str) -> list[list[float]]:
    """Return when parts of a run began or ended, and how far it was."""
    return [[*map(float, line.split())] for line in (folder / f"experiments/log/{tag}").read_text().splitlines()]


def test_a_time_limit_stops_a_series_with_states_and_the_next_call_continues(tmp_path):
    runs = [trained(tmp_path, "a", 0.1), trained(tmp_path, "b", 600), trained(tmp_path, "c", 0.1)]
    assert complete(runs, minutes=5 / 60) == []
    assert [one.state() for one in runs] == ["finished", "begun", "new"]
    assert 0 < float((tmp_path / "experiments/states/b.pth").read_text()) < 600
    (tmp_path / "experiments/states/b.pth").write_text("599.9")
    assert complete(runs) == [] and [one.state() for one in runs] == ["finished"] * 3
    assert times(tmp_path, "b")[1][1] == 599.9 and len(times(tmp_path, "a")) == 2


def test_runs_at_a_time_overlap_and_keep_their_order(tmp_path):
    runs = [trained(tmp_path, tag, 2) for tag in "abc"]
    assert complete(runs, parallel=2) == []
    (a_begin, a_end), (b_begin, b_end), (c_begin, _) = ([when for when, _ in times(tmp_path, tag)] for tag in "abc")
    assert max(a_begin, b_begin) < min(a_end, b_end) and c_begin > min(a_end, b_end)


@pytest.mark.parametrize("parallel, given, policy", [(1, None, ""), (2, None, "passive"), (2, "active", "active")])
def test_threads_that_wait_leave_the_cores_to_the_runs_beside_them(tmp_path, monkeypatch, parallel, given, policy):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    assert complete([trained(tmp_path, "a", 0.1)], parallel=parallel) == []
    assert (tmp_path / "experiments/log/a.policy").read_text() == policy


@pytest.mark.parametrize("minutes, states", [(None, ["begun", "new"]), (10, ["begun", "finished"])])
def test_a_failure_ends_a_series_that_has_no_time_limit(tmp_path, minutes, states):
    runs = [trained(tmp_path, "a", 0.1, status=3), trained(tmp_path, "b", 0.1)]
    (failure,) = complete(runs, minutes=minutes)
    assert "the training of a ended with status 3" in str(failure)
    assert [one.state() for one in runs] == states


def test_a_signal_stops_all_runs_with_their_states(tmp_path):
    runs = [trained(tmp_path, tag, 600) for tag in "ab"]

    def interrupt() -> None:
        while not all((tmp_path / f"experiments/log/{tag}").exists() for tag in "ab"):
            time.sleep(0.1)
        time.sleep(1)  # their handlers are there
        os.kill(os.getpid(), signal.SIGUSR1)  # to the main thread

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGUSR1, stop)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(SystemExit):
            complete(runs, parallel=2)
    finally:
        signal.signal(signal.SIGUSR1, before)
        thread.join()
    assert all((tmp_path / f"experiments/states/{tag}.pth").exists() for tag in "ab")


def test_a_run_is_the_same_in_another_place_and_without_its_models(tmp_path):
    folder, tag = Folder(tmp_path / "experiments"), "x"
    arguments = {"data_dir": "/here/data", "weights": "/here/lite0.pth", "num_workers": 3, "lr": 0.1}

    def experiment(**changed: object) -> Experiment:
        return Experiment(tag, [], {**arguments, **changed}, {"split": "Main/val"}, tmp_path)

    folder.config(tag).parent.mkdir(parents=True)
    folder.config(tag).write_text(json.dumps(arguments))
    elsewhere = experiment(data_dir="/there/data", weights="/there/lite0.pth", num_workers=8)
    assert elsewhere.state() == "begun"
    for name, value in (("data_dir", "/here/voc"), ("weights", "none"), ("lr", 0.2)):
        with pytest.raises(UserError, match=f"other settings \\({name}: saved"):
            experiment(**{name: value}).state()
    for path, content in ((folder.usage(tag), '{"evaluation_seconds": 1}'), (elsewhere.evaluated(".json"), "{}")):
        path.parent.mkdir(parents=True)
        path.write_text(content)
    assert elsewhere.state() == "finished"


def test_tables_hold_the_rows_and_seeds_that_are_finished(tmp_path, monkeypatch):
    study = planned("--preset", "toy", "--tables", "strategies", "--seeds", 0, 1, 2, "--out", tmp_path)
    done = {("plain", 0), ("plain", 1), ("plain", 2), ("max", 0), ("max", 2), ("cMax_ema", 1)}
    states = {study.runs[key].tag: "finished" for key in done}
    monkeypatch.setattr(Experiment, "state", lambda self: states.get(self.tag, "begun"))
    assert study.comparable() == (["plain", "max"], [0, 2])
    states.clear()
    assert study.comparable() == ([], [])


# Scaled data ---------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_scaled_already_is_used_as_it_is(toy, tmp_path):
    small = tmp_path / "small"
    scaling.scale_devkit(toy, small, 30)
    given = ("--preset", "voc-sample", "--weights", "none", "--out", tmp_path / "out", "--data_dir")
    assert planned(*given, small).data_dir == small
    assert planned(*given, toy).data_dir == tmp_path / "out/data"
    planned(*given, small, "--", "--image_size", 32).make_data()
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=f"{small} holds images of over 16 pixels: scale the original ones"):
        planned(*given, small, "--", "--image_size", 16).make_data()
    planned(*given, toy, "--", "--image_size", 32).make_data()
    assert scaling.longer_side_of(tmp_path / "out/data") == 31  # 156 / 160 of 32


def archived(folder: Path, *given: object) -> str:
    command = [sys.executable, "-m", "tools.scale_devkit", *map(str, given)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout


def test_an_archive_is_the_scaled_folder_in_the_same_bytes_every_time(toy, tmp_path):
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    said = archived(tmp_path, "--data_dir", toy, "--longer_side", 32, "--archive", first)
    assert re.search(r"images of at most 32 pixels, \d\.\d MiB at JPEG quality 95$", said.strip())
    archived(tmp_path, "--data_dir", toy, "--longer_side", 32, "--archive", second)
    assert first.read_bytes() == second.read_bytes()
    folder, unpacked = tmp_path / "folder", tmp_path / "unpacked"
    scaling.scale_devkit(toy, folder, 32)
    unpacked.mkdir()
    subprocess.run(["tar", "xf", first, "-C", unpacked], check=True)
    files = [sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file()) for one in (folder, unpacked)]
    assert files[0] == files[1]
    for file in files[0]:
        assert file.name == "scaled.json" or (folder / file).read_bytes() == (unpacked / file).read_bytes()
    assert json.loads((unpacked / "scaled.json").read_text()) == {"data_dir": "toy", "longer_side": 32, "quality": 95}
    assert scaling.longer_side_of(unpacked) == 32 and scaling.longer_side_of(toy) == 0
    assert read_split(unpacked, "Main/train") == read_split(toy, "Main/train")


def photographs(folder: Path, count: int = 20) -> Path:
    """Noisy images, whose size depends on the quality."""
    rng = np.random.default_rng(0)
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        pixels = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).resize((200, 160))
        pixels.save(folder / f"JPEGImages/{number}.jpg", quality=95)
    (folder / "ImageSets/Main/train.txt").write_text("".join(f"{number}\n" for number in range(count)))
    return folder


def content_of(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as members:
        return members.extractfile(name).read()


def test_the_quality_of_an_archive_is_the_best_that_fits(tmp_path, monkeypatch):
    source, archive = photographs(tmp_path / "photos"), tmp_path / "a.tar"
    sizes = {quality: len(scaling._packed(source, 160, quality)) for quality in (95, 65, 35)}
    assert sizes[95] > sizes[65] > sizes[35]
    monkeypatch.setattr(scaling, "MOST_BYTES", sizes[65] + 512)
    said = scaling.write_archive(source, archive, 160)
    used = json.loads(content_of(archive, "scaled.json"))["quality"]
    assert said.endswith(f"quality {used}") and archive.stat().st_size <= scaling.MOST_BYTES
    assert used >= 65 and len(scaling._packed(source, 160, used + 5)) > scaling.MOST_BYTES
    monkeypatch.setattr(scaling, "MOST_BYTES", sizes[35] * 3 // 4)
    kept = archive.read_bytes()
    refusal = r"MiB at JPEG quality 35, over 0: --longer_side \d+ or fewer images fit$"
    with pytest.raises(UserError, match=refusal) as error:
        scaling.write_archive(source, archive, 160)
    assert archive.read_bytes() == kept
    side = int(re.search(r"longer_side (\d+)", str(error.value))[1])
    scaling.write_archive(source, archive, side)
    assert max(Image.open(io.BytesIO(content_of(archive, "JPEGImages/0.jpg"))).size) == side


def test_a_folder_and_an_archive_are_not_made_at_once(toy, tmp_path):
    given = ("-m", "tools.scale_devkit", "--data_dir", toy, "--longer_side", 32)
    for more in ((), ("--out", tmp_path / "x", "--archive", tmp_path / "x.tar")):
        assert "--archive" in refused(tmp_path, *given, *more)
