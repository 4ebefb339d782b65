"""Maps against boxes and masks: MaxBoxAccV2, seeds, Grad-CAM and LayerCAM, each against its definition in words."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import evaluate_classification
from baselines.csra import CSRA
from baselines.ml_decoder import MLDecoder
from core.cam import make_cam
from core.evaluation.localization import Localization
from core.evaluation.maps import IOUS, Maps, best_overlaps, box_accuracy, overlaps_by_threshold
from core.evaluation.masks import VOID, Seeds, read_mask
from core.evaluation.pairs import PresentClasses
from core.evaluation.prediction import TestTimeAugmentation, predict
from core.keypoints import resize_cams
from core.networks import Classifier
from tests.helpers.command_line import ROOT
from tools.data.annotations import VOCObject
from tools.runs.checkpoints import Description, save_checkpoint
from tools.system.errors import UserError

LEVELS = [step / 100 for step in range(100)]
CPU = torch.device("cpu")


def an_object(label: int, xmin: float = 1, ymin: float = 1, xmax: float = 9, ymax: float = 9) -> VOCObject:
    return VOCObject("abcd"[label], label, False, (xmin, ymin, xmax, ymax))


# Boxes --------------------------------------------------------------------------------------------------------------


def parts_of(inside: np.ndarray) -> list[set]:
    """Return the connected parts of a mask as sets of pixels, by flooding from pixel to pixel."""
    left, found = set(zip(*np.nonzero(inside), strict=True)), []
    while left:
        edge, part = [left.pop()], set()
        while edge:
            row, column = edge.pop()
            part.add((row, column))
            near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= near
            edge += near
        found.append(part)
    return found


def frame(part: set) -> set:
    """Return the pixels of the smallest box around a part."""
    rows, columns = zip(*part, strict=True)
    return {(r, c) for r in range(min(rows), max(rows) + 1) for c in range(min(columns), max(columns) + 1)}


def literal_overlap(heat: np.ndarray, boxes: list[list[int]], threshold: float) -> float:
    """Return the largest IoU, in pixels counted one by one, of any estimated box with any box of the class."""
    low, high = heat.min(), heat.max()
    if low == high:
        return 0.0
    true = [{(r, c) for r in range(top, bottom) for c in range(left, right)} for top, left, bottom, right in boxes]
    estimated = [frame(part) for part in parts_of((heat.astype(float) - low) / (float(high) - low) > threshold)]
    return max((len(one & other) / len(one | other) for one in estimated for other in true), default=0.0)


def random_boxes(rng: np.random.Generator, count: int, height: int, width: int) -> list[list[int]]:
    corners = [(rng.integers(0, height), rng.integers(0, width)) for _ in range(count)]
    ends = [(rng.integers(r + 1, height + 1), rng.integers(c + 1, width + 1)) for r, c in corners]
    return [[int(value) for value in (*start, *end)] for start, end in zip(corners, ends, strict=True)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
def test_overlaps_are_those_of_flooded_parts(seed, height, width, count):
    rng = np.random.default_rng(seed)
    heat = rng.normal(size=(height, width)).astype(np.float32)
    if seed % 2:
        heat = (np.round(4 * heat) / 4).astype(np.float32)  # plateaus, and sometimes a constant map
    boxes = random_boxes(rng, count, height, width)
    found = overlaps_by_threshold(heat, torch.tensor(boxes))
    assert found.tolist() == pytest.approx([literal_overlap(heat, boxes, level) for level in LEVELS])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12))
def test_max_box_acc_v2_is_the_best_share_of_pairs_for_each_iou(seed, pairs):
    rng = np.random.default_rng(seed)
    overlaps = rng.choice([0, 0.29, 0.3, 0.5, 0.69, 0.7, 1], (pairs, 100))
    expected = [
        max(sum(overlaps[pair, level] >= iou for pair in range(pairs)) / pairs for level in range(100)) for iou in IOUS
    ]
    found = box_accuracy(list(overlaps))
    assert [found[f"IoU {iou}"] for iou in IOUS] == pytest.approx([100 * value for value in expected])
    assert found["MaxBoxAccV2"] == pytest.approx(100 * sum(expected) / 3)
    assert math.isnan(box_accuracy([])["MaxBoxAccV2"])


def test_each_class_of_an_image_has_its_own_map_and_boxes():
    """Boxes in the pixels of what is visible; a class out of sight is not counted."""
    objects = [
        [
            an_object(0, 1, 1, 8, 8),
            an_object(1, 25, 25, 32, 32),
            an_object(1, 41, 41, 48, 48),
            an_object(2, 70, 1, 80, 9),
        ]
    ]
    maps = torch.zeros(1, 3, 64, 64)
    maps[0, 0, :8, :8] = maps[0, 1, 40:48, 40:48] = maps[0, 2, 3, 3] = 1
    present = PresentClasses(objects, [(50, 60)], 3, 64)
    first, second = best_overlaps(maps, present.pairs([0], CPU))
    assert first.tolist() == second.tolist() == [[1.0] * 100]
    swapped = best_overlaps(maps.flip(1)[:, [1, 2, 0]], present.pairs([0], CPU))
    assert swapped[0].max() == swapped[1].max() == 0


# Masks --------------------------------------------------------------------------------------------------------------


def literal_curve(images: list[tuple[np.ndarray, np.ndarray, list[int]]], classes: int) -> list[float]:
    """Return the mIoU by threshold: of every pixel the arg-max of the threshold and the maps of the present classes."""
    curve, shown = [], set().union(*(np.unique(truth[truth != VOID]).tolist() for truth, _, _ in images))
    for level in LEVELS:
        right, either = np.zeros(classes + 1), np.zeros(classes + 1)
        for truth, maps, labels in images:
            stack = np.concatenate([np.full((1, *truth.shape), level), maps.astype(float)])
            predicted = np.array([0, *(label + 1 for label in labels)])[stack.argmax(0)]
            for v in range(classes + 1):
                one, other = (predicted == v) & (truth != VOID), truth == v
                right[v] += (one & other).sum()
                either[v] += (one | other).sum()
        curve.append(100 * np.mean([right[v] / either[v] for v in sorted(shown)]))
    return curve


def made_up_images(folder: Path, seed: int, count: int, classes: int = 3) -> tuple[list[str], PresentClasses, list]:
    """Write masks of `count` images, but not of the second, and return ids, classes, and each image's maps."""
    rng = np.random.default_rng(seed)
    (folder / "SegmentationClass").mkdir(exist_ok=True)
    ids = [f"{seed}_{number}" for number in range(count)]
    objects, sizes, images = [], [], []
    for number, name in enumerate(ids):
        height, width = (int(side) for side in rng.integers(5, 12, 2))
        labels = sorted(rng.choice(classes, rng.integers(0, classes + 1), replace=False).tolist())
        mask = rng.choice([0, 0, *range(classes + 1), VOID], (height, width)).astype(np.uint8)
        if number != 1:
            Image.fromarray(mask).save(folder / f"SegmentationClass/{name}.png")
        maps = (rng.integers(0, 12, (len(labels), height, width)) / 11).astype(np.float32)
        objects.append([an_object(label) for label in labels])
        sizes.append((height, width))
        images.append((mask, maps, labels))
    return ids, PresentClasses(objects, sizes, classes, 8), images


def taken_in(seeds: Seeds, images: list) -> list:
    """Give seeds the visible parts of the maps, two images at a time; return what of the images was measured."""
    seen = []
    for start in range(0, len(images), 2):
        indices = list(range(start, min(start + 2, len(images))))
        pairs = seeds.present.pairs(indices, CPU)
        maps = torch.zeros(len(seeds.maps.kinds), len(pairs.image), 8, 8)
        for at, index in enumerate(indices):
            part = images[index][1][:, :8, :8]
            maps[0, pairs.image == at, : part.shape[1], : part.shape[2]] = torch.from_numpy(part)
        seeds.add(maps, pairs, indices)
    for index in seeds.masks:
        mask, maps, labels = images[index]
        seen.append((mask[:8, :8], maps[:, :8, :8], labels))
    return seen


@pytest.mark.parametrize("seed", range(6))
def test_seeds_have_the_miou_of_the_arg_max_at_every_threshold(tmp_path, seed):
    ids, present, images = made_up_images(tmp_path, seed, 7)
    seeds = Seeds(tmp_path, ids, present, Maps(8))
    seen = taken_in(seeds, images)
    assert seeds.images == len(seen) == 6 and seeds.unlabeled > 0
    curve, found = literal_curve(seen, 3), seeds.result(0)
    assert found["curve"] == pytest.approx(curve)
    assert found["best mIoU"] == pytest.approx(max(curve)) and found["its threshold"] == LEVELS[int(np.argmax(curve))]
    # Each half of the images is measured at the threshold of the other half: the maps above it, all others below.
    levels = [LEVELS[int(np.argmax(literal_curve(half, 3)))] for half in (seen[1::2], seen[::2])]
    assert found["thresholds"] == levels
    moved = [(mask, np.where(maps > levels[at % 2], maps, 0), labels) for at, (mask, maps, labels) in enumerate(seen)]
    assert found["mIoU"] == pytest.approx(literal_curve(moved, 3)[0])


def test_the_threshold_may_come_from_another_split(tmp_path):
    ids, present, images = made_up_images(tmp_path, 1, 8)
    other_ids, other_present, other_images = made_up_images(tmp_path, 2, 6)
    seeds, others = Seeds(tmp_path, ids, present, Maps(8)), Seeds(tmp_path, other_ids, other_present, Maps(8))
    curve = literal_curve(taken_in(seeds, images), 3)
    level = int(np.argmax(literal_curve(taken_in(others, other_images), 3)))
    seeds.elsewhere = others
    found = seeds.result(0)
    assert found["mIoU"] == pytest.approx(curve[level]) and found["thresholds"] == [LEVELS[level]] * 2
    assert found["mIoU"] <= found["best mIoU"] and "the best on 5 other masks" in seeds.note()


def test_a_fitted_image_is_measured_at_its_own_size(tmp_path):
    """A map that covers the left half of the visible image covers the left half of its mask."""
    (tmp_path / "SegmentationClass").mkdir()
    mask = np.zeros((40, 100), np.uint8)
    mask[:, :50] = 2
    Image.fromarray(mask).save(tmp_path / "SegmentationClass/a.png")
    seeds = Seeds(tmp_path, ["a"], PresentClasses([[an_object(1)]], [(40, 100)], 2, 64, resize=True), Maps(64))
    maps = torch.zeros(2, 1, 64, 64)
    maps[..., :32] = 1
    seeds.add(maps, seeds.present.pairs([0], CPU), [0])
    assert seeds.result(0)["best mIoU"] == 100 and seeds.areas[0, 0, 2, :, 0].tolist() == [2000, 0, 2000]


def test_masks_that_do_not_fit_are_one_line(tmp_path):
    present = PresentClasses([[an_object(0)]], [(4, 6)], 2, 64)
    with pytest.raises(UserError, match=r"SegmentationClass lacks the masks of all images, such as a\.png"):
        Seeds(tmp_path, ["a"], present, Maps(64))
    cases = (
        (np.zeros((4, 6), np.uint8), None),
        (np.full((4, 6), 3, np.uint8), "values \\(3\\) beyond the 2 classes"),
        (np.zeros((6, 4), np.uint8), r"the shape \(6, 4\), and its image \(4, 6\)"),
        (np.zeros((4, 6, 3), np.uint8), "shape"),
    )
    for mask, problem in cases:
        Image.fromarray(mask).save(tmp_path / "a.png")
        if problem is None:
            assert read_mask(tmp_path / "a.png", 2, (4, 6)).shape == (4, 6)
            continue
        with pytest.raises(UserError, match=problem) as error:
            read_mask(tmp_path / "a.png", 2, (4, 6))
        assert "\n" not in str(error.value)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="not a readable image"):
        read_mask(tmp_path / "a.png", 2, (4, 6))


# Maps of the network ------------------------------------------------------------------------------------------------


def network_of(head: str) -> Classifier:
    torch.manual_seed(0)
    network = Classifier("resnet18", 3, head=head).eval().requires_grad_(False)
    with torch.no_grad():
        for name in ("bn_weight", "bn_bias", "running_mean", "running_var"):
            getattr(network.instances, name).uniform_(0.5, 1.5)
    return network


def literal_maps(network: Classifier, image: torch.Tensor, label: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Grad-CAM and LayerCAM of one image and class, channel by channel."""
    x = network.backbone(image[None]).detach().requires_grad_()
    logit = network.from_backbone(x)[0][0, label]
    (slope,) = torch.autograd.grad(logit, x)
    gradient_cam = sum(slope[0, c].mean() * x[0, c] for c in range(x.shape[1]))
    layer_cam = sum(slope[0, c].clamp_min(0) * x[0, c] for c in range(x.shape[1]))
    return gradient_cam.clamp_min(0).detach(), layer_cam.clamp_min(0).detach()


@pytest.mark.parametrize("head", ["instances", "gap", "max", CSRA, MLDecoder])
def test_gradient_maps_are_those_of_each_pair_alone(head):
    network, images = network_of(head), torch.randn(3, 3, 64, 64)
    objects = [[an_object(0), an_object(2)], [], [an_object(1), an_object(2)]]
    maps, present = Maps(64, network), PresentClasses(objects, [(64, 64)] * 3, 3, 64)
    assert maps.kinds == ["CAM", "Grad-CAM", "LayerCAM", "centre"]
    with torch.inference_mode():
        logits, features = network(images)
        pairs = present.pairs([0, 1, 2], CPU)
        found = maps.of_pairs(features, pairs)
    torch.testing.assert_close(found[0], resize_cams(make_cam(features[pairs.image, pairs.label]), 64))
    for at, (image, label) in enumerate(((0, 0), (0, 2), (2, 1), (2, 2))):
        for kind, expected in zip((1, 2), literal_maps(network, images[image], label), strict=True):
            assert expected.max() > 0 or head is MLDecoder  # whose gradient may oppose every position
            torch.testing.assert_close(found[kind, at], resize_cams(make_cam(expected[None]), 64)[0], atol=1e-4, rtol=0)
    assert not found.requires_grad and found.min() >= 0 and found.max() <= 1


def test_grad_cam_of_a_linear_head_is_the_cam():
    network = network_of("gap")
    with torch.no_grad():
        network.classifier.weight.mul_(
            1000
        )  # so that make_cam's epsilon is small beside the gradient, 1/n² of a weight
    present, maps = PresentClasses([[an_object(0), an_object(1), an_object(2)]], [(64, 64)], 3, 64), Maps(64, network)
    with torch.inference_mode():
        found = maps.of_pairs(network(torch.randn(1, 3, 64, 64))[1], present.pairs([0], CPU))
    torch.testing.assert_close(found[1], found[0], atol=1e-3, rtol=0)


def test_chance_is_a_gaussian_of_the_visible_image():
    present = PresentClasses([[an_object(0)], [an_object(1)]], [(40, 64), (20, 10)], 2, 64)
    (chance,) = Maps(64).of_pairs(torch.zeros(2, 2, 4, 4), present.pairs([0, 1], CPU))[1:]
    rows, columns = np.mgrid[:40, :64] + 0.5
    expected = np.exp(-((rows - 20) ** 2) / (2 * 10**2) - (columns - 32) ** 2 / (2 * 16**2))
    np.testing.assert_allclose(chance[0, :40], expected, atol=1e-6)
    assert divmod(int(chance[1].argmax()), 64) in {(9, 4), (9, 5), (10, 4), (10, 5)}


class Loader(list):
    """Batches of images, empty labels and indices."""


def batches(images: torch.Tensor, size: int) -> Loader:
    indices = torch.arange(len(images)).split(size)
    return Loader((images[part], torch.zeros(len(part), 0), part) for part in indices)


def test_batches_scales_and_mirrored_views_change_no_map(tmp_path):
    """What is measured is the scale closest to 1, not mirrored, whatever else the network has seen."""
    network, images = network_of("instances"), torch.randn(5, 3, 64, 64)
    objects = [[an_object(0, 1, 1, 20, 30)], [], [an_object(1, 9, 9, 50, 40), an_object(2)], [], []]
    present = PresentClasses(objects, [(64, 64)] * 5, 3, 64)
    (tmp_path / "SegmentationClass").mkdir()
    for number in range(4):
        mask = np.random.default_rng(number).integers(0, 4, (64, 64)).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / f"SegmentationClass/{number}.png")
    found = []
    for views, size in ((network, 5), (TestTimeAugmentation(network, (0.5, 1.0), flip=True), 1)):
        localization = Localization(present, network=network)
        localization.seeds = Seeds(tmp_path, list("01234"), present, localization.maps)
        predict(views, batches(images, size), CPU, observe=localization.observe, silent=True)
        again = Seeds(tmp_path, list("01234"), present, localization.maps)
        predict(views, batches(images, size), CPU, observe=again.observe, silent=True)
        assert (again.areas == localization.seeds.areas).all() and again.images == 4
        found.append(localization.of_maps())
        assert localization.text().count("\n") >= 16 and "mIoU of seeds: 4 masks" in localization.text()
    assert list(found[0]) == ["CAM", "Grad-CAM", "LayerCAM", "centre"]
    for kind, values in found[0].items():
        for name, value in values.items():
            assert found[1][kind][name] == pytest.approx(value, abs=0.5), (kind, name)


# As a user types it -------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, class_names) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    description = Description("resnet18", class_names, 64, strategy="cMax", keypoints="cMax")
    save_checkpoint(tmp_path / "x.pth", Classifier("resnet18", 20).state_dict(), description)
    return tmp_path / "x.pth"


@pytest.fixture(scope="module")
def class_names() -> list[str]:
    return json.loads((ROOT / "data/VOC_2012.json").read_text())["class_names"]


def evaluate(monkeypatch, *words: object) -> None:
    common = ["evaluate_classification.py", "--weights", "x.pth", "--num_workers", "0", "--bootstrap", "0"]
    monkeypatch.setattr(sys, "argv", [*common, *map(str, words)])
    evaluate_classification.main()


def test_maps_are_measured_against_masks(checkpoint, toy, monkeypatch, capsys):
    words = ["--data_dir", toy, "--split", "Main/val"]
    for more in (["--localization"], ["--masks"], ["--masks", "Main/train"]):
        evaluate(monkeypatch, *words, *more)
    plain, halves, other = capsys.readouterr().out.split("mean (mAP)")[1:]
    assert "chance: centre" in plain and "LayerCAM" in plain and "mIoU" not in plain
    assert "mIoU of seeds: 25 masks; the threshold is the best on the other half of them" in halves
    assert "the threshold is the best on 75 other masks" in other
    results = [json.loads(path.read_text()) for path in sorted(Path("experiments/evaluation").glob("*.json"))]
    assert [result["made_with"]["masks"] for result in results] == [None, "", "Main/train"]
    for result in results[1:]:
        of_maps = result["localization"]["maps"]
        assert set(of_maps) == {"CAM", "Grad-CAM", "LayerCAM", "centre"}
        for found in of_maps.values():
            assert 0 <= found["mIoU"] <= found["best mIoU"] <= 100 and len(found["curve"]) == 100
            assert found["IoU 0.3"] >= found["IoU 0.5"] >= found["IoU 0.7"]
    assert results[1]["localization"]["maps"]["CAM"]["curve"] == results[2]["localization"]["maps"]["CAM"]["curve"]


def test_mistakes_about_masks_are_one_line(checkpoint, toy, devkit, monkeypatch):
    for data_dir, split, masks, message in (
        (toy, "Main/val", "Main/trainval", "--masks Main/trainval shares 25 images with the evaluated split"),
        (toy, "Main/val", "Main/none", "check --masks"),
        (devkit, "Main/train", "", "lacks the masks of all images"),
    ):
        with pytest.raises(UserError) as error:
            evaluate(monkeypatch, "--data_dir", data_dir, "--split", split, "--masks", masks)
        assert message in str(error.value) and "\n" not in str(error.value)
    monkeypatch.setattr(sys, "argv", ["evaluate_classification.py", "--scores", "x.npz", "--masks"])
    with pytest.raises(UserError, match="needs the network, as --masks does"):
        evaluate_classification.main()
