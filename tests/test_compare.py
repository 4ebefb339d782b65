"""Comparison of methods: Holm's correction, ranks, differences over images and runs, and the program."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.command_line import run
from tools.compare import Config, read
from tools.metrics.average_precision import average_precisions
from tools.metrics.scores import Scores, read_scores, write_scores
from tools.metrics.significance import compare, holm, smallest_difference
from tools.system.errors import UserError


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_what_its_procedure_rejects(p_values, level):
    """The smallest p-value is compared with level / K, the next with level / (K − 1), until one is larger."""
    order = np.argsort(p_values, kind="stable")
    rejected = set()
    for step, place in enumerate(order):
        if p_values[place] * (len(p_values) - step) > level:
            break
        rejected.add(int(place))
    corrected = holm(np.array(p_values))
    assert rejected == set(np.flatnonzero(corrected <= level).tolist())
    assert (corrected >= np.array(p_values)).all() and (corrected <= 1).all()


def test_the_smallest_difference_is_detected_with_the_power():
    rng = np.random.default_rng(0)
    moved = 2 * rng.standard_normal(100_000)
    drawn = smallest_difference(moved, 2.0) + moved
    assert (np.abs(drawn) > 2 * 1.959964).mean() == pytest.approx(0.8, abs=0.01)


def studies(images=150, runs=1, seed=0, lift=(0, 0, 1)):
    rng = np.random.default_rng(seed)
    labels = rng.random((images, 6)) < 0.2
    labels[:2] = True
    common = rng.standard_normal(labels.shape) + 1.5 * labels
    own = rng.standard_normal((len(lift), runs, *labels.shape))
    return [common + 0.4 * noise + gain * labels for noise, gain in zip(own, lift, strict=True)], labels


def test_a_clear_difference_is_found_and_none_where_there_is_none():
    methods, labels = studies()
    summaries, pairs = compare(methods, labels, np.ones_like(labels), samples=500)
    assert summaries[2].rank == 1 and summaries[2].best > 0.99 and summaries[2].ranks == (1, 1)
    corrected = {(pair.first, pair.second): pair.corrected for pair in pairs}
    assert corrected[0, 2] < 0.01 and corrected[1, 2] < 0.01 and corrected[0, 1] > 0.05
    for pair in pairs:
        assert pair.corrected >= pair.difference.p_value
        low, high = pair.difference.interval.low, pair.difference.interval.high
        assert low < pair.difference.difference < high
        # An interval is 2 · 1.96 standard errors wide, and the smallest difference is 2.8 of them.
        assert pair.smallest == pytest.approx(2.80 / 3.92 * (high - low), rel=0.1)
        expected = [average_precisions(methods[m][0], labels) for m in (pair.first, pair.second)]
        np.testing.assert_allclose(pair.classes, expected[1] - expected[0], atol=1e-12)


def test_runs_widen_the_interval_and_their_order_does_not_matter():
    methods, labels = studies(runs=4)
    counted = np.ones_like(labels)
    rng = np.random.default_rng(3)
    noisy = [runs + 3 * labels * rng.random((4, 1, 1)) for runs in methods]
    _, calm = compare(methods, labels, counted, samples=400)
    _, shaken = compare(noisy, labels, counted, samples=400)
    width = lambda pair: pair.difference.interval.high - pair.difference.interval.low  # noqa: E731
    assert width(shaken[0]) > 1.5 * width(calm[0])
    same, _ = compare([methods[0], methods[0][::-1]], labels, counted, samples=100)
    assert same[0].mean == pytest.approx(same[1].mean)


def test_the_smallest_difference_of_two_runs_is_finite():
    """Samples of two or three runs are from Student's t, whose standard deviation is infinite."""
    for runs in (2, 3):
        methods, labels = studies(runs=runs)
        _, pairs = compare(methods, labels, np.ones_like(labels), samples=2000)
        for pair in pairs:
            bound = max(abs(pair.difference.difference - end) for end in asdict(pair.difference.interval).values())
            assert bound < 1.5 * pair.smallest < 3 * bound


def test_equal_methods_share_a_rank():
    methods, labels = studies()
    summaries, _ = compare([methods[0], methods[2], methods[2]], labels, np.ones_like(labels), samples=200)
    assert [one.rank for one in summaries] == [3, 1, 1] and summaries[1].best == summaries[2].best > 0.99


def test_without_a_positive_there_is_nothing_to_compare(tmp_path):
    for name in ("a", "b"):
        absent = np.full((2, 1), -1, np.int8)
        write_scores(tmp_path / f"{name}.npz", Scores(["x", "y"], ["c"], np.zeros((2, 1)), absent))
    config = Config(files=[tmp_path / "a.npz", tmp_path / "b.npz"])
    with pytest.raises(UserError, match="a.npz has no positive"):
        read(config, config.methods())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    methods, labels = studies(runs=2)
    for name, runs in zip(("plain", "cMax", "cTopk"), methods, strict=True):
        for seed, logits in enumerate(runs):
            order = np.random.default_rng(seed).permutation(len(labels))  # files need not share an order
            presence = np.where(labels, 1, -1).astype(np.int8)
            scored = Scores(
                [f"im{i}" for i in order], list("abcdef"), logits[order].astype(np.float32), presence[order]
            )
            write_scores(folder / f"best_{name}_seed{seed}_val.npz", scored)
    return folder


def test_files_of_seeds_are_runs_of_a_method(files):
    names = sorted(path.name for path in files.glob("*.npz"))
    result = run(files, "-m", "tools.compare", *names, "--seeds", "--out", "c")
    assert result.returncode == 0, result.stderr
    content = json.loads((files / "c.json").read_text())
    assert [len(paths) for paths in content["made_with"]["files"].values()] == [2, 2, 2]
    assert content["methods"]["best_cTopk_val"]["rank"] == 1
    assert len(content["pairs"]) == 3 and set(content["pairs"]) >= {"best_plain_val − best_cMax_val"}
    assert (files / "c.png").stat().st_size > 10_000
    alone = run(files, "-m", "tools.compare", *names[:2], "--out", "d")
    assert alone.returncode == 0 and "say nothing about other seeds" in alone.stdout


def test_files_that_cannot_be_compared_are_refused(files, tmp_path):
    def problem(*paths):
        config = Config(files=list(paths))
        with pytest.raises(UserError) as error:
            read(config, config.methods())
        return str(error.value)

    first = files / "best_plain_seed0_val.npz"
    assert "two methods" in problem(first)
    assert "given twice" in problem(first, first)
    (tmp_path / first.name).symlink_to(files / "best_plain_seed1_val.npz")
    assert "several files are called best_plain_seed0_val" in problem(first, tmp_path / first.name, files / "x.npz")
    scored = read_scores(first)
    few = replace(scored, ids=scored.ids[:2], scores=scored.scores[:2], labels=scored.labels[:2])
    others = {
        "has other images": few,
        "has other classes": replace(scored, class_names=list("abcdez")),
        "labels 150 images differently": replace(scored, labels=-scored.labels),
        "holds no labels": replace(scored, labels=None),
    }
    for expected, other in others.items():
        write_scores(tmp_path / "other.npz", other)
        assert f"other.npz {expected}" in problem(first, tmp_path / "other.npz")
