"""Options and fixtures: golden numbers, real data, and small data sets."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.command_line import ROOT, command

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax>"
    "<ymax>20.5</ymax></bndbox></object>"
)
THREADS = 2
torch.set_num_threads(THREADS)
if sys.argv[0] == "-c":  # a process of pytest-xdist: a run without --tag takes its name from the program's
    sys.argv[0] = "pytest"


@pytest.fixture(autouse=True)
def same_number_of_threads():
    """Undo what a program sets for itself: with another number of threads, rounding moves keypoints in later tests."""
    yield
    torch.set_num_threads(THREADS)


def pytest_addoption(parser):
    parser.addoption(
        "--golden", default=str(ROOT / "tests" / "golden"), help="folder of golden numbers (units.npz, steps*.json)"
    )
    parser.addoption("--device", default="cpu", help="device of the golden steps: cpu, or cuda with TF32 off")


@pytest.fixture(scope="session")
def golden_folder(request) -> Path:
    return Path(request.config.getoption("--golden"))


@pytest.fixture(scope="session")
def golden_device(request) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def voc_sample() -> Path:
    folder = ROOT.parent / "shared" / "voc-sample"
    if not folder.is_dir():
        pytest.skip("needs the real images of ../shared/voc-sample")
    return folder


@pytest.fixture(scope="session")
def imagenet_weights() -> Path:
    file = ROOT.parent / "shared" / "weights" / "tf_efficientnet_lite0.pth"
    if not file.is_file():
        pytest.skip("needs the ImageNet weights of ../shared/weights")
    return file


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    """A small toy data set: 75 training and 25 validation images of 64 pixels."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    words = ("--out", folder, "--images", 100, "--seed", 1, "--image_size", 64)
    subprocess.run(command("-m", "tools.make_toy_voc", *words), cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture
def devkit(tmp_path) -> Path:
    """A devkit folder of eight images, `im_0` to `im_7`, of cats and dogs in turn; the last one has no object."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(8):
        pixels = rng.integers(0, 255, (40 + i, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "JPEGImages" / f"im_{i}.jpg")
        objects = "" if i == 7 else OBJECT.format(("cat", "dog")[i % 2], int(i % 3 == 0))
        (tmp_path / "Annotations" / f"im_{i}.xml").write_text(f"<annotation>{objects}</annotation>")
    (tmp_path / "ImageSets/Main/train.txt").write_text("".join(f"im_{i}\n" for i in range(8)))
    return tmp_path
