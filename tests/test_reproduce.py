"""reproduce_tables.py as a user runs it: planned, interrupted, finished, refused; and the tables that it writes."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import reproduce_tables
from reproduce_tables import COMPARISONS, Study, seconds_per_image
from tests.helpers.command_line import ROOT, refused, run
from tools.data.annotations import read_annotation
from tools.data.devkit import read_class_names
from tools.metrics.multilabel import binary_labels
from tools.metrics.scores import read_scores
from tools.pictures.charts import MOST_LINES, bar_chart, line_charts
from tools.reproduction import study
from tools.reproduction.presets import PRESETS
from tools.reproduction.series import Experiment
from tools.reproduction.study import CompletedRuns, TableSection, _read_result
from tools.reproduction.tables import Column, Number, Table
from tools.scale_devkit import require_scaled_from, scale_devkit
from tools.system.errors import UserError
from tools.system.files import write_json

SCRIPT = "reproduce_tables.py"
QUICK = ("--select_split", 0.2, "--max_epoch", 2, "--image_size", 32, "--min_image_size", 32, "--max_image_size", 48)


# The plan ------------------------------------------------------------------------------------------------------------


def planned(*given: object) -> Study:
    return Study([*map(str, given)])


def test_every_row_that_the_paper_compares_is_there():
    tables = {one.name: [row.name for row in one.rows] for one in COMPARISONS}
    assert tables["strategies"] == ["plain", "instances", "centre", "Max", "cMax", "cTopk", "cTopk-w"]
    beyond = [f"{name}, scale-free" for name in ("cMax", "cTopk", "cTopk-w")]
    assert tables["counterparts"] == ["plain", "max_pool", "asl", "csra", "ml_decoder", *beyond]
    assert {"cMax", "cMax, no EMA", "centre", "centre, no EMA"} <= set(tables["ema"])
    assert tables["topk"] == [f"{name}, k = {k}" for name in ("cTopk", "cTopk-w") for k in (1, 3, 5, 10)]
    assert len(tables["radius"]) == 2
    changed = [f"{name}, alpha_re {value}" for name in ("cMax", "cMax, scale-free") for value in (0.03, 0.3)]
    assert {"instances", "cMax", "cMax, scale-free", "cMax, alpha_schedule_re 1", *changed} <= set(tables["weight"])
    for one in COMPARISONS:
        assert len({row.name for row in one.rows}) == len(one.rows)


def test_a_row_follows_from_what_its_script_declares():
    rows = {row.tag: row for one in COMPARISONS for row in one.rows}
    own = {tag: rows[tag].keypoints for tag in ("plain", "instances", "max", "cMax_ema", "cTopk_w_ema", "centre_ema")}
    expected = {"plain": "cMax", "instances": "cMax", "max": "Max", "cMax_ema": "cMax", "cTopk_w_ema": "cTopk-w"}
    assert own == {**expected, "centre_ema": "centre"}
    assert [rows[tag].passes for tag in ("plain", "instances", "max", "centre")] == [1, 1, 2, 2]
    assert {rows[tag].passes for tag in ("cMax_ema", "cTopk_ema", "cTopk_w_ema", "centre_ema")} == {1.5}
    assert rows["scale_free_strategycTopk"].keypoints == "scale_free" and rows["scale_free_strategycTopk"].passes == 1.5
    assert rows["plain"].program == ["-m", "baselines.plain"]
    assert rows["max"].program == [str(ROOT / "train_classification_with_puzzle_max.py")]


def test_tables_share_runs_and_no_two_runs_share_a_tag():
    runs = planned("--preset", "toy", "--seeds", 0, 1).runs
    tags = [run.tag for run in runs.values()]
    assert len(tags) == len(set(tags)) == 2 * 25  # 33 rows, of which 8 are in several tables
    commands = [" ".join(run.training_command()).replace(run.tag, "") for run in runs.values()]
    assert len(set(commands)) == len(commands)
    ks = {run.arguments.get("topk", 5) for run in runs.values() if "cTopk_w" in run.tag}
    assert ks == {1, 3, 5, 10}
    assert {run.arguments.get("alpha_ema", 0.99) for run in runs.values()} == {0, 0.99}
    assert any(run.arguments.get("topk_radius") == 0 for run in runs.values())


def test_only_some_rows_are_run_and_shown(tmp_path, capsys):
    given = ("--preset", "toy", "--seeds", 0, 1, "--tables", "strategies,counterparts", "--out", tmp_path)
    study = planned(*given, "--only", "cMax_ema,csra")
    assert {tag for tag, _ in study.runs} == {"cMax_ema", "csra"} and len(study.runs) == 4
    study.write_tables()
    said = capsys.readouterr().out
    assert "tables of 0 of 2 rows, 0 of 2 seeds" in said and "no table: each needs two of its rows finished" in said


def test_the_paper_preset_is_the_readme_command(tmp_path):
    runs = planned("--preset", "paper", "--data_dir", tmp_path, "--tables", "strategies").runs
    assert len(runs) == 7 * 3
    run = runs["max", 0]
    assert run.arguments["architecture"] == "resnet50" and run.arguments["max_epoch"] == 15
    assert (run.arguments["alpha_schedule_re"], run.arguments["alpha_re"], run.arguments["alpha_p"]) == (0.05, 3.0, 0.5)
    defaults = (run.arguments[name] for name in ("lr", "batch_size", "momentum", "image_size"))
    assert tuple(defaults) == (0.1, 32, 1e-4, 512)


def test_arguments_after_two_dashes_reach_every_run():
    study = planned("--preset", "toy", "--", "--amp", "bf16", "--lr", "0.01")
    assert all(run.arguments["amp"] == "bf16" and run.arguments["lr"] == "0.01" for run in study.runs.values())
    assert study.settings["momentum"] == 0.9


def test_an_argument_of_teachers_reaches_the_rows_that_have_one():
    study = planned("--preset", "toy", "--tables", "strategies", "--", "--alpha_ema", "0.9")
    with_it = {tag for tag, _ in study.runs if "alpha_ema" in study.runs[tag, 0].arguments}
    assert with_it == {"centre_ema", "cMax_ema", "cTopk_ema", "cTopk_w_ema"}
    assert study.check_settings().alpha_ema == 0.9


@pytest.mark.parametrize(
    "given, said",
    [
        (["--preset", "paper"], "--preset paper needs --data_dir"),
        (["--preset", "toy", "--tables", "speed"], "--tables speed: choose from strategies, counterparts, ema"),
        (["--preset", "toy", "--seeds", -1], "--seeds -1: must be 0 or more"),
        (["--preset", "toy", "--sedes", 1], "did you mean --seeds?"),
        (["--preset", "toy", "--tables", "radius", "--only", "max"], "--only max: choose from cTopk_ema, cTopk_ema_"),
        (["--preset", "toy", "--", "--amp"], "names and values have to alternate"),
        (["--preset", "toy", "--", "--seed", 3], "--seed cannot be passed through: use --seeds"),
        (["--preset", "toy", "--weights", "nothing.pth"], "--weights nothing.pth: no such file"),
        (["--preset", "toy", "--rows", "nothing.py"], "--rows nothing.py: no file"),
        (["--preset", "toy", "--rows", ROOT / "tools/system/errors.py"], "does not declare STRATEGY"),
        (["--preset", "toy", "--rows", ROOT / "baselines/plain.py"], "this script has a row already"),
        (["--preset", "toy", "--rows", "own.py", "--tables", "ema"], "--rows adds rows to the table strategies"),
    ],
)
def test_every_mistake_is_one_line(given, said):
    with pytest.raises(UserError) as error:
        planned(*given)
    assert said in str(error.value)


# A strategy without a puzzle, whose keypoints are its own.
OWN_STRATEGY = """
from core.keypoints import centre_keypoints
from core.losses import class_loss
from core.strategy import Crops, Step, Strategy
from core.training import train

def training_step(student, teacher, images, labels, crops, options):
    logits, _ = student(images)
    return Step(class_loss(logits, labels))

def keypoints(cams, image_size, options):
    return centre_keypoints(len(cams), image_size, cams.device)

STRATEGY = Strategy("mine", training_step, teacher=False, keypoints=keypoints)

if __name__ == "__main__":
    train(STRATEGY, __doc__)
"""


def test_a_strategy_of_ones_own_is_a_further_row(tmp_path):
    file = tmp_path / "my_strategy.py"
    file.write_text(OWN_STRATEGY)
    study = planned("--preset", "toy", "--tables", "strategies,radius", "--rows", file)
    assert [len(one.rows) for one in study.comparisons] == [8, 2]
    row = study.comparisons[0].rows[-1]
    assert (row.name, row.tag, row.keypoints) == ("mine", "my_strategy", "mine")
    run = study.runs["my_strategy", 0]
    assert run.training_command()[:2] == ["python3", str(file)]
    assert " ".join(run.evaluation_command()).endswith(f"--strategy {file}")
    assert "--strategy" not in study.runs["max", 0].evaluation_command()


@pytest.mark.parametrize(
    "name, strategy, said",
    [("mine.py", "cTopk-w", "a strategy 'cTopk-w' is a row already"), ("max.py", "mine", "runs named max belong to")],
)
def test_a_strategy_of_ones_own_needs_names_of_its_own(tmp_path, name, strategy, said):
    (tmp_path / name).write_text(OWN_STRATEGY.replace('"mine"', f'"{strategy}"'))
    with pytest.raises(UserError, match=said):
        planned("--preset", "toy", "--rows", tmp_path / name)


def test_a_row_of_ones_own_has_values_and_is_refused_once_its_script_has_changed(tmp_path):
    file, argument = tmp_path / "mass.py", 'arguments={"mass": Argument(0.5, "a share")}, keypoints=keypoints'
    text = OWN_STRATEGY.replace("import Crops", "import Argument, Crops").replace("keypoints=keypoints", argument)
    file.write_text(text)
    words = ["--preset", "toy", "--tables", "strategies", "--out", tmp_path, "--rows", f"{file},{file} --mass 0.7"]
    made = planned(*words)
    assert [row.name for row in made.own_rows] == ["mine", "mine, mass 0.7"]
    runs = [made.runs[tag, 0] for tag in ("mass", "mass_mass0.7")]
    assert [run.arguments["mass"] for run in runs] == [0.5, "0.7"]
    made.check_settings()
    with pytest.raises(UserError, match=r'mine alone has it: give it in --rows "mass.py --mass 3"'):
        planned(*words, "--", "--mass", 3).check_settings()
    with pytest.raises(UserError, match="names and values have to alternate"):
        planned(*words[:-1], f"{file} --mass")
    with pytest.raises(UserError, match="--mass: invalid float value: 'x'"):
        planned(*words[:-1], f"{file} --mass x").check_settings()
    run = replace(runs[0], program=["-c", "pass"])
    run.run()
    write_json(run.files.config(run.tag), run.arguments)
    assert run.state() == "begun" and "training_seconds" in run.usage()
    file.write_text(text.replace("0.5", "0.6"))
    with pytest.raises(UserError, match="mass: saved 0.5, now 0.6.*choose another --out"):
        planned(*words).check_settings()
    file.write_text(text + "# changed")
    with pytest.raises(UserError, match=r"^mass.py has changed since the run mass_seed0 began.*choose another --out"):
        planned(*words).check_settings()


def test_a_dry_run_lists_every_run_and_starts_none(tmp_path):
    result = run(tmp_path, SCRIPT, "--preset", "toy", "--dry_run")
    assert result.returncode == 0, result.stderr
    head, *rows, last = result.stdout.splitlines()
    assert head.split() == ["row", "state", "minutes"] and "25 runs, about" in last
    assert len(rows) == 25 and all(re.fullmatch(r"[\w-]+_seed0 +new +\d+\.\d", row) for row in rows)
    assert not any(tmp_path.iterdir())


def test_a_dry_run_prints_commands_on_demand(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce_tables, "seconds_per_image", lambda config: 0.01)
    given = [SCRIPT, "--preset", "toy", "--tables", "topk", "--out", str(tmp_path / "study"), "--commands"]
    monkeypatch.setattr(sys, "argv", given)
    reproduce_tables.main()
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"cd {tmp_path}")]
    assert len(commands) == 2 * 8 and sum("--topk 10" in line for line in commands) == 2
    assert not any(tmp_path.iterdir())


def test_the_estimate_needs_a_known_architecture():
    quick = ("--image_size", 32, "--batch_size", 2, "--class_file", ROOT / "data/VOC_2012.json")
    assert seconds_per_image(planned("--preset", "toy", "--", *quick).check_settings()) > 0
    with pytest.raises(UserError, match="resnet1"):
        planned("--preset", "toy", "--", *quick, "--architecture", "resnet1").estimates()


def finish(experiment: Experiment, seconds: float) -> None:
    """Make the files of a finished run that took so long."""
    files = experiment.files
    last = files.model(experiment.tag, "last_")
    for path, content in {
        files.config(experiment.tag): experiment.arguments,
        last: {},
        experiment.evaluated(".json"): {},
        files.usage(experiment.tag): {"training_seconds": seconds - 5, "evaluation_seconds": 5, "training_gib": 1000},
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def test_finished_runs_replace_the_estimates(tmp_path, monkeypatch):
    study = planned("--preset", "toy", "--tables", "strategies", "--seeds", 0, 1, "--out", tmp_path)
    monkeypatch.setattr(reproduce_tables, "seconds_per_image", lambda config: 0.01)
    # 5 epochs of 300 images, after each of which 100 are validated, and the evaluation: a third of a pass per image.
    validations = 6 * 100 / 3
    passes = {"plain": 1500 + validations, "cMax_ema": 1.5 * 1500 + validations, "max": 2 * 1500 + validations}
    estimated = study.estimates()
    slope = (estimated["max"] - estimated["plain"]) / (passes["max"] - passes["plain"])
    assert slope == pytest.approx(0.01)
    monkeypatch.setattr(reproduce_tables, "seconds_per_image", None)  # is not measured again
    finish(study.runs["plain", 0], 1000)
    finish(study.runs["plain", 1], 1200)
    estimated = study.estimates()
    assert estimated["plain"] == 1200
    for tag in ("cMax_ema", "max"):
        assert estimated[tag] == pytest.approx(1200 / passes["plain"] * passes[tag])
    finish(study.runs["max", 0], 4000)
    rates = [1200 / passes["plain"], 4000 / passes["max"]]
    estimated = study.estimates()
    assert estimated["max"] == 4000
    assert estimated["cMax_ema"] == pytest.approx(np.mean(rates) * passes["cMax_ema"])


def test_a_dry_run_subtracts_what_a_run_has_done(tmp_path, monkeypatch, capsys):
    study = planned("--preset", "toy", "--tables", "radius", "--out", tmp_path)
    finish(study.runs["cTopk_ema", 0], 600)
    second = study.runs["cTopk_ema_topk_radius0", 0]
    finish(second, 240)
    second.evaluated(".json").unlink()
    study.list_runs()
    _, first, other, last = capsys.readouterr().out.splitlines()
    assert first.split()[1:] == ["finished", "10.0"] and other.split()[1:] == ["trained", "10.0"]
    assert "about 6 min left" in last


# A whole series ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A folder with two runs, the second interrupted by SIGTERM and then resumed; what both calls printed."""
    folder = tmp_path_factory.mktemp("series")
    command = ["--preset", "toy", "--tables", "radius", "--out", "study", "--", *QUICK]
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / SCRIPT), *map(str, command)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    second = folder / "study/experiments/states/cTopk_ema_topk_radius0_seed0.pth"
    deadline = time.monotonic() + 900  # only a guard: it takes a minute, and ten on a busy machine
    while not second.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    in_second = second.exists()
    process.send_signal(signal.SIGTERM)
    interrupted, _ = process.communicate(timeout=120)
    assert in_second, interrupted
    assert process.returncode == 128 + signal.SIGTERM, interrupted
    first = folder / "study/experiments/models/last_cTopk_ema_seed0.pth"
    trained_at = first.stat().st_mtime_ns
    again = run(folder, SCRIPT, *command)
    assert again.returncode == 0, again.stderr
    assert first.stat().st_mtime_ns == trained_at, "a finished run was repeated"
    return folder / "study", interrupted, again.stdout


def test_an_interrupted_series_continues_where_it_stopped(series):
    folder, interrupted, again = series
    assert "saved at iteration" in interrupted
    assert "cTopk_ema_seed0 is finished" in again
    log = (folder / "experiments/logs/cTopk_ema_topk_radius0_seed0.txt").read_text()
    assert "[i] resumed at" in log and not list((folder / "experiments").glob("earlier"))


def read_csv(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a table by name and column."""
    return {row["method"]: row for row in csv.DictReader(path.open())}


def test_the_tables_say_what_the_evaluations_found(series):
    folder = series[0]
    runs = {"cTopk, radius 128": "cTopk_ema_seed0", "cTopk, no radius": "cTopk_ema_topk_radius0_seed0"}
    results = {
        name: json.loads((folder / f"experiments/evaluation/best_{tag}_Main_val.json").read_text())
        for name, tag in runs.items()
    }
    means = read_csv(folder / "tables/radius.csv")
    per_class = read_csv(folder / "tables/radius_per_class.csv")
    for name, result in results.items():
        assert float(means[name]["mAP"]) == pytest.approx(result["mAP"], abs=1e-4)
        for class_name, value in result["average_precision"].items():
            assert float(per_class[name][class_name]) == pytest.approx(value, abs=1e-4)
        history = json.loads((folder / f"experiments/data/{runs[name]}.json").read_text())["validation"]
        chosen = max(history, key=lambda row: row["select_map"])
        optimism = max(row["map"] for row in history) - chosen["map"]
        assert float(means[name]["optimism"]) == pytest.approx(optimism, abs=1e-4)
        assert float(means[name]["best epoch"]) == chosen["epoch"]
        assert result["mAP"] == pytest.approx(chosen["map"], abs=1e-3)
    difference = results["cTopk, no radius"]["mAP"] - results["cTopk, radius 128"]["mAP"]
    assert float(means["cTopk, no radius"]["difference"]) == pytest.approx(difference, abs=1e-3)
    localization = read_csv(folder / "tables/radius_localization.csv")
    own = results["cTopk, no radius"]["localization"]["over_pairs"]["cTopk"]
    assert float(localization["cTopk, no radius"]["own keypoint in a box"]) == pytest.approx(own, abs=1e-4)
    boxes = {tag: result["localization"]["maps"]["CAM"]["MaxBoxAccV2"] for tag, result in results.items()}
    assert {name: float(row["MaxBoxAccV2"]) for name, row in localization.items() if name in boxes} == pytest.approx(
        boxes, abs=1e-4
    )
    page = (folder / "tables/tables.md").read_text()
    for file in ("radius_bars.png", "radius_curves.png"):
        assert file in page and min(Image.open(folder / "tables" / file).size) > 100
    assert len(list((folder / "tables").glob("*.tex"))) == 4


def test_all_pairs_of_a_table_are_compared(series):
    folder = series[0]
    files = [folder / f"experiments/evaluation/best_cTopk_ema{row}_seed0_Main_val.npz" for row in ("", "_topk_radius0")]
    result = run(folder.parent, "-m", "tools.compare", *files, "--out", "pairs")
    assert result.returncode == 0, result.stderr
    expected = json.loads((folder.parent / "pairs.json").read_text())["pairs"]
    found = json.loads((folder / "tables/radius_comparison.json").read_text())["pairs"]
    assert [*found.values()] == [*expected.values()] and len(found) == 1
    assert {"cTopk, radius 128", "cTopk, no radius"} == set(*(name.split(" − ") for name in found))
    assert "needed for 80%" in (folder / "tables/radius_comparison.txt").read_text()
    assert min(Image.open(folder / "tables/radius_comparison.png").size) > 100


def test_csv_holds_nothing_but_numbers(series):
    paths = list((series[0] / "tables").glob("*.csv"))
    assert len(paths) == 4
    for path in paths:
        assert path.read_text().isascii()
        for row in read_csv(path).values():
            values = [value for name, value in row.items() if name != "method"]
            assert all(value == "" or np.isfinite(float(value)) for value in values)
    means = read_csv(series[0] / "tables/radius.csv")
    base, other = means.values()
    assert [base[name] for name in ("difference", "difference low", "difference high", "p", "p (Holm)")] == [""] * 5
    assert float(other["difference low"]) <= float(other["difference"]) <= float(other["difference high"])


def test_latex_of_a_study_is_whole(series):
    for path in (series[0] / "tables").glob("*.tex"):
        check_latex(path.read_text(), path.stem)
    per_class = (series[0] / "tables/radius_per_class.tex").read_text()
    rows = [line for line in per_class.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"\b\d+\.\d\b", row)) for row in rows] == [0, 21, 21]
    assert per_class.count(r"\rotatebox") == 21


def test_captions_say_seeds_images_split_and_test(series):
    for path in (series[0] / "tables").glob("*.tex"):
        caption = re.search(r"\\caption{(.*)}\\label", path.read_text())[1]
        assert "one seed, evaluated on 100 images of Main/val" in caption, path
        assert ("paired bootstrap over images" in caption) == (path.stem == "radius")
        assert ("bold" in caption) == (path.stem != "radius_cost")


def test_the_console_shows_the_table_at_the_end(series):
    means = read_csv(series[0] / "tables/radius.csv")
    *_, head, first, second = series[2].splitlines()
    assert head.startswith("method ") and " mAP " in head and " p (Holm)" in head
    for line, (name, row) in zip((first, second), means.items(), strict=True):
        assert line.startswith(f"{name} ") and f" {float(row['mAP']):.2f}" in line


def test_tables_are_made_again_without_data_weights_and_models(series, tmp_path):
    source, kept = series[0], tmp_path / "study"
    for part in ("data", "usage", "evaluation"):
        shutil.copytree(source / "experiments" / part, kept / "experiments" / part)
    command = ["--preset", "toy", "--tables", "radius", "--only", "cTopk_ema,cTopk_ema_topk_radius0", "--out", kept]
    made = run(tmp_path, SCRIPT, *command, "--time_limit", 0, "--", *QUICK)
    assert made.returncode == 0, made.stderr
    for path in (source / "tables").glob("*.csv"):
        assert (kept / "tables" / path.name).read_bytes() == path.read_bytes()
    named = [*command, "--weights", "elsewhere/lite0.pth"]
    assert "--weights elsewhere/lite0.pth: no such file" in refused(tmp_path, SCRIPT, *named, "--", *QUICK)
    said = refused(tmp_path, SCRIPT, *named, "--time_limit", 0, "--", *QUICK)
    assert "weights: saved none, now " in said


def test_other_settings_are_refused_in_the_same_folder(series):
    folder = series[0]
    command = ("--preset", "toy", "--tables", "radius", "--out", "study", "--", *QUICK[:-1], 64)
    said = refused(folder.parent, SCRIPT, *command)
    assert "belongs to a run with other settings (max_image_size: saved 48, now 64): choose another --out" in said


def test_a_run_that_fails_ends_the_series_with_its_reason(tmp_path):
    result = run(tmp_path, SCRIPT, "--preset", "toy", "--tables", "radius", "--", "--batch_size", 1000)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    reason, ours = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "1000" in reason
    assert "the training of cTopk_ema_seed0 ended with status 2" in ours


@pytest.mark.parametrize("dry", [[], ["--dry_run"]])
@pytest.mark.parametrize(
    "given, said",
    [
        (["--image_size", "33"], "--image_size 33 is not divisible by 32"),
        (["--max_epoch", "many"], "argument --max_epoch: invalid int value: 'many'"),
        (["--maxepoch", "3"], "did you mean --max_epoch?"),
        (["--class_file", "none.json"], "--class_file none.json: no such file"),
    ],
)
def test_what_the_scripts_would_refuse_is_said_before_anything_is_made(tmp_path, monkeypatch, dry, given, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [SCRIPT, "--preset", "toy", *dry, "--", *given])
    with pytest.raises(UserError) as error:
        reproduce_tables.main()
    assert said in str(error.value) and not any(tmp_path.iterdir())


def test_time_and_memory_of_a_run_are_added_up(series):
    usage = json.loads((series[0] / "experiments/usage/cTopk_ema_topk_radius0_seed0.json").read_text())
    assert set(usage) == {"training_seconds", "training_gib", "evaluation_seconds", "evaluation_gib"}
    assert 0.1 < usage["training_gib"] < 20 and usage["training_seconds"] > 1


def an_experiment(folder: Path) -> Experiment:
    return Experiment("x.1", ["-m", "baselines.plain"], {"lr": 0.1}, {"split": "Main/val"}, folder)


def test_an_experiment_without_a_file_is_new(tmp_path):
    experiment = an_experiment(tmp_path)
    assert experiment.state() == "new" and experiment.usage() == {}
    assert experiment.evaluated(".json") == tmp_path / "experiments/evaluation/best_x.1_Main_val.json"
    assert experiment.training_command() == ["python3", "-m", "baselines.plain", "--lr", "0.1", "--resume"]
    assert experiment.in_shell(["python3"]).startswith(f"cd {tmp_path} && PYTHONPATH={ROOT}")


def test_the_state_of_an_experiment_follows_from_its_files(tmp_path):
    experiment = an_experiment(tmp_path)
    states = []
    for name in ("data/x.1.config.json", "models/last_x.1.pth", "evaluation/best_x.1_Main_val.json"):
        file = tmp_path / "experiments" / name
        file.parent.mkdir(parents=True)
        file.write_text('{"lr": "0.10"}')
        states.append(experiment.state())
    assert states == ["begun", "trained", "finished"]


def test_a_run_that_was_removed_and_trained_again_is_evaluated_again(tmp_path, monkeypatch):
    """tools.list_runs --remove leaves the results of an evaluation."""
    experiment, parts = an_experiment(tmp_path), []
    experiment.evaluated(".json").parent.mkdir(parents=True)
    experiment.evaluated(".json").write_text("{}")
    write_json(experiment.files.usage("x.1"), {"evaluation_seconds": 3})

    def call(self: Experiment, command: list[str], part: str) -> None:
        parts.append(part)
        for path in (experiment.files.config("x.1"), experiment.files.model("x.1", "last_")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('{"lr": 0.1}')

    monkeypatch.setattr(Experiment, "_call", call)
    experiment.run()
    assert parts == ["training", "evaluation"] and experiment.usage() == {}


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("data/x.1.config.json", "[]", "does not hold a JSON object"),
        ("data/x.1.config.json", '{"lr": 1%s}' % ("0" * 400), "belongs to a run with other settings"),
        ("usage/x.1.json", "[1]", "does not hold a JSON object"),
        ("usage/x.1.json", '{"training_seconds": "x"}', "not a number"),
        ("usage/x.1.json", '{"training_seconds": 1%s}' % ("0" * 400), "not a number"),
        ("evaluation/best_x.1_Main_val.json", "3", "does not hold a JSON object"),
        ("evaluation/best_x.1_Main_val.json", "{}", "lacks the localization"),
        ("evaluation/best_x.1_Main_val.json", '{"localization": []}', "not what an evaluation writes"),
        ("evaluation/best_x.1_Main_val.json", '{"localization": {"over_pairs": {}}, "means": {}}', "not what an eval"),
    ],
)
def test_a_file_of_odd_content_is_named(tmp_path, name, content, said):
    experiment = an_experiment(tmp_path)
    file = tmp_path / "experiments" / name
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(UserError, match=f"{file.name} .*{said}"):
        experiment.state()
        experiment.usage()
        _read_result(experiment.evaluated(".json"))


PEAKS = """
from pathlib import Path
from tools.reproduction.series import Experiment

for mebibytes in (900, 1):
    Path(f"{mebibytes}.py").write_text(f"block = b'1' * ({mebibytes} * 2**20)")
    run = Experiment(str(mebibytes), [f"{mebibytes}.py"], {}, {"split": "val"}, Path())
    run.run()  # it leaves no model, so nothing is evaluated
    print("peak", run.usage()["training_gib"])
"""


def test_each_run_has_its_own_peak_memory(tmp_path):
    # In a process of its own: a process counts as at least as large as the one that starts it.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PEAKS]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    large, small = (float(line.split()[1]) for line in result.stdout.splitlines() if line.startswith("peak"))
    assert large > 0.88 > small


def test_results_with_the_earlier_spelling_of_localization_are_read(series):
    experiment = Experiment("cTopk_ema_seed0", [], {}, {"split": "Main/val"}, series[0])
    path = experiment.evaluated(".json")
    written = path.read_text()
    keys = ("localization", "over_pairs", "energy")
    before = CompletedRuns.read("cTopk", "cTopk", [experiment]).mean(*keys)
    path.write_text(written.replace('"localization"', '"localisation"'))
    try:
        assert CompletedRuns.read("cTopk", "cTopk", [experiment]).mean(*keys) == before
    finally:
        path.write_text(written)


# Tables --------------------------------------------------------------------------------------------------------------


def check_latex(text: str, name: str) -> None:
    """Check what makes LaTeX fail or print something else than meant; compile the text if LaTeX is installed."""
    (comment, *lines), depth = text.splitlines(), 0
    assert comment.startswith("% ") and text.count(rf"\label{{tab:{name}}}") == 1
    body = "\n".join(lines).replace(rf"\label{{tab:{name}}}", "")
    assert body.isascii()
    plain = re.sub(r"\\[%&_#${}\\]|\\[a-z]+", "", body)  # without escapes and commands
    assert not re.search(r"[%#~\\]", plain) and plain.count("$") % 2 == 0
    assert not re.search(r"[_^<>|]", re.sub(r"\$.*?\$", "", plain))
    for brace in re.findall("[{}]", plain):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    opened = re.findall(r"\\begin{(.*?)}", body)
    assert opened == ["table*", "adjustbox", "tabular"] == re.findall(r"\\end{(.*?)}", body)[::-1]
    columns = re.search(r"\\begin{tabular}{(lr*)}", body)[1]
    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) >= 2
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 and row[0] not in "[*"
    if shutil.which("pdflatex"):
        compile_latex(text)


def compile_latex(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        packages = r"\documentclass[twocolumn]{article}\usepackage{booktabs,adjustbox}"
        Path(folder, "page.tex").write_text(f"{packages}\\begin{{document}}\n{text}\\end{{document}}\n")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stdout[-2000:]


def texts(*numbers: Number, **more: object) -> list[str]:
    column = Column("", numbers, **more)
    return [column.text(number) for number in numbers]


def test_a_number_is_a_mean_with_its_deviation_or_its_interval():
    assert texts(Number.of([50.0, 52.0, 54.0])) == ["52.00 ± 2.00"]
    assert texts(Number.of([50.0, 52.0, 54.0]), form=".1f", spread=False) == ["52.0"]
    assert Number.of([1.0, 2.0]).std == pytest.approx(np.std([1, 2], ddof=1))
    assert texts(Number(-0.5), Number(0.5), form="+.2f") == ["−0.50", "+0.50"]
    assert texts(Number(-1.0, low=-2.5, high=0.5), form="+.1f") == ["−1.0 (−2.5 … +0.5)"]
    assert texts(Number.of([float("nan")]), Number()) == ["–", "–"]


@pytest.mark.parametrize(
    "best, values, rows",
    [
        (max, [1.0, 3.0, 2.0], {1}),
        (min, [1.0, 3.0, 2.0], {0}),
        (None, [1.0, 3.0, 2.0], set()),
        (max, [3.001, 3.0, 2.0], {0, 1}),  # a reader sees a tie
        (max, [float("nan"), 1.0, 2.0], {2}),
        (min, [0.0, 0.001, 0.002], set()),  # the same for all
        (max, [float("nan")] * 3, set()),
        (max, [1.0, 9.0, 2.0], {2}),  # 9.0 is the reference's value
    ],
)
def test_the_best_values_are_those_that_print_the_same(best, values, rows):
    column = Column("", [*map(Number, values), Number(9.0)], best)
    assert column.best_rows(references=1) == rows


def completed_runs(name: str, runs: int, images: int = 6) -> CompletedRuns:
    """A row as it is read from files, of a class that every second image shows."""
    rng = np.random.default_rng(len(name))
    history = {
        "train": [{"iteration": 5, "epoch": 0.5, "class_loss": 0.5}],
        "validation": [{"iteration": 10, "epoch": 1, "map": 50.0}],
    }
    shares = {f"{point}{end}": 10.0 for point in ("cMax", "centre", "uniform") for end in ("", " within 15")}
    result = {
        "split": "val",
        "means": {"mAP": 50.0, "mAP_VOC2010": 51.0},
        "chance": 7.0,
        "average_precision": {"cat": 50.0},
        "localization": {"tolerance": 15, "strength": 1.0, "over_pairs": {**shares, "energy": 1.0, "empty": None}},
    }
    presence = np.array([[1], [-1]] * (images // 2), np.int8)
    scores = rng.random((runs, images, 1), np.float32)
    return CompletedRuns(
        name, "cMax", [result] * runs, ["cat"], scores, presence, [history] * runs, [{"training_seconds": 60}] * runs
    )


@pytest.mark.parametrize(
    "runs, rows, charts",
    [(1, 2, ["bars", "curves"]), (3, MOST_LINES, ["bars", "curves"]), (10, 9, ["bars", "curves", "curves_2"])],
)
def test_every_row_has_a_bar_and_a_curve_of_its_runs(runs, rows, charts, monkeypatch):
    section, drawn = TableSection("a", "A", [completed_runs(f"row {row}", runs) for row in range(rows)]), []
    monkeypatch.setattr(study, "bar_chart", lambda *words: drawn.append(words) or bar_chart(*words))
    section.rows[1].histories[0]["train"][0]["area_loss"] = 0.5  # of a strategy of one's own
    curves = []
    monkeypatch.setattr(study, "line_charts", lambda *words: curves.append(words[2]) or line_charts(*words))
    assert list(section.charts()) == charts
    ((_, labels, names, values, chance),) = drawn
    assert labels == ["mAP" if runs == 1 else f"mean of {runs} runs"] * runs
    assert names == [f"row {row}" for row in range(rows)]
    assert values == [[50.0] * runs] * rows and chance == [7.0] * rows
    assert "area_loss" in curves[0]


def test_the_optimism_is_that_of_runs_with_a_selection():
    row = completed_runs("row", 2)
    assert texts(*row.epochs()) == ["50.00 ± 0.00", "1.00 ± 0.00", "–"]

    def history(maps: list[float], selected: list[float]) -> dict:
        pairs = enumerate(zip(maps, selected, strict=True), 1)
        rows = [{"iteration": epoch, "epoch": epoch, "map": one, "select_map": two} for epoch, (one, two) in pairs]
        return {"train": [], "validation": rows}

    histories = [history([40.0, 52.0, 50.0], [30.0, 31.0, 35.0]), history([float("nan"), 44.0, 41.0], [1.0, 9.0, 8.0])]
    assert texts(*replace(row, histories=histories).epochs()) == ["45.50 ± 6.36", "2.50 ± 0.71", "1.00 ± 1.41"]


def test_better_rows_are_bold_and_differing_ones_marked():
    plain, same = completed_runs("plain", 3, 100), completed_runs("same_", 3, 100)
    scores = plain.scores + 0.5 * plain.labels
    better = {**plain.results[0], "means": {"mAP": 60.0, "mAP_VOC2010": 50.0}, "average_precision": {"cat": 60.0}}
    rows = [plain, replace(same, name="same"), replace(plain, name="better", scores=scores, results=[better] * 3)]
    tables = TableSection("a", "A", rows).tables()
    means = {cells[0]: cells[1:3] for cells in tables[""].cells(bold="*{}*")}
    assert means["plain"] == ["50.00 ± 0.00", "*51.00 ± 0.00*"] and means["same"] == means["plain"]
    assert means["better"] == ["*60.00 ± 0.00*†", "50.00 ± 0.00"]
    p_values = {row["method"]: row["p (Holm)"] for row in csv.DictReader(tables[""].csv().splitlines())}
    assert p_values["plain"] == "" and float(p_values["same"]) > 0.05 > float(p_values["better"])
    caption = tables[""].caption
    assert "mean ± standard deviation of 3 seeds, evaluated on 100 images of val" in caption
    assert "from plain" in caption and "over images and seeds" in caption and "†: p (Holm) < 0.05" in caption
    assert tables["_per_class"].cells(bold="*{}*") == [
        ["method", "cat", "mean"],
        ["plain", "50.0", "50.0"],
        ["same", "50.0", "50.0"],
        ["better", "*60.0*", "*60.0*"],
    ]
    assert "mean of 3 seeds" in tables["_per_class"].caption
    assert not any("*" in cell for row in tables["_cost"].cells(bold="*{}*") for cell in row)
    for suffix, table in tables.items():
        check_latex(table.latex(f"a{suffix}"), f"a{suffix}")


def test_chance_is_never_bold():
    rows = [completed_runs("plain", 1), completed_runs("cMax", 1)]
    for value, row in enumerate(rows):
        over_pairs = {**row.results[0]["localization"]["over_pairs"], "cMax": 1.0 + value, "empty": 3.0 - value}
        localization = {**row.results[0]["localization"], "strength": value, "over_pairs": over_pairs}
        row.results[0] = {**row.results[0], "localization": localization}
    table = TableSection("a", "A", rows).tables()["_localization"]
    cells = {row[0]: row[1:] for row in table.cells(bold="*{}*")}
    assert cells["chance: centre"][0] == cells["chance: uniform"][0] == "10.00" and cells["plain"][0] == "1.00"
    assert cells["cMax"][0] == "*2.00*" and cells["cMax"][-2:] == ["*2.00*", "1.00"]
    latex = table.latex("a_localization")
    check_latex(latex, "a_localization")
    assert latex.index(r"\textbf{2.00}") < latex.rindex(r"\midrule") < latex.index("chance: centre")


def test_a_table_in_four_formats():
    accuracy = Column("mAP", [Number.of([50.0, 52.0]), Number.of([49.0]), Number(99.0)], max, marked=frozenset({1}))
    difference = Column("difference", [Number(-2.0, low=-3.0, high=-1.5), Number(), Number()], form="+.1f")
    nothing = Column("optimism", [Number()] * 3)
    table = Table("A & B, 50 %", ["cTopk_w", "[a]", "chance"], [accuracy, difference, nothing], references=1)
    assert table.markdown().splitlines() == [
        "| method | mAP | difference |",
        "| --- | ---: | ---: |",
        "| cTopk_w | **51.00 ± 1.41** | −2.0 (−3.0 … −1.5) |",
        r"| \[a\] | 49.00† | – |",
        "| chance | 99.00 | – |",
    ]
    assert list(csv.reader(table.csv().splitlines())) == [
        ["method", "mAP", "mAP std", "difference", "difference low", "difference high", "optimism"],
        ["cTopk_w", "51.0000", "1.4142", "-2.0000", "-3.0000", "-1.5000", ""],
        ["[a]", "49.0000", "", "", "", "", ""],
        ["chance", "99.0000", "", "", "", "", ""],
    ]
    assert [line.split() for line in table.text().splitlines()][2] == ["[a]", "49.00†", "–"]
    latex = table.latex("two_rows")
    check_latex(latex, "two_rows")
    assert r"\caption{A \& B, 50 \%}" in latex
    assert r"cTopk\_w & \textbf{51.00 $\pm$ 1.41} & $-$2.0 ($-$3.0 \dots{} $-$1.5) \\" in latex
    assert "\n" + r"{[}a] & 49.00\rlap{$^\dagger$} & -- \\" + "\n" in latex
    assert "\\midrule\nchance & 99.00 & -- \\\\\n\\bottomrule" in latex


def test_names_are_no_markup_in_any_format():
    name = "=cmd|' /C calc'!A0 \\input{x} $a^b$ ~\x1b[2J <b> [*]"
    table = Table(name, [name], [Column(name, [Number(1.0)])])
    rows = list(csv.reader(table.csv().splitlines()))
    assert all(cell.startswith("'=cmd") for cell in (rows[0][1], rows[1][0]))
    assert [len(re.split(r"(?<!\\)\|", line)) for line in table.markdown().splitlines()] == [4, 4, 4]
    latex = table.latex("names")
    check_latex(latex, "names")
    assert r"\<b\>" in table.markdown() and "\x1b" not in table.csv() + table.markdown() + latex + table.text()
    shown = r"\textbackslash{}input\{x\} \$a\textasciicircum{}b\$ \textasciitilde{}"
    assert latex.count(shown) == 3 and r"\input" not in latex


# Scaled data ---------------------------------------------------------------------------------------------------------


def test_a_scaled_devkit_keeps_labels_and_scales_boxes(toy, tmp_path):
    out = tmp_path / "small"
    assert scale_devkit(toy, out, 32) == 100
    names = read_class_names(ROOT / "data" / "VOC_2012.json")
    for path in sorted((toy / "JPEGImages").iterdir())[:20]:
        large, small = (Image.open(folder / "JPEGImages" / path.name).size for folder in (toy, out))
        assert max(small) == 32
        factor = 32 / max(large)
        assert small == tuple(round(side * factor) for side in large)
        before, after = (read_annotation(folder / f"Annotations/{path.stem}.xml", names) for folder in (toy, out))
        assert [(item.name, item.difficult) for item in before] == [(item.name, item.difficult) for item in after]
        for one, other in zip(before, after, strict=True):
            assert np.allclose(np.array(one.box) * factor, other.box, atol=0.006)
    assert (out / "ImageSets/Main/train.txt").read_text() == (toy / "ImageSets/Main/train.txt").read_text()
    require_scaled_from(toy, out, 32)
    with pytest.raises(UserError, match="choose another --out"):
        require_scaled_from(tmp_path, out, 32)


def test_a_scaled_devkit_does_not_enlarge(toy, tmp_path):
    scale_devkit(toy, tmp_path / "same", 500)
    path = next((toy / "JPEGImages").iterdir())
    assert Image.open(tmp_path / "same/JPEGImages" / path.name).size == Image.open(path).size


@pytest.mark.parametrize("broken", ["JPEGImages", "Annotations"])
def test_a_file_that_cannot_be_scaled_is_named_and_nothing_is_left(toy, tmp_path, broken):
    source = tmp_path / "source"
    for name in ("JPEGImages", "Annotations", "ImageSets"):
        (source / name).mkdir(parents=True)
    name = next((toy / "JPEGImages").iterdir()).stem
    for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        content = (toy / folder / f"{name}.{suffix}").read_bytes()
        (source / folder / f"{name}.{suffix}").write_bytes(content[:60] if folder == broken else content)
    said = refused_tool(tmp_path, "--data_dir", source, "--out", tmp_path / "out", "--longer_side", 32)
    assert f"{broken}/{name}" in said
    assert not (tmp_path / "out").exists()


def test_a_scaled_devkit_replaces_nothing(toy, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    said = refused_tool(tmp_path, "--data_dir", toy, "--out", tmp_path / "out", "--longer_side", 32)
    assert "already exists" in said and (tmp_path / "out/mine.txt").exists()
    assert "must be above 0" in refused_tool(tmp_path, "--data_dir", toy, "--out", tmp_path / "b", "--longer_side", 0)


def refused_tool(folder: Path, *given: object) -> str:
    """The one line of `tools.scale_devkit`."""
    command = [sys.executable, "-m", "tools.scale_devkit", *map(str, given)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=120)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    return line


def test_presets_name_splits_and_sizes_that_the_scripts_take():
    for name, preset in PRESETS.items():
        assert preset.arguments["image_size"] % 32 == 0, name
        assert preset.longer_side <= preset.arguments["image_size"], name


def test_scores_of_a_finished_run_can_be_compared(series):
    scored = read_scores(series[0] / "experiments/evaluation/best_cTopk_ema_seed0_Main_val.npz")
    labels, counted = binary_labels(scored.labels)
    assert scored.scores.shape == labels.shape == counted.shape == (100, 20)
