"""The toy data set: a consistent devkit folder, the same on every run, and clear errors."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.data.toy_scenes import VOID, draw_scene, segmentation_mask
from tools.make_toy_voc import CLASS_FILE

ROOT = Path(__file__).resolve().parents[1]
CLASSES = json.loads(CLASS_FILE.read_text())["class_names"]
COLORS = json.loads(CLASS_FILE.read_text())["color_dict"]
SIZE = 96


def make(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tools.make_toy_voc", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def refused(*arguments: object) -> str:
    """Run the tool with arguments that it must refuse; return its one line on stderr."""
    result = make(*arguments)
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def objects_of(folder: Path, image_id: str) -> list[dict[str, object]]:
    root = ElementTree.parse(folder / "Annotations" / f"{image_id}.xml").getroot()
    assert root.findtext("filename") == f"{image_id}.jpg"
    return [
        {
            "name": item.findtext("name"),
            "difficult": item.findtext("difficult") == "1",
            "box": [int(item.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")],
        }
        for item in root.iter("object")
    ]


def read_list(folder: Path, name: str) -> list[str]:
    return (folder / "ImageSets" / "Main" / f"{name}.txt").read_text().splitlines()


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "set"
    result = make("--out", folder, "--images", 100, "--seed", 3, "--image_size", SIZE)
    assert result.returncode == 0, result.stderr
    assert "75 train and 25 val images" in result.stdout
    return folder


@pytest.fixture(scope="module")
def objects(toy) -> dict[str, list[dict[str, object]]]:
    return {image_id: objects_of(toy, image_id) for image_id in read_list(toy, "trainval")}


def test_two_runs_write_the_same_bytes_and_another_seed_does_not(toy, tmp_path):
    make("--out", tmp_path / "again", "--images", 100, "--seed", 3, "--image_size", SIZE)
    assert contents(tmp_path / "again") == contents(toy)
    image, _ = draw_scene(7, 3, SIZE, len(CLASSES))
    other, _ = draw_scene(7, 4, SIZE, len(CLASSES))
    assert image.shape != other.shape or (image != other).any()


def test_an_image_does_not_depend_on_the_others(toy):
    image, items = draw_scene(41, 3, SIZE, len(CLASSES))
    stored = np.asarray(Image.open(toy / "JPEGImages" / "toy_000042.jpg")).astype(int)
    assert stored.shape == image.shape
    assert np.abs(stored - image).mean() < 5  # what JPEG loses
    mask = np.asarray(Image.open(toy / "SegmentationClass" / "toy_000042.png"))
    np.testing.assert_array_equal(mask, segmentation_mask(items, image.shape[:2]))


def test_train_and_val_partition_the_images(toy):
    train, val, both = (read_list(toy, split) for split in ("train", "val", "trainval"))
    assert (len(train), len(val)) == (75, 25)
    assert sorted(train + val) == both == sorted(path.stem for path in (toy / "JPEGImages").iterdir())
    assert both[0] == "toy_000001"


@pytest.mark.parametrize("split", ["train", "val", "trainval"])
def test_class_lists_agree_with_the_annotations(toy, objects, split):
    ids = read_list(toy, split)
    for class_name in CLASSES:
        expected = []
        for image_id in ids:
            flags = [item["difficult"] for item in objects[image_id] if item["name"] == class_name]
            expected.append(f"{image_id} {-1 if not flags else 0 if all(flags) else 1:2d}")
        assert read_list(toy, f"{class_name}_{split}") == expected


def test_every_class_is_in_both_splits(toy):
    for class_name in CLASSES:
        for split in ("train", "val"):
            assert any(line.endswith("  1") for line in read_list(toy, f"{class_name}_{split}")), (class_name, split)


def test_images_have_one_to_four_objects_and_few_are_difficult(objects):
    counts = [len(items) for items in objects.values()]
    assert min(counts) == 1 and max(counts) == 4 and 1.6 < np.mean(counts) < 2.4
    flags = [item["difficult"] for items in objects.values() for item in items]
    assert 0 < sum(flags) < 0.15 * len(flags)


def test_boxes_are_inside_the_image_and_enclose_the_mask(toy, objects):
    for image_id, items in objects.items():
        mask = np.asarray(Image.open(toy / "SegmentationClass" / f"{image_id}.png"))
        height, width = mask.shape
        assert max(height, width) == SIZE
        inside = np.zeros((len(CLASSES) + 1, height, width), bool)
        for item in items:
            xmin, ymin, xmax, ymax = item["box"]
            assert 1 <= xmin < xmax <= width and 1 <= ymin < ymax <= height
            inside[CLASSES.index(item["name"]) + 1, ymin - 1 : ymax, xmin - 1 : xmax] = True
        for value in set(np.unique(mask)) - {0, VOID}:
            assert inside[value][mask == value].all(), (image_id, CLASSES[value - 1])


def test_a_single_object_fills_its_box(toy, objects):
    single = {image_id: items[0] for image_id, items in objects.items() if len(items) == 1}
    assert single
    for image_id, item in single.items():
        mask = np.asarray(Image.open(toy / "SegmentationClass" / f"{image_id}.png"))
        rows, columns = np.nonzero(mask == CLASSES.index(item["name"]) + 1)
        assert item["box"] == [columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1]


def test_masks_have_the_colors_of_the_class_file(toy):
    palette = Image.open(toy / "SegmentationClass" / "toy_000001.png").getpalette()
    for number, class_name in enumerate(CLASSES, start=1):
        assert palette[3 * number : 3 * number + 3] == COLORS[class_name]
    assert palette[:3] == [0, 0, 0] and palette[3 * VOID :] == [224, 224, 192]


@pytest.mark.parametrize("image_size", [64, 97, 200])
def test_objects_stay_visible_at_every_image_size(image_size):
    for index in range(20):
        image, items = draw_scene(index, 0, image_size, 20)
        assert max(image.shape) == image_size and items[0].class_index == index and not items[0].difficult
        assert all(item.visible.sum() >= 0.4 * item.area for item in items)
        assert sum(item.visible.astype(int) for item in items).max() == 1  # no pixel belongs to two objects


def test_a_class_file_of_ones_own(tmp_path):
    names = [f"kind {number}" for number in range(43)]
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"class_names": names, "color_dict": {name: [1, 2, 3] for name in names}}))
    size = ("--images", 90, "--val_share", 0.5, "--image_size", 64)
    result = make("--out", tmp_path / "set", *size, "--class_file", file)
    assert result.returncode == 0, result.stderr
    assert all("  1" in "".join(read_list(tmp_path / "set", f"{name}_val")) for name in names)


def test_the_same_set_is_kept_and_another_is_refused(tmp_path):
    arguments = ("--out", tmp_path, "--images", 40, "--val_share", 0.5, "--image_size", 64)
    assert make(*arguments).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = make(*arguments)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert "other seed" in refused(*arguments, "--seed", 1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert make(*arguments, "--images", 44, "--overwrite").returncode == 0
    assert len(list((tmp_path / "JPEGImages").iterdir())) == 44


def test_an_interrupted_set_is_drawn_again(tmp_path):
    arguments = ("--out", tmp_path, "--images", 40, "--val_share", 0.5, "--image_size", 64)
    make(*arguments)
    whole = contents(tmp_path)
    record = tmp_path / "toy_voc.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "complete": False}))
    (tmp_path / "JPEGImages" / "toy_000040.jpg").unlink()
    assert make(*arguments).returncode == 0
    assert contents(tmp_path) == whole


def test_a_set_recorded_with_the_earlier_spelling_is_kept(tmp_path):
    arguments = ("--out", tmp_path, "--images", 40, "--val_share", 0.5, "--image_size", 64)
    make(*arguments)
    record = tmp_path / "toy_voc.json"
    record.write_text(record.read_text().replace('"colors"', '"colours"'))
    assert "nothing to do" in make(*arguments).stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--images", 0), "--images 0: must be 1 or more"),
        (("--images", 30), "need 80"),
        (("--seed", -1), "--seed"),
        (("--image_size", 10), "--image_size"),
        (("--val_share", 1), "--val_share"),
        (("--class_file", "no_such.json"), "no_such.json"),
    ],
)
def test_arguments_that_cannot_be_drawn_are_refused(tmp_path, arguments, message):
    assert message in refused("--out", tmp_path / "set", *arguments)
    assert not (tmp_path / "set").exists()


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    assert "is not a toy data set" in refused("--out", tmp_path, "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert "cannot write" in refused("--out", tmp_path / "thesis.tex" / "set")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"class_names": ["cat", "cat"], "color_dict": {"cat": [0, 0, 0]}},
        {"class_names": ["../cat"], "color_dict": {"../cat": [0, 0, 0]}},
        {"class_names": ["cat"], "color_dict": {"dog": [0, 0, 0]}},
        {"class_names": ["cat"], "color_dict": {"cat": [0, 0, 256]}},
    ],
)
def test_an_unusable_class_file_is_refused(tmp_path, content):
    file = tmp_path / "own.json"
    file.write_text(json.dumps(content))
    assert "own.json" in refused("--out", tmp_path / "set", "--class_file", file)
