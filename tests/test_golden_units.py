"""The parts of the method against the official code's numbers (`units.npz`)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core.cam import make_cam
from core.instances import ClassSpecificInstances
from core.keypoints import cmax_keypoints, ctopk_keypoints, ctopk_w_keypoints, max_keypoints
from core.losses import p_class_loss, reconstruction_loss
from core.puzzle import cut_tiles, merge_tiles
from tests.golden import fill


@pytest.fixture(scope="module")
def units(golden_folder) -> dict[str, np.ndarray]:
    return dict(np.load(golden_folder / "units.npz"))


@pytest.fixture(scope="module")
def cams(units) -> torch.Tensor:
    """One map per image and present class."""
    image, label = units["image_and_class"].T
    return make_cam(torch.from_numpy(units["cam_features"]))[image, label]


def random_inputs(units: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, tile features and features of the tile arrays, drawn in the golden order."""
    r = fill.rng("goldentiles")
    shapes = [(2, 3, 512, 512), (8, 4, 20, 16, 16), (2, 20, 32, 32)]
    return tuple(torch.from_numpy(r.standard_normal(shape).astype(np.float32)) for shape in shapes)


def test_cams(units, cams):
    np.testing.assert_allclose(cams.numpy(), units["cam"], rtol=1e-6, atol=1e-7)


def test_max_keypoints(units):
    maps = make_cam(torch.from_numpy(units["cam_features"]))
    labels = torch.from_numpy(units["labels"]).float()
    np.testing.assert_array_equal(max_keypoints(maps, labels, 512), units["keypoints_max"])


@pytest.mark.parametrize(
    "name, find", [("cMax", cmax_keypoints), ("cTopk", ctopk_keypoints), ("cTopk_w", ctopk_w_keypoints)]
)
def test_class_keypoints(name, find, units, cams):
    np.testing.assert_array_equal(find(cams, 512), units[f"keypoints_{name}"])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_tiles(units, layout):
    images, _, _ = random_inputs(units)
    keypoints = torch.from_numpy(units["tile_keypoints"]).long().reshape(-1, 2)
    image_index = torch.arange(2).repeat_interleave(4)
    tiles = cut_tiles(images.contiguous(memory_format=layout), image_index, keypoints)
    np.testing.assert_array_equal(tiles[..., ::17, ::13], units["tiles_sample"])
    np.testing.assert_allclose(tiles.double().sum((2, 3, 4)), units["tiles_sum"], rtol=1e-6, atol=1e-6)


def test_merged_maps_and_their_losses(units):
    _, tile_features, features = random_inputs(units)
    keypoints = torch.from_numpy(units["tile_keypoints"]).long().reshape(-1, 2)
    targets = F.one_hot(torch.from_numpy(units["tile_classes"]).long().flatten(), 20).float()
    merged = merge_tiles(tile_features, keypoints, 512)
    np.testing.assert_array_equal(merged[:, ::5], units["merged"])
    np.testing.assert_allclose(merged.double().sum((1, 2, 3)), units["merged_sum"], rtol=1e-6, atol=1e-6)
    assert float(p_class_loss(merged, targets)) == pytest.approx(float(units["tile_p_class_loss"]), rel=1e-5)
    of_crops = features[torch.arange(2).repeat_interleave(4)]
    re_loss = reconstruction_loss(of_crops, merged, targets)
    assert float(re_loss) == pytest.approx(float(units["tile_re_loss"]), rel=1e-5)


def filled_head() -> tuple[ClassSpecificInstances, torch.Tensor]:
    """The golden head: class-specific instances and the classifier's weight."""
    instances = ClassSpecificInstances(2048, 20)
    rows = {
        "weight": ("stage6.{}.weight", (1, 2048, 1, 1)),
        "bn_weight": ("BN.{}.weight", (2048,)),
        "bn_bias": ("BN.{}.bias", (2048,)),
    }
    with torch.no_grad():
        for ours, (name, shape) in rows.items():
            stacked = [torch.from_numpy(fill.parameter(name.format(v), shape)).flatten() for v in range(20)]
            getattr(instances, ours).copy_(torch.stack(stacked))
    classifier = torch.from_numpy(fill.parameter("classifier.weight", (20, 2048, 1, 1))).requires_grad_()
    return instances, classifier


def test_class_specific_instances(units):
    r = fill.rng("goldencsi")
    x = torch.from_numpy((2 * np.maximum(r.standard_normal((3, 2048, 8, 8)), 0)).astype(np.float32)).requires_grad_()
    weight_in_sum = torch.from_numpy(r.standard_normal((3, 20)).astype(np.float32))
    instances, classifier = filled_head()
    cams = make_cam(F.conv2d(x, classifier))
    logits = instances(x, cams)
    (logits * weight_in_sum).sum().backward()

    def close(ours: torch.Tensor, name: str) -> None:
        golden = units[name]
        np.testing.assert_allclose(ours.detach().numpy(), golden, rtol=1e-4, atol=1e-4 * np.abs(golden).max())

    close(cams, "csi_cam")
    close(logits, "csi_logits")
    close(x.grad[:, ::97, 3, 5], "csi_grad_x_sample")
    assert float(x.grad.norm()) == pytest.approx(float(units["csi_grad_x_norm"]), rel=1e-4)
    close(instances.weight.grad[:, ::64], "csi_grad_stage6")
    close(instances.bn_weight.grad[:, ::64], "csi_grad_bn_weight")
    close(instances.bn_bias.grad[:, ::64], "csi_grad_bn_bias")
    close(classifier.grad[:, ::64, 0, 0], "csi_grad_classifier")
    close(instances.running_mean[:, ::64], "csi_running_mean")
    close(instances.running_var[:, ::64], "csi_running_var")
    with torch.no_grad():
        close(instances.eval()(x, cams), "csi_eval_logits")
