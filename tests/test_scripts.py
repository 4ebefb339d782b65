"""The scripts as a user runs them: whole runs on toy images, and one clear line for every mistake."""

import json
import re
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from core.networks import Classifier
from core.training import train
from core.weights import load_weights
from tests.helpers.command_line import ROOT, SCRIPTS, SMALL, refused, run, small_with
from tests.helpers.golden import strategy_of


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory) -> Path:
    """A folder in which every strategy has been trained for two short epochs."""
    folder = tmp_path_factory.mktemp("runs")
    for tag, script in SCRIPTS.items():
        extra = {"cMax": ["--tensorboard", "--augment", "colorjitter"], "Max": ["--amp", "bf16"]}.get(tag, [])
        result = run(folder, script, *SMALL, "--data_dir", toy, "--tag", tag, "--max_epoch", 2, "--lr", 0.01, *extra)
        assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("tag", SCRIPTS)
def test_a_run_leaves_log_history_and_checkpoints(trained, tag):
    log = (trained / f"experiments/logs/{tag}.txt").read_text()
    losses = r"loss=[\d.]+, class_loss=[\d.]+, p_class_loss=[\d.]+, re_loss=[\d.]+"
    rest = r"time=\d+sec, alpha_re=[\d.]+, [\d.]+ images/s, epoch \d/2, .* left, at \d\d:\d\d:\d\d"
    assert re.search(rf"^\[i\] iteration=[\d,]+, learning_rate=[\d.]+, {losses}, {rest}$", log, re.MULTILINE)
    shares = r"map=[\d.]+%, best map=[\d.]+%, eval_class_loss=[\d.]+"
    rest = r"time=\d+sec, epoch=\d+, map_scale=-?[\d.]+"
    assert len(re.findall(rf"^\[i\] iteration=[\d,]+, {shares}, {rest}", log, re.MULTILINE)) == 2
    history = json.loads((trained / f"experiments/data/{tag}.json").read_text())
    assert [row["epoch"] for row in history["validation"]] == [1, 2]
    assert len(history["validation"][0]["average_precision"]) == 20
    for name in (tag, f"best_{tag}", f"last_{tag}"):
        path = trained / f"experiments/models/{name}.pth"
        state_dict = torch.load(path, weights_only=True)
        assert load_weights(Classifier("resnet18", 20), state_dict) == "checkpoint"
        description = json.loads(path.with_suffix(".json").read_text())
        assert description["architecture"] == "resnet18" and len(description["class_names"]) == 20
    best = json.loads((trained / f"experiments/models/best_{tag}.json").read_text())["mAP"]
    assert best == max(row["map"] for row in history["validation"]) == history["validation"][-1]["best map"]


def test_validation_says_what_it_does_not_see_or_fits_whole_images_as_evaluation_then_does(trained, toy, tmp_path):
    note = "[i] of the validation images, 25 of 25 images are larger than --image_size 32"
    assert note in (trained / "experiments/logs/Max.txt").read_text()
    words = [*SMALL, "--data_dir", toy, "--tag", "whole", "--max_epoch", 1, "--lr", 0.01, "--eval_resize"]
    assert run(tmp_path, SCRIPTS["cMax"], *words).returncode == 0
    assert "are larger than" not in (tmp_path / "experiments/logs/whole.txt").read_text()
    words = ["--tag", "whole", "--data_dir", toy, "--split", "Main/val", "--num_workers", 0, "--bootstrap", 0]
    result = run(tmp_path, "evaluate_classification.py", *words)
    assert "evaluated on whole images, fitted to 32 pixels" in result.stdout, result.stderr
    evaluated = json.loads((tmp_path / "experiments/evaluation/best_whole_Main_val.json").read_text())
    history = json.loads((tmp_path / "experiments/data/whole.json").read_text())
    assert evaluated["mAP"] == pytest.approx(history["validation"][0]["map"])


def test_tensorboard_curves_are_written_on_request(trained):
    assert len(list((trained / "experiments/tensorboards/cMax").glob("events*"))) == 1
    assert not (trained / "experiments/tensorboards/Max").exists()


def test_the_same_command_trains_the_same_weights_with_any_number_of_workers(trained, toy, tmp_path):
    words = [*SMALL, "--num_workers", 2, "--data_dir", toy, "--tag", "cTopk", "--max_epoch", 2, "--lr", 0.01]
    assert run(tmp_path, SCRIPTS["cTopk"], *words).returncode == 0
    first, second = (
        torch.load(folder / "experiments/models/last_cTopk.pth", weights_only=True) for folder in (trained, tmp_path)
    )
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_evaluation_repeats_the_run_s_own_result(trained, toy):
    words = ["--tag", "cTopk_w", "--data_dir", toy, "--split", "Main/val", "--num_workers", 0]
    result = run(trained, "evaluate_classification.py", *words)
    assert result.returncode == 0, result.stderr
    best = json.loads((trained / "experiments/models/best_cTopk_w.json").read_text())["mAP"]
    written = json.loads((trained / "experiments/evaluation/best_cTopk_w_Main_val.json").read_text())
    assert written["mAP"] == pytest.approx(best, abs=1e-3)
    assert f"{best:.2f}" in re.search(r"mean \(mAP\).*", result.stdout)[0]


def test_the_keypoint_picture_is_drawn(trained, toy):
    import cv2

    words = ["--tag", "cTopk_w", "--data_dir", toy, "--split", "Main/val", "--count", 2, "--out", "sheet.png"]
    result = run(trained, "inference_classification.py", *words)
    assert result.returncode == 0, result.stderr
    assert cv2.imread(str(trained / "sheet.png")).shape[1] > 4 * 256


def test_training_starts_from_every_kind_of_weights(trained, toy, tmp_path):
    backbone = tmp_path / "backbone.pth"
    torch.save(resnet18().state_dict(), backbone)
    for weights, untrained in ((backbone, "the head"), (trained / "experiments/models/best_Max.pth", "nothing")):
        words = [*SMALL, "--weights", weights, "--data_dir", toy, "--tag", "again", "--max_epoch", 1]
        result = run(tmp_path, SCRIPTS["cMax"], *words)
        assert result.returncode == 0
        assert f"they fill all 100 tensors of the backbone; untrained: {untrained}; images are" in result.stdout


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"data_dir": "nowhere"}, "no folder nowhere"),
        ({"train_split": "nope"}, "unknown split 'nope'"),
        ({"image_size": 100}, "not divisible by 32"),
        ({"batch_size": 1000}, "a batch of 1000 images exceeds"),
        ({"architecture": "vgg16"}, "choose one of resnet18, resnet34, resnet50"),
        ({"architecture": "timm/nothing_like_it"}, "timm does not have a model"),
        ({"architecture": "tf_efficientnet_lite0"}, "did you mean timm/tf_efficientnet_lite0?"),
        ({"architecture": "timm/efficientnet_lite"}, "efficientnet_lite4, tf_efficientnet_lite0"),
        ({"weights": "nothing.pth"}, "no file nothing.pth"),
        ({"augment": "blur"}, "unknown augmentation 'blur'"),
        ({"class_file": "nothing.json"}, "nothing.json"),
        ({"lr": -1}, "--lr -1.0: must be above 0"),
        ({"alpha_ema": 2}, "--alpha_ema 2.0"),
        ({"tag": "a/b"}, "--tag a/b"),
        ({"min_image_size": 90}, "exceeds --max_image_size"),
        ({"warmup_epoch": 15}, "--warmup_epoch 15"),
        ({"device": "cuda:7"}, "--device cuda:7"),
        ({"device": "toaster"}, "--device toaster"),
    ],
)
def test_every_wrong_argument_ends_in_one_line(toy, tmp_path, monkeypatch, capsys, changes, said):
    monkeypatch.chdir(tmp_path)
    words = small_with(**{"data_dir": toy, **changes})
    monkeypatch.setattr("sys.argv", ["train.py", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        train(strategy_of("cMax"), "A test.")
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error:") and error.count("\n") == 1 and said in error
    assert not (tmp_path / "experiments").exists()


def test_weights_that_do_not_fit_name_missing_and_extra_parameters(toy, tmp_path):
    wrong = tmp_path / "wrong.pth"
    state_dict = resnet18().state_dict()
    state_dict["layer1.7.weight"] = state_dict.pop("layer1.0.conv1.weight")
    torch.save(state_dict, wrong)
    line = refused(tmp_path, SCRIPTS["Max"], *small_with(weights=wrong, data_dir=toy))
    assert "1 missing (layer1.0.conv1.weight)" in line and "1 extra (layer1.7.weight)" in line
    wrong.write_bytes(wrong.read_bytes()[:1000])
    assert "truncated or not a PyTorch file" in refused(
        tmp_path, SCRIPTS["Max"], *small_with(weights=wrong, data_dir=toy)
    )


def test_a_failed_download_names_both_ways_out(toy, tmp_path):
    proxy = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    words = small_with(weights="imagenet", data_dir=toy)
    line = refused(tmp_path, SCRIPTS["Max"], *words, TORCH_HOME=str(tmp_path), **proxy)
    assert "--weights FILE" in line and "--weights none" in line


@pytest.mark.parametrize("script", SCRIPTS.values())
def test_the_readme_command_stops_at_once_where_images_are_missing(script, toy, tmp_path):
    """The README's command, word for word, on a folder without VOC's images."""
    readme = (ROOT / "README.md").read_text()
    command = re.search(rf"^python3 {re.escape(script)} (.*) --data_dir \$your_dir$", readme, re.MULTILINE)
    line = refused(tmp_path, script, *command[1].split(), "--data_dir", toy)
    assert "lacks 10,582 of the 10,582" in line and "2007_000032, 2007_000039, 2007_000063" in line
    assert str(toy / "JPEGImages") in line and "--data_dir" in line


def test_a_missing_checkpoint_is_named(toy, tmp_path):
    line = refused(tmp_path, "evaluate_classification.py", "--tag", "nobody", "--data_dir", toy)
    assert "experiments/models/best_nobody.pth" in line
    line = refused(tmp_path, "inference_classification.py", "--tag", "nobody", "--data_dir", toy)
    assert "experiments/models/best_nobody.pth" in line


def test_an_unwritable_folder_is_named(toy, tmp_path):
    (tmp_path / "experiments").write_text("a file where a folder should be")
    assert "experiments/states" in refused(tmp_path, SCRIPTS["cMax"], *small_with(data_dir=toy, tag="x", max_epoch=1))


def test_a_loss_that_is_not_finite_ends_the_run_in_one_line(toy, tmp_path):
    words = small_with(data_dir=toy, tag="x", max_epoch=2, lr=1e30, momentum=0.9)
    assert "the loss or its gradient is not finite at iteration" in refused(tmp_path, SCRIPTS["cMax"], *words)


@pytest.mark.slow
@pytest.mark.parametrize("tag", SCRIPTS)
def test_real_images_raise_the_average_precision_above_the_untrained_head(tag, voc_sample, imagenet_weights, tmp_path):
    words = f"""--architecture timm/tf_efficientnet_lite0 --weights {imagenet_weights} --data_dir {voc_sample}
        --train_split Main/train --val_split Main/val --image_size 160 --min_image_size 140 --max_image_size 220
        --batch_size 16 --lr 0.01 --momentum 0.9 --max_epoch 1 --num_workers 0 --tag {tag}"""
    result = run(tmp_path, SCRIPTS[tag], *words.split())
    assert result.returncode == 0, result.stderr
    best = json.loads((tmp_path / f"experiments/models/best_{tag}.json").read_text())
    assert best["mAP"] > 10  # chance is 6.8, the untrained head 8.9
