"""Splits, annotations, images, augmentation, loaders and average precision."""

import io
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.command_line import ROOT
from tools.data.annotations import read_annotation
from tools.data.datasets import VOCClassification, checksum
from tools.data.devkit import read_class_names, read_split
from tools.data.loader import EpochSampler, evaluation_loader, interleave, training_loader
from tools.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    denormalize,
    evaluation_transform,
    normalize,
    resize_longer_side,
    to_pixels,
    training_transform,
)
from tools.metrics.average_precision import average_precisions, mean_average_precision
from tools.system.errors import UserError

CLASSES = ["cat", "dog"]
OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>{}</xmax>"
    "<ymax>20.5</ymax></bndbox></object>"
)


def write_xml(path: Path, *objects: str) -> Path:
    path.write_text(f"<annotation>{''.join(objects)}</annotation>")
    return path


def test_labels_come_from_the_xml(devkit):
    dataset = VOCClassification(devkit, "Main/train", CLASSES)
    expected = [[1, 0], [0, 1]] * 3 + [[1, 0], [0, 0]]
    assert dataset.labels.tolist() == expected
    image, label, index = dataset[1]
    assert image.size == (60, 41) and label.tolist() == [0, 1] and index == 1


def test_difficult_objects_count_but_empty_boxes_do_not(devkit):
    path = write_xml(devkit / "Annotations/im_0.xml", OBJECT.format("cat", 1, 5, 9), OBJECT.format("dog", 0, 5, 5))
    objects = read_annotation(path, CLASSES)
    assert [(item.name, item.difficult, item.box) for item in objects] == [("cat", True, (5, 2, 9, 20.5))]
    assert VOCClassification(devkit, "Main/train", CLASSES).labels[0].tolist() == [1, 0]


def test_difficult_objects_alone_may_count_as_negatives(devkit):
    positive, negative = (
        VOCClassification(devkit, "Main/train", CLASSES, None, kind) for kind in ("positive", "negative")
    )
    labels = torch.tensor([[i % 2 == 0, i % 2 == 1] for i in range(7)] + [[False, False]]).float()
    assert torch.equal(positive.labels, labels)
    labels[[0, 3, 6]] = 0  # their only object is difficult
    assert torch.equal(negative.labels, labels) and positive.fingerprint() != negative.fingerprint()


@pytest.mark.parametrize(
    "content, said",
    [
        ("<annotation><object>", "not readable XML"),
        ("", "not readable XML"),
        ("<annotation><object><name>cow</name></object></annotation>", "'cow' is not in the class file"),
        (
            "<annotation><object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object></annotation>",
            "no complete bndbox",
        ),
        ("<annotation>" + "<a>" * 20_000 + "</a>" * 20_000 + "</annotation>", "over 20 elements inside each other"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "a document type of its own"),
        ("<annotation><Object><name>cat</name></Object></annotation>", "'Object' in place of 'object'"),
        ("<annotation><object><NAME>cat</NAME></object></annotation>", "'NAME' in place of 'name'"),
        ('<annotation><object xmlns="u"><name>cat</name></object></annotation>', "'{u}[a-z]+' in place of"),
        ("<annotation>" + " " * (1 << 20) + "</annotation>", "over 1 MiB"),
    ],
)
def test_the_error_of_a_broken_annotation_names_the_file(tmp_path, content, said):
    path = tmp_path / "broken.xml"
    path.write_text(content)
    with pytest.raises(UserError, match=said) as error:
        read_annotation(path, CLASSES)
    assert "broken.xml" in str(error.value) and "\n" not in str(error.value)


def test_split_lists_of_every_kind(devkit):
    lists = devkit / "ImageSets/Main"
    (lists / "odd.txt").write_bytes(b"\xef\xbb\xbfim_1  1\r\n\r\n  im_2 -1\r\nim_3")
    assert read_split(devkit, "Main/odd") == ["im_1", "im_2", "im_3"]
    assert len(read_split(devkit, "train_aug")) == 10582
    assert len(read_split(devkit, "val")) == 1449


@pytest.mark.parametrize(
    "content, said",
    [("../../etc/passwd\n", "not an image id"), ("a/b\n", "not an image id"), ("..\n", "not an image id"),
     ("\n", "no image id"), ("im_1\nim_1\n", "repeats im_1")],
)  # fmt: skip
def test_an_unusable_list_is_an_error(devkit, content, said):
    (devkit / "ImageSets/Main/bad.txt").write_text(content)
    with pytest.raises(UserError, match=said):
        read_split(devkit, "Main/bad")


@pytest.mark.parametrize("split", ["nope", "Main/nope", "../secret", "Main/../../x"])
def test_the_error_of_an_unknown_split_lists_the_choices(devkit, split):
    with pytest.raises(UserError, match="train_aug.*Main/train"):
        read_split(devkit, split)


def test_missing_files_are_counted_and_listed_before_any_is_read(devkit):
    for i in (1, 2, 3, 5):
        (devkit / "JPEGImages" / f"im_{i}.jpg").unlink()
    with pytest.raises(UserError, match=r"lacks 4 of the 8 .*\(im_1, im_2, im_3, and 1 more\)"):
        VOCClassification(devkit, "Main/train", CLASSES)
    with pytest.raises(UserError, match="no folder .*nowhere"):
        VOCClassification(devkit / "nowhere", "Main/train", CLASSES)
    shutil.rmtree(devkit / "Annotations")
    with pytest.raises(UserError, match="no folder Annotations"):
        VOCClassification(devkit, "Main/train", CLASSES)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_not_an_image_is_found_before_the_first_iteration(devkit, content):
    (devkit / "JPEGImages/im_4.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"im_4\.jpg is not a readable image"):
        VOCClassification(devkit, "Main/train", CLASSES)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_error_of_a_truncated_image_is_one_line_from_any_process(devkit, workers):
    path = devkit / "JPEGImages/im_4.jpg"
    path.write_bytes(path.read_bytes()[:-900])
    dataset = VOCClassification(devkit, "Main/train", CLASSES, evaluation_transform(32))
    with pytest.raises(UserError) as error:
        list(evaluation_loader(dataset, 4, workers))
    assert str(error.value).startswith("cannot decode") and "im_4.jpg" in str(error.value)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_gray_and_cmyk_images_become_rgb(devkit, mode):
    Image.new(mode, (30, 20)).save(devkit / "JPEGImages/im_0.jpg")
    assert VOCClassification(devkit, "Main/train", CLASSES)[0][0].mode == "RGB"


@pytest.mark.parametrize("content", ["{", "[]", '{"class_names": []}', '{"class_names": ["a", "a"]}', "{}"])
def test_an_unusable_class_file_is_an_error(tmp_path, content):
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"classes\.json"):
        read_class_names(path)


def test_samples_do_not_depend_on_the_number_of_worker_processes(devkit):
    transform = training_transform(32, 30, 70, "colorjitter,randaugment")
    dataset = VOCClassification(devkit, "Main/train", CLASSES, transform)

    def samples(workers: int, epochs: int = 2) -> list[tuple[list[int], torch.Tensor]]:
        loader = training_loader(dataset, 3, workers, seed=5)
        batches = []
        for epoch in range(epochs):
            loader.sampler.set_epoch(epoch)
            batches += [(index.tolist(), images) for images, _, index in loader]
        return batches

    torch.manual_seed(1)
    here = samples(0)
    torch.manual_seed(2)
    for workers in (1, 2):
        there = samples(workers)
        assert [index for index, _ in here] == [index for index, _ in there]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(here, there, strict=True))
    assert len(here) == 4  # two full batches in each epoch, the incomplete one left out
    assert here[0][0] != here[2][0]


def test_an_epoch_can_start_in_the_middle():
    sampler = EpochSampler(10, batch_size=2, seed=3)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2, start=4)
    assert list(sampler) == whole[4:] and len(sampler) == 10  # the length is the whole epoch's
    assert sorted(index for _, index in whole) == list(range(10))


def test_a_program_can_end_while_its_loader_processes_work(devkit):
    """They ignore SIGTERM, which Python sends them at its exit before it waits for them."""
    program = f"""
from pathlib import Path
from tools.data.transforms import evaluation_transform
from tools.data.loader import evaluation_loader
from tools.data.datasets import VOCClassification
dataset = VOCClassification(Path({str(devkit)!r}), "Main/train", {CLASSES!r}, evaluation_transform(32))
kept = iter(evaluation_loader(dataset, 2, 2))
next(kept)
raise SystemExit(3)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60).returncode == 3


def test_processes_share_every_batch_equally():
    whole = list(EpochSampler(23, batch_size=6, seed=3))
    parts = [list(EpochSampler(23, 6, 3, rank, processes=3)) for rank in range(3)]
    assert [len(part) for part in parts] == [6, 6, 6]
    joined = [part[batch * 2 : batch * 2 + 2] for batch in range(3) for part in parts]
    assert sum(joined, []) == whole


def test_the_rows_of_several_processes_come_back_in_the_data_sets_order(devkit):
    dataset = VOCClassification(devkit, "Main/train", CLASSES, evaluation_transform(32))
    for processes in (1, 2, 3):
        loaders = [evaluation_loader(dataset, 2, 0, rank, processes) for rank in range(processes)]
        parts = [np.concatenate([indices.numpy() for _, _, indices in loader]) for loader in loaders]
        assert interleave(parts).tolist() == list(range(8))


def test_the_fingerprint_changes_with_ids_and_labels(devkit):
    first = VOCClassification(devkit, "Main/train", CLASSES).fingerprint()
    assert VOCClassification(devkit, "Main/train", CLASSES).fingerprint() == first
    assert VOCClassification(devkit, "Main/train", CLASSES[::-1]).fingerprint() != first
    (devkit / "ImageSets/Main/train.txt").write_text("im_1\nim_0\n")
    assert VOCClassification(devkit, "Main/train", CLASSES).fingerprint() != first


@pytest.mark.parametrize("size", [1, 4096, 16384, 16385, 100_000])
def test_the_checksum_of_a_file_covers_all_of_a_small_one_and_the_ends_of_any(tmp_path, size):
    content = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    intact = checksum(path, size)
    for place in (0, size // 2, size - 1) if size <= 16384 else (0, 4095, size - 4096, size - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert checksum(path, size) != intact


def test_a_batch_larger_than_the_data_set_is_an_error(devkit):
    with pytest.raises(UserError, match="a batch of 9 images exceeds the 8 images"):
        training_loader(VOCClassification(devkit, "Main/train", CLASSES), 9, 0, 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(8, 90), st.integers(8, 90), st.sampled_from([32, 64]))
def test_pixels_outside_the_image_are_exactly_zero(seed, width, height, size):
    torch.manual_seed(seed)
    image = Image.new("RGB", (width, height), (255, 255, 255))
    longer = int(torch.randint(10, 100, ()))
    result = normalize(training_transform(size, longer, longer)(image))
    assert result.shape == (3, size, size) and result.dtype == torch.float32 and type(result) is torch.Tensor
    covered = (result != 0).all(0)
    assert torch.equal(covered, (result != 0).any(0))
    sides = [max(1, round(side * longer / max(width, height))) for side in (height, width)]
    assert covered.any(1).sum() == min(size, sides[0]) and covered.any(0).sum() == min(size, sides[1])


def test_a_small_image_is_placed_at_every_offset():
    transform = training_transform(32, 24, 24)
    image = Image.new("RGB", (24, 24), (255, 255, 255))
    tops = set()
    for seed in range(200):
        torch.manual_seed(seed)
        tops.add(int((normalize(transform(image))[0] != 0).any(1).nonzero()[0]))
    assert tops == set(range(9))


def test_the_longer_side_is_uniform_between_its_bounds():
    transform = training_transform(64, 20, 24)
    image = Image.new("RGB", (60, 30), (255, 255, 255))
    widths = []
    for seed in range(300):
        torch.manual_seed(seed)
        widths.append(int((normalize(transform(image))[0] != 0).any(0).sum()))
    counts = np.bincount(widths)[20:]
    assert len(counts) == 5 and counts.min() > 30


def test_a_large_image_is_cropped_at_every_offset():
    transform = training_transform(32, 40, 40)
    columns = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, :, None], (40, 40, 3))
    image = Image.fromarray(np.ascontiguousarray(columns))
    lefts = set()
    for seed in range(200):
        torch.manual_seed(seed)
        row = denormalize(normalize(transform(image)))[0, :, 0]
        lefts.add(int(row.min()))
        assert int(row.max()) == int(row.min()) + 31
    assert lefts == set(range(9))


@pytest.mark.parametrize("augment", ["", "colorjitter,randaugment"])
def test_a_normalized_batch_equals_its_normalized_images(augment):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 100, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    images = [transform(image) for transform in (training_transform(64, 50, 90, augment), evaluation_transform(64))]
    batch = torch.stack(images)
    assert batch.dtype == torch.uint8 and batch.shape == (2, 64, 64, 4) and type(images[0]) is torch.Tensor
    assert torch.equal(normalize(batch), torch.stack([normalize(one) for one in images]))
    expected = (pixels[:, :64] / 255 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(normalize(batch)[1][:, :40].movedim(0, -1), expected, atol=1e-6)


def test_padding_is_zero_and_black_or_transparent_pixels_are_not():
    buffer = io.BytesIO()
    Image.new("RGB", (20, 30), (1, 2, 3)).save(buffer, "PNG", transparency=(1, 2, 3))
    for image in (Image.new("RGB", (20, 30)), Image.open(buffer)):
        batch = normalize(evaluation_transform(32)(image)[None])
        assert (batch[0, :, :30, :20] != 0).all()
        assert (batch[0, :, 30:] == 0).all() and (batch[0, :, :, 20:] == 0).all()


@pytest.mark.parametrize("longer", [90, 240, 320, 640])
def test_resizing_is_within_two_levels_of_pillows_bicubic(longer):
    noise = np.random.default_rng(0).integers(0, 255, (31, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((500, 388), Image.Resampling.BICUBIC)
    image.paste((255, 0, 0), (100, 100, 200, 150))  # hard edges
    ours = resize_longer_side(to_pixels(image), longer, longer)
    theirs = np.asarray(image.resize((longer, round(388 * longer / 500)), Image.Resampling.BICUBIC))
    assert np.abs(ours[:3].movedim(0, -1).numpy().astype(int) - theirs).max() <= 2
    assert (ours[3] > 0).all()


def test_samples_do_not_consume_the_main_process_random_numbers(devkit):
    dataset = VOCClassification(devkit, "Main/train", CLASSES, training_transform(32, 30, 70))
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    list(training_loader(dataset, 3, 0, seed=5))
    assert torch.equal(torch.rand(4), expected)


def test_evaluation_takes_the_top_left_corner_without_resizing():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 100, 3), dtype=np.uint8)
    result = normalize(evaluation_transform(64)(Image.fromarray(pixels)))
    assert (result[:, 40:] == 0).all() and type(result) is torch.Tensor
    np.testing.assert_array_equal(denormalize(result)[:40], pixels[:, :64])


def brute_force_ap(scores: np.ndarray, labels: np.ndarray) -> float:
    """Σ (R_n − R_{n−1}) P_n over falling thresholds, from the definition."""
    total, previous = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = scores >= threshold
        recall = labels[taken].sum() / labels.sum()
        total += (recall - previous) * labels[taken].mean()
        previous = recall
    return total


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.booleans())
def test_average_precision_equals_its_definition(seed, count, ties):
    rng = np.random.default_rng(seed)
    scores = rng.random((count, 3))
    scores = np.round(scores, 1) if ties else scores
    labels = (rng.random((count, 3)) < 0.4).astype(np.float32)
    found = average_precisions(scores, labels)
    for v in range(3):
        if labels[:, v].any():
            assert found[v] == pytest.approx(brute_force_ap(scores[:, v], labels[:, v]))
        else:
            assert np.isnan(found[v])
    present = found[~np.isnan(found)]
    mean = mean_average_precision(scores, labels)
    assert mean == pytest.approx(present.mean()) if len(present) else np.isnan(mean)


def test_nan_scores_are_an_error():
    scores = np.zeros((3, 2))
    scores[1, 0] = np.nan
    with pytest.raises(ValueError, match="row 1"):
        average_precisions(scores, np.ones((3, 2)))


def test_labels_of_the_real_images_agree_with_the_devkit_lists(voc_sample):
    names = read_class_names(ROOT / "data/VOC_2012.json")
    dataset = VOCClassification(voc_sample, "Main/val", names)
    for v, name in enumerate(names):
        lines = (voc_sample / f"ImageSets/Main/{name}_val.txt").read_text().split("\n")
        listed = {line.split()[0]: int(line.split()[1]) for line in lines if line.strip()}
        ours = {image_id: int(label) for image_id, label in zip(dataset.ids, dataset.labels[:, v], strict=True)}
        # 0 means only difficult objects, which most of these rebuilt annotations lack.
        present = {image_id for image_id, value in ours.items() if value}
        assert {image_id for image_id, value in listed.items() if value == 1} <= present
        assert present <= {image_id for image_id, value in listed.items() if value >= 0}


def test_an_image_larger_than_memory_is_not_opened(devkit):
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    bomb = bytearray(buffer.getvalue())
    bomb[16:24] = (60000).to_bytes(4, "big") * 2  # a header that claims 3.6 gigapixels
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    (devkit / "JPEGImages/im_0.jpg").write_bytes(bytes(bomb))
    with pytest.raises(UserError, match=r"im_0\.jpg"):
        VOCClassification(devkit, "Main/train", CLASSES)


def test_an_error_in_a_loader_process_ends_the_program(devkit):
    path = devkit / "JPEGImages/im_4.jpg"
    path.write_bytes(path.read_bytes()[:-900])
    program = f"""
from tools.data.transforms import evaluation_transform
from tools.system.errors import run_main
from tools.data.loader import evaluation_loader
from tools.data.datasets import VOCClassification
dataset = VOCClassification({str(devkit)!r}, "Main/train", {CLASSES}, evaluation_transform(32))
run_main(lambda: list(evaluation_loader(dataset, 4, 2)))
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and result.stderr.startswith("error: cannot decode")
    assert result.stderr.count("\n") == 1
