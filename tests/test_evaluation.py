"""evaluate_classification.py as a user runs it, its files, the test server's archive, and test-time augmentation."""

import csv
import gzip
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate_classification
from core.evaluation.prediction import TestTimeAugmentation, resize_images
from core.networks import Classifier
from tests.helpers.command_line import refused, run
from tools.data.annotations import read_label_lists
from tools.data.datasets import ImageFiles
from tools.data.devkit import read_class_names
from tools.metrics.average_precision import average_precisions
from tools.metrics.scores import Scores, read_scores, write_scores
from tools.metrics.submission import CLASSES, find_problem, read_submission, write_submission
from tools.runs.checkpoints import Description, save_checkpoint
from tools.runs.folder import Folder
from tools.system.errors import UserError

SCRIPT = "evaluate_classification.py"


@pytest.fixture(scope="module")
def class_names():
    from tools.data.devkit import DATA

    return read_class_names(DATA / "VOC_2012.json")


@pytest.fixture(scope="module")
def evaluated(toy, class_names, tmp_path_factory):
    """A folder with a checkpoint whose evaluation, localization included, has been written."""
    folder = tmp_path_factory.mktemp("evaluated")
    torch.manual_seed(0)
    network = Classifier("resnet18", 20).eval()
    description = Description("resnet18", class_names, image_size=64)
    save_checkpoint(folder / "experiments/models/best_x.pth", network.state_dict(), description)
    arguments = ["--localization", "--difficult", "ignore", "--bootstrap", 50]
    result = run(folder, SCRIPT, "--tag", "x", "--data_dir", toy, "--split", "Main/val", "--num_workers", 0, *arguments)
    assert result.returncode == 0, result.stderr
    (folder / "printed.txt").write_text(result.stdout)
    return folder


def results(folder, name="best_x_Main_val"):
    return json.loads((folder / f"experiments/evaluation/{name}.json").read_text())


def test_the_result_says_how_to_repeat_it(evaluated, toy):
    result = results(evaluated)
    assert "--difficult ignore" in result["command"] and result["versions"]["torch"]
    assert (
        result["scored_with"]["split_sha256"]
        == hashlib.sha256((toy / "ImageSets/Main/val.txt").read_bytes()).hexdigest()
    )
    assert result["measured_with"] == {
        "difficult": "ignore", "labels": "xml", "threshold": 0.5, "bootstrap": 50, "seed": 0
    }  # fmt: skip
    assert result["interval_95"]["low"] < result["interval_95"]["high"]
    assert {"mAP", "mAP_VOC2010", "mAP_VOC2007", "CP", "CR", "CF1", "OP", "OR", "OF1", "CF1_top3"} <= set(
        result["means"]
    )


def test_text_csv_json_and_scores_agree(evaluated, class_names):
    result = results(evaluated)
    base = evaluated / "experiments/evaluation/best_x_Main_val"
    rows = list(csv.DictReader(base.with_name(f"{base.name}.csv").open()))
    assert [row["class"] for row in rows] == [*class_names, "mean"]
    assert float(rows[-1]["AP"]) == pytest.approx(result["mAP"], abs=1e-3)
    assert f"{result['mAP']:.2f}" in base.with_name(f"{base.name}.txt").read_text()
    scored = read_scores(base.with_name(f"{base.name}.npz"))
    keep = scored.labels != 0
    expected = [
        average_precisions(scored.scores[use, v : v + 1], scored.labels[use, v : v + 1] > 0)[0]
        for v, use in enumerate(keep.T)
    ]
    for name, value in zip(class_names, expected, strict=True):
        found = result["per_class"][name]["AP"]
        assert found is None if np.isnan(value) else found == pytest.approx(100 * value)


def test_localization_is_reported_beside_chance(evaluated):
    found = results(evaluated)["localization"]
    assert found["tolerance"] == 15 and found["pairs"] > 20
    for name in ("Max", "cMax", "cTopk", "cTopk-w", "centre", "uniform"):
        assert 0 <= found["over_pairs"][name] <= found["over_pairs"][f"{name} within 15"] <= 100
    printed = (evaluated / "printed.txt").read_text()
    assert "chance: centre" in printed and "energy of the CAM" in printed


def test_scores_are_measured_again_without_the_network(evaluated, tmp_path):
    scores = evaluated / "experiments/evaluation/best_x_Main_val.npz"
    result = run(tmp_path, SCRIPT, "--scores", scores, "--difficult", "ignore", "--bootstrap", 50, "--out", "again")
    assert result.returncode == 0, result.stderr
    again = json.loads((tmp_path / "again.json").read_text())
    first = results(evaluated)
    for key in ("means", "per_class", "interval_95", "scored_with"):
        assert again[key] == first[key]


def test_class_lists_of_the_devkit_and_xml_have_the_same_labels(evaluated, toy, class_names):
    scored = read_scores(evaluated / "experiments/evaluation/best_x_Main_val.npz")
    np.testing.assert_array_equal(read_label_lists(toy, "Main/val", scored.ids, class_names), scored.labels)


def test_a_checkpoint_without_description_is_usable_with_both_arguments(evaluated, toy, tmp_path):
    from tools.data.devkit import DATA

    shutil.copy(evaluated / "experiments/models/best_x.pth", tmp_path / "bare.pth")
    arguments = [
        "--weights",
        "bare.pth",
        "--data_dir",
        toy,
        "--split",
        "Main/val",
        "--num_workers",
        0,
        "--bootstrap",
        0,
    ]
    assert "--architecture and --class_file" in refused(tmp_path, SCRIPT, *arguments)
    arguments += ["--architecture", "resnet18", "--class_file", DATA / "VOC_2012.json", "--image_size", 64]
    assert run(tmp_path, SCRIPT, *arguments).returncode == 0
    scored = read_scores(tmp_path / "experiments/evaluation/bare_Main_val.npz")
    first = read_scores(evaluated / "experiments/evaluation/best_x_Main_val.npz")
    np.testing.assert_allclose(scored.scores, first.scores, rtol=1e-4)


def test_a_score_that_is_not_finite_is_refused_with_its_image(tmp_path):
    scores = np.full((3, 2), 0.5, np.float32)
    scores[1, 0] = np.nan
    write_scores(tmp_path / "s.npz", Scores(["a", "b", "c"], ["cat", "dog"], scores, np.ones((3, 2), np.int8)))
    with pytest.raises(UserError, match=r"1 of 3 images are not finite \(b\)"):
        read_scores(tmp_path / "s.npz")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--tag", "x"], "--data_dir is missing"),
        (["--scores", "none.npz"], "cannot read none.npz (No such file or directory); check --scores"),
        (["--scores", "none.npz", "--localization"], "--localization needs the network"),
        (["--tag", "x", "--data_dir", ".", "--threshold", "2"], "--threshold 2.0"),
        (["--tag", "x", "--data_dir", ".", "--image_size", "100"], "not divisible by 32"),
        (["--tag", "x", "--data_dir", ".", "--bootstrap", "-1"], "--bootstrap -1"),
        (["--tag", "x", "--data_dir", ".", "--scales", "1;2"], "invalid scales value: '1;2'"),
        (["--tag", "x", "--data_dir", ".", "--scales", "0.5,9"], "--scales 0.5 9.0"),
        (["--tag", "x", "--data_dir", ".", "--strategy", "cMax"], "--strategy is only used by --localization"),
    ],
)
def test_wrong_arguments_get_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    from tools.system.errors import run_main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["evaluate_classification.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_main(evaluate_classification.main)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and message in error


@pytest.mark.parametrize("damage", ["truncated", "pickled", "text", "an array"])
def test_a_damaged_scores_file_is_refused_without_unsafe_advice(damage, tmp_path):
    path = tmp_path / "s.npz"
    if damage == "pickled":
        np.savez(path, ids=np.array([{"a": 1}], object))
    elif damage == "an array":
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    else:
        write_scores(path, Scores(["a"], ["cat"], np.ones((1, 1), np.float32)))
        path.write_bytes(path.read_bytes()[:200] if damage == "truncated" else b"no archive")
    with pytest.raises(UserError, match="cannot be read as .npz") as error:
        read_scores(path)
    assert "pickle" not in str(error.value)


def scores_file(path, **changes):
    """Write scores as another program would: eight images of cats and dogs in turn."""
    scores = np.random.default_rng(0).random((8, 2))
    arrays = {"ids": np.array([str(i) for i in range(8)]), "class_names": np.array(["cat", "dog"]), "scores": scores}
    arrays["labels"] = np.array([[i % 2 == 0, i % 2 == 1] for i in range(8)])
    arrays |= changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"labels": None, "presence": np.ones((8, 2), bool)}, "presence must hold numbers out of -1, 0, 1"),
        ({"labels": None, "presence": np.eye(8, 2, dtype=int)}, "has no -1: save an array of 0 and 1 as `labels`"),
        ({"labels": None, "presence": np.full((8, 2), "cat")}, "presence must hold numbers"),
        ({"labels": np.full((8, 2), 2)}, "labels must hold numbers out of -1, 0, 1"),
        ({"labels": np.ones((8, 3), int)}, "do not match 8 images and 2 classes"),
        ({"presence": np.ones((8, 2), int)}, "both presence and labels"),
        ({"scores": np.full((8, 2), 3.5)}, "these are in 3.5…3.5: save logits as an array `logits`"),
        ({"scores": np.full((8, 2), -0.1)}, "save logits as an array `logits`"),
        ({"scores": None}, "lacks the arrays logits"),
        ({"scores": np.ones(8)}, "must be numbers [images, classes]"),
        ({"ids": np.array([*"0123456", "0"])}, "the image id '0' more than once"),
        ({"class_names": np.array(["cat", "cat"])}, "the class name 'cat' more than once"),
        ({"class_names": np.array(["cat", "\x1b]0;pwned\x07"])}, "unprintable characters"),
        ({"ids": np.array([*"0123456", "7\nmean (mAP) 100"])}, "unprintable characters"),
        ({"ids": np.ones(8)}, "ids must be texts"),
        ({"settings": np.array("[]")}, "not a JSON object of plain values"),
        ({"settings": np.array("null")}, "not a JSON object"),
        ({"settings": np.array("[" * 100_000)}, "not a JSON object"),
        ({"settings": np.array('{"a": {}}')}, "not a JSON object of plain values"),
        ({"settings": np.array('{"split": 5}')}, "with a name as split"),
        ({"more": np.array([{}], object)}, "cannot be read as .npz"),
    ],
)
def test_arrays_that_could_be_misread_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        read_scores(scores_file(tmp_path / "s.npz", **changes))
    assert message in str(error.value) and str(error.value).isprintable()


def test_arrays_of_other_programs_are_read(tmp_path):
    multi_hot = read_scores(scores_file(tmp_path / "s.npz"))
    assert multi_hot.labels.tolist() == [[1, -1], [-1, 1]] * 4 and not multi_hot.are_logits
    assert multi_hot.probabilities is multi_hot.scores
    logits = read_scores(scores_file(tmp_path / "s.npz", logits=np.full((8, 2), 20.0), scores=None))
    assert logits.are_logits and (logits.probabilities < 1).all()  # float64 keeps what float32 rounds
    of_before = {"labels": None, "presence": np.eye(8, 2, dtype=int), "settings": np.array('{"checkpoint": "a.pth"}')}
    assert (read_scores(scores_file(tmp_path / "s.npz", **of_before)).labels >= 0).all()


def test_any_flipped_bit_of_a_scores_file_is_noticed_or_harmless(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "s.npz"
    write_scores(path, Scores(["a", "b"], ["cat", "dog"], rng.normal(size=(2, 2)), np.eye(2) * 2 - 1, {"split": "val"}))
    whole, noticed = path.read_bytes(), 0
    first = read_scores(path)
    for position in range(0, len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            found = read_scores(path)
        except UserError:
            noticed += 1
            continue
        assert (found.scores == first.scores).all() and (found.labels == first.labels).all()
        assert (found.ids, found.class_names, found.settings) == (first.ids, first.class_names, first.settings)
    assert noticed > len(whole) / 2


def test_a_shape_of_37_gb_is_refused_before_memory_is_taken(tmp_path):
    header = io.BytesIO()
    about = {"descr": "<f8", "fortran_order": False, "shape": (10**9, 5)}
    np.lib.format.write_array_header_1_0(header, about)
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as file:
        file.writestr("scores.npy", header.getvalue() + bytes(80))
    with pytest.raises(UserError, match="cannot be read as .npz"):
        read_scores(tmp_path / "s.npz")
    with zipfile.ZipFile(tmp_path / "s.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        with file.open("scores.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
        file.infolist()[0].file_size = 1 << 31  # as the list of members says it
    with pytest.raises(UserError, match="too large for scores"):
        read_scores(tmp_path / "s.npz")


def evaluate(monkeypatch, *words):
    """Run the script in this process."""
    monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, words)])
    evaluate_classification.main()


def test_results_of_other_settings_are_kept(evaluated, toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(evaluated / "experiments/models", "experiments/models")
    common = ["--tag", "x", "--data_dir", toy, "--split", "Main/val", "--num_workers", 0, "--bootstrap", 0]
    for words in ([], ["--flip"], ["--difficult", "ignore"], ["--eval_resize"], [], ["--batch_size", 3]):
        evaluate(monkeypatch, *common, *words)
    made = {path.stem: json.loads(path.read_text()) for path in Path("experiments/evaluation").glob("*.json")}
    assert set(made) == {"best_x_Main_val", *(f"best_x_Main_val_{number}" for number in (2, 3, 4))}
    assert made["best_x_Main_val"]["scored_with"]["batch_size"] == 3
    assert made["best_x_Main_val_2"]["made_with"]["flip"] and not made["best_x_Main_val"]["made_with"]["flip"]
    assert len(list(Path("experiments/evaluation").glob("*.npz"))) == 4
    output = capsys.readouterr()
    assert output.err.count("was made with other settings and is kept: writing best_x_Main_val_") == 3
    assert "best_x_Main_val_2 (flip differs)" in output.err and "best_x_Main_val_4 (eval_resize differs)" in output.err
    assert "evaluated on whole images, fitted to 64 pixels" in output.out
    shutil.copytree(toy, "other")
    evaluate(monkeypatch, *common, "--data_dir", "other")
    assert "writing best_x_Main_val_5" in capsys.readouterr().err


def test_other_class_names_and_other_thresholds_of_the_same_path_are_other_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.csv").write_text("a,0.9,0.1,1,-1\nb,0.2,0.7,-1,1\n")
    found = Path("experiments/evaluation")
    for number, names in enumerate((["cat", "dog"], ["x", "y"]), 1):
        (tmp_path / "c.json").write_text(json.dumps({"class_names": names}))
        evaluate(monkeypatch, "--scores", "s.csv", "--class_file", "c.json", "--bootstrap", 0)
        assert len(list(found.glob("*.json"))) == number
    for number, threshold in enumerate((0.5, 0.6), 3):
        classes = dict.fromkeys(names, {"threshold": threshold, "temperature": 1})
        (tmp_path / "t.json").write_text(json.dumps({"classes": classes}))
        words = ("--class_file", "c.json", "--bootstrap", 0, "--thresholds", "t.json")
        evaluate(monkeypatch, "--scores", "s.csv", *words)
        assert len(list(found.glob("*.json"))) == number


def test_no_result_has_the_name_of_a_table_beside_another(tmp_path, monkeypatch):
    for ending in ("_localization", "_protocols"):
        one, other = (Folder().results(Path("best_a.pth"), f"Main/val{end}") for end in ("", ending))
        assert other.name != one.name + ending
        with pytest.raises(UserError, match="rename it"):
            evaluate(monkeypatch, "--scores", "s.npz", "--out", f"x{ending}")


def test_missing_thresholds_are_refused_before_anything_is_scored(monkeypatch):
    with pytest.raises(UserError, match="cannot read none.json .*; check --thresholds"):
        evaluate(monkeypatch, "--scores", "s.npz", "--thresholds", "none.json")


def test_tables_of_other_protocols_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scores_file(tmp_path / "s.npz")
    for protocol in ("oass", "ssgrl", "oass"):
        evaluate(monkeypatch, "--scores", "s.npz", "--protocol", protocol)
    names = {path.name for path in Path("experiments/evaluation").glob("*.json")}
    assert names == {"s_again_protocols.json", "s_again_protocols_2.json"}
    assert capsys.readouterr().err.count("made with other settings") == 1


def test_files_are_written_before_anything_is_printed(evaluated, toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(evaluated / "experiments/models", "experiments/models")

    def closed(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", closed)
    words = ["--tag", "x", "--data_dir", toy, "--split", "Main/val", "--num_workers", 0, "--bootstrap", 0]
    with pytest.raises(BrokenPipeError):
        evaluate(monkeypatch, *words, "--submission", "s.tar.gz")
    found = {path.suffix for path in Path("experiments/evaluation").iterdir()}
    assert found == {".npz", ".txt", ".csv", ".json"} and Path("s.tar.gz").is_file()


@pytest.mark.parametrize("out", [".", "/", "", "..", "n" * 240, "file/x"])
def test_a_name_that_cannot_be_written_is_refused_before_anything_is_scored(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr("evaluate_classification.score", None)
    with pytest.raises(UserError, match="must end in the name of a file|cannot write"):
        evaluate(monkeypatch, "--tag", "x", "--data_dir", ".", "--out", out)


def test_an_archive_that_cannot_be_written_does_not_cost_the_metrics(evaluated, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    scores = evaluated / "experiments/evaluation/best_x_Main_val.npz"
    with pytest.raises(UserError, match=r"file/s.tar.gz"):
        evaluate(monkeypatch, "--scores", scores, "--bootstrap", 0, "--submission", "file/s.tar.gz")
    assert "mean (mAP)" in capsys.readouterr().out
    assert Path("experiments/evaluation/best_x_Main_val_again.json").is_file()


def test_what_the_crop_cuts_off_is_said_and_fitted_images_score_as_inference_does(devkit, monkeypatch, capsys):
    monkeypatch.chdir(devkit)
    torch.manual_seed(0)
    network, names = Classifier("resnet18", 2).eval(), ["cat", "dog"]
    description = Description("resnet18", names, 32, strategy="cMax", keypoints="cMax")
    save_checkpoint(devkit / "experiments/models/best_x.pth", network.state_dict(), description)
    words = ["--tag", "x", "--data_dir", devkit, "--split", "Main/train", "--num_workers", 0, "--bootstrap", 0]
    evaluate(monkeypatch, *words)
    said = "8 of 8 images are larger than --image_size 32, and only their top-left square is evaluated (0 of 7 labeled"
    assert said in capsys.readouterr().out
    evaluate(monkeypatch, *words, "--eval_resize", "--localization", "--out", "whole")
    assert "images are larger" not in capsys.readouterr().out
    scored = read_scores(devkit / "whole.npz")
    items = [ImageFiles([devkit / f"JPEGImages/{name}.jpg"], 32)[0].canvas for name in scored.ids]
    with torch.no_grad():
        expected = network(torch.stack(items))[0].numpy()
    np.testing.assert_allclose(scored.scores, expected, atol=1e-4)


def test_the_description_says_whether_images_are_fitted(devkit, monkeypatch):
    monkeypatch.chdir(devkit)
    network, names = Classifier("resnet18", 2).eval(), ["cat", "dog"]
    description = Description("resnet18", names, 32, arguments={"eval_resize": True})
    save_checkpoint(devkit / "experiments/models/best_x.pth", network.state_dict(), description)
    words = ["--tag", "x", "--data_dir", devkit, "--split", "Main/train", "--num_workers", 0, "--bootstrap", 0]
    for more, expected in (([], True), (["--eval_resize", "False"], False)):
        evaluate(monkeypatch, *words, *more, "--out", "r")
        assert read_scores(devkit / "r.npz").settings["eval_resize"] is expected


@pytest.mark.parametrize("name", ["../secret", "a/b"])
def test_a_class_name_never_leads_to_a_list_outside_the_devkit(devkit, name):
    (devkit / "ImageSets/secret_val.txt").write_text("im_0 1\n")
    with pytest.raises(UserError, match="cannot be part of a file name"):
        read_label_lists(devkit, "Main/val", ["im_0"], [name])


STRATEGY_FILE = """
from core.keypoints import cmax_keypoints
from core.strategy import Strategy
STRATEGY = Strategy("mine", None, keypoints=lambda maps, image_size, options: cmax_keypoints(maps, image_size))
"""


def test_keypoints_of_a_strategy_of_ones_own_need_its_file(evaluated, toy, class_names, tmp_path):
    network = Classifier("resnet18", 20).eval()
    description = Description("resnet18", class_names, image_size=64, strategy="mine", keypoints="mine")
    save_checkpoint(tmp_path / "mine.pth", network.state_dict(), description)
    (tmp_path / "mine.py").write_text(STRATEGY_FILE)
    arguments = [
        "--weights",
        "mine.pth",
        "--data_dir",
        toy,
        "--split",
        "Main/val",
        "--num_workers",
        0,
        "--bootstrap",
        0,
    ]
    assert run(tmp_path, SCRIPT, *arguments).returncode == 0
    assert "--strategy FILE.py" in refused(tmp_path, SCRIPT, *arguments, "--localization")
    result = run(tmp_path, SCRIPT, *arguments, "--localisation", "--strategy", "mine.py")
    assert result.returncode == 0, result.stderr
    found = results(tmp_path, "mine_Main_val")["localization"]["over_pairs"]
    assert found["mine"] == found["cMax"] and list(found)[:6] == ["Max", "cMax", "cTopk", "cTopk-w", "mine", "centre"]
    (tmp_path / "mine.py").write_text(STRATEGY_FILE.replace("keypoints=", "head="))
    again = run(tmp_path, SCRIPT, *arguments, "--localization", "--strategy", "mine.py", "--out", "again")
    assert "note: mine.py declares no keypoints" in again.stdout, again.stderr


# The test server ----------------------------------------------------------------------------------------------------


def test_an_archive_holds_what_the_server_requires(tmp_path, class_names):
    rng = np.random.default_rng(0)
    ids = ["2008_000001", "2008_000004", "2008_000005"]
    scores = rng.random((3, 20)).astype(np.float32)
    scores[0, 0], scores[1, 0] = 1e-12, 1.0
    write_submission(tmp_path / "s.tar.gz", ids, scores, class_names, "comp1")
    contents = read_submission(tmp_path / "s.tar.gz")
    assert set(contents) == {f"results/VOC2012/Main/comp1_cls_test_{name}.txt" for name in CLASSES}
    found_ids, found = contents["results/VOC2012/Main/comp1_cls_test_cat.txt"]
    assert found_ids == ids
    np.testing.assert_array_equal(np.array(found, np.float32), scores[:, class_names.index("cat")])
    assert find_problem(tmp_path / "s.tar.gz", ids[::-1], scores, class_names, "comp1", "test")
    assert find_problem(tmp_path / "s.tar.gz", ids, scores + 1, class_names, "comp1", "test")
    assert find_problem(tmp_path / "s.tar.gz", ids, scores, class_names, "comp2", "test")
    with gzip.open(tmp_path / "s.tar.gz") as packed:
        (tmp_path / "more.tar").write_bytes(packed.read())
    (tmp_path / "notes.txt").write_text("a 0.5\n")
    with tarfile.open(tmp_path / "more.tar", "a") as archive:
        archive.add(tmp_path / "notes.txt", "results/VOC2012/Main/notes.txt")
    assert find_problem(tmp_path / "more.tar", ids, scores, class_names, "comp1", "test")
    assert read_submission(tmp_path / "more.tar", others=True).keys() == contents.keys()


def test_what_the_server_would_reject_is_refused(tmp_path, class_names):
    with pytest.raises(UserError, match=r"\.tar\.gz"):
        write_submission(tmp_path / "s.zip", ["a"], np.ones((1, 20)), class_names)
    with pytest.raises(UserError, match="20 classes"):
        write_submission(tmp_path / "s.tar.gz", ["a"], np.ones((1, 1)), ["cat"])
    with pytest.raises(UserError, match="not finite"):
        write_submission(tmp_path / "s.tar.gz", ["a"], np.full((1, 20), np.nan), class_names)


@pytest.mark.slow
def test_the_test_split_of_the_devkit_becomes_an_archive(evaluated, tmp_path):
    """10,991 ids as in VOC 2012's Main/test, images without annotations."""
    ids = [f"{2008 + number % 5}_{number:06d}" for number in range(10_991)]
    (tmp_path / "voc/ImageSets/Main").mkdir(parents=True)
    (tmp_path / "voc/JPEGImages").mkdir()
    rng = np.random.default_rng(0)
    for kind in range(10):
        pixels = rng.integers(0, 255, (30, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{kind}.jpg")
    for number, image_id in enumerate(ids):
        os.link(tmp_path / f"{number % 10}.jpg", tmp_path / f"voc/JPEGImages/{image_id}.jpg")
    (tmp_path / "voc/ImageSets/Main/test.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
    arguments = ["--weights", evaluated / "experiments/models/best_x.pth", "--data_dir", "voc", "--split", "Main/test"]
    arguments += ["--image_size", 32, "--num_workers", 0, "--batch_size", 128, "--submission", "out/s.tar.gz"]
    result = run(tmp_path, SCRIPT, *arguments)
    assert result.returncode == 0, result.stderr
    assert "10,991 images" in result.stdout and "note:" not in result.stdout
    contents = read_submission(tmp_path / "out/s.tar.gz")
    assert set(contents) == {f"results/VOC2012/Main/comp2_cls_test_{name}.txt" for name in CLASSES}
    for found_ids, scores in contents.values():
        assert found_ids == ids and np.isfinite(scores).all()
        assert scores[:10] == pytest.approx(scores[10:20], abs=1e-4)  # the same ten pictures


def test_a_submission_needs_no_annotations(evaluated, toy, tmp_path):
    shutil.copytree(
        toy, tmp_path / "voc", ignore=lambda folder, names: ["Annotations"] if "Annotations" in names else []
    )
    arguments = ["--weights", evaluated / "experiments/models/best_x.pth", "--data_dir", "voc", "--split", "Main/val"]
    arguments += ["--num_workers", 0]
    assert "no folder Annotations" in refused(tmp_path, SCRIPT, *arguments)
    result = run(tmp_path, SCRIPT, *arguments, "--submission", "s.tar.gz", "--flip", "--scales", "0.5,1")
    assert result.returncode == 0, result.stderr
    assert "no labels, no metrics" in result.stdout and "note: the VOC 2012 server accepts" in result.stdout
    assert "results/VOC2012/Main/comp2_cls_val_cat.txt" in read_submission(tmp_path / "s.tar.gz")


# Test-time augmentation ---------------------------------------------------------------------------------------------


def test_logits_are_averaged_over_scales_and_flips():
    torch.manual_seed(0)
    network = Classifier("resnet18", 3).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found, features = TestTimeAugmentation(network, (0.5, 1.0, 1.5), flip=True)(images)
        views = []
        for side in (32, 64, 96):
            view = torch.nn.functional.interpolate(
                images, size=(side, side), mode="bilinear", align_corners=False, antialias=True
            )
            views += [network(view)[0], network(view.flip(-1))[0]]
        assert torch.allclose(found, torch.stack(views).mean(0), atol=1e-5)
        assert torch.allclose(features, network(images)[1], atol=1e-5)
        assert torch.equal(TestTimeAugmentation(network)(images)[0], network(images)[0])


@pytest.mark.parametrize("size, scale, side", [(512, 0.5, 256), (512, 1.5, 768), (320, 0.7, 224), (64, 0.1, 32)])
def test_the_side_of_a_scaled_view_is_a_multiple_of_the_stride(size, scale, side):
    assert resize_images(torch.zeros(1, 3, size, size), scale).shape[-1] == side
