"""Where the tests find the golden numbers and the real data."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(2)


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
    command = [sys.executable, "-m", "tools.make_toy_voc", "--out", folder, "--images", "100", "--seed", "1"]
    subprocess.run([*map(str, command), "--image_size", "64"], cwd=ROOT, check=True, capture_output=True)
    return folder
