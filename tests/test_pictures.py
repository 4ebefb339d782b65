"""Charts and panels: what they show where, that they can be read, and the two programs that plot runs."""

import json
import math
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.container import BarContainer
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image
from sklearn.metrics import average_precision_score

from tests.helpers.command_line import ROOT
from tools import plot_classes, plot_history, plot_scores
from tools.metrics import labels, reports
from tools.metrics.bootstrap import Interval
from tools.metrics.scores import Scores, write_scores
from tools.pictures import figure
from tools.pictures.charts import LINE_COLORS, Line, bar_chart, interval_chart, line_charts, matrix_charts
from tools.pictures.figure import new_figure, rgb_array, style, write_picture
from tools.pictures.panels import (
    BAR,
    caption,
    color_bar,
    draw_cut,
    draw_points,
    panel_grid,
    show_image,
    show_map,
    show_overlay,
    show_tiles,
)
from tools.system.errors import UserError

GRAY = np.full((100, 120, 3), 128, np.uint8)


def one_panel(width: int = 300):
    """Return a figure with one panel, and the panel's axes."""
    figure, grid = panel_grid(1, [width])
    return figure, grid[0, 0]


def written(figure) -> list[Text]:
    """Return every text that a figure shows; panels have captions but no ticks."""
    figure.canvas.draw()
    return [text for text in figure.findobj(Text) if text.get_text() and _is_shown(text)]


def _is_shown(text: Text) -> bool:
    axes = text.axes
    return axes is None or axes.axison or axes.get_title("left") == text.get_text()


def texts(figure) -> set[str]:
    """Return what is written in a figure."""
    return {text.get_text() for text in written(figure)}


def boxes(figure, artists) -> list:
    """Return where artists are, and check that all of it is on the figure."""
    figure.canvas.draw()
    found = [artist.get_window_extent() for artist in artists]
    assert all(box.x0 >= -1 and box.x1 <= figure.bbox.width + 1 for box in found)
    assert all(box.y0 >= -1 and box.y1 <= figure.bbox.height + 1 for box in found)
    return found


def is_whole(figure) -> bool:
    """Return whether nothing that a figure shows is cut off at its edges."""
    box = figure.get_tightbbox()
    return min(box.x0, box.y0) >= 0 and box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()


# Figures ------------------------------------------------------------------------------------------------------------


def test_letters_are_at_least_14_pixels_high():
    with style():
        figure = new_figure(300, 60)
        figure.text(0.1, 0.4, "H")
    inked = np.argwhere((rgb_array(figure) < 128).all(-1))
    assert np.ptp(inked[:, 0]) + 1 >= 14


def every_chart(column: str, names: list[str]) -> dict:
    """Return a figure of each kind of chart, with long and many texts."""
    random = np.random.default_rng(0)
    lines = [Line(f"{k} a run with a long tag", [0, 1, 2], [k, 2, k / 2]) for k in (0, 0, 1, 2)]
    interval = Interval(0.2, 0.4)
    rows = {"best_Toy_cTopk_w_Main_val − best_Toy_cMax_Main_val": (0.3, interval), "cMax": (0.3, interval)}
    shares = random.random((len(names), len(names)))
    curves = {f"{name} 81.2": [Line("", [0, 100], [100, 50])] for name in names}
    values, chance = 100 * random.random((len(names), 3)), [7.0] * len(names)
    with style(column):
        return {
            "lines": line_charts("Learning curves", "epoch", {name: lines for name in plot_history.TITLES.values()}),
            "bars": bar_chart("Average precision on validation, %", ["cMax", "cMax", "b"], names, values, chance),
            "intervals": interval_chart("Methods on the same images, 95 % intervals", {"mAP, %": rows}),
            "matrices": matrix_charts("Classes", names, {"one": shares, labels.TOGETHER: shares}),
            "curves": line_charts("Precision and recall of each class", "recall, %", curves, "precision, %"),
        }


VOC = [*json.loads((ROOT / "data/VOC_2012.json").read_text())["class_names"], "mean (mAP)"]


@pytest.mark.parametrize("column, inches, letters", [("screen", 12.8, 14), ("single", 3.5, 8), ("double", 7.2, 8)])
def test_a_chart_has_the_width_and_letters_of_its_column_and_nothing_is_cut_off(column, inches, letters):
    for kind, drawn in every_chart(column, VOC).items():
        width = drawn.get_figwidth()
        assert width == pytest.approx(inches) or (column == "screen" and width == 6.4)  # of one chart
        found = written(drawn)
        assert len(found) > 2 and min(text.get_fontsize() for text in found) >= letters - 1e-6, kind
        assert is_whole(drawn), kind
        assert max(line.get_linewidth() for axes in drawn.axes for line in axes.lines or [Line2D([], [])]) < 2


def test_names_of_classes_do_not_overlap_in_a_column():
    for kind, drawn in every_chart("single", VOC).items():
        rgb_array(drawn)
        for axes in drawn.axes:
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                ticks = [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                found = [text.get_window_extent() for text in ticks if text.get_text() and text.get_visible()]
                shared = [Bbox.intersection(a, b) for i, a in enumerate(found) for b in found[:i]]
                # Lines of text have room above and below their letters, of which they may share some.
                assert all(box is None or min(box.width, box.height) < 0.25 * 8 / 72 * 300 for box in shared), kind


def test_panels_are_whole():
    for height in (120, 225, 300):
        figure, grid = panel_grid(1, [300, BAR], height, title="title")
        color_bar(grid[0, 1], show_overlay(grid[0, 0], GRAY, np.ones((4, 5))))
        caption(grid[0, 0], "dog")
        assert min(text.get_fontsize() for text in written(figure)) >= 14 and is_whole(figure)


def test_a_picture_may_have_more_pixels(tmp_path):
    write_picture(tmp_path / "a.png", new_figure(300, 100), scale=2.5)
    assert Image.open(tmp_path / "a.png").size == (750, 250)


def test_figures_for_print_are_pdf_with_letters_as_text(tmp_path):
    names = ["Straße", "Ποδήλατο", "Лошадь"]
    for column, suffix in (("screen", ".png"), ("single", ".pdf")):
        with style(column):
            drawn = bar_chart("title", ["a"], names, [[1.0]] * 3)
        assert drawn.suffix == suffix
    write_picture(tmp_path / "x.png", drawn)
    assert Image.open(tmp_path / "x.png").width == 3.5 * 300
    write_picture(tmp_path / "x.pdf", drawn)
    assert b"/Type3" not in (tmp_path / "x.pdf").read_bytes()  # TrueType: letters can be searched and edited


def test_the_caller_s_matplotlib_stays_as_it_is():
    before = dict(matplotlib.rcParams)
    with style("single"), pytest.raises(ValueError):
        rgb_array(bar_chart("title", ["a"], ["自行车"], [[1.0]]))
        raise ValueError
    assert dict(matplotlib.rcParams) == before and bar_chart("title", ["a"], ["dog"], [[1.0]]).get_figwidth() == 6.4


@pytest.mark.parametrize(
    "suffix, start",
    [(".png", b"\x89PNG"), (".PNG", b"\x89PNG"), (".jpg", b"\xff\xd8"), (".pdf", b"%PDF"), (".svg", b"<?xml")],
)
def test_the_suffix_decides_the_format(tmp_path, suffix, start):
    path = tmp_path / f"deep/a{suffix}"
    write_picture(path, bar_chart("title", ["one"], ["dog"], [[50.0]]))
    assert path.read_bytes().startswith(start) and list(path.parent.iterdir()) == [path]


def test_only_pictures_are_written(tmp_path):
    with pytest.raises(UserError, match="must end in .png, .jpg, .pdf or .svg"):
        write_picture(tmp_path / "a.gif", new_figure(10, 10))
    assert not list(tmp_path.iterdir())


def test_a_figure_has_the_pixels_that_were_asked_for(tmp_path):
    figure = new_figure(321, 123)
    assert rgb_array(figure).shape == (123, 321, 3) and rgb_array(figure).dtype == np.uint8
    write_picture(tmp_path / "a.png", figure)
    assert Image.open(tmp_path / "a.png").size == (321, 123)


def test_a_figure_that_no_format_holds_is_refused():
    with pytest.raises(UserError, match="pixels is too large"):
        bar_chart("title", ["one"], [str(number) for number in range(5000)], [[1.0]] * 5000)


def test_names_are_written_as_they_are(tmp_path):
    names = ["$5 note", "größer κλ и", "a_b^c", "line\nbreak", "\udcff"]
    write_picture(tmp_path / "a.svg", bar_chart("title", ["$x$"], names, [[1.0]] * 5))
    content = (tmp_path / "a.svg").read_text(encoding="utf-8")
    for name in ("$x$", "$5 note", "größer κλ и", "a_b^c", "line?break"):
        assert f">{name}<" in content


def test_a_character_without_a_font_is_said_once_and_others_look_for_one(capsys, monkeypatch):
    from matplotlib.font_manager import fontManager

    monkeypatch.setattr(figure, "_known", set())
    monkeypatch.setattr(figure, "_boxes", set())
    monkeypatch.setattr(figure, "_families", ["DejaVu Sans"])
    own = [font for font in fontManager.ttflist if font.name in ("DejaVu Sans", "STIXGeneral")]
    monkeypatch.setattr(fontManager, "ttflist", own)
    with figure.style():
        for text in ("Kätzchen", "кот", "Ka\u0308tzchen", "\ufffe犬犬", "犬", "猫", "\U0001d49c"):
            figure.printable(text)
    error = capsys.readouterr().err
    assert error.count("note: no font of this machine has 犬, drawn as boxes") == error.count("note:") == 1
    assert figure._families == ["DejaVu Sans", "STIXGeneral"]  # which has the script A


def test_a_picture_says_what_it_was_made_with(tmp_path):
    for suffix in ("png", "svg"):
        write_picture(tmp_path / f"a.{suffix}", figure.new_figure(20, 10), {"source": ["größe"]})
    assert figure.recorded_in_picture(tmp_path / "a.png") == {"source": ["größe"]}
    assert figure.recorded_in_picture(tmp_path / "b.png") is None
    Image.new("RGB", (3, 3)).save(tmp_path / "c.png")
    assert figure.recorded_in_picture(tmp_path / "c.png") == {}


# Charts -------------------------------------------------------------------------------------------------------------


def test_a_curve_passes_through_its_points_and_has_gaps():
    figure = line_charts("title", "epoch", {"loss": [Line("a", [0, 1, 2, 3, 4], [0, 10, math.nan, 0, 10])]})
    (axes,) = figure.axes
    (curve,) = axes.lines
    figure.canvas.draw()
    assert (axes.get_title("left"), figure.get_supxlabel()) == ("loss", "epoch")
    drawn = rgb_array(figure)
    column = round(axes.transData.transform((2, 5))[0])
    blue = (drawn == (0, 114, 178)).all(-1)
    beside = [round(axes.transData.transform((x, 5))[0]) for x in (0.5, 3.5)]
    top = round(figure.bbox.height - axes.bbox.y1)
    assert not blue[top:, column - 20 : column + 20].any() and all(blue[top:, x].any() for x in beside)
    assert curve.get_color() == LINE_COLORS[0]


def test_panels_have_whole_epochs_and_the_same_ones():
    charts = {"loss": [Line("a", [0.25, 1.5, 3], [1, 2, 3])], "mAP": [Line("a", [1, 2, 3], [1, 2, 3])]}
    charts["one"] = charts["mAP"]
    figure = line_charts("title", "epoch", charts)
    rgb_array(figure)
    assert {axes.get_xlim() for axes in figure.axes[:3]} == {figure.axes[0].get_xlim()}
    assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())
    labeled = [bool(axes.get_xticklabels()) for axes in figure.axes[:3]]
    assert labeled == [False, True, True]  # the lowest of each column
    assert "a" not in texts(figure) and "title" in texts(figure)
    with style("single"):
        assert "title" not in texts(line_charts("title", "epoch", charts))


def test_small_panels_fill_a_grid():
    curves = {name: [Line("", [0, 100], [100, 50])] for name in ("cat", "dog", "cow", "ant")}
    with style("single"):
        figure = line_charts("title", "recall, %", curves, "precision, %")
    assert figure.axes[0].get_gridspec().get_geometry() == (2, 2)


def test_curves_that_coincide_are_all_visible():
    lines = [Line(str(number), list(range(40)), list(range(40))) for number in range(4)]
    drawn = rgb_array(line_charts("title", "epoch", {"loss": lines}))[100:]  # below the legend
    for color in LINE_COLORS[:4]:
        distance = np.abs(drawn.astype(int) - [int(color[k : k + 2], 16) for k in (1, 3, 5)]).max(-1)
        assert (distance < 40).sum() > 100


def test_curves_of_one_label_are_a_mean_with_a_band():
    runs = [Line("cMax", [1, 2, 3], [1, 5, 3]), Line("plain", [1], [0]), Line("cMax", [1, 2], [3, math.nan])]
    figure = line_charts("title", "epoch", {"loss": runs})
    assert {"cMax", "plain", "from the lowest to the highest run"} <= texts(figure)
    mean, plain = figure.axes[0].lines
    assert (
        mean.get_xydata()[0].tolist() == [1, 2] and math.isnan(mean.get_xydata()[1, 1]) and len(mean.get_xdata()) == 2
    )
    (band,) = figure.axes[0].collections
    assert band.get_datalim(figure.axes[0].transData).intervaly.tolist() == [1, 3]


def test_a_chart_without_values_says_so():
    assert "none" in texts(line_charts("title", "epoch", {"re_loss": [Line("a", [0, 1], [math.nan, math.nan])]}))


def bars_of(axes) -> list[BarContainer]:
    return [one for one in axes.containers if isinstance(one, BarContainer)]


def test_bars_of_one_label_have_their_deviation_and_chance_is_a_line():
    values = [[45.0, 20.0, 55.0], [40.0, math.nan, math.nan]]
    figure = bar_chart("title", ["one", "two", "one"], ["dog", "cat"], values, [7.0, 9.0])
    (axes,) = figure.axes
    deviation = 50**0.5  # of the sample 45, 55
    assert {f"50.0 ± {deviation:.1f}", "20.0", "none", "chance", "one", "two"} <= texts(figure)
    errors = next(one for one in axes.containers if not isinstance(one, BarContainer))
    segments = [segment[:, 0].tolist() for segment in errors[2][0].get_segments()]
    assert segments[0] == pytest.approx([50 - deviation, 50 + deviation])
    dashed = [one for one in axes.collections if one.get_linestyle()[0][1]]
    places = sorted(segment.tolist() for one in dashed for segment in one.get_segments())
    assert np.array(places)[:, :, 0].tolist() == [[7, 7], [9, 9]]
    assert places[0][1][1] < 0.4 and places[1][0][1] > 0.6  # those of neighboring classes do not meet
    boxes(figure, axes.texts)
    assert "chance" not in texts(bar_chart("title", ["one"], ["dog"], [[1.0]], chance=[math.nan]))


def test_a_bar_is_as_long_as_its_value():
    figure = bar_chart("title", ["one", "two"], ["dog", "cat"], [[100, 50], [25, math.nan]])
    (axes,) = figure.axes
    lengths = [[bar.get_width() for bar in series] for series in bars_of(axes)]
    assert lengths == [[100, 25], [50, 0]]
    assert {"one", "two", "dog", "cat", "100.0", "50.0", "25.0", "none", "title"} <= texts(figure)
    boxes(figure, axes.texts)
    assert bars_of(axes)[0][0].get_y() < bars_of(axes)[0][1].get_y() and axes.yaxis_inverted()


def test_many_bars_are_in_two_columns_of_the_same_scale():
    names = [f"class {number}" for number in range(21)]
    figure = bar_chart("title", ["one"], names, [[float(number)] for number in range(21)])
    first, second = figure.axes
    assert [bar.get_width() for axes in figure.axes for bar in bars_of(axes)[0]] == list(range(21))
    assert first.get_xlim() == second.get_xlim() and first.get_ylim() == second.get_ylim()
    assert set(names) <= texts(figure)


def test_long_labels_and_names_fit_and_keep_their_ends():
    labels = [f"{number} a rather long tag of a run, as long as tags may be {number}" for number in range(8)]
    figure = bar_chart("T" * 200, labels, ["x" * 100, "cat"], [[1.0] * 8] * 2)
    (legend,) = figure.legends
    found = boxes(figure, [*legend.get_texts(), legend.get_title(), *figure.axes[0].get_yticklabels()])
    assert len(legend.get_texts()) == 8
    assert all(text.get_text()[0] == text.get_text()[-1] == str(k) for k, text in enumerate(legend.get_texts()))
    assert not any(a.overlaps(b) for a in found[:8] for b in found[:8] if a is not b)


def test_more_curves_than_colors_are_refused():
    with pytest.raises(UserError, match="9 curves or bars: only 8 have colors"):
        line_charts("title", "epoch", {"loss": [Line(str(k), [0], [0]) for k in range(9)]})
    with pytest.raises(UserError, match="9 curves or bars: only 8 have colors"):
        bar_chart("title", list("abcdefghi"), ["dog"], [[1.0] * 9])
    with pytest.raises(ValueError):
        bar_chart("title", ["one", "two"], ["dog"], [[1.0]])


def test_line_colors_differ_for_color_blind_readers():
    """Under simulated deuteranopia every two of the palette of Okabe and Ito stay apart."""
    import cv2

    rgb = np.array([[int(color[k : k + 2], 16) for k in (1, 3, 5)] for color in LINE_COLORS])
    linear = (rgb / 255.0) ** 2.2
    # Viénot, Brettel and Mollon 1999: what a deuteranope sees, in linear RGB.
    seen = linear @ np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]).T
    seen = (seen.clip(0, 1) ** (1 / 2.2) * 255).astype(np.uint8)
    lab = cv2.cvtColor(seen[None], cv2.COLOR_RGB2LAB)[0].astype(float)
    distances = [np.linalg.norm(a - b) for i, a in enumerate(lab) for b in lab[:i]]
    assert min(distances) > 20


# Panels -------------------------------------------------------------------------------------------------------------


def test_panels_do_not_overlap_and_have_their_size():
    figure, grid = panel_grid(2, [300, 200], 150, title="title")
    found = boxes(figure, grid.flat)
    assert [(round(box.width), round(box.height)) for box in found] == [(300, 150), (200, 150)] * 2
    assert not any(a.overlaps(b) for i, a in enumerate(found) for b in found[:i])
    assert "title" in texts(figure)


def test_a_caption_is_above_its_panel_and_no_wider():
    figure, grid = panel_grid(1, [120, 120])
    for axes in grid.flat:
        show_image(axes, GRAY)
        caption(axes, "a class name that is far too long for this")
    left, right = boxes(figure, [text for text in written(figure) if "…" in text.get_text()])
    assert left.width <= 120 and not left.overlaps(right) and left.y0 >= grid[0, 0].get_window_extent().y1


def test_the_overlay_shows_the_map_where_it_is_strong_and_the_image_elsewhere():
    figure, axes = one_panel()
    heat = np.zeros((10, 12))
    heat[2, 9] = 1
    show_overlay(axes, GRAY, heat)
    drawn = rgb_array(figure)
    column, row = axes.transData.transform((30, 80))
    assert np.abs(drawn[round(figure.bbox.height - row), round(column)].astype(int) - 128).max() <= 2
    strength = np.ptp(drawn, axis=-1)
    row, column = np.argwhere(strength > 0.9 * strength.max()).mean(0)
    x, y = axes.transData.inverted().transform((column, figure.bbox.height - row))
    assert abs(y - 25) < 4 and abs(x - 95) < 4


def test_the_color_bar_has_the_ends_of_the_map():
    figure, grid = panel_grid(1, [300, BAR])
    image = show_map(grid[0, 0], np.array([[-2.0, 3.0]]), -2.0, 3.0)
    color_bar(grid[0, 1], image, "-2.0", "3.0")
    assert {"-2.0", "3.0", "class activation map"} <= texts(figure)
    heights = {text.get_text(): text.get_window_extent().y0 for text in written(figure)}
    assert image.get_clim() == (-2.0, 3.0) and heights["3.0"] - heights["-2.0"] > 200


def test_signed_values_have_no_color_at_zero():
    _, axes = one_panel()
    image = show_map(axes, np.array([[-1.0, 0.0, 1.0]]), -1, 1, signed=True)
    low, zero, high = image.to_rgba(image.get_array())[0, :, :3]
    assert low[2] > low[0] and high[0] > high[2] and zero.min() > 0.95


def test_a_map_of_one_value_is_drawn():
    figure, grid = panel_grid(1, [300, BAR])
    color_bar(grid[0, 1], show_map(grid[0, 0], np.zeros((3, 3)), 0, 0), "0.0", "0.0")
    rgb_array(figure)


@pytest.mark.parametrize("size", [None, (1000, 1200)])
def test_a_cut_lies_at_the_keypoint(size):
    figure, axes = one_panel()
    show_image(axes, GRAY, size)
    keypoint = (30, 40) if size is None else (300, 400)
    draw_cut(axes, keypoint)
    draw_points(axes, [keypoint])
    draw_points(axes, [])
    height, width = size or GRAY.shape[:2]
    assert axes.get_xlim() == (-0.5, width - 0.5) and axes.get_ylim() == (height - 0.5, -0.5)
    # On the picture: 30 of 100 rows down and 40 of 120 columns right, in a panel that is 300 pixels wide.
    drawn = rgb_array(figure).astype(int)
    mark = np.argwhere((np.abs(drawn - (213, 94, 0)) < 8).all(-1)).mean(0)
    left, top = axes.get_window_extent().x0, figure.bbox.height - axes.get_window_extent().y1
    assert abs(mark[0] - top - 30.5 * 2.5) < 2 and abs(mark[1] - left - 40.5 * 2.5) < 2
    white = (drawn == 255).all(-1)
    assert white[round(mark[0]), round(left) + 5] and white[round(top) + 240, round(mark[1])]


def test_a_ring_is_drawn_at_every_point():
    _, axes = one_panel()
    show_image(axes, GRAY)
    draw_points(axes, [(10, 20), (30, 40)])
    assert all(line.get_xydata().tolist() == [[20, 10], [40, 30]] for line in axes.lines) and axes.lines


def test_four_tiles_keep_their_order():
    figure, axes = one_panel()
    tiles = np.stack([np.full((20, 20, 3), value, np.uint8) for value in (10, 60, 110, 160)])
    show_tiles(axes, tiles)
    drawn = rgb_array(figure)[-310:-10, 10:310]
    assert [drawn[row, column, 0] for row in (75, 225) for column in (75, 225)] == [10, 60, 110, 160]
    assert (drawn[150] == 255).all() and (drawn[:, 150] == 255).all()


# The two programs ---------------------------------------------------------------------------------------------------


def history(epochs: int, level: float) -> dict:
    train = [
        {"iteration": k + 1, "epoch": k // 4 + 1, "learning_rate": 0.1 / (k + 1), "loss": level / (k + 1)}
        | {"re_loss": 0.1, "class_loss": level / (k + 2)}
        for k in range(4 * epochs)
    ]
    validation = [
        {"iteration": 4 * k, "epoch": k, "map": level * k, "average_precision": {"dog": level * k, "cat": 5.0}}
        | {"without_positive": ["ant"], "eval_class_loss": level / k, "map_scale": level / k}
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


def shown_in(path: str) -> list[str]:
    """Return the texts of an SVG."""
    return re.findall(r">([^<>\n]+)</text>", Path(path).read_text(encoding="utf-8"))


def test_curves_of_several_runs_are_one_picture(experiments, monkeypatch, capsys):
    typed(monkeypatch, plot_history.main, "one", "two")
    assert "experiments/pictures/history_one_two.png" in capsys.readouterr().out
    picture = np.asarray(Image.open("experiments/pictures/history_one_two.png"))
    # In each of the six charts, both colors (re_loss and learning rate coincide in both runs, the others differ).
    middle_column = picture.shape[1] // 2
    for part in np.array_split(picture[100:], 3):
        for half in (part[:, :middle_column], part[:, middle_column:]):
            for color in ((0, 114, 178), (213, 94, 0)):
                assert (half[..., :3] == color).all(-1).sum() > 50


def test_the_loss_that_is_minimized_is_first_and_the_sum_is_drawn_on_request(experiments, monkeypatch):
    typed(monkeypatch, plot_history.main, "one", "--out", "a.svg")
    titles = [text for text in shown_in("a.svg") if text in plot_history.TITLES.values()]
    assert titles[0] == "classification loss (class_loss)" and "Learning curves of one" in shown_in("a.svg")
    assert not {plot_history.TITLES["loss"], plot_history.TITLES["p_class_loss"]} & set(titles)
    typed(monkeypatch, plot_history.main, "one", "--values", "map", "loss", "--column", "single", "--out", "b.svg")
    titles = [text for text in shown_in("b.svg") if text in plot_history.TITLES.values()]
    assert titles == ["validation mAP, %", "weighted sum of the losses (loss)"]
    assert re.search(r'<svg[^>]*width="252pt"', Path("b.svg").read_text(encoding="utf-8"))  # 3.5 inches
    with pytest.raises(UserError, match="--values maps: choose from class_loss, map, "):
        typed(monkeypatch, plot_history.main, "one", "--values", "maps")


def test_runs_of_several_seeds_are_one_line_and_one_bar(experiments, monkeypatch):
    for seed, level in ((0, 10), (1, 14)):
        rows = history(3, level)
        for row in rows["validation"]:
            row["chance"] = {"dog": 12.5, "cat": 7.5, "ant": 0.0}
        (experiments / f"cMax_seed{seed}.json").write_text(json.dumps(rows))
    tags = ("cMax_seed0", "cMax_seed1")
    typed(monkeypatch, plot_history.main, *tags, "--seeds", "--out", "a.svg")
    assert {"cMax", "from the lowest to the highest run"} <= set(shown_in("a.svg"))
    typed(monkeypatch, plot_classes.main, *tags, "--seeds", "--out", "b.svg")
    # Of dog 30 and 42, of which the sample standard deviation is 8.5; the mean is that of the history's map.
    expected = {"cMax", "± standard deviation of runs", "36.0 ± 8.5", "5.0 ± 0.0", "none", "chance"}
    assert expected <= set(shown_in("b.svg"))
    typed(monkeypatch, plot_classes.main, *tags, "--out", "c.svg")
    assert {"cMax_seed0, epoch 3", "cMax_seed1, epoch 3", "30.0", "42.0"} <= set(shown_in("c.svg"))


def test_a_further_loss_has_a_chart_of_its_own_with_a_gap_for_runs_without_it(experiments, monkeypatch):
    further = history(3, 5)
    further["train"] = [{**row, "area_loss": 0.3, "class_loss": 0.2, "p_class_loss": 0.1} for row in further["train"]]
    baseline = history(3, 5)
    for row in baseline["train"]:
        del row["re_loss"]
    for tag, rows in (("further", further), ("baseline", baseline)):
        (experiments / f"{tag}.json").write_text(json.dumps(rows))
    drawn = {}
    monkeypatch.setattr(plot_history, "line_charts", lambda *words: drawn.update(words[2]) or line_charts(*words))
    typed(monkeypatch, plot_history.main, "further", "baseline", "--out", "curves.svg")
    found = shown_in("curves.svg")
    titles = [title for name, title in plot_history.TITLES.items() if name not in plot_history.ON_REQUEST]
    titles.append("area_loss")
    assert list(drawn) == titles and set(titles) <= set(found) and "none" not in found
    for title, value in (("area_loss", 0.3), ("reconstruction loss (re_loss)", 0.1)):
        with_loss, without = drawn[title]
        assert with_loss.y == [value] * 12 and len(without.y) == 12 and all(map(math.isnan, without.y))


def test_histories_of_earlier_versions_are_drawn_beside_new_ones(experiments, monkeypatch):
    """They named the learning rate lr and the mean mAP, and had no validation loss."""
    earlier = json.loads(json.dumps(history(3, 10)).replace('"learning_rate"', '"lr"').replace('"map"', '"mAP"'))
    for row in earlier["validation"]:
        del row["eval_class_loss"]
    (experiments / "earlier.json").write_text(json.dumps(earlier))
    drawn = {}
    monkeypatch.setattr(plot_history, "line_charts", lambda *words: drawn.update(words[2]) or line_charts(*words))
    typed(monkeypatch, plot_history.main, "one", "earlier")
    for title in ("learning rate", "validation mAP, %"):
        new, old = drawn[title]
        assert new.x == old.x and new.y == old.y and not any(map(math.isnan, old.y))
    new, old = drawn[plot_history.TITLES["eval_class_loss"]]
    assert new.y == [10, 5, 10 / 3] and all(map(math.isnan, old.y))
    typed(monkeypatch, plot_classes.main, "one", "earlier", "--out", "bars.svg")
    assert "earlier, epoch 3" in Path("bars.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "content",
    [
        [1],
        {"train": [1], "validation": []},
        {"train": [], "validation": [{"iteration": "x", "epoch": 1}]},
        {"train": [{"epoch": 1}], "validation": []},
        {"train": [], "validation": [{"iteration": 10**400, "epoch": 1}]},
        {"train": [], "validation": [{"iteration": 1, "epoch": 1, "average_precision": [1]}]},
        {"train": [], "validation": [{"iteration": 1, "epoch": 1, "without_positive": None}]},
        {"train": [], "validation": [{"iteration": 1, "epoch": 1, "chance": 7.0}]},
    ],
)
def test_what_is_not_a_history_is_refused(experiments, monkeypatch, content):
    (experiments / "odd.json").write_text(json.dumps(content))
    for main in (plot_history.main, plot_classes.main):
        with pytest.raises(UserError, match=r"odd.json is not the history"):
            typed(monkeypatch, main, "odd")


def test_values_that_are_not_numbers_are_gaps(experiments, monkeypatch):
    rows = history(2, 10)
    for row, value in zip(rows["train"], (None, "0.1", [1], math.nan, 10**400), strict=False):
        row["loss"] = value
    rows["validation"][1]["map"] = None
    (experiments / "gaps.json").write_text(json.dumps(rows))
    typed(monkeypatch, plot_history.main, "gaps")
    typed(monkeypatch, plot_classes.main, "gaps", "--out", "bars.svg")
    assert "gaps, epoch 1" in Path("bars.svg").read_text(encoding="utf-8")
    rows["validation"][0] |= {"map": "x", "average_precision": {"dog": "x", "cat": None}}
    rows["validation"][1] = {"iteration": 8, "epoch": 2}
    (experiments / "gaps.json").write_text(json.dumps(rows))
    typed(monkeypatch, plot_classes.main, "gaps", "one", "--out", "bars.svg")
    assert "gaps, epoch 1" in Path("bars.svg").read_text(encoding="utf-8")


def test_bars_show_the_best_epoch_of_every_run(experiments, monkeypatch):
    typed(monkeypatch, plot_classes.main, "one", "two", "--out", "bars.svg")
    found = shown_in("bars.svg")
    assert {"one, epoch 3", "two, epoch 3", "dog", "cat", "ant", "mean (mAP)"} <= set(found)
    assert {"30.0", "60.0", "5.0", "none"} <= set(found)


@pytest.mark.parametrize("main", [plot_history.main, plot_classes.main])
def test_mistakes_are_one_line(experiments, monkeypatch, main):
    with pytest.raises(UserError, match=r"no history .*nobody.json.*here: one, two"):
        typed(monkeypatch, main, "one", "nobody")
    for tag in "abcdefghi":
        (experiments / f"{tag}.json").write_text(json.dumps(history(1, 1)))
    with pytest.raises(UserError, match="only 8 have colors"):
        typed(monkeypatch, main, *"abcdefghi")
    (experiments / "odd.json").write_text("[1]")
    with pytest.raises(UserError, match="is not the history"):
        typed(monkeypatch, main, "odd")
    (experiments / "new.json").write_text(json.dumps({"train": [], "validation": []}))
    with pytest.raises(UserError, match="wait for"):
        typed(monkeypatch, main, "new")
    with pytest.raises(UserError, match="must end in"):
        typed(monkeypatch, main, "one", "--out", "x.gif")
    with pytest.raises(UserError, match="required: TAG"):
        typed(monkeypatch, main)


# Figures of scores ---------------------------------------------------------------------------------------------------


@pytest.fixture
def scored(tmp_path, monkeypatch) -> Scores:
    """Scores of two methods in one.npz and two.npz, of three classes of which one has no positive."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    labels = np.where(random.random((40, 3)) < [0.5, 0.3, 0], 1, -1).astype(np.int8)
    for name, noise in (("one", 1), ("two", 3)):
        found = Scores([f"image{row}" for row in range(40)], ["dog", "cat", "ant"],
                       labels + noise * random.standard_normal((40, 3)), labels)  # fmt: skip
        write_scores(Path(f"{name}.npz"), found)
    return found


def test_precision_recall_curves_end_at_the_share_of_positives(scored, monkeypatch, capsys):
    drawn = {}
    monkeypatch.setattr(reports, "line_charts", lambda *words: drawn.update(words[2]) or line_charts(*words))
    kind = ("--kind", "precision_recall")
    typed(monkeypatch, plot_scores.main, "--scores", "one.npz", "two.npz", *kind, "--out", "a.svg")
    assert "written: a.svg" in capsys.readouterr().out
    assert list(drawn) == ["dog", "cat"]
    for v, lines in enumerate(drawn.values()):
        for line in lines:
            assert (line.x[0], line.y[0]) == (100, pytest.approx(100 * (scored.labels[:, v] > 0).mean()))
    averages = [average_precision_score(scored.labels[:, v] > 0, scored.scores[:, v]) for v in (0, 1)]
    assert {"dog", "cat", f"two, mAP {100 * np.mean(averages):.1f}"} <= set(shown_in("a.svg"))
    typed(monkeypatch, plot_scores.main, "--scores", "two.npz", *kind, "--column", "single", "--out", "b.svg")
    assert {f"dog {100 * averages[0]:.1f}", f"cat {100 * averages[1]:.1f}"} <= set(shown_in("b.svg"))


def test_a_co_occurrence_matrix_is_drawn_from_labels(scored, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plot_scores, "matrix_charts", lambda *words: drawn.update(words[-1]) or matrix_charts(*words))
    typed(monkeypatch, plot_scores.main, "--scores", "one.npz", "--kind", "co_occurrence", "--out", "a.pdf")
    (shares,) = drawn.values()
    present = scored.labels > 0
    assert shares[0, 1] == pytest.approx(100 * (present[:, 0] & present[:, 1]).sum() / present[:, 0].sum())
    assert Path("a.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("classes, expected", [(2, ["7", "0"]), (13, [])])
def test_the_cells_of_a_small_matrix_have_their_numbers(classes, expected):
    names, counts = [f"class {v}" for v in range(classes)], np.zeros((classes, classes))
    counts[0, 1] = 7
    figure = matrix_charts("Classes", names, {"images": counts, "none": 0 * counts})
    figure.draw_without_rendering()
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == expected
    assert [tick.get_text() for tick in figure.axes[-1].get_xticklabels()] == ["0", "1"]


def test_figures_of_other_scores_are_kept(scored, monkeypatch, capsys):
    for column in ("screen", "single", "screen"):
        words = ("--scores", "one.npz", "--kind", "precision_recall", "--column", column)
        typed(monkeypatch, plot_scores.main, *words)
    assert "precision_recall_one_2.png" in capsys.readouterr().err
    assert len(list(Path("experiments/pictures").iterdir())) == 2


def test_mistakes_with_scores_are_one_line(scored, monkeypatch):
    write_scores(Path("other.npz"), scored.select(range(20)))
    (experiments := Path("deep")).mkdir()
    write_scores(experiments / "one.npz", scored)
    for words, message in (
        (["one.npz", "other.npz"], "other.npz has .* other images than the first"),
        (["one.npz", "deep/one.npz"], "deep/one.npz has the name of another file"),
        (["one.npz", "--out", "a.gif"], "must end in"),
        (["none.npz"], "none.npz"),
    ):
        with pytest.raises(UserError, match=message):
            typed(monkeypatch, plot_scores.main, "--kind", "precision_recall", "--scores", *words)
