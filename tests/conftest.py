"""Where the tests find the golden numbers and the real data."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
torch.set_num_threads(2)


def pytest_addoption(parser):
    parser.addoption(
        "--golden", default=str(ROOT / "tests" / "golden"), help="folder of golden numbers (units.npz, steps*.json)"
    )


@pytest.fixture(scope="session")
def golden_folder(request) -> Path:
    return Path(request.config.getoption("--golden"))


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
