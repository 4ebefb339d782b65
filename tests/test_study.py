"""docs/study.md: what it shows is what its commands make of the files in docs/study, without any training."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command_line import ROOT
from tests.helpers.pages import blocks_of
from tools.metrics.protocols import PROTOCOLS, protocol_tables
from tools.metrics.scores import read_scores

PAGE = ROOT / "docs/study.md"
# The tags of rows whose names differ from them.
TAGS = {"centre": "centre_ema", "cMax": "cMax_ema", "cTopk": "cTopk_ema", "cTopk-w": "cTopk_w_ema", "Max": "max"}
TAGS |= {f"{name}, scale-free": f"scale_free_strategy{name}" for name in ("cMax", "cTopk", "cTopk-w")}
ROOMS = ("baselines", "core", "data", "docs", "tools", "evaluate_classification.py", "reproduce_tables.py")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> set[str]:
    """Run the page's commands in an empty folder, as written; return the lines that they print and write."""
    folder = tmp_path_factory.mktemp("study")
    for name in ROOMS:
        (folder / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    lines: set[str] = set()
    for block in blocks_of(PAGE):
        if block.marker == "own test":
            words = ["bash", "-euo", "pipefail", "-c", block.text]
            result = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
            assert result.returncode == 0, f"{block}: {result.stderr}"
            lines.update(result.stdout.splitlines())
    for out in ("study", "study/short", "study/cpu", "seeds"):
        for file in (folder / out / "tables").glob("*.md"):
            lines.update(file.read_text(encoding="utf-8").splitlines())
    return lines


def cells(page: Path, section: str) -> list[list[str]]:
    """Return the cells of the table in a section of a page, names of columns first."""
    part = page.read_text(encoding="utf-8").split(f"# {section}\n")[1].split("\n#")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    return [rows[0], *rows[2:]]


def validations(row: str) -> list[dict]:
    return read_validations(f"experiments/data/{TAGS.get(row, row)}_seed0.json")


def read_validations(file: str) -> list[dict]:
    return json.loads((ROOT / "docs/study" / file).read_text(encoding="utf-8"))["validation"]


def test_every_table_and_output_of_the_page_is_made_by_its_commands(made):
    text = PAGE.read_text(encoding="utf-8")
    text = re.sub("\n## (Why|Momentum)\\b.*?(?=\n## )", "", text, flags=re.S)  # their tables have tests of their own
    tables = [line for line in text.splitlines() if line.startswith("|")]
    printed = [line for block in blocks_of(PAGE) if block.marker == "output" for line in block.text.splitlines()]
    assert len(tables) > 10 and len(printed) > 10
    assert [line for line in [*tables, *printed] if line not in made] == []


def test_the_strongest_features_are_those_of_the_histories():
    heads, *rows = cells(PAGE, "Why the maps shrink")
    epochs = [int(head.removeprefix("epoch ")) for head in heads[1:]]
    assert len(rows) >= 7 and epochs == [1, 5, 10, 15]
    for name, *values in rows:
        history = validations(name)
        assert values == [f"{history[epoch - 1]['map_scale']:.1f}" for epoch in epochs], name


def test_what_max_does_without_its_losses_is_in_the_histories():
    heads, *rows = cells(PAGE, "Why Max fails here")
    runs = {"as published": validations("Max"), "*instances*": validations("instances")}
    for name, tag in (("alpha_p 0", "no_p"), ("alpha_re 0", "no_re"), ("alpha_p 0, alpha_re 0", "no_p_no_re")):
        runs[name] = read_validations(f"max/experiments/data/{tag}.json")
    assert heads == ["Max, first epoch", "mAP", "strongest feature"] and len(rows) == len(runs)
    for name, *values in rows:
        assert values == [f"{runs[name][0][key]:.1f}" for key in ("map", "map_scale")], name


def test_max_without_its_losses_takes_the_steps_of_the_instances():
    files = ("max/experiments/data/no_p_no_re.json", "experiments/data/instances_seed0.json")
    histories = [json.loads((ROOT / "docs/study" / file).read_text(encoding="utf-8")) for file in files]
    losses = [[row["class_loss"] for row in history["train"] if row["epoch"] == 1] for history in histories]
    assert len(losses[0]) > 10 and losses[0] == losses[1]


def test_each_other_setting_changes_what_it_says_and_nothing_else():
    heads, *rows = cells(PAGE, "Momentum, batch size and resolution")
    usual = {"lr": 0.1, "momentum": 1e-4, "batch_size": 16, "image_size": 160, "max_epoch": 5}
    settings = {
        "lr 0.1, momentum 0.0001, batch 16, 160 px": ("short", {}),
        "the same on a CPU": ("cpu", {"device": "auto"}),
        "lr 0.01, momentum 0.9": ("momentum", {"lr": 0.01, "momentum": 0.9}),
        "batch 32": ("batch32", {"batch_size": 32}),
        "256 px, on a CPU": ("px256", {"image_size": 256, "device": "auto"}),
    }
    assert heads == ["setting", "plain", "cMax", "cMax, scale-free"] and [row[0] for row in rows] == [*settings]
    for name, *values in rows:
        folder, changed = settings[name]
        for row, value in zip(heads[1:], values, strict=True):
            run = ROOT / f"docs/study/{folder}/experiments"
            result = run / f"evaluation/best_{TAGS.get(row, row)}_seed0_Main_val.json"
            if value == "–":
                assert not result.exists()
                continue
            config = json.loads((run / f"data/{TAGS.get(row, row)}_seed0.config.json").read_text(encoding="utf-8"))
            expected = usual | {"device": "cuda:0"} | changed
            assert {key: config[key] for key in expected} == expected, (name, row)
            found = json.loads(result.read_text(encoding="utf-8"))
            assert value == f"{found['mAP']:.1f} ({found['localization']['over_pairs']['cMax']:.0f} %)", (name, row)


def test_the_spread_over_protocols_is_that_of_the_scores():
    heads, *rows = cells(ROOT / "docs/protocols.md", "The spread on real scores")
    names = [head.strip("`") for head in heads[1:-2]]
    assert len(rows) >= 4 and len(names) == 6
    for name, *values in rows:
        tag = f"{TAGS.get(name, name)}_seed0"
        scored = read_scores(ROOT / f"docs/study/experiments/evaluation/best_{tag}_Main_val.npz")
        result = protocol_tables([*PROTOCOLS], scored)[2]["protocols"]
        history = validations(name)
        cf1 = [one["counts"]["CF1"] for one in result.values() if "CF1" in one["counts"]]
        expected = [f"{result[protocol]['mAP']:.2f}" for protocol in names]
        expected += [f"{min(cf1):.1f} … {max(cf1):.1f}", f"{max(row['map'] for row in history):.2f}"]
        assert values == expected, name


def test_the_files_of_the_study_are_small_and_say_nothing_of_where_they_were_made():
    files = [path for path in (ROOT / "docs/study").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 8e6
    for path in files:
        text = path.read_bytes()
        assert not re.search(rb"/(home|Users|root|work)/", text), path
