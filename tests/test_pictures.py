"""Pictures and charts: what stands where, in which colors, and that it can be read."""

import json
import math
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools import plot_classes, plot_history
from tools.pictures.charts import Line, bar_chart, legend, line_chart, ticks
from tools.pictures.panels import (
    BLUE,
    LINE_COLORS,
    VERMILLION,
    WHITE,
    caption,
    color_bar,
    colors_of,
    draw_cut,
    draw_points,
    draw_text,
    heat_overlay,
    resized,
    sheet,
    shortened,
    signed_colors_of,
    text_width,
    write_picture,
)
from tools.system.errors import UserError

GRAY = np.full((100, 120, 3), 128, np.uint8)


def where(image, color) -> np.ndarray:
    """(row, column) of every pixel of a color."""
    return np.argwhere((image == np.array(color)).all(-1))


def lightness(colors) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(colors), cv2.COLOR_RGB2LAB)[..., 0].astype(int)


def test_letters_are_at_least_14_pixels_high_and_their_width_is_known():
    page = np.full((60, 300, 3), 255, np.uint8)
    draw_text(page, "H", (30, 10))
    inked = np.argwhere((page < 128).all(-1))
    assert np.ptp(inked[:, 0]) + 1 >= 14
    assert abs(inked[:, 0].mean() - 30) < 3  # around the middle that was asked for
    assert np.ptp(inked[:, 1]) + 1 <= text_width("H")


@given(st.text(st.characters(codec="latin-1", categories=("L", "N")), max_size=80), st.integers(40, 400))
def test_a_shortened_text_fits_and_keeps_its_ends(text, width):
    short = shortened(text, width)
    assert text_width(short) <= width
    assert short == text or (short[0] == text[0] and "…" in short)


def test_a_caption_stands_above_and_never_beside_its_image():
    titled = caption(GRAY, "a class name that is far too long for this")
    assert titled.shape == (130, 120, 3) and (titled[30:] == GRAY).all()
    assert (titled[:30, -3:] == 255).all() and (titled[:30] < 128).any()


def test_maps_get_lighter_with_every_step_for_every_eye():
    assert (np.diff(lightness(colors_of(np.linspace(0, 1, 40)[None]))) > 0).all()


def test_signs_are_blue_white_and_orange():
    colors = signed_colors_of(np.array([[-1.0, 0.0, 1.0]]))
    assert colors.tolist() == [[list(BLUE), list(WHITE), list(VERMILLION)]]


def test_the_overlay_shows_the_map_where_it_is_strong_and_the_image_where_it_is_not():
    heat = np.zeros((10, 12))
    heat[2, 9] = 1
    drawn = heat_overlay(GRAY, heat)
    assert (drawn[60:, :60] == 128).all()
    row, column = np.argwhere(np.ptp(drawn, axis=-1) == np.ptp(drawn, axis=-1).max()).mean(0)
    assert abs(row - 25) < 3 and abs(column - 95) < 3


def test_the_color_bar_has_the_map_s_ends():
    bar = color_bar(200, "0", "1")
    column = bar[15:186, 10]
    assert (np.diff(lightness(column[None])[0]) <= 0).all()
    assert np.abs(column[[0, -1]].astype(int) - colors_of(np.array([[1.0, 0.0]]))[0]).max() < 25


def test_a_cut_lies_at_the_keypoint():
    drawn = draw_cut(GRAY, (30, 40), scale=1.5)
    assert (drawn[45, 100] == 255).all() and (drawn[5, 60] == 255).all()
    assert np.abs(where(drawn, VERMILLION).mean(0) - (45, 60)).max() < 1
    assert (draw_points(GRAY, [(50, 20)])[50, 29] == 255).all()
    assert (GRAY == 128).all()  # the image itself is left alone


def test_panels_of_different_size_never_overlap():
    panels = [[np.full((h, w, 3), 10 * k + 1, np.uint8) for k, (h, w) in enumerate(row)] for row in
              ([(20, 30), (50, 10)], [(10, 60)])]  # fmt: skip
    page = sheet(panels)
    counts = {value: int((page[..., 0] == value).sum()) for value in (1, 11)}
    assert counts == {1: 20 * 30 + 10 * 60, 11: 500}


def test_the_longer_side_is_what_was_asked_for():
    assert resized(GRAY, 60).shape == (50, 60, 3) and resized(GRAY[:1], 60).shape == (1, 60, 3)


def test_only_pictures_are_written(tmp_path):
    with pytest.raises(UserError, match="must end in .png or .jpg"):
        write_picture(tmp_path / "a.gif", GRAY)
    write_picture(tmp_path / "deep/a.png", GRAY)
    assert (cv2.imread(str(tmp_path / "deep/a.png")) == GRAY).all()


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_inside(low, width):
    width = max(width, 1e-8 * abs(low))  # below that, the rounding of `low` shows in the steps
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 8
    step = found[1] - found[0]
    digits = round(step / 10 ** math.floor(math.log10(step) + 1e-6), 3)
    assert digits in (1, 2, 5, 10)
    slack = 1e-6 * max(abs(low), width)
    assert all(low - slack <= value <= low + width + slack for value in found)


def test_a_curve_passes_through_its_points_and_has_gaps():
    line = Line("a", [0, 1, 2, 3, 4], [0, 10, math.nan, 0, 10])
    chart = line_chart("title", "epoch", [line])
    points = where(chart, LINE_COLORS[0])
    top, bottom = points[:, 0].min(), points[:, 0].max()
    left, right = points[:, 1].min(), points[:, 1].max()
    missing = (left + right) // 2
    assert not len(points[abs(points[:, 1] - missing) < 20])  # the gap at x = 2
    first = points[points[:, 1] < left + 6]
    assert first[:, 0].mean() > top + 0.9 * (bottom - top)  # starts at the bottom
    assert (chart[:, right + 24 :] == 255).all()


def test_curves_that_coincide_both_show():
    lines = [Line(name, [0, 1], [0, 1]) for name in "ab"]
    chart = line_chart("title", "epoch", lines)
    assert len(where(chart, LINE_COLORS[0])) > 100 and len(where(chart, LINE_COLORS[1])) > 100


def test_a_bar_is_as_long_as_its_value():
    chart = bar_chart(["dog", "cat"], [[100, 50], [25, math.nan]], limit=100)
    lengths = [np.ptp(where(chart, color)[:, 1]) for color in LINE_COLORS[:2]]
    assert lengths[1] / lengths[0] == pytest.approx(0.5, abs=0.02)
    lower = where(chart[len(chart) // 2 :], LINE_COLORS[0])
    assert np.ptp(lower[:, 1]) / lengths[0] == pytest.approx(0.25, abs=0.02)
    assert len(where(chart[len(chart) // 2 :], LINE_COLORS[1])) <= 22  # NaN: nothing beyond the axis


def test_a_legend_breaks_lines_rather_than_running_out_of_the_page():
    page = legend([f"a rather long tag {k}" for k in range(8)], 500)
    assert page.shape[1] == 500 and len(page) > 34
    assert all(len(where(page, color)) > 200 for color in LINE_COLORS)


def test_line_colors_differ_for_the_color_blind():
    """Okabe and Ito's palette, and under simulated deuteranopia every two stay apart."""
    linear = (np.array(LINE_COLORS) / 255.0) ** 2.2
    # Viénot, Brettel and Mollon 1999: what a deuteranope sees, in linear RGB.
    seen = linear @ np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]).T
    seen = (seen.clip(0, 1) ** (1 / 2.2) * 255).astype(np.uint8)
    lab = cv2.cvtColor(seen[None], cv2.COLOR_RGB2LAB)[0].astype(float)
    distances = [np.linalg.norm(a - b) for i, a in enumerate(lab) for b in lab[:i]]
    assert min(distances) > 20


# The two commands ---------------------------------------------------------------------------------------------------


def history(epochs: int, level: float) -> dict:
    train = [
        {"iteration": k + 1, "epoch": k // 4 + 1, "lr": 0.1 / (k + 1), "loss": level / (k + 1), "re_loss": 0.1}
        for k in range(4 * epochs)
    ]
    validation = [
        {"iteration": 4 * k, "epoch": k, "mAP": level * k, "average_precision": {"dog": level * k, "cat": 5.0}}
        | {"without_positive": ["ant"]}
        for k in range(1, epochs + 1)
    ]
    return {"train": train, "validation": validation}


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments/data"
    folder.mkdir(parents=True)
    for tag, level in (("one", 10), ("two", 20)):
        (folder / f"{tag}.json").write_text(json.dumps(history(3, level)))
    return folder


def typed(monkeypatch, main, *words):
    monkeypatch.setattr(sys, "argv", ["plot", *map(str, words)])
    main()


def test_curves_of_several_runs_are_one_picture(experiments, monkeypatch, capsys):
    typed(monkeypatch, plot_history.main, "one", "two")
    assert "experiments/pictures/history_one_two.png" in capsys.readouterr().out
    picture = cv2.imread("experiments/pictures/history_one_two.png")[..., ::-1]
    # In each of the four charts, both colors (loss and mAP differ between the runs, re_loss and lr coincide).
    middle_row, middle_column = 90 + (picture.shape[0] - 90) // 2, picture.shape[1] // 2
    for part in (picture[90:middle_row], picture[middle_row:]):
        for half in (part[:, :middle_column], part[:, middle_column:]):
            assert all(len(where(half, color)) > 50 for color in LINE_COLORS[:2])


def test_bars_show_the_best_epoch_of_every_run(experiments, monkeypatch):
    typed(monkeypatch, plot_classes.main, "one", "two", "--out", "bars.png")
    picture = cv2.imread("bars.png")[90:, :, ::-1]
    longest = [np.ptp(where(picture, color)[:, 1]) for color in LINE_COLORS[:2]]
    assert longest[1] / longest[0] == pytest.approx(60 / 30, abs=0.05)


@pytest.mark.parametrize("main", [plot_history.main, plot_classes.main])
def test_what_is_no_run_is_said(experiments, monkeypatch, main):
    with pytest.raises(UserError, match=r"no history .*nobody.json.*here: one, two"):
        typed(monkeypatch, main, "one", "nobody")
    with pytest.raises(UserError, match="at most 8"):
        typed(monkeypatch, main, *["one"] * 9)
    (experiments / "odd.json").write_text("[1]")
    with pytest.raises(UserError, match="is no history"):
        typed(monkeypatch, main, "odd")
    (experiments / "new.json").write_text(json.dumps({"train": [], "validation": []}))
    with pytest.raises(UserError, match="wait for"):
        typed(monkeypatch, main, "new")
    with pytest.raises(UserError, match="must end in"):
        typed(monkeypatch, main, "one", "--out", "x.gif")
