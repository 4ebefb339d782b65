"""Devkit folders as people have them: names of files, lists, objects, and the labels that follow."""

import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.command_line import run
from tests.test_own_data import error_of, tool
from tools.data.annotations import (
    is_empty,
    labels_of_objects,
    read_annotation,
    read_label_lists,
    scaled_box,
)
from tools.data.datasets import VOCClassification
from tools.data.devkit import annotation_files, image_files, read_split
from tools.scale_devkit import scale_devkit
from tools.system.errors import UserError
from tools.system.files import write_json

CLASSES = ["cat", "dog"]
BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"


def labeled(name: str, box: tuple[object, ...] | None = (1, 1, 9, 9), difficult: object = 0) -> str:
    drawn = "" if box is None else BOX.format(*box)
    return f"<object><name>{name}</name><difficult>{difficult}</difficult>{drawn}</object>"


def write_kit(folder: Path, images: dict[str, str], suffix: str = "jpg", xml: str = "xml", size: str = "") -> Path:
    """Write a devkit folder: by id, the objects of each image."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for image_id, objects in images.items():
        Image.new("RGB", (40, 30)).save(folder / f"JPEGImages/{image_id}.{suffix}")
        (folder / f"Annotations/{image_id}.{xml}").write_text(f"<annotation>{size}{objects}</annotation>")
    (folder / "ImageSets/Main/train.txt").write_text("".join(f"{image_id}\n" for image_id in images), encoding="utf-8")
    write_json(folder / "classes.json", {"class_names": CLASSES})
    return folder


def labels(folder: Path, split: str = "Main/train") -> dict[str, list[float]]:
    dataset = VOCClassification(folder, split, CLASSES)
    assert all(dataset[index][0].mode == "RGB" for index in range(len(dataset)))
    return dict(zip(dataset.ids, dataset.labels.tolist(), strict=True))


# Names of files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix, xml", [("JPG", "XML"), ("jpeg", "xml"), ("png", "Xml"), ("PNG", "xml"), ("WebP", "xml")]
)
def test_a_suffix_may_be_any_of_images_in_any_case(tmp_path, suffix, xml):
    kit = write_kit(tmp_path / "kit", {"a": labeled("cat"), "b": labeled("dog")}, suffix, xml)
    assert labels(kit) == {"a": [1, 0], "b": [0, 1]}
    words = ("--data_dir", kit, "--split", "Main/train", "--class_file", kit / "classes.json", "--num_workers", 0)
    result = tool("check_data", *words)
    assert result.returncode == 0 and "note" not in result.stdout, result.stdout
    assert tool("make_class_file", "--data_dir", kit, "--out", tmp_path / "made.json").returncode == 0
    assert scale_devkit(kit, tmp_path / "small", 20) == 2
    assert labels(tmp_path / "small") == {"a": [1, 0], "b": [0, 1]}


def test_files_of_macos_and_windows_do_not_count_and_others_are_listed(tmp_path):
    kit = write_kit(tmp_path / "kit", {"a": labeled("cat")})
    for name in ("._a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "b.tif", "notes.txt"):
        (kit / "JPEGImages" / name).write_bytes(b"\0")
    for name in ("._a.xml", ".DS_Store", "a.json"):
        (kit / "Annotations" / name).write_bytes(b"\0")
    assert labels(kit) == {"a": [1, 0]}
    assert set(image_files(kit)) == {"a"} == set(annotation_files(kit))
    words = ("--data_dir", kit, "--split", "Main/train", "--class_file", kit / "classes.json", "--num_workers", 0)
    report = tool("check_data", *words)
    assert report.returncode == 0, report.stdout
    assert "JPEGImages holds 2 other files, which are skipped ('b.tif', 'notes.txt')" in report.stdout
    assert "Annotations holds 1 other files, which are skipped ('a.json')" in report.stdout
    made = tool("make_class_file", "--data_dir", kit, "--out", tmp_path / "made.json")
    assert made.returncode == 0, made.stderr
    scaled = tool("scale_devkit", "--data_dir", kit, "--out", tmp_path / "small", "--longer_side", 20)
    assert scaled.returncode == 0 and scaled.stdout.count("skipped") == 2, scaled.stderr


def test_a_copied_list_of_macos_is_not_a_split(tmp_path):
    kit = write_kit(tmp_path / "kit", {"a": labeled("cat")})
    (kit / "ImageSets/Main/._train.txt").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"Main/train$"):
        labels(kit, "Main/val")


def test_two_files_of_one_id_are_an_error_where_the_id_is_used(tmp_path):
    kit = write_kit(tmp_path / "kit", {"a": labeled("cat"), "b": labeled("dog")})
    shutil.copy(kit / "JPEGImages/b.jpg", kit / "JPEGImages/b.PNG")
    (kit / "ImageSets/Main/one.txt").write_text("a\n")
    assert labels(kit, "Main/one") == {"a": [1, 0]}
    twice = r"2 files of b \('b.PNG', 'b.jpg'\): keep one of them"
    with pytest.raises(UserError, match=twice):
        labels(kit)
    with pytest.raises(UserError, match=twice):
        scale_devkit(kit, tmp_path / "small", 20)
    words = ("--data_dir", kit, "--split", "Main/train", "--class_file", kit / "classes.json", "--num_workers", 0)
    report = tool("check_data", *words)
    assert report.returncode == 1 and "problems with images: 1" in report.stdout and "keep one" in report.stdout


@pytest.mark.parametrize(
    "there, said", [("a.tif", "it has 'a.tif'"), ("A.jpg", "it has 'A.jpg'"), ("c.png", "it holds 'c.png'")]
)
def test_the_error_of_a_missing_image_says_what_is_there(tmp_path, there, said):
    kit = write_kit(tmp_path / "kit", {"a": labeled("cat")})
    (kit / "JPEGImages/a.jpg").rename(kit / "JPEGImages" / there)
    with pytest.raises(UserError, match=rf"lacks 1 of the 1 files of split 'Main/train' \(a\); {said}"):
        labels(kit)


def test_a_list_of_file_names_is_an_error_that_says_so(tmp_path):
    kit = write_kit(tmp_path / "kit", {"a": labeled("cat")})
    (kit / "ImageSets/Main/train.txt").write_text("a.jpg\n")
    with pytest.raises(UserError, match="lacks 1 of the 1 .*it has 'a.jpg'"):
        labels(kit)


@pytest.mark.parametrize("in_list", ["NFC", "NFD"])
@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_umlauts_are_found_in_either_form(tmp_path, in_list, on_disk):
    name = unicodedata.normalize(on_disk, "Kätzchen ö")
    kit = write_kit(tmp_path / "kit", {name: labeled("cat")})
    listed = unicodedata.normalize(in_list, name)
    (kit / "ImageSets/Main/train.txt").write_text(f"{listed}\n", encoding="utf-8")
    for class_name in CLASSES:
        (kit / f"ImageSets/Main/{class_name}_train.txt").write_text(f"{listed}  1\n", encoding="utf-8")
    composed = unicodedata.normalize("NFC", name)
    assert labels(kit) == {composed: [1, 0]}
    assert read_label_lists(kit, "Main/train", [composed], CLASSES).tolist() == [[1, 1]]
    assert scale_devkit(kit, tmp_path / "small", 20) == 1
    assert labels(tmp_path / "small") == {composed: [1, 0]}


def test_umlauts_are_found_where_python_takes_names_for_ascii(tmp_path):
    write_kit(tmp_path / "kit", {"Kätzchen": labeled("cat")})
    (tmp_path / "table.csv").write_text("image,labels\nKätzchen.jpg,cat\n", encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = ("--csv", "table.csv", "--images", "kit/JPEGImages", "--out", "imported", "--val_share", 0)
    result = run(tmp_path, "-m", "tools.import_csv", *words, **plain)
    assert result.returncode == 0 and result.stdout.isascii(), result.stderr
    words = ("--data_dir", "imported", "--split", "Main/train", "--class_file", "imported/classes.json")
    result = run(tmp_path, "-m", "tools.check_data", *words, "--num_workers", 0, **plain)
    assert result.returncode == 0 and "1 images, 1 of them intact" in result.stdout, result.stderr


# Lists ---------------------------------------------------------------------------------------------------------------


def read_list(kit: Path, text: str) -> list[str]:
    (kit / "ImageSets/Main/list.txt").write_bytes(text.encode())
    return read_split(kit, "Main/list")


def test_a_line_that_names_an_image_is_its_id(tmp_path):
    kit = write_kit(tmp_path / "kit", {name: labeled("cat") for name in ("beach", "beach (2)", "park (2)", "b  c")})
    assert read_list(kit, "beach\nbeach (2)\r\n  park (2) \nb  c\n") == ["beach", "beach (2)", "park (2)", "b  c"]
    assert read_list(kit, "beach  1\nbeach (2) -1\npark (2)\t0\n") == ["beach", "beach (2)", "park (2)"]
    assert labels(kit)["beach (2)"] == [1, 0]
    with pytest.raises(UserError, match=r"lacks 1 .*\(beach \(3\)\)"):
        (kit / "ImageSets/Main/train.txt").write_text("beach (3)\n")
        labels(kit)


def test_a_label_at_the_end_of_a_line_is_not_part_of_the_id(tmp_path):
    kit = write_kit(tmp_path / "kit", {name: "" for name in ("a", "b 1", "c", "c 1")})
    assert read_list(kit, "a 1\n") == ["a"]
    assert read_list(kit, "b 1\n") == ["b 1"]  # there is no image b
    assert read_list(kit, "b 1 -1\n") == ["b 1"]
    assert read_list(kit, "gone -1\n") == ["gone"]
    with pytest.raises(UserError, match="line 1: 'c 1' is an image, and so is 'c'"):
        read_list(kit, "c 1\n")
    with pytest.raises(UserError, match="lacks 1 of the 1"):  # no third reading: a missing image stays missing
        (kit / "ImageSets/Main/train.txt").write_text("a 2\n")
        labels(kit)


@pytest.mark.parametrize("text", ["a\tb\n", "a\u2028b\n", "a\x0bb\n", "a\x85b\n", "a\0\n", "a/b\n", "../a\n"])
def test_a_line_that_readers_would_read_differently_is_an_error(tmp_path, text):
    kit = write_kit(tmp_path / "kit", {"a": "", "b": ""})
    with pytest.raises(UserError, match="is not an image id"):
        read_list(kit, text)


def test_an_id_in_two_forms_is_repeated(tmp_path):
    kit = write_kit(tmp_path / "kit", {"ä": ""})
    with pytest.raises(UserError, match="repeats"):
        read_list(kit, "\u00e4\na\u0308\n")


# Objects -------------------------------------------------------------------------------------------------------------

SIZE = (40, 30)
RULE = [  # box, whether it counts in an image of 40 × 30 pixels, and without a size
    ((1, 1, 9, 9), True, True),
    ((9, 9, 1, 1), True, True),  # swapped
    ((9, 1, 1, 9), True, True),
    ((5, 1, 5, 9), False, False),
    ((1, 7, 9, 7), False, False),
    ((5.2, 1, 5.9, 9), False, False),  # cut, not rounded
    ((5.9, 1, 6.0, 9), True, True),
    ((-7, 1, 0, 9), False, False),
    ((-0.9, 1, 0.9, 9), False, False),
    ((-7, 1, 1, 9), True, True),
    ((39, 1, 40, 9), False, True),  # the last pixel is 39
    ((38, 1, 40, 9), True, True),
    ((1, 29, 9, 30), False, True),
    ((50, 1, 90, 9), False, True),
    ((1, 1, 1e9, 1e9), True, True),
]


@pytest.mark.parametrize("box, inside, anywhere", RULE)
def test_an_object_counts_as_in_the_official_code(box, inside, anywhere):
    assert is_empty(box, SIZE) != inside and is_empty(box, None) != anywhere


@pytest.mark.parametrize("size", ["", "<size><width>40</width><height>30</height></size>"])
def test_all_programs_agree_which_objects_count(tmp_path, size):
    images = {f"im_{i}": labeled("cat", (1, 1, 20, 20)) + labeled("dog", box) for i, (box, *_) in enumerate(RULE)}
    kit = write_kit(tmp_path / "kit", images, size=size)
    expected = [inside if size else anywhere for _, inside, anywhere in RULE]
    assert list(labels(kit).values()) == [[1, int(counts)] for counts in expected]
    words = ("--data_dir", kit, "--split", "Main/train", "--class_file", kit / "classes.json", "--num_workers", 0)
    report = tool("check_data", *words).stdout
    row = next(line.split() for line in report.splitlines() if line.startswith("dog"))
    assert row[1:3] == [str(sum(expected))] * 2
    assert "2 of 15 images: a box with swapped corners, which counts (im_1, im_2)" in report
    made = tool("make_class_file", "--data_dir", kit, "--out", tmp_path / "made.json").stdout
    assert next(line for line in made.splitlines() if line.startswith("dog")).split()[2] == str(sum(expected))
    for side in (20, 13, 7, 3):  # a scaled copy has the same labels
        out = tmp_path / f"small{side}"
        scale_devkit(kit, out, side)
        assert labels(out) == labels(kit)


@pytest.mark.parametrize("factor", [0.9, 0.5, 0.31, 0.07])
def test_a_scaled_box_counts_if_the_original_does(factor):
    for width, height in ((500, 375), (33, 40)):
        after = (max(2, round(width * factor)), max(2, round(height * factor)))
        for xmin in (-3.5, 0, 1, 2.4, width / 2, width - 2, width - 1, width, width + 5):
            for length in (-30, -1, -0.4, 0, 0.3, 0.6, 1, 2, 40, width):
                box = (xmin, 1, xmin + length, height)
                assert is_empty(scaled_box(box, factor, (width, height), after), after) == is_empty(
                    box, (width, height)
                )
                assert is_empty(scaled_box(box, factor, None, None), None) == is_empty(box, None)


NO_SIZE = ["<size/>", "<size><width>0</width><height>0</height></size>", "<size><width>40</width></size>"]
NO_SIZE += ["<size><width>x</width><height>1e999</height></size>"]


def test_a_scaled_box_of_whole_numbers_stays_so():
    assert scaled_box((11, 4, 12, 5), 0.5, (60, 40), (30, 20)) == (6, 2, 7, 3)
    assert scaled_box((1, 1, 60, 40), 0.5, (60, 40), (30, 20)) == (1, 1, 30, 20)
    assert scaled_box((57, 1, 59, 40), 0.1, (60, 40), (6, 4)) == (4, 1, 5, 4)
    assert scaled_box((1.0, 1.0, 60.0, 40.0), 0.5, (60, 40), (30, 20)) == (0.5, 0.5, 30, 20)


@pytest.mark.parametrize("size", NO_SIZE)
def test_a_size_that_says_nothing_clamps_nothing(tmp_path, size):
    kit = write_kit(tmp_path / "kit", {"a": labeled("cat", (39, 1, 40, 9))}, size=size)
    assert labels(kit) == {"a": [1, 0]}


def test_check_data_notes_a_size_that_is_not_the_images(tmp_path):
    kit = write_kit(tmp_path / "kit", {"a": labeled("cat")}, size="<size><width>30</width><height>40</height></size>")
    words = ("--data_dir", kit, "--split", "Main/train", "--class_file", kit / "classes.json", "--num_workers", 0)
    report = tool("check_data", *words)
    assert report.returncode == 0 and "a <size> that is not the image's" in report.stdout


@pytest.mark.parametrize("inside", ["", "<bndbox/>", "<bndbox></bndbox>", "<polygon><x1>1</x1></polygon>"])
def test_an_object_without_a_box_is_a_label(tmp_path, inside):
    kit = write_kit(tmp_path / "kit", {"a": f"<object><name>dog</name>{inside}</object>"})
    assert labels(kit) == {"a": [0, 1]}
    words = ("--data_dir", kit, "--split", "Main/train", "--class_file", kit / "classes.json", "--num_workers", 0)
    report = tool("check_data", *words)
    assert report.returncode == 0 and "an object without a box, which counts" in report.stdout
    assert tool("make_class_file", "--data_dir", kit, "--out", tmp_path / "made.json").returncode == 0
    assert scale_devkit(kit, tmp_path / "small", 20) == 1 and labels(tmp_path / "small") == {"a": [0, 1]}


NO = ["0", "", " ", "0.0", "00", "Unspecified", "unspecified", "False", "false", "no", "None", "null", "N", "f"]
YES = ["1", "1.0", " 1 ", "True", "TRUE", "yes", "Y", "t"]
UNKNOWN = ["maybe", "2", "-1", "nan", "1e999", "hard", "\x7f\x9b31m"]


@pytest.mark.parametrize("text", NO + YES + UNKNOWN)
def test_difficult_is_yes_no_or_noted(tmp_path, text):
    kit = write_kit(tmp_path / "kit", {"a": labeled("cat", difficult=text)})
    item = read_annotation(kit / "Annotations/a.xml", CLASSES)[0]
    assert item.difficult == (text in YES)
    assert labels_of_objects([[item]], 2).tolist() == [[0 if text in YES else 1, -1]]
    assert labels(kit) == {"a": [1, 0]}
    words = ("--data_dir", kit, "--split", "Main/train", "--class_file", kit / "classes.json", "--num_workers", 0)
    report = tool("check_data", *words)
    assert report.returncode == 0 and ("which counts as 0" in report.stdout) == (text in UNKNOWN), report.stdout
    assert "\x9b" not in report.stdout


@pytest.mark.parametrize("number", ["1e19", "1e300", "-1e300", "9" * 300, "1" + "0" * 40])
def test_huge_coordinates_are_read_and_scaled(tmp_path, number):
    kit = write_kit(tmp_path / "kit", {"a": labeled("cat", (1, 1, number, 9))})
    item = read_annotation(kit / "Annotations/a.xml", CLASSES)[0]
    assert max(map(abs, item.box)) <= 1e9
    assert scale_devkit(kit, tmp_path / "small", 20) == 1 and labels(tmp_path / "small") == labels(kit)
    words = ("--data_dir", kit, "--split", "Main/train", "--class_file", kit / "classes.json", "--num_workers", 0)
    report = tool("check_data", *words)
    assert report.returncode == 1 and "is far outside the image" in report.stdout


@pytest.mark.parametrize("number", ["1" * 400, "nan", "inf", "x", ""])
def test_a_coordinate_that_is_no_number_is_one_line_everywhere(tmp_path, number):
    kit = write_kit(tmp_path / "kit", {"a": labeled("cat", (1, 1, number, 9))})
    with pytest.raises(UserError, match="no complete bndbox of numbers"):
        labels(kit)
    line = error_of("scale_devkit", "--data_dir", kit, "--out", tmp_path / "small", "--longer_side", 20)
    assert "a.xml cannot be scaled" in line and not (tmp_path / "small").exists()


def test_deep_xml_is_one_line_everywhere(tmp_path):
    kit = write_kit(tmp_path / "kit", {"a": "<b>" * 20_000 + "</b>" * 20_000})
    with pytest.raises(UserError, match="over 20 elements inside each other"):
        labels(kit)
    line = error_of("scale_devkit", "--data_dir", kit, "--out", tmp_path / "small", "--longer_side", 20)
    assert "over 20 elements" in line
    assert "over 20 elements" in error_of("make_class_file", "--data_dir", kit, "--out", tmp_path / "made.json")
