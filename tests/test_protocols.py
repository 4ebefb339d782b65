"""Protocols of public code bases against what their own code computed, and against their formulas written out."""

import csv
import io
import json
import tarfile
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from core.evaluation.config import Config
from core.evaluation.scoring import read_again
from evaluate_classification import result_base
from tests.helpers.command_line import run
from tools.metrics import submission
from tools.metrics.multilabel import MEANS
from tools.metrics.protocols import PROTOCOLS, measure, protocol_tables
from tools.metrics.readers import read_labeled, read_results
from tools.metrics.scores import Scores, write_scores
from tools.metrics.submission import CLASSES, write_submission
from tools.system.errors import UserError

KINDS = ("distinct", "tied", "tied_permuted", "empty")
# The names of the golden arrays, the unit of average precision and of the rest in %, and the order of equal scores.
CODES = {
    "ml-gcn": ("mlgcn", 1, 100, "torch_logits"),
    "add-gcn": ("addgcn", 1, 100, "torch_logits"),
    "csra": ("csra", 1, 100, "numpy_negated_probability_kept"),
    "ssgrl": ("ssgrl", 1, 100, "numpy_negated_logits"),
    "q2l": ("q2l", 100, 100, "numpy_negated_probability"),
    "c-tran": ("ctran", 1, 100, None),
    "salgl": ("salgl2012", 1, 100, "numpy_reversed_probability_kept"),
    "salgl-2007": ("salgl2007", 1, 100, "numpy_reversed_probability_kept"),
    "mmpretrain": ("mmpretrain", 100, 1, "torch_probability_kept"),
    "mmpretrain-negative": ("mmpretrain_negative", 100, 1, "own"),
    "mmpretrain-positive": ("mmpretrain_positive", 100, 1, "own"),
    "asl-coco": ("asl_positive", 100, 1, "numpy_reversed_probability32"),
    "asl-coco-negative": ("asl_negative", 100, 1, "numpy_reversed_probability32"),
    "oass": ("oass", 1, 100, "torch_logits"),
    "oass-drop-last": ("oass_droplast", 1, 100, "own"),
}
MEANS_IN_PERCENT = ("mlgcn", "q2l", "mmpretrain", "mmpretrain_negative", "mmpretrain_positive")
MEANS_IN_PERCENT += ("asl_positive", "asl_negative")
# Bounds over all orders of equal scores: formula and difficult rule.
BOUNDS = {"ml-gcn": "plain_ignore", "csra": "plain_ignore", "mmpretrain": "plain_ignore", "oass": "plain_positive"}
BOUNDS |= {"salgl": "envelope_ignore", "voc-server": "envelope_ignore", "ssgrl": "envelope_negative"}
BOUNDS |= {"mmpretrain-negative": "plain_negative", "mmpretrain-positive": "plain_positive", "q2l": "envelope_negative"}


@pytest.fixture(scope="session")
def golden(golden_folder):
    return np.load(golden_folder / "protocols.npz")


def measured(golden, name, kind, order=None):
    logits = golden[f"logits_{kind}"]
    orders = None if order is None else golden[f"order_{order}_{kind}"].astype(int)
    names = [f"class{v}" for v in range(logits.shape[1])]
    return measure(PROTOCOLS[name], logits, sigmoid(logits), golden[f"labels_{kind}"], names, orders)


def sigmoid(logits):
    return torch.sigmoid(torch.from_numpy(logits)).numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CODES)
def test_every_figure_of_the_original_code(golden, name, kind):
    code, unit, percent, order = CODES[name]
    is_tied = kind.startswith("tied")
    if is_tied and order == "own":
        pytest.skip("its order of equal scores was not noted; the bounds are tested")
    found = measured(golden, name, kind, order if is_tied else None)
    np.testing.assert_allclose(found.average_precisions / 100, golden[f"{code}_{kind}_ap"] / unit, rtol=0, atol=2e-7)
    mean = golden[f"{code}_{kind}_map"] * (1 if code in MEANS_IN_PERCENT else 100)
    np.testing.assert_allclose(found.mAP, mean, rtol=0, atol=1e-4)
    for suffix, top in (("pr", ""), ("pr3", "_top3")):
        if (key := f"{code}_{kind}_{suffix}") in golden:
            ours = [found.counts[name + top] for name in ("OP", "OR", "OF1", "CP", "CR", "CF1")]
            if is_tied and top and name != "c-tran":  # which of equal scores are kept depends on the sort
                np.testing.assert_allclose(ours, percent * golden[key], rtol=0, atol=2)
            else:
                np.testing.assert_allclose(ours, percent * golden[key], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["tied", "tied_permuted"])
@pytest.mark.parametrize("name", BOUNDS)
def test_orders_of_equal_scores_move_the_figure_within_its_bounds(golden, name, kind):
    found = measured(golden, name, kind)
    low, high = (golden[f"reference_{BOUNDS[name]}_{end}_{kind}_ap"].mean() * 100 for end in ("low", "high"))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert found.low - 1e-9 <= found.mAP <= found.high + 1e-9
    assert "equal scores: mAP" in found.notes[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_has_the_formula_of_the_development_kit(golden, kind):
    expected = golden[f"reference_envelope_ignore_{kind}_ap"]
    np.testing.assert_allclose(measured(golden, "voc-server", kind).average_precisions / 100, expected, atol=1e-12)


def test_a_class_without_a_positive_is_told_beside_the_figure(golden):
    stops, counts = (measured(golden, name, "empty") for name in ("ml-gcn", "c-tran"))
    assert np.isnan(stops.mAP) and "class3: the original stops with a division by zero" in stops.notes[0]
    assert counts.mAP > 40 and "class3: the original counts it as 0" in counts.notes[0]
    others = np.nanmean(stops.average_precisions)
    assert f"over the other 19 classes {others:.2f}" in stops.notes[0]
    assert "8 images of the last incomplete batch" in measured(golden, "oass-drop-last", "empty").notes[0]


# Each formula against its definition ---------------------------------------------------------------------------------


def definition(protocol, logits, probabilities, labels):
    """Return a class's average precision by walking down the list with fractions; None: order of equal scores."""
    scores = {"logits": logits, "probabilities": probabilities}[protocol.ranked]
    state = {"positive": 1, "negative": -1, "ignore": 0}[protocol.difficult]
    truth = [int(label) or state for label in labels]
    pairs = sorted((-score, place) for place, score in enumerate(scores))
    true = found = 0
    precisions = []
    for _, place in pairs:
        true, found = true + (truth[place] == 1), found + (truth[place] != 0)
        if truth[place] == 1:
            precisions.append(Fraction(true, found))
    if not precisions:
        return protocol.no_positive
    if protocol.envelope:
        precisions = [max(precisions[place:]) for place in range(len(precisions))]
    return float(sum(precisions) / len(precisions))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(sorted(set(PROTOCOLS) - {"oass-drop-last"})))
def test_average_precision_follows_its_definition(seed, name):
    rng = np.random.default_rng(seed)
    images, classes = rng.integers(1, 40), rng.integers(1, 5)
    ranks = rng.permuted(np.tile(np.arange(images), (classes, 1)), axis=1).T  # distinct scores
    logits = (ranks / images * 8 - 4).astype(np.float32)
    labels = rng.choice([-1, 0, 1], (images, classes), p=[0.6, 0.15, 0.25]).astype(np.int8)
    found = measure(PROTOCOLS[name], logits, sigmoid(logits), labels, "abcd"[:classes])
    for v in range(classes):
        expected = definition(PROTOCOLS[name], logits[:, v], sigmoid(logits)[:, v], labels[:, v])
        assert found.average_precisions[v] / 100 == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert found.low == pytest.approx(found.high, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31))
def test_the_bounds_are_those_of_all_orders(seed):
    from itertools import permutations

    rng = np.random.default_rng(seed)
    scores = rng.choice([0.0, 1.0], 6).astype(np.float32)
    labels = rng.choice([-1, 1], 6).astype(np.int8)
    labels[0] = 1
    for name in ("oass", "voc-server"):
        protocol, values = PROTOCOLS[name], []
        for order in permutations(range(6)):
            if all(scores[a] >= scores[b] for a, b in zip(order, order[1:], strict=False)):
                orders = [np.array(order)]
                values.append(measure(protocol, scores[:, None], scores[:, None], labels[:, None], "c", orders).mAP)
        found = measure(protocol, scores[:, None], scores[:, None], labels[:, None], "c")
        assert (found.low, found.high) == pytest.approx((min(values), max(values)))
        assert min(values) - 1e-9 <= found.mAP <= max(values) + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([name for name in PROTOCOLS if PROTOCOLS[name].counting]))
def test_counts_follow_their_definition(seed, name):
    rng = np.random.default_rng(seed)
    rule = PROTOCOLS[name].counting
    logits = rng.standard_normal((rng.integers(1, 12), 4)).astype(np.float32)
    labels = rng.choice([-1, 0, 1], logits.shape, p=[0.5, 0.15, 0.35]).astype(np.int8)
    found = measure(PROTOCOLS[name], logits, sigmoid(logits), labels, "abcd").counts
    scores = logits if rule.threshold == 0 else sigmoid(logits)
    state = {"positive": 1, "negative": -1, "ignore": 0}[rule.difficult]
    TP, PP, P = np.zeros(4), np.zeros(4), np.zeros(4)
    for row, of_row in zip(scores, labels, strict=True):
        for v in range(4):
            truth = int(of_row[v]) or state
            if truth and (row[v] > rule.threshold if rule.strict else row[v] >= rule.threshold):
                PP[v] += 1
                TP[v] += truth == 1
            P[v] += truth == 1
    precision = [TP[v] / PP[v] if PP[v] else rule.never_predicted for v in range(4)]
    recall = [TP[v] / P[v] if P[v] else rule.no_positive for v in range(4)]
    assert (found["CP"], found["CR"]) == pytest.approx((100 * np.mean(precision), 100 * np.mean(recall)), nan_ok=True)
    predictions = PP.sum() + rule.never_adds * (PP == 0).sum()
    expected = 100 * TP.sum() / predictions if predictions else rule.nothing
    assert found["OP"] == pytest.approx(expected, nan_ok=True)


def test_every_protocol_says_what_it_follows():
    for protocol in PROTOCOLS.values():
        assert ": " in protocol.source
        json.dumps(asdict(protocol))


# Result files of other programs --------------------------------------------------------------------------------------

NAMES = ["cat", "dog"]
PROBABILITIES = np.array([[0.9, 0.25], [0.125, 0.75], [0.5, 0.0625]])
LABELS = np.array([[1, -1], [-1, 1], [0, -1]], np.int8)
IDS = ["a", "b", "c"]


def check(found, labels=LABELS, scores=PROBABILITIES):
    assert found.ids == IDS and found.class_names == NAMES
    np.testing.assert_allclose(found.probabilities, scores, atol=1e-7)
    assert (found.labels is None) == (labels is None)
    np.testing.assert_array_equal(found.labels, labels)


def test_a_table_with_a_header(tmp_path):
    path = tmp_path / "scores.csv"
    rows = [[image, *row, *of_row] for image, row, of_row in zip(IDS, PROBABILITIES, LABELS, strict=True)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["image", "cat", "dog", "label:cat", "label:dog"], *rows])
    check(read_results(path))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["image", "cat", "dog"], *(row[:3] for row in rows)])
    check(read_results(path), labels=None)
    with pytest.raises(UserError, match="holds no labels"):
        read_labeled(path)


def test_the_table_of_add_gcn(tmp_path):
    logits = np.log(PROBABILITIES / (1 - PROBABILITIES))
    rows = zip(IDS, logits, LABELS, strict=True)
    text = "".join(f"{image},{','.join(map(str, row))},{','.join(map(str, of))}\n" for image, row, of in rows)
    (tmp_path / "results.csv").write_text(text)
    check(read_results(tmp_path / "results.csv", NAMES))
    with pytest.raises(UserError, match="does not name them"):
        read_results(tmp_path / "results.csv")


def test_a_table_without_a_header_may_hold_scores_alone(tmp_path):
    text = "".join(f"{image},{row[0]},{row[1]}\n" for image, row in zip(IDS, PROBABILITIES, strict=True))
    (tmp_path / "s.CSV").write_text(text)
    check(read_results(tmp_path / "s.CSV", NAMES), labels=None)


def test_classes_named_by_numbers_are_a_header(tmp_path):
    (tmp_path / "s.csv").write_text("image,0,1\na,0.5,0.25\n")
    found = read_results(tmp_path / "s.csv", ["1", "0"])
    assert found.ids == ["a"] and found.scores.tolist() == [[0.25, 0.5]]
    (tmp_path / "s.csv").write_text("image,0,1,label:0,label:1\na,0.5,0.25,1,-1\n")
    assert read_results(tmp_path / "s.csv").labels.tolist() == [[1, -1]]


def test_labels_without_a_minus_one_are_multi_hot(tmp_path):
    """As COCO's in CSRA's list; read as the devkit's, each 0 would be a difficult object, and count as a positive."""
    multi_hot = np.array([[1, 0], [0, 1], [0, 0]])
    rows = list(zip(IDS, PROBABILITIES.tolist(), multi_hot.tolist(), strict=True))
    lines = [",".join(map(str, [image, *row, *of])) for image, row, of in rows]
    (tmp_path / "bare.csv").write_text("\n".join(lines))
    (tmp_path / "named.csv").write_text("\n".join(["image,cat,dog,label:cat,label:dog", *lines]))
    entries = [{"file_name": image, "scores": row, "target": of} for image, row, of in rows]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    arrays = {"ids": IDS, "class_names": NAMES, "scores": PROBABILITIES}
    np.savez(tmp_path / "multi_hot.npz", labels=multi_hot, **arrays)
    for name in ("bare.csv", "named.csv", "list.json", "multi_hot.npz"):
        check(read_results(tmp_path / name, NAMES), 2 * multi_hot - 1)
    np.savez(tmp_path / "devkit.npz", labels=LABELS, **arrays)
    check(read_results(tmp_path / "devkit.npz"))


def test_the_list_of_csra(tmp_path):
    entries = [{"file_name": image, "scores": row.tolist()} for image, row in zip(IDS, PROBABILITIES, strict=True)]
    path = tmp_path / "result.json"
    path.write_text(json.dumps(entries))
    check(read_results(path, NAMES), labels=None)
    path.write_text(json.dumps([{**one, "target": row.tolist()} for one, row in zip(entries, LABELS, strict=True)]))
    check(read_results(path, NAMES))


def test_the_files_of_the_server(tmp_path):
    for v, name in enumerate(NAMES):
        lines = [f"{image} {row[v]}\n" for image, row in zip(IDS, PROBABILITIES, strict=True)]
        (tmp_path / f"comp2_cls_val_{name}.txt").write_text("".join(lines[::-1] if v else lines))
    (tmp_path / "comp2_cls_test_cat.txt").write_text("x 1\n")
    check(read_results(tmp_path / "comp2_cls_val_dog.txt"), labels=None)
    with pytest.raises(UserError, match="of one split, found comp2_cls_test, comp2_cls_val"):
        read_results(tmp_path)
    (tmp_path / "comp2_cls_test_cat.txt").unlink()
    check(read_results(tmp_path), labels=None)
    for missing in ("missing.tar.gz", "missing.txt", "comp2_cls_val_cow.txt"):
        with pytest.raises(UserError, match=f"cannot read .*{missing}"):
            read_results(tmp_path / missing)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="notes.txt: expected .*, found none"):
        read_results(tmp_path / "notes.txt")


def test_a_class_file_orders_the_columns_and_must_name_the_same_classes(tmp_path):
    labels = LABELS.copy()
    write_scores(tmp_path / "s.npz", Scores(IDS, NAMES, np.float32(PROBABILITIES), labels, are_logits=False))
    (tmp_path / "s.csv").write_text("image,cat,dog,label:cat,label:dog\na,0.9,0.25,1,-1\n")
    (tmp_path / "comp2_cls_val_dog.txt").write_text("a 0.25\n")
    (tmp_path / "comp2_cls_val_cat.txt").write_text("a 0.9\n")
    for path in (tmp_path / "s.npz", tmp_path / "s.csv", tmp_path):
        found = read_results(path, ["dog", "cat"])
        assert found.class_names == ["dog", "cat"] and found.probabilities[0] == pytest.approx([0.25, 0.9])
        with pytest.raises(UserError, match="class file, .* has other classes: it lacks x and has also cat"):
            read_results(path, ["dog", "x"])
    with pytest.raises(UserError, match="lacks x"):
        read_labeled(tmp_path / "s.npz", ["dog", "x"])


def test_the_archive_for_the_server_is_read_back(tmp_path):
    scores = np.random.default_rng(0).random((4, 20)).astype(np.float32)
    ids = ["2008_000001", "2008_000002", "2008_000003", "2008_000004"]
    write_submission(tmp_path / "r.tar.gz", ids, scores, sorted(CLASSES))
    found = read_results(tmp_path / "r.tar.gz")
    assert found.ids == ids and found.class_names == sorted(CLASSES)
    np.testing.assert_allclose(found.probabilities, scores, atol=1e-7)


def archive_of(path: Path, member: tarfile.TarInfo, content: bytes = b"") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return path


def test_an_archive_of_another_program(tmp_path):
    """A plain one, with tabs, odd line ends, files of other competitions, and those that macOS adds."""
    main = "results/VOC2012/Main/"
    contents = {
        f"{main}comp1_cls_val_dog.txt": b"\xef\xbb\xbfc\t0.0625\r\na\t0.25 \r\n\r\nb\t0.75\r\n",
        f"{main}comp1_cls_val_cat.txt": b"a 0.9\nb 0.125\n c  0.5",
        f"{main}._comp1_cls_val_cat.txt": b"\x00\xff",
        f"{main}comp3_det_val_cat.txt": b"a 0.9 1 2 3 4\n",
        "results/VOC2012/Segmentation/a.png": b"\x89PNG",
    }
    for name, mode in (("s.tar", "w"), ("s.tgz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as archive:
            for path, content in contents.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        found = read_results(tmp_path / name)
        check(found.of_images(IDS, ""), labels=None)
    with tarfile.open(tmp_path / "s.tar", "a") as archive:
        archive.addfile(tarfile.TarInfo("old/comp1_cls_val_cat.txt"))
    with pytest.raises(UserError, match="of one split, found old/comp1_cls_val, results/VOC2012/Main/comp1_cls_val"):
        read_results(tmp_path / "s.tar")


@pytest.mark.parametrize("target", ["nowhere", "comp2_cls_val_cat.txt"])
def test_an_archive_of_links_is_refused(tmp_path, target):
    link = tarfile.TarInfo("comp2_cls_val_cat.txt")
    link.type, link.linkname = tarfile.SYMTYPE, target
    with pytest.raises(UserError, match="'comp2_cls_val_cat.txt' is not a regular file"):
        read_results(archive_of(tmp_path / "s.tgz", link))


def test_a_damaged_or_huge_archive_is_refused(tmp_path, monkeypatch):
    text = "".join(f"im{i} {i / 997}\n" for i in range(997)).encode()
    path = archive_of(tmp_path / "s.tgz", tarfile.TarInfo("comp2_cls_val_cat.txt"), text)
    whole = path.read_bytes()
    for place in range(40, len(whole), 97):  # after the name in the header, which no checksum covers
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with pytest.raises(UserError, match="is not an archive of result files"):
            read_results(path)
    path.write_bytes(whole)
    monkeypatch.setattr(submission, "MAX_BYTES", 1 << 10)
    with pytest.raises(UserError, match="unpacks to over"):
        read_results(path)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("s.csv", "", "is not a table"),
        ("s.csv", "image,cat\na,0.5,1\n", "a column for each class"),
        ("s.csv", "image,cat\na,0.5\nb,0.5,1\n", "entries 2 do not hold as many numbers"),
        ("s.csv", "image,cat\n", "do not hold as many numbers"),
        ("s.csv", "image,cat\na,x\n", "not a number (could not convert string to float"),
        ("s.csv", "image,cat\na,nan\n", "not finite"),
        ("s.csv", "image,cat\na,0.5\na,0.5\n", "the image id 'a' more than once"),
        ("s.csv", "image,cat,label:dog\na,0.5,1\n", "a column for each class"),
        ("s.csv", "image,cat,label:cat\na,0.5,2\n", "labels must be 1, 0"),
        ("s.csv", "a,0.5,0.5,0.5\n", "the class file names 2"),
        ("s.csv", "a,nan,0.5\n", "not finite"),
        ("s.json", "{}", "is not a list of objects"),
        ("s.json", "[]", "do not hold as many numbers"),
        ("s.json", '[{"file_name": "a"}]', "is not a list of objects"),
        ("s.json", '[{"file_name": "a", "scores": [1, "x"]}]', "not a number"),
        ("s.json", '[{"file_name": "a", "scores": [1, 1]}, {"file_name": "b", "scores": [1]}]', "entries 2 do not"),
        ("s.json", '[{"file_name": "a", "scores": [1%s]}]' % ("0" * 400), "not a number"),
        ("s.json", '[{"file_name": "a", "scores": 5}]', "do not hold as many numbers"),
        (
            "s.json",
            '[{"file_name": "a", "scores": [1, 1]}, {"file_name": "b", "scores": [1, 1], "target": [1, 1]}]',
            "list",
        ),
        ("comp1_cls_val_cat.txt", "a\n", "an image id and a score per line"),
        ("comp1_cls_val_cat.txt", "a 0.5\na 0.25\n", "an image is listed twice"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        read_results(tmp_path / name, NAMES if not name.startswith("comp") else ["cat"])
    assert message in str(error.value) and name in str(error.value)


# The program ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores_file(tmp_path_factory) -> Path:
    """Scores of 200 images and 20 classes in a file of the project's own."""
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 0, 1], (200, 20), p=[0.85, 0.05, 0.1]).astype(np.int8)
    scores = (1 / (1 + np.exp(-(rng.standard_normal(labels.shape) + 1.5 * labels)))).astype(np.float32)
    path = tmp_path_factory.mktemp("scores") / "s.npz"
    write_scores(path, Scores([f"im{i}" for i in range(200)], sorted(CLASSES), scores, labels, {"split": "Main/val"}))
    return path


def test_all_protocols_in_one_table(scores_file, tmp_path):
    result = run(tmp_path, "evaluate_classification.py", "--scores", scores_file, "--protocol", "all", "--out", "p")
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader((tmp_path / "p_protocols.csv").open()))
    assert [row["protocol"] for row in rows] == list(PROTOCOLS)
    content = json.loads((tmp_path / "p_protocols.json").read_text())["protocols"]
    scored = read_results(scores_file)
    for row in rows:
        found = content[row["protocol"]]
        assert float(row["mAP"]) == pytest.approx(found["mAP"], abs=1e-4) and found["source"]
        assert f"{found['mAP']:.2f}" in result.stdout
        assert len(found["average_precisions"]) == 20 == len(scored.class_names)
    assert rows[0]["CF1_top3"] and set(MEANS) <= set(rows[0])


def test_the_format_of_a_file_does_not_change_a_figure():
    """A table of text holds float64, and float32 sigmoids of large logits are equal: the originals see these ties."""
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 0, 1], (300, 4), p=[0.6, 0.1, 0.3]).astype(np.int8)
    logits = (15 + 4 * rng.standard_normal(labels.shape) + labels).astype(np.float32)
    ids, names = [f"im{i}" for i in range(300)], list("abcd")
    text, _, found = protocol_tables(list(PROTOCOLS), Scores(ids, names, logits, labels))
    assert text == protocol_tables(list(PROTOCOLS), Scores(ids, names, logits.astype(np.float64), labels))[0]
    expected = [average_precision_score(labels[:, v] == 1, sigmoid(logits)[:, v]) for v in range(4)]
    assert found["protocols"]["c-tran"]["mAP"] == pytest.approx(100 * np.mean(expected))
    assert 100 * np.mean(expected) != pytest.approx(found["protocols"]["ssgrl"]["mAP"], abs=0.1)


def test_scores_of_another_program_are_those_of_the_split(tmp_path):
    """The server ranks equal scores in the order of the list; without some images the figure would be another one."""
    lines = {"Main/val": "c\na\nb\n", "Main/few": "a\nb\n"}
    for split, text in lines.items():
        path = tmp_path / "ImageSets" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for v, name in enumerate(NAMES):
        found = "".join(f"{image} {of[v]}\n" for image, of in zip(IDS, LABELS, strict=True))
        (tmp_path / "ImageSets" / "Main" / f"{name}_val.txt").write_text(found)
    (tmp_path / "s.csv").write_text("image,cat,dog\na,0.5,0.5\nb,0.5,0.5\nc,0.5,0.5\n")
    config = Config(scores=tmp_path / "s.csv", data_dir=tmp_path, split="Main/val", labels="lists")
    found = read_again(config).scores
    assert found.ids == ["c", "a", "b"] and found.labels.tolist() == LABELS[[2, 0, 1]].tolist()
    with pytest.raises(UserError, match="s.csv has other images than split 'Main/few'; they differ in c"):
        read_again(replace(config, split="Main/few"))


def test_scores_that_were_labeled_again_replace_themselves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("image,cat,dog\na,0.5,0.25\nb,0.5,0.5\n")
    for name, of in (("cat", (1, -1)), ("dog", (-1, 1))):
        path = tmp_path / "ImageSets" / "Main" / f"{name}_val.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"a {of[0]}\nb {of[1]}\n")
    config = Config(scores=tmp_path / "a.csv", data_dir=tmp_path, labels="lists")
    scored = read_again(config).scores
    base = result_base(config, scored)
    write_scores(base.with_suffix(".npz"), scored)
    assert result_base(config, scored) == base


def test_without_a_positive_there_is_no_table(tmp_path):
    (tmp_path / "a.csv").write_text("image,cat,label:cat\na,0.5,-1\n")
    result = run(tmp_path, "evaluate_classification.py", "--scores", "a.csv", "--protocol", "all")
    assert result.returncode == 2 and "shows a class: there is nothing to measure" in result.stderr


def test_an_unknown_protocol_is_refused_with_the_choices(scores_file):
    with pytest.raises(UserError, match="--protocol 'mlgcn': choose from ml-gcn, "):
        Config(scores=scores_file, protocol=("mlgcn",))


@pytest.mark.parametrize("option", [{"report": Path("r.html")}, {"check_labels": True}, {"thresholds": __file__}])
def test_what_a_protocol_does_not_compute_is_refused(scores_file, option):
    with pytest.raises(UserError, match=f"--{next(iter(option))} shows the project's own metrics"):
        Config(scores=scores_file, protocol=("oass",), **option)
