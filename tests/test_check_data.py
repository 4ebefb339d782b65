"""`python3 -m tools.check_data` as a user types it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.command_line import ROOT

OBJECT = (
    "<annotation><object><name>{}</name><bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox>"
    "</object></annotation>"
)


def check(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tools.check_data", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def error(*words: object) -> str:
    """Return the one line of a check that could not be made."""
    result = check(*words)
    assert result.returncode == 2 and result.stdout == "", result.stdout
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    """Ten ids: 0 to 3 are intact (3 is unusual), each of the others has one problem, and the list has three."""
    folder = tmp_path_factory.mktemp("broken")
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for i in range(10):
        Image.new("L" if i == 3 else "RGB", (40, 30), 7 * i).save(folder / f"JPEGImages/im_{i}.jpg")
        (folder / f"Annotations/im_{i}.xml").write_text(OBJECT.format("cat", 1, 30))
    image = folder / "JPEGImages/im_4.jpg"
    image.write_bytes(image.read_bytes()[:-80])
    (folder / "JPEGImages/im_5.jpg").write_bytes(b"no picture")
    (folder / "JPEGImages/im_6.jpg").unlink()
    (folder / "Annotations/im_7.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>')
    (folder / "Annotations/im_8.xml").write_text(OBJECT.format("unicorn", 1, 30))
    (folder / "Annotations/im_9.xml").write_text(OBJECT.format("dog", 500, 900))
    lines = [f"im_{i}" for i in range(10)] + ["../../etc/passwd", "im_1", "\x1b[31m"]
    (folder / "ImageSets/Main/all.txt").write_text("\ufeff" + "\r\n".join(lines))
    return folder


def test_a_clean_split_prints_counts_and_exits_with_status_0(toy):
    result = check("--data_dir", toy, "--split", "Main/val")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["class", "images", "objects", "difficult"] and len(lines) >= 22
    assert lines[-1] == "25 images, 25 of them intact; 0 problems in all"
    assert result.stderr == ""  # a progress bar is shown only on a terminal


@pytest.mark.parametrize("workers", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_every_problem_is_reported_at_once_and_a_list_without_them_is_written(broken, tmp_path, workers):
    out = broken / f"ImageSets/Main/fixed{workers}.txt"
    words = ("--data_dir", broken, "--split", "Main/all", "--num_workers", workers, "--fix_list", out)
    result = check(*words)
    assert result.returncode == 1, result.stderr
    report = result.stdout
    for number, names in {
        "problems with lines of the list: 3": [
            "line 11: '../../etc/passwd'",
            "line 12: repeats im_1",
            r"'\x1b[31m'",
        ],
        "problems with images: 3": ["im_4.jpg", "im_5.jpg", "im_6.jpg"],
        "problems with annotations: 2": ["im_7.xml", "'unicorn' is not in the class file"],
        "problems with boxes: 1": ["im_9.xml", "is far outside the image of 40 × 30 pixels"],
    }.items():
        assert number in report
        for name in names:
            assert report.count(name) == 1, name
    assert "note: 1 of 10 images: L pixels, converted to RGB (im_3)" in report
    assert "10 images, 4 of them intact; 9 problems in all" in report
    assert "Traceback" not in result.stderr and "\x1b[31m" not in report
    assert out.read_text() == "im_0\nim_1\nim_2\nim_3\n"
    assert f"written: {out} (4 ids)" in report
    again = check("--data_dir", broken, "--split", f"Main/fixed{workers}")
    assert again.returncode == 0, again.stdout


def test_a_check_that_cannot_be_made_is_one_line_and_status_2(broken, toy, tmp_path):
    assert "no folder nowhere" in error("--data_dir", "nowhere", "--split", "val")
    assert "Main/all" in error("--data_dir", broken, "--split", "Main/al")
    assert "--num_workers -1" in error("--data_dir", toy, "--split", "Main/val", "--num_workers", -1)
    assert "nothing.json" in error("--data_dir", toy, "--split", "Main/val", "--class_file", "nothing.json")


def test_the_checked_list_is_not_overwritten(broken, tmp_path):
    own = broken / "ImageSets/Main/all.txt"
    before = own.read_bytes()
    (tmp_path / "link.txt").symlink_to(own)
    line = error("--data_dir", broken, "--split", "Main/all", "--fix_list", tmp_path / "link.txt")
    assert "is the list of --split Main/all itself" in line
    assert own.read_bytes() == before


def test_a_list_that_cannot_be_written_is_one_line(toy, tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file/list.txt"
    result = check("--data_dir", toy, "--split", "Main/val", "--fix_list", out)
    assert result.returncode == 2 and f"cannot write {out}" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_pipe_instead_of_an_image_does_not_block(broken, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(broken, copy)
    (copy / "JPEGImages/im_0.jpg").unlink()
    os.mkfifo(copy / "JPEGImages/im_0.jpg")
    (copy / "ImageSets/Main/one.txt").write_text("im_0\n")
    result = check("--data_dir", copy, "--split", "Main/one")
    assert result.returncode == 1 and "im_0.jpg is not a regular file" in result.stdout


def test_a_truncated_png_is_a_reported_problem(broken, tmp_path):
    """Pillow decodes a PNG to find its EXIF data."""
    copy = tmp_path / "data"
    shutil.copytree(broken, copy)
    Image.effect_noise((70, 50), 90).convert("RGB").save(tmp_path / "whole.png")
    (copy / "JPEGImages/im_0.jpg").write_bytes((tmp_path / "whole.png").read_bytes()[:-2000])
    (copy / "ImageSets/Main/one.txt").write_text("im_0\n")
    result = check("--data_dir", copy, "--split", "Main/one", "--num_workers", 0)
    assert result.returncode == 1 and "problems with images: 1\n  cannot decode" in result.stdout, result.stderr
