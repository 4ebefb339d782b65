"""Exported files: the same numbers without this repository, or one line that says why not."""

import importlib.util
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import export_classification
from core.cam import make_cam
from core.evaluation import export as exporting
from core.evaluation.classifier import load_classifier
from core.evaluation.export import METADATA, OUTPUTS, export
from core.evaluation.loading import read_strategy
from core.networks import HEADS, Classifier
from tests.helpers.command_line import ROOT
from tools.data.datasets import preprocess
from tools.runs.checkpoints import Description, save_checkpoint
from tools.system.errors import UserError

NAMES = ["Käfer", "dog", "cat"]
SIZE = 64
FORMATS = ("onnx", "torch_export")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with two photographs and two checkpoints of a small network, one for each head."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (50, 80, 3)), ("b.png", (90, 40, 3))):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(tmp_path / name)
    for head in ("instances", "gap"):
        save_network(tmp_path, head)
    return tmp_path


def save_network(folder: Path, head: str) -> None:
    """Save a checkpoint of a head that `Classifier` knows, or that a baseline declares."""
    torch.manual_seed(0)
    built, strategy, keypoints = head, "cMax", "cMax"
    if head not in HEADS:
        declared, strategy, keypoints = read_strategy(ROOT / f"baselines/{head}.py"), head, None
        built = declared.head_for(declared.options({}))
    network = Classifier("resnet18", len(NAMES), head=built)
    normalized = {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.1)}
    about = Description("resnet18", NAMES, SIZE, network.head, strategy, keypoints, **normalized)
    save_checkpoint(folder / f"experiments/models/best_{head}.pth", network.state_dict(), about)


def typed(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["export_classification.py", *map(str, words)])
    export_classification.main()


def read(content: bytes, kind: str):
    """Return what a user of the file has: a function of images, and the metadata."""
    if kind == "torch_export":
        extra = {f"{METADATA}.json": ""}
        program = torch.export.load(io.BytesIO(content), extra_files=extra).module()
        return program, json.loads(extra[f"{METADATA}.json"])
    session = pytest.importorskip("onnxruntime").InferenceSession(content)
    assert [item.name for item in session.get_outputs()] == list(OUTPUTS)
    metadata = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
    return lambda images: map(torch.from_numpy, session.run(None, {"images": images.numpy()})), metadata


def needs(kind: str) -> None:
    for name in exporting.NEEDED if kind == "onnx" else ():
        pytest.importorskip(name)


@pytest.mark.parametrize("head", [*HEADS, "csra", "ml_decoder"])
@pytest.mark.parametrize("kind", FORMATS)
def test_the_file_computes_the_network_s_numbers_for_any_batch(here, monkeypatch, capsys, kind, head):
    needs(kind)
    save_network(here, head)
    typed(monkeypatch, "--tag", head, "--format", kind, "--images", "a.png", "b.png")
    printed = capsys.readouterr().out
    assert printed.startswith("largest differences from PyTorch on 2 images: logits ") and printed.count("\n") == 2
    content = Path(f"experiments/exports/best_{head}{exporting.SUFFIXES[kind]}").read_bytes()
    run, metadata = read(content, kind)
    assert metadata["class_names"] == NAMES and metadata["image_size"] == SIZE
    assert (metadata["mean"], metadata["thresholds"]) == ([0.5, 0.4, 0.3], [0.5] * 3)
    model = load_classifier(f"experiments/models/best_{head}.pth", device="cpu")
    canvases = [preprocess(name, SIZE, model.description.normalization).canvas for name in ("a.png", "b.png")]
    for count in (1, 2, 5):
        images = torch.stack((canvases * 3)[:count])
        with torch.no_grad():
            logits, features = model.network(images)
        for name, expected, found in zip(
            OUTPUTS, (logits, logits.sigmoid(), make_cam(features)), run(images), strict=True
        ):
            assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-3), name
    assert torch.allclose(logits[0], model.predict("a.png").logits, atol=1e-3)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_page_s_example_finds_what_the_network_finds(here, monkeypatch, kind):
    needs("onnx")  # the second example continues the first
    exif = Image.Exif()
    exif[0x112] = 6
    Path("photos").mkdir()
    Image.open("a.png").save("photos/one.jpg", exif=exif)
    for each in FORMATS:
        typed(monkeypatch, "--tag", "instances", "--format", each, "--images", "b.png")
    page = (ROOT / "docs/deploy.md").read_text().replace("best_Toy_cTopk_w", "best_instances")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    for block in blocks[: 1 + FORMATS.index(kind)]:
        exec(block, names)
    expected = load_classifier("experiments/models/best_instances.pth", device="cpu").predict("photos/one.jpg")
    assert np.abs(np.asarray(names["scores"][0].tolist()) - list(expected.scores.values())).max() < 1e-4


def test_thresholds_are_in_the_metadata_and_validation_s_images_check_the_file(here, devkit, monkeypatch, capsys):
    path = here / "experiments/models/best_gap.pth"
    about = Description("resnet18", NAMES, SIZE, "gap", arguments={"data_dir": str(devkit), "val_split": "Main/train"})
    save_checkpoint(path, torch.load(path, weights_only=True), about)
    classes = {name: {"threshold": 0.1 * row, "temperature": 1} for row, name in enumerate(NAMES, 1)}
    Path("t.json").write_text(json.dumps({"classes": classes}))
    typed(monkeypatch, "--weights", path, "--format", "torch_export", "--thresholds", "t.json", "--out", "x.pt2")
    assert "on 8 images" in capsys.readouterr().out
    assert read(Path("x.pt2").read_bytes(), "torch_export")[1]["thresholds"] == pytest.approx([0.1, 0.2, 0.3])


def test_a_checkpoint_that_names_no_images_needs_some(here, monkeypatch):
    with pytest.raises(UserError, match="checked on real images: give --images"):
        typed(monkeypatch, "--tag", "gap", "--format", "torch_export")


def test_missing_packages_are_one_line(here, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install onnx onnxscript onnxruntime"):
        typed(monkeypatch, "--tag", "gap", "--images", "a.png")
    assert not list(Path("experiments/exports").glob("*"))


class Doubting(torch.nn.Module):
    """A network that looks at its images to decide what to compute."""

    def forward(self, images):
        features = torch.nn.functional.avg_pool2d(images, 16)
        return (features if images.sum() > 0 else -features).amax((-2, -1)), features


@pytest.mark.parametrize("kind", FORMATS)
def test_what_a_format_cannot_express_is_refused_in_one_line(here, kind):
    needs(kind)
    model = replace(load_classifier("experiments/models/best_gap.pth", device="cpu"), network=Doubting())
    with pytest.raises(UserError, match=f"resnet18 cannot be exported with --format {kind}: ") as error:
        export(model, kind, ["a.png"])
    assert "\n" not in str(error.value)


def test_a_file_that_differs_is_not_written(here, monkeypatch):
    monkeypatch.setitem(OUTPUTS, "cams", -1.0)
    with pytest.raises(UserError, match=r"differs from PyTorch \(cams by .*\): nothing was written"):
        typed(monkeypatch, "--tag", "gap", "--format", "torch_export", "--images", "a.png")
    assert not list(Path("experiments/exports").glob("*"))
