"""`--select_split`: the best epoch is chosen on images apart from those trained on and evaluated."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

from core.training.loop import Data, make_data
from tests.helpers.command_line import ROOT, SCRIPTS, refused, run, small_with
from tests.helpers.golden import config_of, strategy_of
from tests.test_runs import assert_same_run, interrupt, weights, words
from tools.data.devkit import read_class_names
from tools.runs.checkpoints import read_description
from tools.runs.folder import best_validation
from tools.system.errors import UserError
from tools.system.processes import Processes

SHARE = ("--select_split", 0.2)


def data_of(folder: Path, **arguments: object) -> Data:
    given = {"data_dir": folder, "train_split": "Main/train", "val_split": "Main/val", "num_workers": 0}
    given |= {"image_size": 32, "min_image_size": 32, "batch_size": 16, "device": "cpu", **arguments}
    names = read_class_names(ROOT / "data/VOC_2012.json")
    return make_data(config_of(strategy_of("cMax"), **given), names, Processes())


def history_of(folder: Path, tag: str) -> dict[str, list]:
    return json.loads((folder / f"experiments/data/{tag}.json").read_text())


@pytest.fixture(scope="module")
def lists(toy, tmp_path_factory) -> Path:
    """The toy set, whose list val is divided into one and two; both has an image of train and one of them."""
    folder = tmp_path_factory.mktemp("lists") / "toy"
    shutil.copytree(toy, folder)
    main = folder / "ImageSets/Main"
    train, val = ((main / f"{name}.txt").read_text().split() for name in ("train", "val"))
    for name, ids in {"one": val[:12], "two": val[12:], "both": [train[3], val[0]], "trained": train[:15]}.items():
        (main / f"{name}.txt").write_text("\n".join(ids))
    return folder


def test_a_share_is_cut_from_the_training_list_reproducibly_and_with_every_class(toy):
    whole, cut, again = data_of(toy), data_of(toy, select_split=0.2), data_of(toy, select_split=0.2)
    training, selection = cut.sets["training"], cut.sets["selection"]
    assert len(selection) == 15 and sorted(training.ids + selection.ids) == sorted(whole.sets["training"].ids)
    assert not set(selection.ids) & set(cut.sets["validation"].ids)
    assert (again.sets["selection"].ids, again.sets["training"].ids) == (selection.ids, training.ids)
    assert data_of(toy, select_split=0.2, seed=1).sets["selection"].ids != selection.ids
    total, found = whole.sets["training"].labels.sum(0), selection.labels.sum(0)
    assert ((found - 0.2 * total).abs() <= 1.5).all() and (found[total >= 2] >= 1).all()
    index = {image_id: row for row, image_id in enumerate(whole.sets["training"].ids)}
    for part in (training, selection):  # ids, files and labels belong together
        rows = [index[image_id] for image_id in part.ids]
        assert torch.equal(part.labels, whole.sets["training"].labels[rows])
        assert [path.stem for path in part.paths] == [path.stem for path in part.annotations] == part.ids
    assert selection.transform is cut.sets["validation"].transform and training.transform is not selection.transform
    cut.loaders["training"].sampler.set_epoch(0)
    trained = {training.ids[index] for *_, indices in cut.loaders["training"] for index in indices}
    assert trained and not trained & set(selection.ids)


def test_a_list_is_taken_as_it_is_and_cut_from_the_training_list(lists):
    data = data_of(lists, select_split="Main/trained", val_split="Main/one")
    assert len(data.sets["selection"]) == 15 and len(data.sets["training"]) == 60
    apart = data_of(lists, select_split="Main/two", val_split="Main/one")
    assert len(apart.sets["selection"]) == 13 and len(apart.sets["training"]) == 75


@pytest.mark.parametrize(
    "given, said",
    [
        *(
            ({"select_split": share}, "must be a list, or a share above 0 and below 1")
            for share in (0, 1, -0.5, "nan", 7)
        ),
        ({"select_split": "Main/nothing"}, "unknown split 'Main/nothing'.*--select_split"),
        (
            {"select_split": "Main/both", "val_split": "Main/one"},
            "1 images of --select_split Main/both are in --val_split",
        ),
        ({"select_split": "Main/train", "val_split": "Main/one"}, "leaves no image of --train_split Main/train"),
        ({"select_split": 0.9}, "a batch of 16 images exceeds the 7 images"),
    ],
)
def test_what_cannot_be_selected_on_is_one_line(lists, given, said):
    with pytest.raises(UserError, match=said) as error:
        data_of(lists, **given)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def selected(toy, tmp_path_factory) -> Path:
    """A folder with an uninterrupted run that cuts a share."""
    folder = tmp_path_factory.mktemp("selected")
    result = run(folder, SCRIPTS["Max"], *words(toy, "Max", *SHARE))
    assert result.returncode == 0, result.stderr
    assert "the best epoch is chosen on 15 other images, which are not trained on (--select_split 0.2)" in result.stdout
    assert "[i] 60 training images, 25 validation images" in result.stdout
    return folder


def test_log_and_history_hold_both_maps_and_the_selection_s_decides(selected):
    history = history_of(selected, "Max")
    rows, log = history["validation"], (selected / "experiments/logs/Max.txt").read_text()
    chosen, both = [row["select_map"] for row in rows], re.findall(r"map=([\d.]+)%.* select_map=([\d.]+)%", log)
    assert both == [(f"{row['map']:.2f}", f"{row['select_map']:.2f}") for row in rows] and len(rows) == 3
    best = rows[chosen.index(max(chosen))]
    description = read_description(selected / "experiments/models/best_Max.pth")
    assert (description.iteration, description.mAP) == (best["iteration"], best["map"])
    assert best_validation(history, "Max") == best
    assert f"[i] best mAP of --select_split 0.2={max(chosen):.2f}, in " in log
    assert rows[-1]["best map"] == max(row["map"] for row in rows)  # of the validation images, as without it


def test_evaluation_of_the_selected_images_repeats_the_run_s_own_map(selected, lists):
    ids = data_of(lists, select_split=0.2).sets["selection"].ids
    (lists / "ImageSets/Main/again.txt").write_text("\n".join(ids))
    given = ["--tag", "Max", "--data_dir", lists, "--split", "Main/again", "--num_workers", 0, "--bootstrap", 0]
    result = run(selected, "evaluate_classification.py", *given)
    assert result.returncode == 0, result.stderr
    written = json.loads((selected / "experiments/evaluation/best_Max_Main_again.json").read_text())
    best = max(row["select_map"] for row in history_of(selected, "Max")["validation"])
    assert written["mAP"] == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("number, seed", [(signal.SIGKILL, 11), (signal.SIGTERM, 12)])
def test_an_interrupted_run_cuts_the_same_images_and_ends_the_same(selected, toy, tmp_path, number, seed):
    assert interrupt(tmp_path, toy, "Max", number, "iteration", seed, *SHARE) in (0, -number, 128 + number)
    result = run(tmp_path, SCRIPTS["Max"], *words(toy, "Max", *SHARE, "--resume"))
    assert result.returncode == 0, result.stderr
    assert "resumed at iteration" in result.stdout
    assert_same_run(tmp_path, "Max", selected)


def test_another_selection_is_another_run(selected, toy, tmp_path):
    state = selected / "experiments/states/Max.earlier.pth"
    for more, said in (
        ((), "select_split: saved 0.2, now None"),
        (("--select_split", 0.3), "select_split: saved 0.2, now"),
    ):
        line = refused(tmp_path, SCRIPTS["Max"], *words(toy, "Max", "--resume", state, *more))
        assert said in line and "other training list or labels" in line
    result = run(tmp_path, SCRIPTS["Max"], *words(toy, "Max", "--resume", state, "--force"))
    assert result.returncode == 0, result.stderr
    rows = history_of(tmp_path, "Max")["validation"]
    assert ["select_map" in row for row in rows] == [True, True, False]
    # Other images choose: the epochs before do not count.
    assert read_description(tmp_path / "experiments/models/best_Max.pth").iteration == rows[-1]["iteration"]


def test_images_that_are_only_looked_at_change_no_weight(lists, tmp_path):
    """A list apart from training and validation: the same bits as without it, and the same mAPs of validation."""
    for tag, more in (("with", ["--select_split", "Main/two"]), ("without", [])):
        given = small_with(data_dir=lists, tag=tag, val_split="Main/one", max_epoch=2, lr=0.01)
        assert run(tmp_path, SCRIPTS["cTopk"], *given, *more).returncode == 0
    ours, theirs = weights(tmp_path, "with"), weights(tmp_path, "without")
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    ours, theirs = (history_of(tmp_path, tag) for tag in ("with", "without"))
    assert [row["loss"] for row in ours["train"]] == [row["loss"] for row in theirs["train"]]
    for row, other in zip(ours["validation"], theirs["validation"], strict=True):
        del row["select_map"], row["time"], other["time"]
        assert row == other
