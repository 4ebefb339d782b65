"""The report of an evaluation: one page, self-contained, escaped, and sortable in a browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.evaluation import report
from core.evaluation.panels import draw_example
from core.evaluation.report import ERRORS, Evaluation, draw_errors, evaluation_page, worst_errors
from tests.helpers.command_line import SCRIPTS, SMALL, refused, run
from tools.data.transforms import evaluation_transform
from tools.metrics.bootstrap import bootstrap_interval
from tools.metrics.multilabel import all_metrics
from tools.metrics.scores import Scores
from tools.pictures.figure import rgb_array
from tools.pictures.report import Section, page_path, write_page
from tools.system.errors import UserError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>alert(1)</script>\"'&<b>"


class Page(HTMLParser):
    """What a reader of the page finds: its elements, and the text outside of scripts."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.attributes, self.texts, self._inside = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self._inside.append(tag)

    def handle_data(self, data):
        if self._inside and self._inside[-1] not in ("script", "style"):
            self.texts.append(data.strip())


def evaluation(images=30, classes=4, seed=0, names=None) -> Evaluation:
    random = np.random.default_rng(seed)
    labels = random.random((images, classes)) < 0.4
    labels[0] = True
    probabilities = random.random((images, classes))
    counted = random.random((images, classes)) < 0.9
    counted[0] = True
    names = names or [f"class {v}" for v in range(classes)]
    metrics = all_metrics(probabilities, labels, counted, 0.5)
    interval = bootstrap_interval(probabilities, labels, counted, 50, 0)
    scored = Scores([f"image_{row}" for row in range(images)], names, probabilities, are_logits=False)
    return Evaluation(scored, labels, counted, 0.5, metrics, interval)


def written(path: Path, found: Evaluation, **about) -> Page:
    evaluation_page(path, "An evaluation", found, {}, about, [])
    return Page(path)


def test_a_page_names_every_class_and_the_map(tmp_path):
    found = evaluation()
    page = written(tmp_path / "page.html", found, command="python3 evaluate_classification.py")
    assert f"{found.metrics.means['mAP']:.2f}" in page.texts
    assert set(found.scored.class_names) <= set(page.texts)
    assert "python3 evaluate_classification.py" in page.texts


@pytest.mark.parametrize("images, classes", [(30, 4), (400, 13)])
def test_a_page_says_how_much_of_it_is_shown(tmp_path, images, classes):
    page = written(tmp_path / "page.html", evaluation(images, classes))
    (text,) = (text for text in page.texts if "rule of confident learning" in text)
    assert ("the clearest 50 are shown" in text) == (images == 400)


@pytest.mark.parametrize("resize, expected", [(True, 1), (False, 1 / 3)])
def test_the_map_of_a_fitted_image_does_not_count_the_padding(tmp_path, monkeypatch, resize, expected):
    class Images(list):
        paths = (tmp_path / "a.png",)

    Image.new("RGB", (64, 32)).save(Images.paths[0])
    images, maps = Images([(evaluation_transform(64, resize)(Image.open(Images.paths[0]).convert("RGB")),)]), []
    monkeypatch.setattr(report, "draw_example", lambda pixels, cam, boxes: maps.append(cam))
    monkeypatch.setattr(report, "embedded", lambda *_: "")
    features = torch.tensor([0.0, 3, 0, 9])[:, None].expand(1, 1, 4, 4)  # the last row is in the padding
    draw_errors([(0, 0)], images, [[]], resize, lambda _: features)
    assert maps[0][1].tolist() == pytest.approx([expected] * 4, abs=1e-4)


def test_a_box_of_the_whole_image_is_visible():
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[12:50, :, 3] = 255
    drawn = rgb_array(draw_example(pixels, None, [(12, 0, 50, 64)]))
    sides = (drawn[:4, 150], drawn[-4:, 150], drawn[80, :4], drawn[80, -4:])
    assert [(side.min(-1) > 150).sum() for side in sides] == [2, 2, 2, 2]


def test_a_page_needs_no_network(tmp_path):
    written(tmp_path / "page.html", evaluation())
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]{1,9})', text)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in text


def test_what_comes_from_files_is_escaped(tmp_path):
    found = evaluation(names=[HOSTILE, "a\x1b[31m\u202eb", "犬", "d"])
    found.scored.ids = [HOSTILE + str(row) for row in range(len(found.scored.ids))]
    page = written(tmp_path / "page.html", found, folder="\udcff\x00")
    assert page.tags.count("script") == 1 and "b" not in page.tags
    assert HOSTILE in page.texts and "犬" in page.texts
    assert "\x1b" not in (tmp_path / "page.html").read_text(encoding="utf-8")


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 5))
def test_worst_errors_are_those_of_a_sorted_list(seed, images, classes):
    random = np.random.default_rng(seed)
    ranked = random.permutation(images * classes).reshape(images, classes).astype(float)
    labels, counted = random.random((2, images, classes)) < 0.5
    pairs = [(row, v) for row in range(images) for v in range(classes) if counted[row, v]]
    misses = sorted((pair for pair in pairs if labels[pair]), key=lambda pair: ranked[pair])
    alarms = sorted((pair for pair in pairs if not labels[pair]), key=lambda pair: -ranked[pair])
    expected = {"misses": misses[:ERRORS], "false alarms": alarms[:ERRORS]}
    assert worst_errors(ranked, labels, counted) == expected


def test_a_page_has_a_path_in_a_folder(tmp_path):
    assert page_path(tmp_path, "val") == tmp_path / "val.html"
    assert page_path(tmp_path / "my.html", "val") == tmp_path / "my.html"
    (tmp_path / "results.txt").touch()
    with pytest.raises(UserError, match="does not end in .html"):
        page_path(tmp_path / "results.txt", "val")


def test_missing_values_are_dashes(tmp_path):
    section = Section("Table", columns=["class", "AP"], rows=[["cat", float("nan")], ["dog", 1.0]])
    write_page(tmp_path / "page.html", "title", [section])
    texts = Page(tmp_path / "page.html").texts
    assert texts[texts.index("cat") + 1 :].index("–") < texts.index("dog")


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    words = [*SMALL, "--data_dir", toy, "--tag", "T", "--max_epoch", 1, "--lr", 0.01]
    assert run(folder, SCRIPTS["cMax"], *words).returncode == 0
    return folder


@pytest.mark.parametrize("more", [["--localization"], ["--eval_resize", "--difficult", "ignore"]])
def test_an_evaluation_writes_its_report_with_pictures_of_its_errors(trained, toy, tmp_path, more):
    words = ["--tag", "T", "--data_dir", toy, "--split", "Main/val", "--num_workers", 0, "--bootstrap", 50]
    result = run(trained, "evaluate_classification.py", *words, *more, "--report", tmp_path, "--out", tmp_path / "e")
    assert result.returncode == 0, result.stderr
    assert f"written: {tmp_path / 'e.html'}" in result.stdout
    page, measured = Page(tmp_path / "e.html"), json.loads((tmp_path / "e.json").read_text())
    assert f"{measured['mAP']:.2f}" in page.texts
    pictures = [value for name, value in page.attributes if name == "src" and value.startswith("data:image/jpeg")]
    assert len(pictures) == 2 * ERRORS
    assert ("Objects" in page.texts) == ("--localization" in more)
    # The same page, without maps, from the scores alone; without images where their folder is not given.
    for source, count in ((["--data_dir", toy], 2 * ERRORS), ([], 0)):
        again = ["--scores", tmp_path / "e.npz", *source, "--report", tmp_path / "again.html", "--out", tmp_path / "a"]
        result = run(trained, "evaluate_classification.py", *again, "--bootstrap", 50)
        assert result.returncode == 0, result.stderr
        sources = [value for name, value in Page(tmp_path / "again.html").attributes if name == "src"]
        assert sum(source.startswith("data:image/jpeg") for source in sources) == count


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_computed(trained, toy, tmp_path):
    (tmp_path / "file.txt").touch()
    words = ["--tag", "T", "--data_dir", toy, "--split", "Main/val", "--report"]
    assert "does not end in .html" in refused(trained, "evaluate_classification.py", *words, tmp_path / "file.txt")
    assert "cannot write" in refused(trained, "evaluate_classification.py", *words, "/proc/x/page.html")
    assert "leave --protocol out" in refused(
        trained, "evaluate_classification.py", *words, tmp_path, "--protocol", "all"
    )


def browse(page: Path, *options: str) -> str:
    """Open a page in headless Chromium, and return what it is after its scripts have run."""
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    words += ["--disable-component-update", "--disable-sync", f"--user-data-dir={page.parent / 'profile'}", *options]
    result = subprocess.run([CHROMIUM, *words, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("clicks, descending", [(1, True), (2, False)])
def test_a_browser_sorts_the_table(tmp_path, clicks, descending):
    found = evaluation(classes=7)
    page = tmp_path / "page.html"
    written(page, found)
    click = "<script>const head = [...document.querySelectorAll('th button')].find(b => b.textContent == 'AP');"
    page.write_text(page.read_text() + click + "head.click();" * clicks + "</script>")
    body = browse(page, "--dump-dom").split("<tbody>")[1].split("</tbody>")[0]
    names = [row.split(">")[1].split("<")[0] for row in body.split("<tr>")[1:]]
    averages = found.metrics.per_class["AP"]
    order = sorted(range(7), key=lambda v: averages[v], reverse=descending)
    assert names == [found.scored.class_names[v] for v in order]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_page_fits_a_phone(tmp_path):
    """No sideways scrolling of the page at 375 pixels; a wide table scrolls within itself."""
    page = tmp_path / "page.html"
    written(page, evaluation(classes=9))
    # Headless Chromium has no window as narrow as a phone's: a frame has.
    frame = tmp_path / "frame.html"
    measure = "document.title = frames[0].document.documentElement.scrollWidth"
    frame.write_text(f"<iframe src='page.html' width=375 height=800 onload='{measure}'></iframe>")
    dom = browse(frame, "--dump-dom", "--allow-file-access-from-files", "--virtual-time-budget=5000")
    assert int(re.search("<title>(.*?)</title>", dom)[1]) <= 375
