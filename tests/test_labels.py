"""Classes that occur together or are confused, and suspicious labels, against definitions written out."""

import csv
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evaluate_classification
from tools.metrics.labels import co_occurrence, confusion, suspicious_labels
from tools.metrics.scores import Scores, write_scores

seeds = st.integers(0, 2**31)


def random_case(seed):
    rng = np.random.default_rng(seed)
    shape = (rng.integers(1, 25), rng.integers(1, 5))  # scores in eighths: their sums are exact
    counted = rng.random(shape) < 0.8
    return rng.integers(0, 9, shape) / 8, (rng.random(shape) < 0.4) & counted, counted


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_co_occurrence_counts_images(seed):
    _, labels, counted = random_case(seed)
    both, shares = co_occurrence(labels, counted)
    for v in range(labels.shape[1]):
        for w in range(labels.shape[1]):
            rows = [row for row in range(len(labels)) if labels[row, v] and counted[row, w]]
            together = sum(labels[row, w] for row in rows)
            assert both[v, w] == both[w, v] == together
            assert shares[v, w] == pytest.approx(together / len(rows) if rows else np.nan, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_confusion_counts_images_with_one_class_missed_and_the_other_wrongly_predicted(seed):
    scores, labels, counted = random_case(seed)
    predicted, classes = scores > 0.5, labels.shape[1]
    expected = np.zeros((classes, classes), int)
    for row in range(len(labels)):
        for v in range(classes):
            for w in range(classes):
                missed = counted[row, v] and labels[row, v] and not predicted[row, v]
                wrong = counted[row, w] and not labels[row, w] and predicted[row, w]
                expected[v, w] += missed and wrong
    np.testing.assert_array_equal(confusion(predicted, labels, counted), expected)
    assert not expected.diagonal().any()


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_suspicious_labels_are_those_beyond_the_other_sides_mean(seed):
    scores, labels, counted = random_case(seed)
    expected = {}
    for v in range(labels.shape[1]):
        present = [scores[row, v] for row in range(len(scores)) if counted[row, v] and labels[row, v]]
        absent = [scores[row, v] for row in range(len(scores)) if counted[row, v] and not labels[row, v]]
        if not present or not absent or np.mean(present) <= np.mean(absent):
            continue
        for row in range(len(scores)):
            limit = np.mean(absent) if labels[row, v] else np.mean(present)
            margin = limit - scores[row, v] if labels[row, v] else scores[row, v] - limit
            if counted[row, v] and margin >= 0:
                expected[row, v] = (margin, limit)
    rows, columns, thresholds = suspicious_labels(scores, labels, counted)
    found = dict(zip(zip(rows.tolist(), columns.tolist(), strict=True), thresholds, strict=True))
    assert found == {pair: limit for pair, (_, limit) in expected.items()}
    margins = [expected[pair][0] for pair in found]
    assert margins == sorted(margins, reverse=True)


def test_a_wrong_label_is_found(tmp_path, monkeypatch, capsys):
    """Scores that separate three classes, of which two occur together; of 900 labels one is wrong on each side."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    truth = rng.random((300, 3)) < 0.3
    truth[:, 1] |= truth[:, 0]
    logits = (6 * truth - 3 + rng.standard_normal(truth.shape)).astype(np.float32)
    labels = np.where(truth, 1, -1).astype(np.int8)
    wrong = [(int(np.flatnonzero(truth[:, 2])[0]), 2), (int(np.flatnonzero(~truth[:, 1])[0]), 1)]
    for pair in wrong:
        labels[pair] *= -1
        logits[pair] *= 2
    write_scores(tmp_path / "s.npz", Scores([f"im{row}" for row in range(300)], ["cat", "dog", "cow"], logits, labels))
    words = ("--scores", "s.npz", "--check_labels", "--bootstrap", "0", "--out", "r")
    monkeypatch.setattr(sys, "argv", ["evaluate_classification.py", *words])
    evaluate_classification.main()
    rows = list(csv.DictReader((tmp_path / "r_labels.csv").open()))
    assert {(row["image"], row["class"]) for row in rows[:2]} == {
        (f"im{wrong[0][0]}", "cow"),
        (f"im{wrong[1][0]}", "dog"),
    }
    assert {row["label"] for row in rows[:2]} == {"present", "absent"}
    for row in rows:
        score, threshold = float(row["score"]), float(row["threshold"])
        assert score >= threshold if row["label"] == "absent" else score <= threshold
    pairs = {(row["class"], row["other"]): row for row in csv.DictReader((tmp_path / "r_class_pairs.csv").open())}
    assert len(pairs) == 6 and float(pairs["cat", "dog"]["percent_of_class"]) > 98
    assert (tmp_path / "r_labels.png").stat().st_size > 10_000 and json.loads((tmp_path / "r.json").read_text())
    assert "suspicious labels:" in capsys.readouterr().out
