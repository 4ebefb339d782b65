"""Stratified lists: properties on random data sets."""

import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tools.data.splits import split_lists, stratified_split

CASES = settings(max_examples=60, deadline=None, database=None)
shares = st.floats(0.05, 0.9)
seeds = st.integers(0, 1000)


def random_labels(seed: int, images: int, classes: int, per_image: float) -> np.ndarray:
    """Return labels of classes from frequent to rare."""
    rates = np.minimum(per_image * 0.6 ** np.arange(classes), 0.9)
    return np.random.default_rng(seed).random((images, classes)) < rates


@CASES
@given(seeds, st.integers(2, 80), st.integers(1, 8), shares)
def test_the_number_of_images_is_exact_and_the_split_repeats(seed, images, classes, share):
    labels = random_labels(seed, images, classes, 0.7)
    in_val = stratified_split(labels, share, seed)
    assert in_val.dtype == bool and in_val.shape == (images,)
    assert in_val.sum() == min(max(round(share * images), 1), images - 1)
    assert np.array_equal(in_val, stratified_split(labels, share, seed))


@CASES
@given(seeds, st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 30), shares)
@example(0, [2, 2, 2, 35], 0, 0.75)
def test_with_one_label_per_image_every_share_is_within_one_image(seed, counts, unlabeled, share):
    labels = np.concatenate([np.repeat(np.eye(len(counts), dtype=bool), counts, 0), np.zeros((unlabeled, len(counts)))])
    if len(labels) < 2:
        return
    found = labels[stratified_split(labels, share, seed)].sum(0)
    wanted, total = share * labels.sum(0), labels.sum(0)
    large = np.minimum(wanted, total - wanted) >= 1
    # The exact number of images can require one more or less of a class, and classes of two images, which are in both
    # lists whatever their share, leave what they do not take to the others.
    forced = np.abs(np.clip(wanted, 1, total - 1) - wanted)[total >= 2].sum()
    assert (np.abs(found - wanted)[large] <= 1.5 + forced).all(), (found, wanted)
    if large.all():
        assert ((found > 0) & (found < total)).all()


@CASES
@given(seeds, st.integers(40, 200), st.integers(2, 10))
def test_every_class_of_two_images_is_in_both_lists(seed, images, classes):
    labels = random_labels(seed, images, classes, 0.6)
    total = labels.sum(0)
    found = labels[stratified_split(labels, 0.4, seed)].sum(0)
    assert (((found > 0) & (found < total)) | (total < 2)).all(), (found, total)


@CASES
@given(seeds, st.integers(100, 300), st.integers(2, 12), st.floats(0.1, 0.5))
def test_shares_are_closer_than_those_of_a_random_split(seed, images, classes, share):
    labels = random_labels(seed, images, classes, 0.8)
    wanted = share * labels.sum(0)
    ours = stratified_split(labels, share, seed)
    random = np.random.default_rng(seed).permutation(images) < ours.sum()
    errors = [np.abs(labels[part].sum(0) - wanted).max() for part in (ours, random)]
    assert errors[0] <= max(errors[1], 2)


def test_another_seed_gives_another_split():
    labels = random_labels(0, 100, 5, 0.5)
    assert not np.array_equal(stratified_split(labels, 0.3, 0), stratified_split(labels, 0.3, 1))


def test_forty_thousand_images_of_eighty_classes_take_seconds():
    labels = np.random.default_rng(0).random((40_000, 80)) < np.r_[0.45, np.geomspace(0.1, 0.0001, 79)]
    start = time.perf_counter()
    in_val = stratified_split(labels, 0.2, 0)
    assert time.perf_counter() - start < 10
    total, found = labels.sum(0), labels[in_val].sum(0)
    assert np.abs(found - 0.2 * total).max() <= 2 and ((found > 0) | (total < 2)).all()


def test_the_lists_do_not_depend_on_the_order_of_the_images():
    labels = random_labels(3, 50, 4, 0.5)
    ids = [f"id{index}" for index in range(50)]
    order = np.random.default_rng(1).permutation(50)
    lists = split_lists(ids, labels, 0.3, 0)
    assert lists == split_lists([ids[index] for index in order], labels[order], 0.3, 0)
    assert sorted(lists["train"] + lists["val"]) == lists["trainval"] == sorted(ids)
    assert split_lists(ids, labels, 0, 0) == {"train": sorted(ids), "trainval": sorted(ids)}


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_is_too_few_for_two_lists(count):
    with pytest.raises(Exception, match="too few for two lists"):
        split_lists(["a"][:count], np.zeros((count, 2), bool), 0.2, 0)
