"""Inference on own images and sheets during training: as a user meets them."""

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import inference_classification
from core.evaluation import classifier
from core.evaluation.classifier import TrainedClassifier, predicted_classes
from core.evaluation.loading import keypoints_of
from core.networks import Classifier
from core.strategy import KEYPOINTS, STRATEGIES, Options, Strategy
from core.training.snapshots import draw_snapshot, varied
from inference_classification import Config
from tests.helpers.command_line import ROOT, SCRIPTS, run, small_with
from tools.data.datasets import ImageFiles, VOCClassification
from tools.data.devkit import read_class_names
from tools.data.images import find_images
from tools.data.transforms import covered_cells, evaluation_transform
from tools.metrics.readers import read_results
from tools.metrics.reports import COLUMNS, Prediction, PredictionTable
from tools.pictures import panels
from tools.pictures.figure import rgb_array
from tools.runs.checkpoints import Description, read_description, save_checkpoint
from tools.system.command_line import parse
from tools.system.errors import UserError

NAMES = ["red thing", "grün", "blue"]


class ColorNetwork(torch.nn.Module):
    """Its three maps are an image's red, green and blue: everybody sees what it must find."""

    def forward(self, images, features_only=False):
        features = torch.nn.functional.avg_pool2d(images.flatten(0, -4).clamp_min(0), 16)
        features = features.unflatten(0, images.shape[:-3])  # of images, or of the tiles of crops
        return features.amax((-2, -1)) * 4 - 2, features


def infer(*words, trained="cMax") -> int:
    """Run inference with the network above, trained with this strategy; return the exit status."""
    config = parse(Config, None, ["--tag", "C", *map(str, words)])
    known = trained if trained in KEYPOINTS else None
    about = Description(class_names=NAMES, image_size=config.image_size or 128, strategy=trained, keypoints=known)
    checkpoint, device = Path("experiments/models/best_C.pth"), torch.device("cpu")
    how = keypoints_of(about, config.strategy)
    model = TrainedClassifier(checkpoint, ColorNetwork(), about, *how, device, threshold=config.threshold)
    return inference_classification.run(model, config)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A real checkpoint, without a description."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "R.pth"
    torch.save(Classifier("resnet18", 3).state_dict(), path)
    return path


def typed(monkeypatch, *words) -> int:
    """Run the script and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["inference_classification.py", *map(str, words)])
    try:
        inference_classification.main()
    except SystemExit as end:
        return end.code
    return 0


def painted(path: Path, width: int, height: int, *spots: tuple[str, int, int, int], **how) -> None:
    """A black image with squares: (color, row and column of the centre, half side)."""
    image = Image.new("RGB", (width, height))
    for color, row, column, half in spots:
        image.paste(color, (column - half, row - half, column + half + 1, row + half + 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **how)


def table(path: str = "experiments/predictions/best_C.csv") -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("width, height", [(500, 375), (375, 500), (1600, 300), (90, 700), (64, 64), (128, 128)])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_keypoints_are_in_the_original_image_s_pixels(here, width, height, strategy):
    row, column, half = int(height * 0.7), int(width * 0.35), max(width, height) // 16
    painted(here / "a.png", width, height, ("red", row, column, half))
    assert infer("--images", "a.png", "--strategy", strategy) == 0
    (found,) = table()
    assert found["class"] == "red thing" and float(found["score"]) > 0.5
    cell = max(width, height) / 8  # of the map
    assert abs(int(found["keypoint_row"]) - row) <= cell and abs(int(found["keypoint_column"]) - column) <= cell
    assert 0 <= int(found["keypoint_row"]) < height and 0 <= int(found["keypoint_column"]) < width


def test_table_and_json_say_the_same_of_every_image(here):
    painted(here / "in/two.png", 300, 200, ("red", 40, 40, 20), ("blue", 150, 250, 20))
    painted(here / "in/none.png", 200, 200)
    assert infer("--images", "in") == 0
    rows = table()
    assert [row["image"] for row in rows] == ["in/none.png", "in/two.png", "in/two.png"]
    assert list(rows[0]) == list(COLUMNS) and rows[0]["class"] == ""
    assert {row["class"] for row in rows[1:]} == {"red thing", "blue"}
    written = json.loads(Path("experiments/predictions/best_C.json").read_text())
    assert written["strategy"] == "cMax" and written["threshold"] == 0.5 and written["image_size"] == 128
    none, two = written["images"]
    assert none["classes"] == [] and (two["height"], two["width"]) == (200, 300)
    for row, entry in zip(rows[1:], two["classes"], strict=True):
        assert row["class"] == entry["class"] and float(row["score"]) == entry["score"]
        assert [int(row["keypoint_row"]), int(row["keypoint_column"])] == entry["keypoint"]


def test_a_broken_image_is_reported_in_one_line_and_skipped(here, capsys):
    for name in ("a", "b", "c"):
        painted(here / f"in/{name}.png", 100, 100, ("blue", 50, 50, 20))
    (here / "in/b.png").write_bytes((here / "in/b.png").read_bytes()[:60])
    (here / "in/empty.jpg").touch()
    assert infer("--images", "in", "--batch_size", 1, "--pictures") == 1
    lines = capsys.readouterr().err.splitlines()
    skipped = [line for line in lines if "skipped:" in line]
    assert "2 images could not be read and were skipped" in lines
    assert len(skipped) == 2 and "in/b.png" in skipped[0] and "in/empty.jpg" in skipped[1]
    assert "devkit" not in "".join(skipped)
    assert [row["image"] for row in table()] == ["in/a.png", "in/c.png"]


def test_topk_predicts_the_k_highest_scores(here):
    painted(here / "a.png", 100, 100, ("lime", 50, 50, 20))
    assert infer("--images", "a.png", "--top", 2) == 0
    rows = table()
    assert len(rows) == 2 and rows[0]["class"] == "grün" and float(rows[0]["score"]) > 0.5 > float(rows[1]["score"])
    assert infer("--images", "a.png", "--threshold", 1, "--out", "t.csv") == 0
    assert [row["class"] for row in table("t.csv")] == [""]


def test_max_has_one_keypoint_for_all_predicted_classes(here):
    painted(here / "a.png", 128, 128, ("red", 30, 30, 12), ("blue", 100, 100, 12))
    for strategy, places in (("Max", 1), ("cMax", 2)):
        assert infer("--images", "a.png", "--strategy", strategy, "--out", f"{strategy}.csv") == 0
        assert len({(row["keypoint_row"], row["keypoint_column"]) for row in table(f"{strategy}.csv")}) == places


def test_a_photograph_is_looked_at_upright(here):
    exif = Image.Exif()
    exif[0x112] = 6  # to be shown turned right by 90 degrees
    painted(here / "a.jpg", 400, 200, ("blue", 150, 60, 24), exif=exif)
    assert infer("--images", "a.jpg") == 0
    (found,) = table()
    upright = json.loads(Path("experiments/predictions/best_C.json").read_text())["images"][0]
    assert (upright["height"], upright["width"]) == (400, 200)
    # Turned right, (row, column) of 200 × 400 comes to (column, 199 − row).
    assert abs(int(found["keypoint_row"]) - 60) <= 50 and abs(int(found["keypoint_column"]) - 49) <= 50


def test_every_image_has_its_own_picture_and_the_table_names_it(here):
    painted(here / "in/a.png", 100, 100, ("red", 50, 50, 20))
    painted(here / "in/A.jpg", 100, 100, ("blue", 50, 50, 20))
    painted(here / "in/deep/a.png", 100, 100)
    painted(here / "in/deep/thin.png", 1000, 2, ("blue", 1, 500, 200))
    painted(here / "in/deep/one.png", 1, 1, ("blue", 0, 0, 0))
    painted(Path(os.fsdecode(b"in/deep/\xff.png")), 60, 60)
    assert infer("--images", "in", "--pictures", "shown", "--batch_size", 2) == 0
    entries = json.loads(Path("experiments/predictions/best_C.json").read_text())["images"]
    pictures = [entry["picture"] for entry in entries]
    assert len(set(map(str.lower, pictures))) == 6 and all(Path(name).stat().st_size for name in pictures)
    assert len(list(Path("shown").iterdir())) == 6


def test_the_picture_shows_map_and_cut_where_the_object_is(here):
    painted(here / "a.png", 400, 400, ("blue", 100, 300, 40))
    assert infer("--images", "a.png", "--pictures") == 0
    picture = cv2.imread("experiments/pictures/best_C/a.png")[..., ::-1]
    assert picture.shape[1] > 2 * 300  # the image, and the map of its one class
    mark = np.argwhere((picture == (213, 94, 0)).all(-1)).mean(0)
    # The second panel begins after a gap, a panel and a gap; its image is below a caption.
    assert abs(mark[0] - (34 + 75)) < 40 and abs(mark[1] - (320 + 225)) < 40


@pytest.mark.parametrize("trained", ["plain", "instances"])
def test_a_network_without_keypoints_gets_empty_columns_and_pictures_without_cut(here, trained):
    painted(here / "a.png", 400, 400, ("blue", 100, 300, 40))
    assert infer("--images", "a.png", "--pictures", trained=trained) == 0
    (found,) = table()
    assert found["class"] == "blue" and found["keypoint_row"] == found["keypoint_column"] == ""
    written = json.loads(Path("experiments/predictions/best_C.json").read_text())
    assert written["strategy"] is None and written["images"][0]["classes"][0]["keypoint"] is None
    picture = cv2.imread("experiments/pictures/best_C/a.png")[..., ::-1]
    assert not (picture == (213, 94, 0)).all(-1).any()
    with pytest.raises(UserError, match="--tiles: .*without keypoints: name a strategy with --strategy"):
        infer("--images", "a.png", "--tiles", trained=trained)
    assert infer("--images", "a.png", "--tiles", "--strategy", "cMax", trained=trained) == 0
    assert infer("--images", "a.png", "--compare", trained=trained) == 0


def test_files_folders_and_patterns_name_images_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.PNG", "sub/c.jpeg", "notes.txt", "odd[1].jpg"):
        painted(tmp_path / name, 8, 8, format="PNG")
    assert [str(p) for p in find_images(["b.jpg", "."])[0]] == ["b.jpg", "a.PNG", "odd[1].jpg", "sub/c.jpeg"]
    assert [str(p) for p in find_images(["**/*.jpeg", "odd[1].jpg"])[0]] == ["sub/c.jpeg", "odd[1].jpg"]
    assert [str(p) for p in find_images(["notes.txt"])[0]] == ["notes.txt"]  # named by the user: tried
    (tmp_path / "void").mkdir()
    for nothing in ("*.gif", "none.jpg", "void"):
        with pytest.raises(UserError, match="names no image"):
            find_images(["b.jpg", nothing])


def test_an_image_fills_its_canvas_and_the_rest_is_0(tmp_path):
    Image.new("RGB", (300, 100), "white").save(tmp_path / "a.png")
    item = ImageFiles([tmp_path / "a.png"], 96)[0]
    assert item.box == (32, 0, 64, 96)
    assert (item.canvas[:, :32] == 0).all() and (item.canvas[:, 64:] == 0).all() and (item.canvas[:, 32:64] > 2).all()
    assert item.to_original([32, 0]) == (1, 1) and item.to_original([63, 95]) == (98, 298)
    assert item.to_original([0, 0]) == (0, 1)  # beside the image: its nearest pixel
    assert covered_cells(torch.tensor(item.box), 96, 6).tolist() == [[2 <= row < 4] * 6 for row in range(6)]


def test_predictions_of_other_images_or_settings_are_kept(here, capsys):
    painted(here / "one/a.png", 64, 64)
    painted(here / "two/b.png", 64, 64)
    for words in (["--images", "one"], ["--images", "two"], ["--images", "one", "--threshold", 0.1]):
        assert infer(*words) == 0
    kept = "note: experiments/predictions/best_C.csv was made with other settings and is kept: writing best_C_3.csv"
    assert kept in capsys.readouterr().err
    for name, image in (("best_C", "one/a.png"), ("best_C_2", "two/b.png"), ("best_C_3", "one/a.png")):
        assert {row["image"] for row in table(f"experiments/predictions/{name}.csv")} == {image}
    painted(here / "one/c.png", 64, 64)
    assert infer("--images", "one") == 0 and "note" not in capsys.readouterr().err
    assert {row["image"] for row in table()} == {"one/a.png", "one/c.png"}  # the same settings: replaced
    assert infer("--images", "one", "--pictures") == 0
    assert infer("--images", "one", "--scores_out", "scores.csv", "--quiet") == 0
    images = json.loads(Path("experiments/predictions/best_C_4.json").read_text())["images"]
    assert all(Path(entry["picture"]).exists() for entry in images)  # no table without pictures has replaced theirs


def test_a_table_named_by_out_has_its_pictures_beside_it(here):
    for name in ("x", "y"):
        painted(here / f"{name}/a.png", 64, 64, ("red", 30, 30, 12))
        assert infer("--images", name, "--pictures", "--out", f"{name}/t.csv") == 0
        assert (here / name / "t/a.png").is_file()
    assert not Path("experiments").exists()


def test_only_csv_and_json_are_suffixes_of_a_table(here):
    painted(here / "a.png", 64, 64)
    for out in ("run.1", "run.2", "run.2.json", "run.3.csv"):
        assert infer("--images", "a.png", "--out", out) == 0
    assert {path.name for path in here.glob("run*")} == {
        f"run.{number}.{suffix}" for number in (1, 2, 3) for suffix in ("csv", "json")
    }


def test_a_comparison_of_other_images_is_kept(here, capsys):
    for name in ("a", "b"):
        painted(here / f"{name}.png", 64, 64, ("red", 30, 30, 12))
        assert infer("--images", f"{name}.png", "--compare") == 0
    assert "keypoints_best_C_2.png" in capsys.readouterr().err
    first = Path("experiments/pictures/keypoints_best_C.png").read_bytes()
    assert infer("--images", "a.png", "--compare") == 0
    assert Path("experiments/pictures/keypoints_best_C.png").read_bytes() == first
    assert len(list(Path("experiments/pictures").iterdir())) == 2


@pytest.mark.parametrize("stem", ["n" * 245, "Kätzchen-" * 24])
def test_an_image_with_a_long_name_has_its_picture(here, stem):
    painted(here / f"{stem}.png", 64, 64)
    assert infer("--images", ".", "--pictures") == 0
    (entry,) = json.loads(Path("experiments/predictions/best_C.json").read_text())["images"]
    assert Path(entry["picture"]).is_file()


@pytest.mark.parametrize("out", [".", "/", "n" * 300 + ".csv"])
def test_a_table_that_cannot_be_written_is_refused_at_once(here, out):
    painted(here / "a.png", 64, 64)
    with pytest.raises(UserError, match="must end in the name of a file|cannot write"):
        infer("--images", "a.png", "--out", out)


def test_a_picture_that_fails_costs_itself_and_not_the_table(here, monkeypatch, capsys):
    def draw(item, *_):
        raise MemoryError("no memory\x1b[2J") if "a.png" in item.path else UserError("gone")

    monkeypatch.setattr(classifier, "draw_prediction", draw)
    for name in ("a", "b"):
        painted(here / f"{name}.png", 64, 64, ("red", 30, 30, 12))
    assert infer("--images", ".", "--pictures") == 1
    assert "no picture of a.png: no memory\\x1b[2J" in capsys.readouterr().err
    assert [row["image"] for row in table()] == ["a.png", "b.png"]
    assert all("picture" not in entry for entry in json.loads(
        Path("experiments/predictions/best_C.json").read_text())["images"])  # fmt: skip


def test_names_that_a_spreadsheet_would_compute_stay_text(here):
    painted(here / "=1+1.png", 64, 64)
    assert infer("--images", "=1+1.png") == 0
    assert table()[0]["image"] == "'=1+1.png"


def test_the_best_classes_are_chosen_by_logits():
    """Float32 sigmoids of 18, 20 and 19 are all 1."""
    assert predicted_classes(torch.tensor([18.0, 20.0, 19.0, -1.0]), topk=2).tolist() == [1, 2]


def test_each_class_may_have_its_own_threshold():
    logits, thresholds = torch.tensor([2.0, 0.0, 1.0]), torch.tensor([0.95, 0.4, 0.5])
    assert predicted_classes(logits).tolist() == [0, 2, 1]
    assert predicted_classes(logits, thresholds).tolist() == [2, 1]


def test_a_table_that_breaks_off_leaves_nothing(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("earlier")
    with pytest.raises(ZeroDivisionError), PredictionTable(path, {}) as unfinished:
        unfinished.add("a.png", (2, 2), [Prediction("dog", 0.5, (1, 1))])
        raise ZeroDivisionError
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="cannot write"), PredictionTable(path / "t.csv", {}):
        pass


def test_a_table_holds_every_row(tmp_path):
    with PredictionTable(tmp_path / "t.csv", {}) as growing:
        for number in range(2000):
            growing.add(f"{number}.png", (2, 2), [Prediction("dog", 0.5, (1, 1))])
    assert len(table(str(tmp_path / "t.csv"))) == 2000
    assert len(json.loads((tmp_path / "t.json").read_text())["images"]) == 2000


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "one of the arguments --images --data_dir is required"),
        (["--images", "nothing/*.jpg"], "names no image"),
        (["--images", "a.png", "--data_dir", "x"], "--data_dir: not allowed with argument --images"),
        (["--images", "a.png", "--threshold", "2"], "--threshold 2.0"),
        (["--images", "a.png", "--top", "0"], "--top 0"),
        (["--images", "a.png", "--image_size", "100"], "try 96"),
        (["--images", "a.png", "--compare", "--out", "x.csv"], "must end in .png, .jpg, .pdf or .svg"),
        (["--images", "a.png", "--tiles", "--pictures"], "--pictures belongs to the table"),
        (["--images", "a.png", "--scores_out", "a.txt"], "must end in .csv or .npz"),
        (["--images", "a.png", "--scores_out", "a.csv", "--compare"], "--scores_out belongs to the table"),
    ],
)
def test_mistakes_are_one_line(here, words, message):
    painted(here / "a.png", 64, 64)
    with pytest.raises(UserError) as error:
        infer(*words)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["--compare", "--tiles"])
@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_strategies_and_tiles_of_own_images(here, mode, suffix):
    painted(here / "a.png", 200, 150, ("red", 60, 60, 20))
    painted(here / "b.png", 200, 150)
    assert infer("--images", "a.png", "b.png", mode, "--out", f"s.{suffix}") == 0
    if suffix == "pdf":
        assert Path("s.pdf").read_bytes().startswith(b"%PDF")
        return
    sheet = cv2.imread("s.png")
    assert sheet.shape[0] > 2 * 300 and sheet.shape[1] > 4 * 300


@pytest.mark.parametrize("size", [120, 600])
def test_panels_have_the_size_that_was_asked_for(here, size):
    painted(here / "a.png", 1000, 1000, ("red", 500, 500, 100))
    assert infer("--images", "a.png", "--pictures", "p", "--panel_size", size, "--quiet") == 0
    assert infer("--images", "a.png", "--compare", "--panel_size", size, "--out", "c.png") == 0
    assert 2 * size < Image.open("p/a.png").width < 3 * size + 160
    assert 4 * size < Image.open("c.png").width < 5 * size + 160
    with pytest.raises(UserError, match="--panel_size 50: must be 100 or more"):
        infer("--images", "a.png", "--panel_size", 50)
    with pytest.raises(UserError, match="--count 190 is too many at --panel_size 1000"):
        infer("--images", "a.png", "--compare", "--count", 190, "--panel_size", 1000)


def test_boxes_of_a_labeled_split_are_those_of_the_classes_that_a_panel_shows(here, monkeypatch):
    painted(here / "voc/JPEGImages/a.jpg", 128, 128, ("red", 40, 40, 20), ("blue", 100, 90, 10), format="PNG")
    objects = [("red thing", 21, 21, 61, 61), ("blue", 81, 91, 101, 111), ("grün", 200, 200, 300, 300)]
    parts = [f"<object><name>{name}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax>"
             f"<ymax>{bottom}</ymax></bndbox></object>" for name, left, top, right, bottom in objects]  # fmt: skip
    for path, content in (("Annotations/a.xml", f"<annotation>{''.join(parts)}</annotation>"),
                          ("ImageSets/Main/val.txt", "a\n")):  # fmt: skip
        (here / "voc" / path).parent.mkdir(parents=True)
        (here / "voc" / path).write_text(content, encoding="utf-8")
    drawn, plain = [], panels.draw_boxes
    monkeypatch.setattr(panels, "draw_boxes", lambda axes, boxes: drawn.append(boxes) or plain(axes, boxes))
    words = ("--data_dir", "voc", "--split", "Main/val", "--image_size", 128)
    assert infer(*words, "--compare", "--out", "c.png") == 0
    red, blue = (20, 20, 61, 61), (90, 80, 111, 101)
    assert drawn == [[red, blue], [blue], [blue], [blue]]  # Max has one map of all classes
    drawn.clear()
    assert infer(*words, "--tiles", "--out", "t.png") == 0
    assert drawn == [[blue]]


def test_a_strategy_of_ones_own_has_a_panel_of_its_own(here):
    painted(here / "a.png", 200, 150, ("red", 60, 60, 20))
    for name, strategy in (("four", "cMax"), ("five", ROOT / "docs/examples/fifth_strategy.py")):
        assert infer("--images", "a.png", "--compare", "--strategy", strategy, "--out", f"{name}.svg") == 0
    assert all(f"{name}: " in Path("four.svg").read_text(encoding="utf-8") for name in STRATEGIES)
    contents = [Path(f"{name}.svg").read_text(encoding="utf-8") for name in ("four", "five")]
    widths = [float(content.split('width="')[1].split("pt")[0]) for content in contents]
    assert widths[1] - widths[0] == pytest.approx(310 * 72 / 100)


def test_the_strategy_is_the_one_of_the_checkpoint_unless_it_is_named():
    trained = Description(strategy="cTopk", keypoints="cTopk", arguments={"topk": 3, "topk_radius": 0})
    keypoints, options = keypoints_of(trained)
    assert (keypoints.name, options.topk, options.topk_radius) == ("cTopk", 3, 0)
    assert keypoints_of(trained, "Max")[0].name == "Max"
    assert keypoints_of(Description(strategy="plain"))[0] is None


@pytest.mark.parametrize(
    "description, words, message",
    [
        ({}, [], "does not say its strategy: give --strategy"),
        ({"strategy": "mine", "keypoints": "mine"}, [], "strategy 'mine' is unknown here"),
        ({"strategy": "cMax", "keypoints": "cMax"}, ["--strategy", "other"], "--strategy other: choose one of Max"),
        ({"strategy": "cMax", "keypoints": "cMax"}, ["--strategy", "none.py"], "no file none.py"),
        ({"strategy": "cMax", "keypoints": "cMax"}, ["--device", "toaster"], "--device toaster"),
    ],
)
def test_mistakes_about_the_checkpoint_are_one_line(here, monkeypatch, checkpoint, description, words, message):
    painted(here / "a.png", 64, 64)
    about = {"architecture": "resnet18", "class_names": NAMES, **description}
    (here / "R.pth").symlink_to(checkpoint)
    (here / "R.json").write_text(json.dumps(about))
    with pytest.raises(UserError) as error:
        typed(monkeypatch, "--weights", "R.pth", "--images", "a.png", *words)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_checkpoint_without_description_needs_architecture_and_classes(here, monkeypatch, checkpoint):
    painted(here / "a.png", 64, 64)
    (here / "names.json").write_text(json.dumps({"class_names": NAMES}))
    words = ["--weights", checkpoint, "--images", "a.png", "--image_size", 64, "--strategy", "cTopk", "--topk", 3]
    with pytest.raises(UserError, match="give --architecture and --class_file"):
        typed(monkeypatch, *words)
    assert typed(monkeypatch, *words, "--architecture", "resnet18", "--class_file", "names.json") == 0
    assert {row["class"] for row in table("experiments/predictions/R.csv")} == set(NAMES)


def test_scores_are_those_of_the_network(here, monkeypatch, checkpoint):
    """A real checkpoint, and the image prepared a second time with NumPy alone."""
    state_dict = torch.load(checkpoint, weights_only=True)
    description = Description("resnet18", NAMES, 64, strategy="cMax", keypoints="cMax")
    save_checkpoint(here / "experiments/models/best_R.pth", state_dict, description)
    network = Classifier("resnet18", 3).eval()
    network.load_state_dict(state_dict)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 40, 3), np.uint8)
    Image.fromarray(pixels).save(here / "a.png")
    assert typed(monkeypatch, "--tag", "R", "--images", "a.png", "--top", 3) == 0
    canvas = np.zeros((64, 64, 3))
    canvas[:, 12:52] = (pixels / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    with torch.no_grad():
        logits, _ = network(torch.from_numpy(canvas).float().permute(2, 0, 1)[None])
    expected = dict(zip(NAMES, (1 / (1 + np.exp(-logits[0].numpy()))).tolist(), strict=True))
    found = {row["class"]: float(row["score"]) for row in table("experiments/predictions/best_R.csv")}
    assert found == pytest.approx(expected, abs=2e-5)


def test_help_and_mistakes_do_not_import_matplotlib(here):
    program = "import sys, runpy; sys.argv = [sys.argv[1], '--help']; runpy.run_path(sys.argv[0], run_name='__main__')"
    watched = f"import atexit, sys; atexit.register(lambda: print('matplotlib' in sys.modules)); {program}"
    for script in ("inference_classification.py", SCRIPTS["cMax"]):
        command = [sys.executable, "-c", watched, str(ROOT / script)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert "--tag" in result.stdout and result.stdout.splitlines()[-1] == "False", result.stderr


# During training ----------------------------------------------------------------------------------------------------


def test_sheets_show_as_many_classes_as_there_are():
    labels = torch.tensor([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    assert varied(labels, 2) == [(0, 0), (2, 1)]
    assert varied(labels, 9) == [(0, 0), (2, 1), (1, 0), (3, 1)]
    assert varied(torch.zeros(3, 2), 4) == []


def test_snapshots_are_drawn_and_disturb_nothing(toy, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    weights = []
    for tag, words in (("with", ["--snapshot_every", 2, "--tensorboard"]), ("without", [])):
        changes = small_with(data_dir=toy, tag=tag, max_epoch=3, lr=0.01)
        result = run(tmp_path, SCRIPTS["cTopk"], *changes, *words)
        assert result.returncode == 0, result.stderr
        weights.append(torch.load(tmp_path / f"experiments/models/last_{tag}.pth", weights_only=True))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    folder = tmp_path / "experiments/snapshots"
    assert [path.name for path in folder.rglob("*.png")] == ["epoch_002.png"]
    sheet = cv2.imread(str(folder / "with/epoch_002.png"))
    assert sheet.shape[1] > 4 * 240 and sheet.shape[0] > 2 * 240
    events = EventAccumulator(str(tmp_path / "experiments/tensorboards/with")).Reload()
    assert Counter(events.Tags()["images"]) == Counter(["snapshot"])
    description = read_description(tmp_path / "experiments/models/best_with.pth")
    assert keypoints_of(description)[0].name == "cTopk"


@pytest.mark.parametrize("name, marked", [("cTopk-w", True), ("plain", False)])
def test_a_snapshot_shows_the_keypoints_of_the_strategy(toy, name, marked):
    names = read_class_names(ROOT / "data/VOC_2012.json")
    dataset = VOCClassification(toy, "Main/val", names, evaluation_transform(64))
    network, strategy = Classifier("resnet18", len(names)).train(), Strategy(name, training_step=None)
    figure = draw_snapshot(network, dataset, strategy, Options(), "the title")
    picture = rgb_array(figure)
    assert (picture == (213, 94, 0)).all(-1).any() == marked
    assert network.training and any(text.get_text() == "the title" for text in figure.texts)
    dataset.labels.zero_()
    assert draw_snapshot(network, dataset, strategy, Options(), "") is None


def test_every_image_is_a_line_and_the_last_one_counts(here, capsys):
    painted(here / "a.png", 64, 64, ("red", 30, 30, 20))
    painted(here / "b.png", 64, 64)
    assert infer("--images", "a.png", "b.png", "--threshold", 1) == 0
    printed = capsys.readouterr()
    assert "inference" not in printed.err  # a bar only on a terminal
    lines = printed.out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["a.png", "b.png"]
    assert all("none (strongest: " in line for line in lines[:2])
    assert lines[-1] == "2 images, 0 skipped, 2 without a predicted class"
    assert infer("--images", "a.png", "--threshold", 0, "--quiet") == 0
    out = capsys.readouterr().out
    assert "a.png:" not in out and "1 images, 0 skipped, 0 without" in out


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_scores_of_every_class_are_written_and_read_back(here, suffix):
    painted(here / "a.png", 64, 64, ("red", 30, 30, 20))
    painted(here / "b.png", 64, 64, ("blue", 30, 30, 20))
    assert infer("--images", "a.png", "b.png", "--top", 1, "--scores_out", f"all{suffix}", "--out", "t.csv") == 0
    scored = read_results(Path(f"all{suffix}"))
    assert (scored.ids, scored.class_names, scored.labels) == (["a.png", "b.png"], NAMES, None)
    for row, scores in zip(table("t.csv"), scored.probabilities, strict=True):
        assert row["class"] == NAMES[scores.argmax()]
        assert float(row["score"]) == pytest.approx(scores.max(), abs=1e-6)
