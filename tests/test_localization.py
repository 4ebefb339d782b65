"""Keypoints and maps against boxes: masks, tolerance, energy and chance, with literal searches as oracles."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.evaluation.localization import NO_BOXES, THE_FOUR, Localization, box_masks, share_inside
from core.evaluation.pairs import PresentClasses, visible_box
from core.strategy import Keypoints, Options
from tools.data.annotations import VOCObject
from tools.data.sight import sight_note
from tools.data.transforms import fitted_box
from tools.pictures.report import Section


def an_object(label: int, xmin: float, ymin: float, xmax: float, ymax: float) -> VOCObject:
    return VOCObject("abc"[label], label, False, (xmin, ymin, xmax, ymax))


def measured(objects: list, sizes: list, classes: int, image_size: int, *keypoints, resize: bool = False):
    return Localization(PresentClasses(objects, sizes, classes, image_size, resize), *keypoints)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0, 1, 4, 15]))
def test_masks_contain_the_pixels_within_the_tolerance_of_a_box(seed, tolerance):
    rng = np.random.default_rng(seed)
    size, count = 24, 3
    corners = np.sort(rng.integers(0, size, (5, 2, 2)), axis=1)
    boxes = np.concatenate((corners[:, 0], corners[:, 1] + 1), 1)
    owner = rng.integers(0, count, 5)
    masks = box_masks(torch.tensor(boxes), torch.tensor(owner), count, size, tolerance)
    for k in range(count):
        for row in range(size):
            for column in range(size):
                distances = [
                    math.hypot(
                        max(top - row, row - (bottom - 1), 0),
                        max(left - column, column - (right - 1), 0),
                    )
                    for top, left, bottom, right in boxes[owner == k]
                ]
                assert bool(masks[k, row, column]) == (min(distances, default=math.inf) <= tolerance)


def seen(item: VOCObject, height: int = 100, width: int = 100, image_size: int = 200):
    """Return the visible box of an object in an image that is not resized."""
    return visible_box(item, (height, width), (0, 0, height, width), image_size)


def test_boxes_are_clipped_to_the_visible_image():
    assert seen(an_object(0, 3, -2, 50, 5), 10, 40) == (0, 2, 5, 40)
    assert seen(an_object(0, 3, 1, 50, 50), 10, 40, 8) == (0, 2, 8, 8)
    assert seen(an_object(0, 1, 21, 9, 30), 10, 40) is None
    assert seen(an_object(0, 9, 1, 30, 9), 10, 40, 8) is None


def test_inclusive_corners_of_the_devkit_become_whole_pixels():
    assert seen(an_object(0, 1, 2, 3, 4)) == (1, 0, 4, 3)
    assert seen(an_object(0, 1.5, 2, 3.2, 4)) == (1, 0, 4, 4)
    assert seen(an_object(0, 3.2, 4, 1.5, 2)) == (1, 0, 4, 4)  # some tools swap corners


@pytest.mark.parametrize("box", [None, (1, 1, 1e300, 1e300), (-1e300, -1e300, 1e19, 1e9), (-1e300, 1, 1e300, 10)])
def test_a_box_of_any_size_is_clipped_to_the_image(box):
    assert seen(VOCObject("a", 0, False, box), 10, 40) == (0, 0, 10, 40)


def test_energy_is_the_share_of_the_visible_map():
    maps = torch.zeros(2, 8, 8)
    maps[0, 2, 2], maps[0, 5, 5], maps[0, 7, 7] = 3.0, 1.0, 100.0  # the last is outside the image
    masks = box_masks(torch.tensor([[0, 0, 4, 4], [0, 0, 4, 4]]), torch.tensor([0, 1]), 2, 8)
    visible = box_masks(torch.tensor([[0, 0, 7, 7], [0, 0, 7, 7]]), torch.tensor([0, 1]), 2, 8)
    assert share_inside(maps * visible, masks).tolist() == [0.75, 0]
    assert share_inside(visible, masks).tolist() == pytest.approx([16 / 49] * 2)


def test_the_keypoint_of_max_belongs_to_the_class_that_is_strongest_there():
    """Of equally strong ones to the first; the map of an absent class does not matter."""

    def at_one_place(maps: torch.Tensor, image_size: int, options: Options) -> torch.Tensor:
        return torch.full((len(maps), 2), 24)  # the centre of cell (1, 1)

    features = torch.zeros(3, 3, 4, 4)
    features[:, :, 0, 0] = 1  # the maximum that every map is scaled by
    features[0, :, 1, 1] = torch.tensor([0.5, 0.99, 0.9])
    features[1, :, 1, 1] = torch.tensor([0.9, 0.2, 0.9])
    features[2, :, 1, 1] = torch.tensor([0.7, 0.7, 0.0])
    present = [(0, 2), (1,), (0, 1)]
    for image, labels in enumerate(present):
        objects = [[an_object(label, 1, 1, 64, 64) for label in labels]]
        localization = measured(objects, [(64, 64)], 3, 64, [Keypoints("one", at_one_place, per_image=True)])
        localization.observe(features[image : image + 1], torch.tensor([0]))
        counted = np.flatnonzero(np.isfinite(localization.per_class()["one"]))
        assert counted.tolist() == [(2, 1, 0)[image]]


def features_with_peaks(*peaks: tuple[int, int, int, int]) -> torch.Tensor:
    """Features of two images and three classes with one strong cell for each (image, class, row, column)."""
    features = torch.full((2, 3, 4, 4), -1.0)
    for image, label, row, column in peaks:
        features[image, label, row, column] = 5.0 + label
    return features


def test_a_network_that_looks_at_its_objects_differs_from_one_that_does_not():
    objects = [
        [an_object(0, 17, 17, 32, 32), an_object(1, 33, 33, 48, 48)],  # feature cells (1, 1) and (2, 2)
        [an_object(2, 33, 17, 48, 32), an_object(0, 70, 70, 90, 90)],  # cell (1, 2), and one outside the crop
    ]
    sizes = [(64, 64), (100, 100)]
    good = features_with_peaks((0, 0, 1, 1), (0, 1, 2, 2), (1, 2, 1, 2), (1, 0, 2, 1))
    bad = features_with_peaks((0, 0, 2, 2), (0, 1, 1, 1), (1, 2, 2, 1), (1, 0, 1, 2))
    found = {}
    for name, features in (("good", good), ("bad", bad)):
        localization = measured(objects, sizes, 3, 64)
        localization.observe(features[:1], torch.tensor([0]))  # batch by batch
        localization.observe(features[1:], torch.tensor([1]))
        assert localization.skipped == 1
        assert localization.per_class()["pairs"].tolist() == [1, 1, 1]
        found[name] = localization.over_pairs()
    assert found["good"]["cMax"] == 100 and found["bad"]["cMax"] == 0
    # Every keypoint is that of one class: a network that mixes up the classes hits nothing.
    assert found["good"]["Max"] == 100 and found["bad"]["Max"] == 0
    # Of a linear peak of two cells' width, 3/4 · 3/4 is in its own cell, 1/8 · 1/8 in a diagonal neighbor.
    assert found["good"]["energy"] == pytest.approx(56.25, abs=0.1)
    assert found["bad"]["energy"] == pytest.approx(1.5625, abs=0.1)
    assert found["good"]["uniform"] == pytest.approx(100 * 16 * 16 / 64**2)
    assert found["good"]["centre"] == pytest.approx(100 / 3)  # (32, 32) is class 1's first pixel
    assert found["good"]["centre within 15"] == 100
    assert found["good"]["empty"] == found["bad"]["empty"] == 0


@pytest.mark.parametrize("size", [(200, 100), (90, 300), (64, 64), (7, 1000)])
def test_boxes_follow_an_image_that_is_fitted_to_the_canvas(size):
    """The box of the whole image is exactly what the image covers; that of its quarter is a quarter of it."""
    height, width = size
    whole, quarter = an_object(0, 1, 1, width, height), an_object(1, 1, 1, width / 2, height / 2)
    localization = measured([[whole, quarter]], [size], 2, 64, resize=True)
    localization.observe(torch.ones(1, 2, 4, 4), torch.tensor([0]))
    found = localization.per_class()["uniform"]
    assert found[0] == 100 and 25 <= found[1] <= 51  # partly covered pixels count, and a side may have one pixel
    assert localization.over_pairs()["centre"] >= 50 and localization.skipped == 0
    pairs = localization.present.pairs([0], torch.device("cpu"))
    assert pairs.boxes[0].tolist() == list(fitted_box(size, 64))


@pytest.mark.parametrize("resize", [True, False])
def test_of_a_fitted_image_the_padding_does_not_count(resize):
    """As inference does; of the top-left crop the whole canvas counts, as in the official code."""
    features = torch.full((1, 2, 8, 8), -1.0)
    features[0, :, 7, 7], features[0, 0, 3, 2], features[0, 1, 1, 4] = 9, 3, 3
    # On 64 pixels the image is in the rows 15 to 48, or 0 to 34: the cell (1, 4) shows it in its last row only.
    objects = [[an_object(0, 17, 2, 24, 17), an_object(1, 1, 1, 64, 2)]]
    localization = measured(objects, [(34, 64)], 2, 64, resize=resize)
    localization.observe(features, torch.tensor([0]))
    found = localization.per_class()
    assert [found[name].tolist() for name in ("cMax", "cTopk")] == [[100, 100]] * 2 if resize else [[0, 0]] * 2
    assert (found["energy"][0] > 50) == resize and localization.strength() == (3 if resize else 9)
    overlap = localization.of_maps()["CAM"]["IoU 0.3"]
    assert overlap > 0 if resize else overlap == 0


def test_annotations_without_boxes_are_not_measured():
    objects, sizes = [[an_object(0, 1, 1, 64, 50)], [an_object(1, 1, 1, 40, 64)]], [(50, 64), (64, 40)]
    for boxes, without in ((objects, True), ([objects[0], [an_object(1, 1, 1, 40, 60)]], False)):
        localization = measured(boxes, sizes, 2, 64, resize=True)
        localization.observe(torch.ones(2, 2, 4, 4), torch.tensor([0, 1]))
        assert (localization.text() == NO_BOXES) == (localization.section() == Section("Objects", NO_BOXES)) == without
    assert [row[0] for row in localization.section().rows][-2:] == ["chance: centre", "chance: uniform"]


def test_what_the_crop_does_not_show_is_counted():
    sizes, inside = [(100, 60), (64, 64), (64, 65)], an_object(0, 1, 1, 64, 64)
    edge, below, right = an_object(0, 60, 64, 90, 99), an_object(0, 1, 65, 60, 99), an_object(1, 65, 1, 65, 9)
    note = sight_note(sizes, [[inside, edge, below], [inside], [right]], 64)
    assert note.startswith("2 of 3 images are larger than --image_size 64") and "2 of 5 labeled boxes" in note
    assert "--eval_resize" in note and "\n" not in note and not sight_note(sizes, [], 100)
    # The same boxes have no visible pixel for the localization.
    localization = measured([[inside, below], [], [right]], sizes, 2, 64)
    localization.observe(torch.ones(3, 2, 4, 4), torch.arange(3))
    assert localization.skipped == 1


def test_maps_that_have_vanished_are_counted():
    objects = [[an_object(0, 17, 17, 32, 32), an_object(1, 33, 33, 48, 48), an_object(2, 70, 70, 90, 90)]]
    features = torch.full((1, 3, 4, 4), -2.0)
    features[0, 1, 2, 2] = 6  # of the two classes that are shown, one has a map
    localization = measured(objects, [(100, 100)], 3, 64)
    localization.observe(features, torch.tensor([0]))
    assert localization.over_pairs()["empty"] == 50 and localization.per_class()["empty"].tolist()[:2] == [100, 0]
    assert localization.strength() == 2 and localization.summary(["a", "b", "c"])["strength"] == 2
    assert "empty maps: 50.00 over pairs" in localization.text()


def test_the_order_and_size_of_batches_change_nothing():
    rng = np.random.default_rng(0)
    objects = [[an_object(label, 5, 5, 30 + i, 40) for label in rng.integers(0, 3, 2)] for i in range(6)]
    sizes = [(50 + 3 * i, 64) for i in range(6)]
    features = torch.from_numpy(rng.normal(size=(6, 3, 4, 4)).astype(np.float32))
    results = []
    for batches in ([[0, 1, 2, 3, 4, 5]], [[5, 3], [1], [0, 2, 4]]):
        localization = measured(objects, sizes, 3, 64)
        for batch in batches:
            localization.observe(features[batch], torch.tensor(batch))
        results.append(localization.over_pairs())
    assert results[0] == pytest.approx(results[1])


def test_a_strategy_of_ones_own_has_a_column_named_by_it():
    """One keypoint per image counts for the class whose map is strongest there; one per class, for every class."""
    objects = [[an_object(0, 17, 17, 32, 32), an_object(1, 33, 33, 48, 48)]]
    features = features_with_peaks((0, 0, 1, 1), (0, 1, 2, 2))[:1]

    def upper_left(maps: torch.Tensor, image_size: int, options: Options) -> torch.Tensor:
        return torch.full((len(maps), 2), options.topk)

    mine = [Keypoints("mine", upper_left), Keypoints("mine, one per image", upper_left, per_image=True)]
    localization = measured(objects, [(64, 64)], 3, 64, mine, Options(topk=20))
    localization.observe(features, torch.tensor([0]))
    # (20, 20) is inside the box of class 0, and class 0 is the strongest there.
    found = localization.over_pairs()
    assert (found["mine"], found["mine, one per image"]) == (50, 100)
    per_class = {name: np.isfinite(values).tolist() for name, values in localization.per_class().items()}
    assert per_class["mine"] == [True, True, False] and per_class["mine, one per image"] == [True, False, False]
    assert "Max" not in found and "mine, one per image" in localization.csv(["a", "b", "c"])
    for name in ("centre", "energy", "cMax within 15"):
        with pytest.raises(ValueError, match=f"'{name}'"):
            measured(objects, [(64, 64)], 3, 64, [*THE_FOUR, Keypoints(name, upper_left)])
