"""Own data: class files, tables and COCO files become devkit folders for training."""

import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import unicodedata
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from tests.helpers.command_line import ROOT, SCRIPTS, run
from tools.data.annotations import read_annotation
from tools.data.datasets import VOCClassification
from tools.data.devkit import read_class_names
from tools.data.splits import split_lists
from tools.data.writing import link_or_copy
from tools.make_class_file import names_in
from tools.system.errors import run_main

QUICK = (
    *("--architecture", "resnet18", "--weights", "none", "--image_size", "32", "--min_image_size", "32"),
    *("--max_image_size", "48", "--num_workers", "0", "--max_epoch", "1", "--lr", "0.01"),
)


def tool(name: str, *words: object) -> subprocess.CompletedProcess:
    """Run a tool in this process: starting a process per call would take most of the time."""
    main = importlib.import_module(f"tools.{name}").main
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]), mock.patch("sys.argv", [name, *map(str, words)]):
        try:
            run_main(main)
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
    out, err = (stream.buffer.getvalue().decode() for stream in streams)
    return subprocess.CompletedProcess(words, status, out, err)


def error_of(name: str, *words: object) -> str:
    """Run a tool that must fail with status 2 and without a traceback; return its one line."""
    result = tool(name, *words)
    assert result.returncode == 2, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line and not re.search(r"(it|image|file)/s", line)]
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


def picture(path: Path, size: tuple[int, int] = (60, 40), color: str = "teal", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    """Images with all kinds of names and formats."""
    folder = tmp_path / "my photos"
    picture(folder / "a.jpg")
    picture(folder / "trip to Köln" / "Straße 1.JPG", (90, 30), format="JPEG")
    picture(folder / "graph.png", (20, 30))
    picture(folder / unicodedata.normalize("NFD", "Äpfel.jpg"))
    picture(folder / "empty.jpeg")
    return folder


TABLE = """image,labels
a.jpg,cat; dog
"trip to Köln/Straße 1.JPG",Fußgänger
graph.png,cat;cat,
Äpfel.jpg,cat

empty.jpeg,
"""


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "photos.csv"
    path.write_text(unicodedata.normalize("NFC", TABLE), encoding="utf-8")
    return path


def test_a_table_becomes_a_devkit_folder(photos, table, tmp_path):
    out = tmp_path / "data"
    result = tool("import_csv", "--csv", table, "--images", photos, "--out", out, "--val_share", 0.4)
    assert result.returncode == 0, result.stderr
    names = read_class_names(out / "classes.json")
    assert names == ["Fußgänger", "cat", "dog"]
    dataset = VOCClassification(out, "Main/trainval", names)
    labels = {
        image_id: [names[i] for i in row.nonzero().flatten()]
        for image_id, row in zip(dataset.ids, dataset.labels, strict=True)
    }
    assert labels == {
        "a": ["cat", "dog"],
        "trip_to_Köln_Straße_1": ["Fußgänger"],
        "graph": ["cat"],
        "Äpfel": ["cat"],
        "empty": [],
    }
    assert dataset.objects(dataset.ids.index("trip_to_Köln_Straße_1"))[0].box == (1, 1, 90, 30)
    assert [image.size for image in map(dataset.image, range(5))].count((20, 30)) == 1
    lists = {name: (out / f"ImageSets/Main/{name}.txt").read_text().split() for name in ("train", "val", "trainval")}
    assert len(lists["val"]) == 2 and sorted(lists["train"] + lists["val"]) == lists["trainval"]
    assert os.path.samefile(out / "JPEGImages/a.jpg", photos / "a.jpg")  # linked, not copied
    assert "5 hard links" in result.stdout and "1 images without labels" in result.stdout
    check = tool("check_data", "--data_dir", out, "--split", "Main/trainval", "--class_file", out / "classes.json")
    assert check.returncode == 0, check.stdout


def test_the_lists_depend_only_on_the_seed(photos, table, tmp_path):
    def val(name: str, seed: int) -> str:
        words = ("--csv", table, "--images", photos, "--out", tmp_path / name, "--seed", seed)
        assert tool("import_csv", *words).returncode == 0
        return (tmp_path / name / "ImageSets/Main/val.txt").read_text()

    assert val("one", 0) == val("two", 0)
    ids = [f"id{index}" for index in range(30)]
    labels = np.random.default_rng(0).random((30, 3)) < 0.3
    lists = split_lists(ids, labels, 0.2, 0)
    assert lists == split_lists(ids[::-1], labels[::-1], 0.2, 0) != split_lists(ids, labels, 0.2, 1)
    assert "val" not in split_lists(ids, labels, 0, 0)


def test_larger_images_become_smaller_copies_and_others_links(photos, table, tmp_path):
    out = tmp_path / "data"
    result = tool("import_csv", "--csv", table, "--images", photos, "--out", out, "--shrink", 60)
    assert result.returncode == 0, result.stderr
    assert "4 hard links, 1 smaller copies" in result.stdout
    assert Image.open(out / "JPEGImages/trip_to_Köln_Straße_1.jpg").size == (60, 20)
    objects = read_annotation(out / "Annotations/trip_to_Köln_Straße_1.xml", ["Fußgänger"])
    assert objects[0].box == (1, 1, 60, 20)
    assert Image.open(photos / "trip to Köln" / "Straße 1.JPG").size == (90, 30)


@pytest.mark.parametrize(
    "row, message",
    [
        ("nothing.jpg,cat", "row 3: no image 'nothing.jpg'"),
        ("a.jpg;cat", "row 3: no image 'a.jpg;cat'"),
        ("../a.jpg,cat", "row 3: '../a.jpg' is outside"),
        ("a.png,cat", "row 3: a.png and a.jpg (row 2) would both get the id a"),
        ("b.jpg,cat,dog", "row 3: 3 columns"),
        ("broken.jpg,cat", "row 3: "),
        ("b.jpg,c\x07t", "row 3: the class name 'c\\x07t'"),
        (",cat", "row 3: no image ''"),
        (f"{300 * 'a'}.jpg,cat", "row 3: no image 'aaa"),
    ],
)
def test_an_unusable_row_is_named(tmp_path, row, message):
    for name in ("a.jpg", "a.png", "b.jpg"):
        picture(tmp_path / "photos" / name)
    (tmp_path / "photos/broken.jpg").write_text("not an image")
    (tmp_path / "a.csv").write_text(f"image,labels\na.jpg,cat\n{row}\n")
    line = error_of(
        "import_csv", "--csv", tmp_path / "a.csv", "--images", tmp_path / "photos", "--out", tmp_path / "data"
    )
    assert message in line and str(tmp_path / "a.csv") in line
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "photos"]  # no partial folder is left


def test_other_errors_of_a_table(photos, table, tmp_path):
    words = ["--images", photos, "--out", tmp_path / "data"]
    assert "no file" in error_of("import_csv", "--csv", tmp_path / "no.csv", *words)
    assert "no folder" in error_of(
        "import_csv", "--csv", table, "--images", tmp_path / "no", "--out", tmp_path / "data"
    )
    assert "--val_share 2.0" in error_of("import_csv", "--csv", table, *words, "--val_share", 2)
    assert "--seed -1" in error_of("import_csv", "--csv", table, *words, "--seed", -1)
    assert "--shrink -1" in error_of("import_csv", "--csv", table, *words, "--shrink", -1)
    table.write_bytes("image,labels\na.jpg,Häuser\n".encode("cp1252"))
    assert "save it as 'CSV UTF-8'" in error_of("import_csv", "--csv", table, *words)
    table.write_text("a.jpg,cat\n")
    assert "1 image is too few for two lists" in error_of("import_csv", "--csv", table, *words)
    table.write_text("a.jpg\nempty.jpeg\n")
    assert "no label in any row" in error_of("import_csv", "--csv", table, *words)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/thesis.tex").write_text("mine")
    table.write_text("a.jpg,cat\nempty.jpeg,\n")
    assert "already exists" in error_of("import_csv", "--csv", table, *words)
    assert os.listdir(tmp_path / "data") == ["thesis.tex"]


@pytest.mark.parametrize("missing, method", [(["link"], "symbolic links"), (["link", "symlink"], "copies")])
def test_file_systems_without_links(tmp_path, monkeypatch, missing, method):
    def fails(*_):
        raise OSError("not on this file system")

    for name in missing:
        monkeypatch.setattr(os, name, fails)
    source = picture(tmp_path / "a.jpg")
    assert link_or_copy(source, tmp_path / "b.jpg") == method
    assert (tmp_path / "b.jpg").read_bytes() == source.read_bytes()
    assert (tmp_path / "b.jpg").is_symlink() == (method == "symbolic links")


def coco(folder: Path, **changes: object) -> Path:
    content = {
        "images": [
            {"id": 7, "file_name": "a.jpg"},
            {"id": 9, "file_name": "sub/b.png"},
            {"id": 3, "file_name": "c.jpg"},
        ],
        "categories": [{"id": 44, "name": "hot dog"}, {"id": 2, "name": "zebra"}, {"id": 50, "name": "never"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "bbox": [0, 0, 60, 40], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 44, "bbox": [10.5, 3, 1, 0.5], "iscrowd": 1},
            {"id": 3, "image_id": 9, "category_id": 44, "bbox": [4, 4, 0, 8]},
        ],
        **changes,
    }
    for name in ("a.jpg", "sub/b.png", "c.jpg"):
        picture(folder / "images" / name)
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_a_coco_file_becomes_a_devkit_folder(tmp_path):
    out = tmp_path / "data"
    words = ["--annotations", coco(tmp_path), "--images", tmp_path / "images", "--out", out, "--val_share", 0]
    result = tool("import_coco", *words)
    assert result.returncode == 0, result.stderr
    names = read_class_names(out / "classes.json")
    assert names == ["zebra", "hot dog", "never"]  # in the order of their ids
    objects = read_annotation(out / "Annotations/a.xml", names)
    assert [(item.name, item.difficult, item.box) for item in objects] == [
        ("zebra", False, (1, 1, 60, 40)),
        ("hot dog", True, (11, 4, 12, 5)),
    ]
    # A box without width does not count, and images without objects belong to the data set.
    assert VOCClassification(out, "Main/train", names).labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert os.path.samefile(out / "JPEGImages/sub_b.jpg", tmp_path / "images/sub/b.png")
    check = tool("check_data", "--data_dir", out, "--split", "Main/train", "--class_file", out / "classes.json")
    assert check.returncode == 0, check.stdout


def test_coco_with_a_val_file_and_smaller_copies(tmp_path):
    train, val = coco(tmp_path / "t"), coco(tmp_path / "v", images=[{"id": 7, "file_name": "d.jpg"}], annotations=[])
    picture(tmp_path / "v/images/d.jpg")
    pairs = ["--annotations", train, "--images", tmp_path / "t/images", "--val_annotations", val]
    result = tool("import_coco", *pairs, "--val_images", tmp_path / "v/images", "--out", tmp_path / "o", "--shrink", 30)
    assert result.returncode == 0, result.stderr
    lists = {name: (tmp_path / f"o/ImageSets/Main/{name}.txt").read_text().split() for name in ("train", "val")}
    assert lists == {"train": ["a", "sub_b", "c"], "val": ["d"]}
    boxes = [item.box for item in read_annotation(tmp_path / "o/Annotations/a.xml", ["zebra", "hot dog"])]
    assert boxes == [(1, 1, 30, 20), (6, 2, 7, 3)]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": None}, "no list of objects under 'images'"),
        ({"images": [{"id": 7, "file_name": "no.jpg"}], "annotations": []}, "image 7: no image 'no.jpg'"),
        ({"images": [{"id": 7, "file_name": "a.jpg"}] * 2, "annotations": []}, "image 7: its id occurs twice"),
        ({"images": [{"id": 7}], "annotations": []}, "image 7: it has no file_name"),
        ({"annotations": [{"id": 5, "image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1]}]}, "image_id 1 is not in"),
        (
            {"annotations": [{"id": 5, "image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]}]},
            "category_id 1 is not in",
        ),
        ({"annotations": [{"id": 5, "image_id": 7, "category_id": 2, "bbox": [0, 0, 1]}]}, "annotation 5: bbox"),
        ({"annotations": [{"id": 5, "image_id": 7, "category_id": 2, "bbox": [0, 0, 1, "1"]}]}, "annotation 5: bbox"),
        ({"categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "x"}], "annotations": []}, "category 2: its id or"),
        ({"categories": [{"id": 1}], "annotations": []}, "category 1: it has no name"),
        ({"categories": [{"name": "x"}, {"id": "y"}], "annotations": []}, "category y: it has no name"),
    ],
)
def test_an_unusable_coco_entry_is_named(tmp_path, changes, message):
    path = coco(tmp_path, **changes)
    line = error_of("import_coco", "--annotations", path, "--images", tmp_path / "images", "--out", tmp_path / "data")
    assert message in line and str(path) in line and not (tmp_path / "data").exists()


def test_the_class_file_of_a_folder_holds_its_classes(toy, tmp_path):
    result = tool("make_class_file", "--data_dir", toy, "--out", tmp_path / "classes.json")
    assert result.returncode == 0, result.stderr
    made, ours = (json.loads(path.read_text()) for path in (tmp_path / "classes.json", ROOT / "data/VOC_2012.json"))
    assert made["class_names"] == ours["class_names"] == read_class_names(tmp_path / "classes.json")
    assert made["color_dict"] == {name: ours["color_dict"][name] for name in ours["class_names"]}
    labels = VOCClassification(toy, "Main/trainval", made["class_names"]).labels
    assert list(made["images"].values()) == labels.sum(0).int().tolist()
    assert re.search(r"^class +images +objects$\naeroplane +\d+ +\d+$", result.stdout, re.MULTILINE)


def test_unusable_annotations_are_named(tmp_path):
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / folder).mkdir()
    assert "no annotation with an object" in error_of("make_class_file", "--data_dir", tmp_path)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    for name, text in {
        "a": f"<name>cat</name>{box}",
        "b": f"<name>Cat</name>{box}",
        "c": "<name>cow</name><bndbox><xmin>1</xmin></bndbox>",
    }.items():
        (tmp_path / f"Annotations/{name}.xml").write_text(f"<annotation><object>{text}</object></annotation>")
    assert "c.xml: the object 'cow' has no complete bndbox" in error_of("make_class_file", "--data_dir", tmp_path)
    (tmp_path / "Annotations/c.xml").write_text("<annotation/>")
    result = tool("make_class_file", "--data_dir", tmp_path)
    assert result.returncode == 0 and "note: 'Cat' and 'cat' count as different classes" in result.stdout
    assert names_in("c.xml", tmp_path / "Annotations/c.xml") == []
    (tmp_path / "Annotations/c.xml").write_text("<!DOCTYPE a><annotation/>")
    words = ("--data_dir", tmp_path, "--overwrite")
    assert "a document type of its own" in error_of("make_class_file", *words)


def test_a_class_file_is_replaced_only_on_demand(tmp_path):
    """The importer orders the classes by their ids, this tool by their names."""
    out, before = tmp_path / "data", ["zebra", "hot dog", "never"]
    words = ["--annotations", coco(tmp_path), "--images", tmp_path / "images", "--out", out, "--val_share", 0]
    assert tool("import_coco", *words).returncode == 0
    assert "already exists" in error_of("make_class_file", "--data_dir", out)
    assert read_class_names(out / "classes.json") == before
    assert tool("make_class_file", "--data_dir", out, "--overwrite").returncode == 0
    assert read_class_names(out / "classes.json") == ["hot dog", "zebra"]


@pytest.mark.parametrize("strategy", ["Max", "cTopk_w"])
def test_training_and_evaluation_with_negative_images(tmp_path, strategy):
    """Most images have no label, and whole batches have none; val has none for one of the classes."""
    for index in range(12):
        picture(tmp_path / f"photos/{index}.jpg", (48, 40), ("red", "blue")[index % 2])
    rows = [f"{index}.jpg,{'cat' if index in (0, 1, 2) else 'dog' if index == 5 else ''}" for index in range(12)]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    words = ("--csv", tmp_path / "a.csv", "--images", tmp_path / "photos", "--out", tmp_path / "data")
    assert tool("import_csv", *words, "--val_share", 0.25).returncode == 0
    lists = tmp_path / "data/ImageSets/Main"
    (lists / "train.txt").write_text("".join(f"{index}\n" for index in (0, 3, 4, 5, 6, 7, 8, 9)))
    (lists / "val.txt").write_text("1\n10\n11\n")
    (lists / "none.txt").write_text("10\n11\n")
    data = ["--data_dir", tmp_path / "data", "--class_file", tmp_path / "data/classes.json", *QUICK, "--batch_size", 2]
    splits = ["--train_split", "Main/train", "--val_split", "Main/val"]
    result = run(tmp_path, SCRIPTS[strategy], *data, *splits, "--tag", "few")
    assert result.returncode == 0, result.stderr
    assert "no positive of dog" in (tmp_path / "experiments/logs/few.txt").read_text()
    evaluate = ["--tag", "few", "--data_dir", tmp_path / "data", "--num_workers", 0, "--split"]
    result = run(tmp_path, "evaluate_classification.py", *evaluate, "Main/val")
    assert result.returncode == 0, result.stderr
    result = run(tmp_path, SCRIPTS[strategy], *data, "--train_split", "Main/none", "--val_split", "Main/none")
    assert result.returncode == 0, result.stderr


def documented(page: str, section: str) -> list[list[str]]:
    """Return the python3 commands of a section of a page in docs/ except the installation, backslashes joined."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    part = re.split(r"^## ", text.split(f"## {section}\n")[1], flags=re.MULTILINE)[0]
    blocks = "".join(re.findall(r"```\n(.*?)```", part, re.DOTALL)).replace("\\\n", " ")
    lines = [line for line in blocks.splitlines() if line.startswith("python3 ") and "-m venv" not in line]
    return [shlex.split(line, comments=True) for line in lines]


def run_documented(folder: Path, words: list[str]) -> subprocess.CompletedProcess:
    """Run a documented command; training is made small."""
    script = ["-m", words[2]] if words[1] == "-m" else [str(ROOT / words[1])]
    rest = words[3:] if words[1] == "-m" else words[2:]
    if "train_classification" in words[1]:
        rest += [*QUICK, "--batch_size", "4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *script, *rest]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=environment)


def test_twenty_photographs_and_a_table_become_pictures(toy, tmp_path):
    """The page's first section, command by command."""
    ids = sorted(path.stem for path in (toy / "JPEGImages").iterdir())[:20]
    names = read_class_names(ROOT / "data/VOC_2012.json")
    rows = []
    for image_id in ids:
        Image.open(toy / f"JPEGImages/{image_id}.jpg").resize((640, 480)).save(
            picture(tmp_path / f"my_photos/{image_id}.jpg")
        )
        found = {item.name for item in read_annotation(toy / f"Annotations/{image_id}.xml", names)}
        rows.append(f"{image_id}.jpg,{';'.join(sorted(found))}\n")
    (tmp_path / "my_photos.csv").write_text("image,labels\n" + "".join(rows))
    commands = documented("own-data.md", "Twenty photographs and a table")
    assert [Path(words[1]).name for words in commands].count("inference_classification.py") == 1
    for words in commands:
        result = run_documented(tmp_path, words)
        assert result.returncode == 0, f"{words}\n{result.stdout}\n{result.stderr}"
        if "tools.import_csv" in words:  # it prints the page's next commands
            check, train = (shlex.split(line) for line in re.findall("^  (python3 .*)", result.stdout, re.MULTILINE))
            assert sorted(check) == sorted(commands[1])
            assert sorted(train[:-1]) == sorted(word for word in commands[2] if word != "photos")
    assert len(list((tmp_path / "experiments/pictures").rglob("*.*"))) >= 20


SECTIONS = ("A folder in devkit layout", "From COCO's format", "From YOLO's format", "From a folder per class")


@pytest.mark.parametrize("section", SECTIONS)
def test_the_other_commands_of_the_page(section, toy, tmp_path):
    (tmp_path / "my_data").symlink_to(toy)
    coco(tmp_path)
    for name in ("train2017", "val2017"):
        coco(tmp_path / name, images=[{"id": 7, "file_name": f"{name}.jpg"}])
        (tmp_path / name / "instances.json").rename(tmp_path / f"instances_{name}.json")
        picture(tmp_path / name / f"{name}.jpg")
        content = json.loads((tmp_path / f"instances_{name}.json").read_text())
        content["annotations"] = content["annotations"][:2]
        (tmp_path / f"instances_{name}.json").write_text(json.dumps(content))
    for name in ("animals/cat/1", "animals/dog/2", "traffic/images/1", "traffic/images/2"):
        picture(tmp_path / f"{name}.jpg")
    (tmp_path / "traffic/labels").mkdir()
    (tmp_path / "traffic/labels/1.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "traffic/data.yaml").write_text("names: [car]\n")
    commands = documented("own-data.md", section)
    assert commands
    for words in commands:
        result = run_documented(tmp_path, words)
        assert result.returncode == 0, f"{words}\n{result.stdout}\n{result.stderr}"
