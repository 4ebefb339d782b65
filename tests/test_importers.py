"""Data sets as people have them: tables, COCO files, YOLO folders and folders of classes are understood or refused."""

import json
import os
import random
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from core.training.config import parse_config
from tests.helpers.golden import strategy_of
from tests.test_own_data import coco, error_of, picture, tool
from tools.data.annotations import read_annotation
from tools.data.datasets import VOCClassification
from tools.data.devkit import read_class_names
from tools.data.importing import image_id_of
from tools.data.writing import print_next_commands
from tools.system.files import HOST, _swept

TWO = {"1": ["dog", "person"], "2": ["dog"], "3": []}


def labels_in(out: Path) -> dict[str, list[str]]:
    """Return the labels of every image of a devkit folder, as training reads them."""
    names, found = read_class_names(out / "classes.json"), {}
    for split in ("trainval", "test"):
        if (out / f"ImageSets/Main/{split}.txt").exists():
            data = VOCClassification(out, f"Main/{split}", names)
            for image_id, row in zip(data.ids, data.labels, strict=True):
                found[image_id] = sorted(names[i] for i in row.nonzero().flatten())
    return found


@pytest.fixture
def folder(tmp_path) -> Path:
    """Photographs 1.jpg to 3.jpg and sub/4.jpg, and room for a table."""
    for name in ("1", "2", "3", "sub/4"):
        picture(tmp_path / f"photos/{name}.jpg")
    return tmp_path


def printed_rows(result: subprocess.CompletedProcess) -> set[str]:
    """Return the lines of a program, with single spaces."""
    return {" ".join(line.split()) for line in result.stdout.splitlines()}


def import_table(folder: Path, content: str | bytes, *words: object) -> subprocess.CompletedProcess:
    (folder / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    arguments = ["--csv", folder / "t.csv", "--images", folder / "photos", "--out", folder / "out", "--val_share", 0]
    return tool("import_csv", *arguments, *words)


@pytest.mark.parametrize(
    "table, understood",
    [
        ('image,labels\n1.jpg,"dog, person"\n2.jpg,dog\n3.jpg,\n', "separated by commas"),
        ("image,labels\n1.jpg,dog|person\n2.jpg,dog\n3.jpg,\n", "separated by commas"),
        ("image;labels\n1.jpg;dog|person\n2.jpg;dog\n3.jpg;\n", "separated by semicolons"),
        ('image;labels\n1.jpg;"dog;person"\n2.jpg;dog\n3.jpg;\n', "separated by semicolons"),
        ("1.jpg,dog;person\n2.jpg,dog\n3.jpg,\n", "no header"),
        ("1.jpg\tdog;person\n2.jpg\tdog\n3.jpg\n", "separated by tabs"),
        ("sep=,\nimage,labels\n1.jpg,dog;person\n2.jpg,dog\n3.jpg,\n", "header in row 2"),
        ('"sep=|"\r\nimage|labels\r\n1.jpg|dog,person\r\n2.jpg|dog\r\n3.jpg|\r\n', "separated by |"),
        ("\ufeffFile Name;Tags\r\n1.jpg;dog,person\r\n2.jpg;dog\r\n3.jpg;\r\n", "images: column 'File Name'"),
        ("image\tlabels\n1.jpg\tdog;person\n2.jpg\tdog\n3.jpg\t\n".encode("utf-16"), "UTF-16"),
        ("image,label\r1.jpg,dog\r1.jpg,person\r2.jpg,dog\r3.jpg,\r", "1 entries name an image again"),
        ("image,label\n1.jpg,dog\n1.jpg,person\n1.jpg,dog\n2.jpg,dog\n3.jpg,\n", "2 entries name an image again"),
        ("image,labels\n1.jpg,\"['dog', 'person']\"\n2.jpg,['dog']\n3.jpg,[]\n", "labels: column 'labels'"),
        ('image,labels\n1.jpg,"[""dog"", ""person""]"\n2.jpg,dog\n3.jpg,\n', "labels: column 'labels'"),
        ("image,dog,person\n1.jpg,1,1\n2.jpg,1,0\n3.jpg,0,0\n", "a column per class"),
        ("image;dog;person\n1.jpg;True;x\n2.jpg;X;\n3.jpg;FALSE;false\n", "a column per class"),
        (",image,dog,person\n0,1.jpg,1.0,1\n1,2.jpg,1.0,0\n2,3.jpg,0.0,0\n", "column 'image'; a column"),
        ("id,label1,label2\n1,dog,person\n2,dog,\n3,,\n", "labels: column 'label1', 'label2'"),
        (
            "filename,width,class,xmin\n1.jpg,60,dog,3\n1.jpg,60,person,3\n2.jpg,60,dog,3\n3.jpg,60,,\n",
            "'width', 'xmin'",
        ),
        ("image,labels,,\n1.jpg,dog;person,,\n2.jpg,dog,,\n,,,\n3.jpg,,,\n", "header in row 1"),
    ],
)
def test_tables_in_every_form(folder, table, understood):
    result = import_table(folder, table)
    assert result.returncode == 0, result.stderr
    assert "%|" not in result.stderr  # a progress bar is shown only on a terminal
    assert understood in result.stdout, result.stdout
    assert labels_in(folder / "out") == TWO
    assert {"dog 2", "person 1"} <= printed_rows(result)


@pytest.mark.parametrize(
    "table, message",
    [
        ("image,labels\n1.jpg,dog\n2.jpg,nan\n", "row 3: 'nan' is not a label: leave the cell"),
        ("image,labels\n1.jpg,dog\n2.jpg,None\n", "row 3: 'None' is not a label"),
        ("image,labels\n1.jpg,['dog' 'person']\n", "is not a list of quoted names"),
        ("image,labels\n1.jpg,[dog]\n", "is not a list of quoted names"),
        ("image,labels\n1.jpg,1\n2.jpg,0\n", "its labels are only 0, 1: give the column the name of its class"),
        ("image,dog\n1.jpg,1\n2.jpg,nan\n", "row 3: column 'dog' holds 'nan' instead of 0 or 1"),
        ("image,dog,split\n1.jpg,1,train\n", "column 'split' holds 'train' instead of 0 or 1"),
        ("image,dog,dog\n1.jpg,1,0\n", "two columns have the same name"),
        ("image,dog\n1.jpg,1\n1.jpg,0\n", "row 3: names 1.jpg again, with other classes"),
        ("image,labels,\n1.jpg,dog,person\n", "column 3 has no name"),
        ("image,filename,labels\n1.jpg,1.jpg,dog\n", "the columns 'image', 'filename' could mean the same"),
        ("image,label,class\n1.jpg,dog,3\n", "the columns 'label', 'class' could mean the same"),
        ('image,labels\n1.jpg,"dog\n2.jpg,dog\n', "as CSV (unexpected end of data)"),
        ("image\n1.jpg\n", "no label in any row"),
        ("image,labels\nC:\\photos\\1.jpg,dog\n", "row 2: no image"),
        ("image,labels\n..\\1.jpg,dog\n", "is outside"),
        ("image,labels\n1,dog\n", "'1' could be 1.jpg, 1.png: give the suffix"),
        (b"image,labels\n1.jpg,\x00dog\n", "contains zero bytes"),
        ("image,labels\n1.jpg,dog\n".encode("utf-16-le"), "contains zero bytes"),
        ("", "no label in any row"),
        ("image,labels\n1.jpg,=cmd\x1b[2J\n", "contains unprintable characters"),
    ],
)
def test_tables_that_are_refused(folder, table, message):
    picture(folder / "photos/1.png")
    (folder / "t.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    words = ["--csv", folder / "t.csv", "--images", folder / "photos", "--out", folder / "out", "--val_share", 0]
    line = error_of("import_csv", *words)
    assert message in line and "\x1b" not in line
    assert sorted(os.listdir(folder)) == ["photos", "t.csv"]


def test_paths_of_windows_inside_the_folder_and_without_suffix(folder):
    table = f"image,labels\nsub\\4.jpg,dog\n{folder / 'photos/1.jpg'},cat\n2,cat\n3.JPG,dog\n"
    assert import_table(folder, table).returncode == 0
    assert labels_in(folder / "out") == {"sub_4": ["dog"], "1": ["cat"], "2": ["cat"], "3": ["dog"]}


def test_a_class_with_a_comma_is_written_as_a_list(folder):
    table = "image,labels\n1.jpg,\"['dog, brown', 'cat']\"\n2.jpg,cat\n"
    assert import_table(folder, table).returncode == 0
    assert labels_in(folder / "out") == {"1": ["cat", "dog, brown"], "2": ["cat"]}


@pytest.mark.parametrize(
    "labels, kept, note",
    [
        (("Dog", "dog", "DOG"), "dog", "read as 'dog': 'DOG', 'Dog'"),
        (("Dog", "Dog;dog", "cat"), "Dog", "read as 'Dog': 'dog'"),
        (("hot  dog", "hot dog", "hot dog"), "hot dog", "read as 'hot dog': 'hot  dog'"),
    ],
)
def test_odd_spellings_are_one_class_and_said(folder, labels, kept, note):
    rows = [f"{number}.jpg,{label}\n" for number, label in enumerate(labels, start=1)]
    result = import_table(folder, "image,labels\n" + "".join(rows))
    assert result.returncode == 0 and note in result.stdout, result.stderr
    assert [name for name in read_class_names(folder / "out/classes.json") if name != "cat"] == [kept]
    assert labels_in(folder / "out")["1"] == labels_in(folder / "out")["2"] == [kept]


def test_one_hot_classes_keep_the_order_of_their_columns(folder):
    assert import_table(folder, "image,zebra,dog,never\n1.jpg,1,0,0\n2.jpg,0,1,0\n").returncode == 0
    assert read_class_names(folder / "out/classes.json") == ["zebra", "dog", "never"]


def test_long_paths_become_short_ids(folder):
    deep = "/".join(["写真のフォルダー二〇二四年夏休み" * 2] * 3)
    for name in ("1", "2"):
        picture(folder / "photos" / deep / f"{name}.jpg")
    result = import_table(folder, f"image,labels\n{deep}/1.jpg,dog\n{deep}/2.jpg,cat\n")
    assert result.returncode == 0, result.stderr
    ids = list(labels_in(folder / "out"))
    assert all(len(f"{image_id}.xml".encode()) < 255 for image_id in ids) and len(set(ids)) == 2
    assert ids == sorted(image_id_of(f"{deep}/{name}.jpg") for name in ("1", "2"))


def test_what_was_understood_is_printed_before_anything_is_written(folder, monkeypatch):
    monkeypatch.setattr("tools.data.importing.write_data_set", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        import_table(folder, "image,labels\n1.jpg,dog\n")
    assert sorted(os.listdir(folder)) == ["photos", "t.csv"]


def test_the_printed_commands_run_as_they_are(folder):
    """A folder with whitespace, brackets and a quote is pasted into a shell."""
    out = folder / "my data (1) 'x"
    result = import_table(folder, "image,labels\n1.jpg,dog\n2.jpg,cat\n", "--out", out)
    check, train = (line.strip() for line in result.stdout.splitlines() if line.startswith("  python3"))
    assert "--alpha_schedule_re 0.05 --alpha_re 3.00 --alpha_p 0.5 --eval_resize" in train
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {train}"], capture_output=True, text=True
    ).stdout.splitlines()
    assert str(out) in words and str(out / "classes.json") in words
    checked = tool("check_data", *shlex.split(check)[3:])
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("name", ["best_x", "-x", "x.config", "a b", "写真" * 40, "..x"])
def test_the_printed_tag_is_valid(tmp_path, capsys, name):
    print_next_commands(tmp_path / name, Path("c.json"), "Main/train", "Main/val")
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert parse_config(strategy_of("cTopk_w"), None, words[2:]).eval_resize


def test_leftovers_of_a_killed_import_are_removed(folder):
    dead = subprocess.Popen(["true"])
    dead.wait()
    _swept.clear()
    (folder / f".out.{HOST}-{dead.pid}.tmp/JPEGImages").mkdir(parents=True)
    (folder / f".out.{HOST}-{os.getppid()}.tmp").mkdir()
    assert import_table(folder, "image,labels\n1.jpg,dog\n").returncode == 0
    assert sorted(os.listdir(folder)) == [f".out.{HOST}-{os.getppid()}.tmp", "out", "photos", "t.csv"]


# COCO ---------------------------------------------------------------------------------------------------------------


def import_coco(tmp_path: Path, **changes: object) -> subprocess.CompletedProcess:
    words = ["--annotations", coco(tmp_path, **changes), "--images", tmp_path / "images", "--out", tmp_path / "out"]
    return tool("import_coco", *words, "--val_share", 0)


def annotations(*pairs: tuple, **more: object) -> list[dict]:
    return [{"id": i, "image_id": image, "category_id": c, **more} for i, (image, c) in enumerate(pairs)]


@pytest.mark.parametrize("image, category", [(7.0, 44.0), ("7", "44"), (7, "44.0")])
def test_ids_as_numbers_and_texts_are_the_same(tmp_path, image, category):
    result = import_coco(tmp_path, annotations=annotations((image, category), bbox=[0, 0, 60, 40]))
    assert result.returncode == 0, result.stderr
    assert labels_in(tmp_path / "out") == {"a": ["hot dog"], "c": [], "sub_b": []}


def test_ids_of_several_kinds(tmp_path):
    categories = [{"id": "x", "name": "text"}, {"id": 10, "name": "ten"}, {"id": "9", "name": "nine"}]
    result = import_coco(tmp_path, categories=categories, annotations=annotations((9, "x"), bbox=[0, 0, 9, 9]))
    assert result.returncode == 0, result.stderr
    assert read_class_names(tmp_path / "out/classes.json") == ["nine", "ten", "text"]
    assert labels_in(tmp_path / "out")["sub_b"] == ["text"]


@pytest.mark.parametrize("more", [{}, {"bbox": []}, {"bbox": None}])
def test_labels_without_a_box_count_for_the_whole_image(tmp_path, more):
    result = import_coco(tmp_path, annotations=annotations((7, 44), (7, 2), **more))
    assert result.returncode == 0 and "2 labels without a box" in result.stdout
    assert [item.box for item in read_annotation(tmp_path / "out/Annotations/a.xml", ["zebra", "hot dog"])] == [
        (1, 1, 60, 40)
    ] * 2


@pytest.mark.parametrize(
    "bbox", [[59, 39, 1, 1], [200, 200, 9, 9], [-20, -20, 9, 9], [0, 0, 0.2, 0.2], [59.9, 0, 5, 40]]
)
def test_boxes_at_the_border_keep_their_label(tmp_path, bbox):
    """The annotations' reader clamps boxes to the image, and an empty one does not count."""
    assert import_coco(tmp_path, annotations=annotations((7, 44), bbox=bbox)).returncode == 0
    (item,) = read_annotation(tmp_path / "out/Annotations/a.xml", ["zebra", "hot dog"])
    xmin, ymin, xmax, ymax = item.box
    assert min(xmin, 59) < min(xmax, 59) and min(ymin, 39) < min(ymax, 39) and max(xmax, ymax) >= 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"annotations": annotations((7, 44), bbox=[1.5e308, 0, 1.5e308, 1])}, "annotation 0: bbox is not"),
        ({"annotations": annotations((7, 44), bbox=[int("9" * 400), 0, 1, 1])}, "annotation 0: bbox is not"),
        ({"annotations": annotations((7, 44), bbox=[float("nan"), 0, 1, 1])}, "annotation 0: bbox is not"),
        ({"annotations": annotations((7, 44), bbox=[True, 0, 1, 1])}, "annotation 0: bbox is not"),
        ({"annotations": annotations((7, None), bbox=[0, 0, 1, 1])}, "annotation 0: category_id is missing"),
        ({"annotations": annotations(([7], 2), bbox=[0, 0, 1, 1])}, "annotation 0: image_id '[7]' is not a number"),
        ({"annotations": annotations((float("inf"), 2), bbox=[0, 0, 1, 1])}, "image_id 'inf' is not a number"),
        ({"categories": [{"id": "x", "name": "c"}, {"name": "d"}], "annotations": []}, "category d: id is missing"),
        (
            {"categories": [{"id": 1, "name": "c"}, {"id": "1", "name": "d"}], "annotations": []},
            "category 1: its id or",
        ),
        ({"images": [{"file_name": "a.jpg"}], "annotations": []}, "image a.jpg: id is missing"),
        ({"images": [{"id": 1, "file_name": "../a.jpg"}], "annotations": []}, "is outside"),
        ({"images": [{"id": 1, "file_name": "/etc/passwd"}], "annotations": []}, "is outside"),
        ({"images": [{"id": 1, "file_name": "a" * 300}], "annotations": []}, "no image 'aaa"),
        ({"images": [{"id": 1, "file_name": "a\0.jpg"}], "annotations": []}, "image 1: "),
        ({"images": [{"id": 1, "file_name": 3}], "annotations": []}, "it has no file_name"),
    ],
)
def test_coco_entries_that_are_refused(tmp_path, changes, message):
    path = coco(tmp_path, **changes)
    line = error_of("import_coco", "--annotations", path, "--images", tmp_path / "images", "--out", tmp_path / "out")
    assert message in line and len(line) < 1000 and not (tmp_path / "out").exists()


def test_files_with_the_same_name_in_train_and_val(tmp_path):
    train, val = coco(tmp_path / "t"), coco(tmp_path / "v")
    words = ["--annotations", train, "--images", tmp_path / "t/images", "--val_annotations", val]
    result = tool("import_coco", *words, "--val_images", tmp_path / "v/images", "--out", tmp_path / "out")
    assert result.returncode == 0 and "the ids begin with train_, val_ or test_" in result.stdout
    assert set(labels_in(tmp_path / "out")) == {
        f"{part}_{name}" for part in ("train", "val") for name in ("a", "sub_b", "c")
    }
    words = [*words, "--val_images", tmp_path / "t/images", "--out", tmp_path / "out2"]
    assert "is also in list train" in error_of("import_coco", *words)


# Folders ------------------------------------------------------------------------------------------------------------


def import_folders(folder: Path, *words: object) -> subprocess.CompletedProcess:
    return tool("import_folders", "--folder", folder / "set", "--out", folder / "out", "--val_share", 0, *words)


def test_a_folder_per_class(tmp_path):
    for name in ("cat/1.jpg", "cat/old/2.PNG", "dog/1.jpeg", "train/1.jpg"):
        picture(tmp_path / "set" / name, format=None if name != "cat/old/2.PNG" else "PNG")
    picture(tmp_path / "set/loose.jpg")
    picture(tmp_path / "elsewhere/5.jpg")
    for name in ("cat/notes.txt", "cat/._1.jpg", ".DS_Store"):
        (tmp_path / "set" / name).write_text("x")
    (tmp_path / "set/dog/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/dog/loop").symlink_to(tmp_path / "set")
    (tmp_path / "set/dog/both.jpg").symlink_to(tmp_path / "set/cat/1.jpg")
    result = import_folders(tmp_path)
    assert result.returncode == 0, result.stderr
    assert labels_in(tmp_path / "out") == {
        "cat_1": ["cat", "dog"],
        "cat_old_2": ["cat"],
        "dog_1": ["dog"],
        "dog_linked_5": ["dog"],
        "train_1": ["train"],
    }
    for note in ("2 files that are not images, or were read before ('cat/notes.txt', 'dog/loop')", "'loose.jpg'"):
        assert note in result.stdout
    assert "cat 2" in printed_rows(result)


def test_folders_of_lists_hold_a_folder_per_class(tmp_path):
    for name in ("train/cat/1.jpg", "train/dog/2.jpg", "valid/cat/1.jpg", "test/dog/9.jpg"):
        picture(tmp_path / "set" / name)
    result = import_folders(tmp_path)
    assert result.returncode == 0 and "lists: train 2, val 1, trainval 3, test 1" in result.stdout
    assert labels_in(tmp_path / "out") == {
        "train_cat_1": ["cat"],
        "train_dog_2": ["dog"],
        "valid_cat_1": ["cat"],
        "test_dog_9": ["dog"],
    }


@pytest.mark.parametrize(
    "names, message",
    [
        ((), "no folder"),
        (("loose.jpg",), "no image in a folder of a class"),
        (("val/cat/1.jpg",), "list train would be empty"),
        ((" cat/1.jpg",), "surrounding whitespace"),
        (("cat/1.jpg", "cat/1.png"), "would both get the id cat_1"),
    ],
)
def test_folders_that_are_refused(tmp_path, names, message):
    for name in names:
        picture(tmp_path / "set" / name)
    line = error_of("import_folders", "--folder", tmp_path / "set", "--out", tmp_path / "out")
    assert message in line and not (tmp_path / "out").exists()


# YOLO ---------------------------------------------------------------------------------------------------------------

BOX = "0.5 0.5 0.5 0.5"


def yolo(folder: Path, files: dict[str, str], names: str = "names: [no, dog]\n", names_file: str = "data.yaml") -> Path:
    """Make a YOLO folder: label files by path, an image for each."""
    for name, text in files.items():
        label = folder / "set" / name
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(text)
        picture(folder / "set" / name.replace("labels", "images").replace(".txt", ".jpg"))
    (folder / "set" / names_file).write_text(names)
    return folder / "set"


@pytest.mark.parametrize(
    "names, names_file",
    [
        ("path: ../x\nnc: 2\nnames:\n  0: no\n  1: dog\n", "data.yaml"),
        ("names: ['no', \"dog\"]", "set.yml"),
        ("no\ndog\n", "classes.txt"),
        ("no\ndog\n", "labels/classes.txt"),
    ],
)
def test_a_yolo_folder(tmp_path, names, names_file):
    files = {
        "labels/1.txt": f"1 {BOX}\n0 0 0 0.1 0 0.1 0.1\n",
        "labels/2.txt": "",
        "labels/3.txt": f"0 {BOX}\n1.0 0.5 0.5 0 1\n",
    }
    folder = yolo(tmp_path, files, names, names_file)
    picture(folder / "images/4.jpg")
    (folder / "labels/orphan.txt").write_text(f"0 {BOX}")
    result = tool("import_yolo", "--folder", folder, "--out", tmp_path / "out", "--val_share", 0)
    assert result.returncode == 0, result.stderr
    assert labels_in(tmp_path / "out") == {"1": ["dog", "no"], "2": [], "3": ["no"], "4": []}
    assert read_class_names(tmp_path / "out/classes.json") == ["no", "dog"]
    for note in (
        "4 images, 3 with a label file",
        "1 boxes without width or height",
        "('labels/orphan.txt')",
    ):
        assert note in result.stdout
    assert "no 2" in printed_rows(result)
    objects = read_annotation(tmp_path / "out/Annotations/1.xml", ["no", "dog"])
    assert [item.box for item in objects] == [(16, 11, 45, 30), (1, 1, 6, 4)]


@pytest.mark.parametrize("layout", ["labels/{}/{}.txt", "{}/labels/{}.txt", "{}/{}.txt"])
def test_yolo_folders_of_lists(tmp_path, layout):
    files = {
        layout.format(part, name): f"1 {BOX}" for part, name in (("train", 1), ("train", 2), ("val", 1), ("test", 1))
    }
    result = tool("import_yolo", "--folder", yolo(tmp_path, files), "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "lists: train 2, val 1, trainval 3, test 1" in result.stdout
    assert labels_in(tmp_path / "out") == {name: ["dog"] for name in ("train_1", "train_2", "val_1", "test_1")}


@pytest.mark.parametrize(
    "line, message",
    [
        (f"2 {BOX}", "line 1: class '2' is not one of 0 to 1"),
        (f"0.5 {BOX}", "line 1: class '0.5' is not one of"),
        ("0 0.5 0.5 0.5", "is not class center_x center_y width height"),
        ("0 10 20 30 40", "is not relative to the image"),
        ("0 nan 0 1 1", "is not relative to the image"),
        (f"dog {BOX}", "is not a list of numbers"),
        (f"{'9' * 5000} {BOX}", "line 1: class '999"),
        ("0", "is not class center_x"),
    ],
)
def test_yolo_labels_that_are_refused(tmp_path, line, message):
    folder = yolo(tmp_path, {"labels/1.txt": line})
    found = error_of("import_yolo", "--folder", folder, "--out", tmp_path / "out")
    assert message in found and "labels/1.txt" in found and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "names, message",
    [
        ("names: {1: dog, 2: cat}", "no list of names under 'names', or of names numbered from 0"),
        ("nc: 2", "no list of names"),
        ("names: [a, a]", "contains the name 'a' twice"),
        ("names: [a, [b]]", "no list of names"),
        ("names: [a", "cannot read"),
        ("[" * 5000, "cannot read"),
        ("names: !!python/object/apply:os.system ['touch pwned']", "'touch pwned'"),
        ('names: ["a\\x07"]', "unprintable characters"),
    ],
)
def test_yolo_names_that_are_refused(tmp_path, names, message):
    folder = yolo(tmp_path, {"labels/1.txt": f"0 {BOX}"}, names)
    if "python" in names:  # it is text to this reader
        assert tool("import_yolo", "--folder", folder, "--out", tmp_path / "out", "--val_share", 0).returncode == 0
        assert not Path("pwned").exists()
        return
    assert message in error_of("import_yolo", "--folder", folder, "--out", tmp_path / "out")


def test_other_errors_of_a_yolo_folder(tmp_path):
    folder = yolo(tmp_path, {"labels/1.txt": f"0 {BOX}"}, "no\ndog", "classes.txt")
    (folder / "data.yaml").write_text("names: [cat]")
    words = ["--folder", folder, "--out", tmp_path / "out", "--val_share", 0]
    assert "pass data.yaml or a text file" in error_of("import_yolo", *words)
    assert tool("import_yolo", *words, "--names", folder / "classes.txt").returncode == 0
    (folder / "labels/1.txt").unlink()
    (folder / "classes.txt").unlink()
    assert "no label file for any image" in error_of("import_yolo", *words)
    (folder / "data.yaml").unlink()
    assert "has no file that names the classes" in error_of("import_yolo", *words)


def test_lists_of_the_source_hold_all_images(tmp_path):
    files = {f"labels/{part}/1.txt": f"1 {BOX}" for part in ("train", "val", "extra")}
    line = error_of("import_yolo", "--folder", yolo(tmp_path, files), "--out", tmp_path / "out")
    assert "1 images are in no folder train, val or test" in line


def test_a_class_list_of_one_scalar_is_json_safe(tmp_path):
    """What is written is JSON with the names as they are."""
    folder = yolo(tmp_path, {"labels/1.txt": f"0 {BOX}"}, "names: ['=1+1', Straße]")
    assert tool("import_yolo", "--folder", folder, "--out", tmp_path / "out", "--val_share", 0).returncode == 0
    assert json.loads((tmp_path / "out/classes.json").read_text())["class_names"] == ["=1+1", "Straße"]


# Damaged files ------------------------------------------------------------------------------------------------------

PIECES = (*(bytes([byte]) for byte in b'"\0[]{},;/\n\xff'), b"1e999", b"NaN", b"-1", b"9" * 400, b"../", b"")


def mutated(content: bytes, generator: random.Random) -> bytes:
    """Return the content with one to four random replacements."""
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(len(content) + 1)
        end = start + generator.choice((0, 1, 8, 200))
        content = content[:start] + generator.choice(PIECES) + content[end:]
    return content


def damaged_source(kind: str, folder: Path) -> tuple[Path, list[object]]:
    """Return a valid source of data, and the words of the command that reads it."""
    if kind == "csv":
        file = folder / "t.csv"
        file.write_text("image,labels\n1.jpg,dog;person\n2.jpg,\"['dog', 'cat']\"\nsub/4.jpg,\n")
        return file, ["import_csv", "--csv", file, "--images", folder / "photos", "--val_share", 0]
    if kind == "coco":
        file = coco(folder)
        return file, ["import_coco", "--annotations", file, "--images", folder / "images", "--val_share", 0]
    source = yolo(folder, {"labels/1.txt": f"1 {BOX}\n0 0 0 0.1 0 0.1 0.1\n"})
    file = source / ("data.yaml" if kind == "yaml" else "labels/1.txt")
    return file, ["import_yolo", "--folder", folder / "set", "--val_share", 0]


@pytest.mark.parametrize("cases", [40, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["csv", "coco", "yaml", "yolo"])
def test_damaged_files_end_in_a_data_set_or_one_line(folder, kind, cases):
    file, words = damaged_source(kind, folder)
    content, generator = file.read_bytes(), random.Random(kind)
    before = {path for path in folder.rglob("*") if path != folder / "out"}
    for _ in range(cases):
        file.write_bytes(mutated(content, generator))
        result = tool(*words, "--out", folder / "out")
        assert result.returncode in (0, 2) and "Traceback" not in result.stderr
        assert (result.returncode == 0) == (folder / "out/classes.json").exists()
        shutil.rmtree(folder / "out", ignore_errors=True)
        assert {path for path in folder.rglob("*")} == before
