"""A trained network from Python: its numbers are the command line's, for every kind of image and checkpoint."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import core
import evaluate_classification
import inference_classification
from core import UserError, load_classifier, preprocess
from core.evaluation.classifier import Result, TrainedClassifier
from core.networks import Classifier
from core.strategy import KEYPOINTS, STRATEGIES, Options
from tests.helpers.command_line import ROOT
from tests.test_inference import ColorNetwork, painted
from tools.runs.checkpoints import Description, save_checkpoint

NAMES = ["cat", "dog"]
SIZE = 64


@pytest.fixture(scope="module")
def network() -> Classifier:
    torch.manual_seed(0)
    return Classifier("resnet18", len(NAMES))


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory) -> Path:
    """A checkpoint with class activation maps and logits of both signs."""
    path = tmp_path_factory.mktemp("checkpoint") / "best_R.pth"
    save_checkpoint(path, network.state_dict(), Description("resnet18", NAMES, SIZE, strategy="cMax", keypoints="cMax"))
    return path


@pytest.fixture(scope="module")
def model(checkpoint) -> TrainedClassifier:
    return load_classifier(str(checkpoint), device="cpu")


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """A folder of every kind of image: RGB, gray, RGBA, palette, and a JPEG that is to be turned."""
    monkeypatch.chdir(tmp_path)
    rng, folder = np.random.default_rng(0), tmp_path / "photos"
    folder.mkdir()
    for name, shape in (("rgb", (50, 80, 3)), ("gray", (70, 40)), ("rgba", (33, 66, 4))):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{name}.png")
    Image.open(folder / "rgb.png").quantize(16).save(folder / "palette.png")
    exif = Image.Exif()
    exif[0x112] = 6
    Image.open(folder / "rgb.png").save(folder / "turned.jpg", exif=exif)
    return folder


def same(first: Result, second: Result) -> bool:
    return torch.equal(first.logits, second.logits) and torch.equal(first.features, second.features)


def colors(strategy: str = "cMax", threshold: float = 0.5) -> TrainedClassifier:
    """A network whose maps are an image's red, green and blue."""
    about = Description(class_names=["red", "green", "blue"], image_size=128)
    return TrainedClassifier(
        Path("c.pth"), ColorNetwork(), about, KEYPOINTS[strategy], Options(), torch.device("cpu"), threshold=threshold
    )


# The numbers of the command line ------------------------------------------------------------------------------------


def test_logits_are_those_of_an_evaluation_s_scores_file(devkit, checkpoint, model, monkeypatch):
    monkeypatch.chdir(devkit)
    words = ["--weights", checkpoint, "--data_dir", devkit, "--split", "Main/train", "--eval_resize", "--device", "cpu"]
    words += ["--batch_size", 3, "--num_workers", 0, "--bootstrap", 0, "--out", "result"]
    monkeypatch.setattr(sys, "argv", ["evaluate_classification.py", *map(str, words)])
    evaluate_classification.main()
    with np.load("result.npz") as file:
        ids, expected = file["ids"].tolist(), file["logits"]
    results = model.predict("JPEGImages", batch_size=3)
    assert [Path(result.path).stem for result in results] == ids
    assert np.array_equal(torch.stack([result.logits for result in results]).numpy(), expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_classes_scores_and_keypoints_are_those_of_the_table(photos, checkpoint, strategy, monkeypatch):
    words = ["--weights", checkpoint, "--images", photos, "--strategy", strategy, "--threshold", 0.4, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["inference_classification.py", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        inference_classification.main()
    assert end.value.code == 0
    table = json.loads(Path("experiments/predictions/best_R.json").read_text())["images"]
    results = load_classifier(checkpoint, strategy=strategy, threshold=0.4, device="cpu").predict(photos)
    assert sum(len(entry["classes"]) for entry in table) > 0
    for entry, result in zip(table, results, strict=True):
        assert (entry["image"], entry["height"], entry["width"]) == (result.path, *result.size)
        assert [item["class"] for item in entry["classes"]] == result.labels()
        for item in entry["classes"]:
            assert item["score"] == round(result.scores[item["class"]], 6)
            assert tuple(item["keypoint"]) == result.keypoint(item["class"])


def test_scores_and_maps_are_those_of_the_network(photos, network, model):
    """Without the folding of batch normalization, and prepared by the public function."""
    item = preprocess(photos / "rgb.png", SIZE)
    assert item.canvas.shape == (3, SIZE, SIZE) and item.size == (50, 80) and item.box == (12, 0, 52, 64)
    with torch.no_grad():
        logits, features = network.eval()(item.canvas[None])
    result = model.predict(photos / "rgb.png")
    assert list(result.scores) == NAMES
    assert list(result.scores.values()) == pytest.approx(torch.sigmoid(logits[0]).tolist(), abs=1e-4)
    assert torch.allclose(result.features, features[0], atol=1e-3)


# Images -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rgb", "gray", "rgba"])
def test_pixels_a_pil_image_and_a_file_are_the_same_image(photos, model, name):
    path = photos / f"{name}.png"
    image = Image.open(path)
    before = image.copy()
    from_file = model.predict(path)
    for source in (str(path), image, np.asarray(image), np.asarray(image)[::1]):
        assert same(model.predict(source), from_file)
    model.predict(image).plot()
    assert image.size == before.size and image.tobytes() == before.tobytes()


def test_gray_is_repeated_and_transparency_is_dropped(photos, model):
    gray, rgba = (np.asarray(Image.open(photos / f"{name}.png")) for name in ("gray", "rgba"))
    assert same(model.predict(gray), model.predict(np.repeat(gray[..., None], 3, -1)))
    assert same(model.predict(rgba), model.predict(rgba[..., :3].copy()))
    assert same(model.predict(Image.open(photos / "palette.png")), model.predict(photos / "palette.png"))


def test_a_photograph_is_seen_upright(photos, model):
    path = photos / "turned.jpg"
    result = model.predict(path)
    assert result.size == (80, 50) and result.cam("dog").shape == (80, 50)
    upright = ImageOps.exif_transpose(Image.open(path))
    assert same(model.predict(Image.open(path)), result) and same(model.predict(upright), result)


def test_a_list_and_a_folder_return_lists_in_order(photos, model):
    names = ["gray.png", "palette.png", "rgb.png", "rgba.png", "turned.jpg"]
    from_folder = model.predict(str(photos))
    assert [Path(result.path).name for result in from_folder] == names
    mixed = [photos / "gray.png", str(photos / "palette.png"), np.asarray(Image.open(photos / "rgb.png"))]
    mixed += [Image.open(photos / "rgba.png"), Image.open(photos / "turned.jpg")]
    assert all(map(same, model.predict(mixed), from_folder)) and model.predict([]) == []
    assert model.predict(mixed)[2].path == ""
    assert all(map(same, model.results(sorted(photos.iterdir()), batch_size=5, num_workers=1), from_folder))


def test_an_image_that_cannot_be_read_is_an_error_and_in_a_list_a_problem(photos, model):
    (photos / "broken.png").write_bytes((photos / "rgb.png").read_bytes()[:60])
    with pytest.raises(UserError, match="broken.png"):
        model.predict(photos / "broken.png")
    broken, whole = model.predict([photos / "broken.png", photos / "rgb.png"], batch_size=1)
    assert "broken.png" in broken.problem and not whole.problem and same(whole, model.predict(photos / "rgb.png"))
    assert broken.scores == {} and broken.labels() == [] and "broken.png" in repr(broken) and not broken._repr_png_()
    with pytest.raises(UserError, match="broken.png"):
        broken.cam("dog")


@pytest.mark.parametrize(
    "image, message",
    [
        ("none.jpg", "none.jpg"),
        (np.zeros((4, 4, 3)), "an array of float64 .* is not an image: give uint8 pixels"),
        (np.zeros((2, 4, 4, 3), np.uint8), "not an image"),
        (np.zeros((0, 4, 3), np.uint8), "not an image"),
        (np.zeros(4, np.uint8), "not an image"),
        (Image.new("RGB", (0, 5)), "not an image"),
        (None, "None' is not an image"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_not_an_image_is_one_line(model, image, message):
    with pytest.raises(UserError, match=message) as error:
        model.predict([image])[0].cam("dog")
    assert "\n" not in str(error.value)


# Results ------------------------------------------------------------------------------------------------------------


def test_maps_and_keypoints_are_in_the_image_s_own_pixels(photos):
    painted(photos / "spot.png", 300, 200, ("red", 140, 60, 20))
    result = colors().predict(photos / "spot.png")
    heat = result.cam("red")
    assert heat.dtype == np.float32 and heat.shape == (200, 300) and heat.min() >= 0 and 0.9 < heat.max() <= 1
    for row, column in (np.unravel_index(heat.argmax(), heat.shape), result.keypoint("red")):
        assert abs(row - 140) <= 300 / 8 and abs(column - 60) <= 300 / 8


def test_labels_follow_the_threshold_or_the_number(photos):
    painted(photos / "two.png", 128, 128, ("red", 30, 30, 20), ("blue", 90, 90, 12))
    result = colors(threshold=0.6).predict(photos / "two.png")
    ranked = sorted(result.scores, key=result.scores.get, reverse=True)
    assert result.labels(0) == result.labels(topk=3) == ranked and result.labels(topk=1) == ranked[:1]
    assert result.labels() == result.labels(0.6) == [name for name in ranked if result.scores[name] >= 0.6]
    assert repr(result).startswith(f"<{result.path}: ") and ranked[0] in repr(result)


def test_each_class_may_have_its_own_threshold(photos, checkpoint, model):
    scores = model.predict(photos / "rgb.png").scores
    wanted = {"cat": scores["cat"] - 0.01, "dog": scores["dog"] + 0.01}
    classes = {name: {"threshold": value, "temperature": 1} for name, value in wanted.items()}
    Path("thresholds.json").write_text(json.dumps({"classes": classes}))
    assert load_classifier(checkpoint, threshold="thresholds.json").predict(photos / "rgb.png").labels() == ["cat"]
    with pytest.raises(UserError, match="check --thresholds"):
        load_classifier(checkpoint, threshold="none.json")


def test_an_unknown_class_is_one_line_that_names_the_classes(photos, model):
    result = model.predict(photos / "rgb.png")
    for use in (result.cam, result.keypoint, result.plot):
        with pytest.raises(UserError, match=r"unknown class 'dgo': choose one of cat, dog$"):
            use("dgo")


def test_a_picture_shows_named_predicted_or_the_strongest_classes(photos):
    result = colors(threshold=1.0).predict(photos / "rgb.png")
    assert result.labels() == []
    best = result.labels(topk=1)[0]
    titles = [axes.get_title("left") for axes in result.plot().axes]
    assert titles[0].startswith("no class predicted") and titles[1].startswith(best)
    titles = [axes.get_title("left") for axes in result.plot("green", "blue").axes]
    assert titles[0] == "rgb.png" and titles[1].startswith("green") and titles[2].startswith("blue")
    assert Image.open(io.BytesIO(result._repr_png_())).size[0] > 600


# Checkpoints and names ----------------------------------------------------------------------------------------------

CONFIGS = {
    "ours": {"architecture": "resnet18", "class_names": NAMES, "image_size": SIZE, "strategy": "cMax"},
    "timm": {
        "architecture": "resnet18",
        "label_names": NAMES,
        "pretrained_cfg": {"input_size": [3, SIZE, SIZE], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    },
    "transformers": {"architecture": "resnet18", "id2label": {"1": "dog", "0": "cat"}, "image_size": SIZE},
}


@pytest.mark.parametrize("kind, weights", [("ours", "safetensors"), ("timm", "safetensors"), ("transformers", "bin")])
def test_a_hub_style_folder_is_a_checkpoint(photos, network, kind, weights):
    folder = photos / "hub"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS[kind]))
    if weights == "bin":
        torch.save(network.state_dict(), folder / "pytorch_model.bin")
    else:
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file(
            {k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors"
        )
    loaded = load_classifier(folder, strategy="cMax", device="cpu")
    assert (loaded.class_names, loaded.image_size) == (NAMES, SIZE)
    assert loaded.description.mean == ((0.5, 0.5, 0.5) if kind == "timm" else Description().mean)
    with torch.no_grad():
        expected = network.eval()(preprocess(photos / "rgb.png", SIZE, loaded.description.normalization).canvas[None])[
            0
        ]
    assert torch.allclose(loaded.predict(photos / "rgb.png").logits, expected[0], atol=1e-3)


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "has no model.safetensors or pytorch_model.bin"),
        ({"model.safetensors": "damaged"}, "damaged or not in the format of safetensors"),
        ({"pytorch_model.bin": "damaged"}, "pytorch_model.bin is damaged"),
    ],
)
def test_a_folder_that_is_not_a_checkpoint_is_one_line(tmp_path, files, message):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["ours"]))
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_classifier(tmp_path)


def test_without_the_script_of_a_strategy_of_ones_own_there_are_scores_but_no_keypoints(photos, network, model):
    path = photos.parent / "own.pth"
    save_checkpoint(path, network.state_dict(), Description("resnet18", NAMES, SIZE, strategy="own", keypoints="own"))
    found = load_classifier(path, device="cpu").predict(photos / "rgb.png")
    assert found.scores == model.predict(photos / "rgb.png").scores
    with pytest.raises(UserError, match="strategy 'own' is unknown here: give --strategy FILE.py"):
        found.keypoint("cat")


def test_keywords_replace_the_description(photos, checkpoint, model):
    turned = load_classifier(checkpoint, class_names=NAMES[::-1], image_size=32, strategy="Max")
    assert (turned.class_names, turned.image_size, turned.keypoints.name) == (NAMES[::-1], 32, "Max")
    Path("names.json").write_text(json.dumps({"class_names": NAMES[::-1]}))
    assert load_classifier(checkpoint, class_names="names.json").class_names == NAMES[::-1]
    for keywords, message in (({"image_size": 50}, "not divisible by 32"), ({"device": "toaster"}, "toaster")):
        with pytest.raises(UserError, match=message):
            load_classifier(checkpoint, **keywords)


def test_the_public_names_exist_and_the_method_loads_tensors_alone():
    for name in core.__all__:
        assert getattr(core, name) is not None
    with pytest.raises(AttributeError):
        core.nothing  # noqa: B018
    program = "import sys, core, core.keypoints, core.cam, core.puzzle; print(*sys.modules)"
    words = [sys.executable, "-c", program]
    loaded = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    heavy = {"tools", "PIL", "cv2", "matplotlib", "sklearn", "scipy", "torchvision", "timm"}
    assert not heavy & {name.split(".")[0] for name in loaded}
    assert not {"core.evaluation", "core.training", "core.networks"} & set(loaded)
