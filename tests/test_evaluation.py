"""evaluate_classification.py as a user runs it, its files, the test server's archive, and test-time augmentation."""

import csv
import hashlib
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from core.evaluation.prediction import TestTimeAugmentation, resize_images
from core.networks import Classifier
from tests.helpers.command_line import refused, run
from tools.data.annotations import read_label_lists
from tools.data.devkit import read_class_names
from tools.metrics.average_precision import average_precisions
from tools.metrics.scores import Scores, read_scores, write_scores
from tools.metrics.submission import CLASSES, find_problem, read_submission, write_submission
from tools.runs.checkpoints import Description, save_checkpoint
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
        (["--scores", "none.npz"], "none.npz cannot be read (No such file or directory); check --scores"),
        (["--scores", "none.npz", "--localization"], "--localization needs the network"),
        (["--tag", "x", "--data_dir", ".", "--threshold", "2"], "--threshold 2.0"),
        (["--tag", "x", "--data_dir", ".", "--image_size", "100"], "not divisible by 32"),
        (["--tag", "x", "--data_dir", ".", "--bootstrap", "-1"], "--bootstrap -1"),
        (["--tag", "x", "--data_dir", ".", "--scales", "1;2"], "invalid scales value: '1;2'"),
        (["--tag", "x", "--data_dir", ".", "--scales", "0.5,9"], "--scales (0.5, 9.0)"),
        (["--tag", "x", "--data_dir", ".", "--strategy", "cMax"], "--strategy is only used by --localization"),
    ],
)
def test_wrong_arguments_get_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    import evaluate_classification
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
