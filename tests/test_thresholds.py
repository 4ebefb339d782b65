"""Thresholds, intervals and calibration against definitions written out, and the program that chooses them."""

import json
import shutil
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

import tools.compare
import tools.thresholds
from tests.helpers.command_line import refused, run
from tests.helpers.coverage import TABLES, means_coverage
from tools.metrics.calibration import (
    class_calibration_error,
    fit_temperature,
    fit_temperatures,
    negative_log_likelihood,
    reliability,
)
from tools.metrics.multilabel import precision_recall
from tools.metrics.scores import Scores, write_scores
from tools.metrics.thresholds import (
    DEFAULT,
    Goal,
    choose_thresholds,
    measure_classes,
    measure_means,
    read_thresholds,
    wilson,
)
from tools.system.errors import UserError
from tools.thresholds import Config, read_sets

seeds = st.integers(0, 2**31)
GOALS = ("f1", "precision=0.6", "recall=0.7", "cost=3", "cost=0.2", "precision=1", "recall=1")


def random_class(seed):
    rng = np.random.default_rng(seed)
    size = rng.integers(2, 30)
    scores = np.round(rng.random(size), rng.integers(1, 4))
    labels = rng.random(size) < 0.4
    labels[0] = True
    return scores, labels


def value_of(goal, scores, labels, threshold):
    """Return what a goal makes of a threshold; larger tuples are better."""
    predicted = scores > threshold
    true, found, positives = (predicted & labels).sum(), predicted.sum(), labels.sum()
    precision, recall = true / max(found, 1), true / positives
    if goal.name == "f1":
        return (2 * true / (found + positives),)
    if goal.name == "cost":
        return (-(found - true) - goal.value * (positives - true),)
    least, other = (precision, recall) if goal.name == "precision" else (recall, precision)
    return (True, other) if least >= goal.value else (False, least)


@settings(max_examples=150, deadline=None)
@given(seeds, st.sampled_from(GOALS))
def test_no_other_threshold_is_better(seed, text):
    scores, labels = random_class(seed)
    goal = Goal.parse(text)
    counted = np.ones((len(scores), 1), bool)
    (threshold,) = choose_thresholds(scores[:, None], labels[:, None], counted, goal)
    best = max(value_of(goal, scores, labels, other) for other in [-1, 1, *scores, *(scores - 1e-6)])
    assert value_of(goal, scores, labels, threshold) == pytest.approx(best)
    assert str(Goal.parse(str(goal))) == text


def test_a_threshold_is_halfway_between_scores_and_ignores_uncounted_pairs():
    scores = np.array([[0.9], [0.95], [0.5], [0.1]])
    labels = np.array([[True], [False], [False], [False]])
    counted = np.array([[True], [False], [True], [True]])
    assert choose_thresholds(scores, labels & counted, counted, Goal("f1")) == pytest.approx([0.7])
    nothing = np.zeros_like(labels)
    assert choose_thresholds(scores, nothing, counted, Goal("f1")) == [DEFAULT]


@pytest.mark.parametrize(
    "text", ["f2", "f1=1", "precision", "precision=2", "recall=-1", "cost=inf", "cost=1.7e308", "cost=nan", "cost=x"]
)
def test_a_goal_that_makes_no_sense_is_refused(text):
    with pytest.raises(UserError, match="is not a goal"):
        Goal.parse(text)


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_measures_of_classes_and_means_follow_their_definitions(seed):
    rng = np.random.default_rng(seed)
    predicted, labels, counted = (rng.random((20, 4)) < share for share in (0.4, 0.4, 0.8))
    labels = labels & counted
    found = measure_classes(predicted, labels, counted)
    expected = precision_recall(predicted, labels, counted)
    for v in range(4):
        of_class = {name: values[v] for name, values in found.items()}
        if not labels[:, v].any():
            assert np.isnan(of_class["recall"]).all()
            continue
        assert of_class["recall"][0] == pytest.approx(expected.recall[v])
        if (predicted & counted)[:, v].any():
            assert of_class["precision"][0] == pytest.approx(expected.precision[v])
        true = (predicted & labels)[:, v].sum()
        f1 = 2 * true / ((predicted & counted)[:, v].sum() + labels[:, v].sum())
        assert of_class["f1"][0] == pytest.approx(f1)
        for value, low, high in of_class.values():
            assert np.isnan(value) or low <= value + 1e-12 and value <= high + 1e-12
    means = measure_means(predicted, labels, counted, samples=20)
    for name, (value, low, high) in means.items():
        assert value == pytest.approx(getattr(expected, name), abs=1e-6, nan_ok=True)
        assert low <= high


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500), st.integers(0, 500))
def test_intervals_of_shares_are_those_of_scipy(whole, part):
    part = min(part, whole)
    expected = binomtest(part, whole).proportion_ci(method="wilson")
    assert wilson(np.array([part]), np.array([whole]))[0] == pytest.approx(
        [part / whole, expected.low, expected.high], abs=1e-12
    )


def test_intervals_of_f1_cover():
    """The interval of J = TP / (TP + FP + FN) carries over to F1: exact coverage, for 40 images in question."""
    J = 0.7
    parts = np.arange(41)
    covered = []
    for part in parts:
        predicted = np.zeros((41, 1), bool)
        predicted[:part] = True
        labels = np.ones((41, 1), bool)
        labels[40] = False
        ((_, low, high),) = measure_classes(predicted, labels, np.ones((41, 1), bool))["f1"]
        covered.append(low <= 2 * J / (1 + J) <= high)
    assert 0.93 < binom.pmf(parts, 40, J)[np.array(covered)].sum() < 0.97


@pytest.mark.parametrize("table", ["400 images", "100 images, 5 classes"])
def test_intervals_of_means_cover_roughly(table):
    assert min(means_coverage(TABLES[table], studies=60, samples=200).values()) >= 0.85


# Calibration ---------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(seeds, st.integers(1, 20))
def test_calibration_error_follows_its_definition(seed, bins):
    rng = np.random.default_rng(seed)
    probabilities = np.append(rng.random(rng.integers(1, 60)), [0.0, 1.0])
    labels = rng.random(len(probabilities)) < probabilities
    total = 0.0
    for b in range(bins):
        inside = (probabilities >= b / bins) & ((probabilities < (b + 1) / bins) | (b == bins - 1))
        inside = np.array([min(int(p * bins), bins - 1) == b for p in probabilities]) | (inside & False)
        if inside.any():
            total += inside.sum() / len(inside) * abs(probabilities[inside].mean() - labels[inside].mean())
    found = reliability(probabilities, labels, bins)
    assert found.error == pytest.approx(total, abs=1e-12)
    assert found.count.sum() == len(labels)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_temperature_maximizes_the_likelihood(seed):
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal(80)
    labels = rng.random(80) < 1 / (1 + np.exp(-logits / rng.uniform(0.5, 3)))
    if labels.all() or not labels.any():
        return
    found = fit_temperature(logits, labels)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 2000))
    losses = [negative_log_likelihood(logits, labels, t) for t in grid]
    assert negative_log_likelihood(logits, labels, found) <= min(losses) + 1e-6


def test_temperatures_recover_the_scale_and_calibrate():
    rng = np.random.default_rng(0)
    true = np.array([0.5, 2.0])
    logits = 2 * rng.standard_normal((20_000, 2))
    labels = rng.random(logits.shape) < 1 / (1 + np.exp(-logits / true))
    counted = np.ones_like(labels)
    np.testing.assert_allclose(fit_temperatures(logits, labels, counted, True), true, rtol=0.05)
    one = fit_temperatures(logits, labels, counted, False)
    assert one[0] == one[1] and true[0] < one[0] < true[1]
    errors = [
        class_calibration_error(1 / (1 + np.exp(-logits / scale)), labels, counted) for scale in (np.ones(2), one, true)
    ]
    assert errors[2] < 0.01 < errors[0]
    assert fit_temperature(logits[:, 0], np.zeros(20_000, bool)) == 1


# The program ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files of scores of the same model, whose logits are twice too large, with classes in another order."""
    folder = tmp_path_factory.mktemp("thresholds")
    rng = np.random.default_rng(1)
    names = ["cat", "dog", "cow"]
    for name, order in (("val", [0, 1, 2]), ("test", [2, 0, 1])):
        exact = 2 * rng.standard_normal((400, 3)) - [0, 1, 2]
        labels = np.where(rng.random((400, 3)) < 1 / (1 + np.exp(-exact)), 1, -1).astype(np.int8)
        logits = (2 * exact).astype(np.float32)
        scored = Scores(
            [f"{name}{i}" for i in range(400)], [names[v] for v in order], logits[:, order], labels[:, order]
        )
        write_scores(folder / f"{name}.npz", scored)
    return folder


@pytest.fixture(scope="module")
def chosen(files):
    result = run(files, "-m", "tools.thresholds", "--scores", "val.npz", "--test", "test.npz", "--out", "t")
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_thresholds_are_chosen_on_one_file_and_measured_on_the_other(files, chosen):
    content = json.loads((files / "t.json").read_text())
    assert content["made_with"]["measured_on"] == str(files / "test.npz")
    assert list(content["classes"]) == ["cat", "dog", "cow"]
    means = content["means"]
    assert means["chosen"]["CF1"][0] > means["default"]["CF1"][0]
    assert means["chosen"]["CF1"][1] < means["chosen"]["CF1"][0] < means["chosen"]["CF1"][2]
    measured = content["calibration"]["measured on"]
    assert measured["after"]["ECE"] < measured["before"]["ECE"]
    assert f"{100 * means['chosen']['CF1'][0]:.2f}" in chosen
    assert (files / "t.png").stat().st_size > 10_000 and "threshold" in (files / "t.csv").read_text()


def test_evaluation_reads_the_thresholds(files, chosen):
    words = ("--scores", "test.npz", "--thresholds", "t.json", "--bootstrap", 0, "--out", "e")
    result = run(files, "evaluate_classification.py", *words)
    assert result.returncode == 0, result.stderr
    means = json.loads((files / "e.json").read_text())["means"]
    expected = json.loads((files / "t.json").read_text())["means"]["chosen"]
    assert means["CF1"] == pytest.approx(100 * expected["CF1"][0], abs=1e-3)
    assert means["OP"] == pytest.approx(100 * expected["OP"][0], abs=1e-3)


def test_thresholds_are_matched_by_name(files, chosen):
    found = read_thresholds(files / "t.json", ["dog", "cat"])
    classes = json.loads((files / "t.json").read_text())["classes"]
    assert found.thresholds.tolist() == [classes["dog"]["threshold"], classes["cat"]["threshold"]]
    with pytest.raises(UserError, match="has no threshold for bird"):
        read_thresholds(files / "t.json", ["bird"])


@pytest.mark.parametrize(
    "text", ["[]", '{"classes": {"a": {}}}', '{"classes": {"a": {"threshold": null, "temperature": 1}}}',
             '{"classes": {"a": {"threshold": 0.5, "temperature": 0}}}', '{"classes": {"a": 3}}',
             '{"classes": {"a": {"threshold": 1%s, "temperature": 1}}}' % ("0" * 400)]
)  # fmt: skip
def test_a_file_that_holds_no_thresholds_is_refused(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match="t.json"):
        read_thresholds(tmp_path / "t.json", ["a"])


def test_halves_of_one_file_and_other_goals(files):
    words = ("--scores", "val.npz", "--halves", "--for", "precision=0.9", "--temperature", "class", "--out", "h")
    result = run(files, "-m", "tools.thresholds", *words)
    assert result.returncode == 0, result.stderr
    assert "precision=0.9" in result.stdout and "the other half of val.npz" in result.stdout
    temperatures = [row["temperature"] for row in json.loads((files / "h.json").read_text())["classes"].values()]
    assert len(set(temperatures)) == 3


def test_halves_have_the_same_share_of_every_class(tmp_path):
    rng = np.random.default_rng(0)
    present = rng.random((101, 5)) < [0.5, 0.3, 0.1, 0.05, 0.03]
    present[:2] = True
    scored = Scores([f"im{i}" for i in range(101)], list("abcde"), rng.random(present.shape), np.where(present, 1, -1))
    write_scores(tmp_path / "s.npz", scored)
    for seed in range(3):
        chosen, test = read_sets(Config(scores=tmp_path / "s.npz", halves=True, seed=seed))
        assert sorted(chosen.ids + test.ids) == sorted(scored.ids) and abs(len(chosen.ids) - len(test.ids)) == 1
        differences = (chosen.labels > 0).sum(0) - (test.labels > 0).sum(0)
        assert np.abs(differences).max() <= 2
    assert test.ids != read_sets(Config(scores=tmp_path / "s.npz", halves=True, seed=0))[1].ids


def test_one_image_has_no_halves(tmp_path):
    (tmp_path / "one.csv").write_text("image,cat,label:cat\na,0.5,1\n")
    assert "--halves needs two" in refused(tmp_path, "-m", "tools.thresholds", "--scores", "one.csv", "--halves")
    result = run(tmp_path, "-m", "tools.thresholds", "--scores", "one.csv", "--out", "t")
    assert result.returncode == 0, result.stderr


def thresholds(monkeypatch, *words):
    """Run the program in this process."""
    monkeypatch.setattr(sys, "argv", ["thresholds", *map(str, words)])
    tools.thresholds.main()


def test_results_of_other_settings_are_kept(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.json").write_text(json.dumps({"class_names": ["cow", "cat", "dog"]}))
    words = ["--scores", files / "val.npz", "--temperature", "none", "--bootstrap"]
    for more in ([10], [9], [10], [10, "--class_file", "c.json"]):
        thresholds(monkeypatch, *words, *more)
    names = {path.name for path in (tmp_path / "experiments/evaluation").glob("*.json")}
    assert names == {f"val_thresholds{number}.json" for number in ("", "_2", "_3")}


@pytest.mark.parametrize("out", [".", "/", "file/x"])
def test_a_name_that_cannot_be_written_is_refused_before_anything_is_computed(files, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(tools.thresholds, "choose_thresholds", None)
    monkeypatch.setattr(tools.compare, "compare", None)
    with pytest.raises(UserError, match="must end in the name of a file|cannot write"):
        thresholds(monkeypatch, "--scores", files / "val.npz", "--out", out)
    shutil.copy(files / "val.npz", "other.npz")
    monkeypatch.setattr(sys, "argv", ["compare", str(files / "val.npz"), "other.npz", "--out", out])
    with pytest.raises(UserError, match="must end in the name of a file|cannot write"):
        tools.compare.main()


def test_mistakes_are_refused(files):
    message = refused(files, "-m", "tools.thresholds", "--scores", "val.npz", "--for", "f7")
    assert "--for 'f7' is not a goal: give f1, precision=0…1" in message
    np.savez(files / "other.npz", ids=["a"], class_names=["x"], scores=[[0.5]], labels=[[1]])
    with pytest.raises(UserError, match="other.npz has other classes"):
        read_sets(Config(scores=files / "val.npz", test=files / "other.npz"))
    np.savez(files / "other.npz", ids=["a"], class_names=["x"], scores=[[0.5]], labels=[[0]])
    with pytest.raises(UserError, match="other.npz has no positive"):
        read_sets(Config(scores=files / "other.npz"))
