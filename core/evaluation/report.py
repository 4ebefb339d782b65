"""The report of an evaluation: what its page shows, and pictures of the worst errors."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from core.cam import make_cam
from core.evaluation.pairs import PresentClasses
from core.evaluation.panels import draw_example
from tools.data.annotations import VOCObject
from tools.data.datasets import VOCImages
from tools.data.images import upright_size
from tools.data.transforms import covered_cells
from tools.metrics.bootstrap import Interval
from tools.metrics.calibration import reliability
from tools.metrics.labels import label_report, suspicious_table
from tools.metrics.multilabel import MEANS, Metrics
from tools.metrics.reports import precision_recall_figure
from tools.metrics.scores import Scores
from tools.pictures.charts import Line, line_charts
from tools.pictures.report import Picture, Section, embedded, write_page

ERRORS = 12  # misses, and as many false alarms
SUSPICIOUS = 50  # labels in the table
EXPLAINED = {"misses": "Present classes with the lowest scores."}
EXPLAINED |= {"false alarms": "Absent classes with the highest scores; the label may be wrong, too."}
Pair = tuple[int, int]  # (row, column) of the arrays: an image and a class


class Evaluation(NamedTuple):
    """What an evaluation found."""

    scored: Scores
    labels: np.ndarray  # boolean `[N, V]`
    counted: np.ndarray  # boolean `[N, V]`: False leaves a pair out
    threshold: float | np.ndarray  # of the predicted classes, one or `[V]`
    metrics: Metrics
    interval: Interval | None


def worst_errors(ranked: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> dict[str, list[Pair]]:
    """Return the present classes that score least and the absent ones that score most, at most `ERRORS` of each.

    >>> worst_errors(np.array([[0.9, 0.2]]), np.array([[False, True]]), np.array([[True, True]]))
    {'misses': [(0, 1)], 'false alarms': [(0, 0)]}
    """
    found = {}
    for kind, wanted, order in (("misses", labels & counted, ranked), ("false alarms", ~labels & counted, -ranked)):
        order = np.where(wanted, order, np.inf)
        first = np.argsort(order, axis=None, kind="stable")[: min(ERRORS, wanted.sum())]
        found[kind] = [tuple(map(int, pair)) for pair in zip(*np.unravel_index(first, ranked.shape), strict=True)]
    return found


def evaluation_page(
    path: Path, title: str, found: Evaluation, pictures: dict[Pair, str], about: dict[str, Any], more: list[Section]
) -> None:
    """Write the page: with the pictures of `worst_errors` that there are, and `more` sections before `about`."""
    sections = [_summary(found), _classes(found), _curves(found), _calibration(found), *_errors(found, pictures)]
    write_page(path, title, [*sections, *_labels(found), *more, Section("Provenance", facts=about)])


def _summary(found: Evaluation) -> Section:
    means, interval = found.metrics.means, found.interval
    facts = {"mAP": f"{means['mAP']:.2f}"}
    if interval:
        facts["95 % interval of the mAP"] = f"{interval} (over images)"
    facts["mAP by chance"] = f"{means['chance']:.2f}: what scores that ignore the image reach"
    facts |= {name: f"{means[name]:.2f}" for name in MEANS} | {"images": f"{len(found.scored.ids):,}"}
    facts["classes"] = f"{len(found.scored.class_names):,}, present {found.labels[found.counted].sum():,} times"
    text = "All values are in %. CP … OF1 are of the classes that score above their threshold."
    return Section("Summary", text, facts)


def _classes(found: Evaluation) -> Section:
    names, shown = found.scored.class_names, ("AP", "chance", "positives", "precision", "recall")
    columns = [*(found.metrics.per_class[column] for column in shown), np.broadcast_to(found.threshold, len(names))]
    rows = [list(row) for row in zip(names, *(column.tolist() for column in columns), strict=True)]
    return Section("Classes", "Select a column's name to sort by it.", {}, ["class", *shown, "threshold"], rows)


def _curves(found: Evaluation) -> Section:
    scored = found.scored
    figure = precision_recall_figure({"": (scored.scores, found.labels, found.counted)}, scored.class_names)
    described = "A precision-recall curve for each class; the table above has their AP."
    return Section("Precision and recall", pictures=[Picture(embedded(figure), described)])


def _calibration(found: Evaluation) -> Section:
    curve = reliability(found.scored.probabilities[found.counted], found.labels[found.counted])
    points = [(100 * values).tolist() for values in (curve.confidence, curve.frequency)]
    chart = [Line("perfect", [0, 100], [0, 100]), Line("these scores", *points)]
    figure = line_charts("Share of positives, %", "predicted probability, %", {"all pairs of image and class": chart})
    text = f"The expected calibration error is {100 * curve.error:.2f} %, in {len(curve.count)} bins."
    return Section("Calibration", text, pictures=[Picture(embedded(figure), f"Reliability diagram. {text}")])


def _errors(found: Evaluation, pictures: dict[Pair, str]) -> Iterator[Section]:
    scored, scores = found.scored, found.scored.probabilities
    for kind, pairs in worst_errors(scored.scores, found.labels, found.counted).items():
        rows, shown = [], []
        for row, v in pairs:
            image, name, score = scored.ids[row], scored.class_names[v], float(scores[row, v])
            rows.append([image, name, score])
            if source := pictures.get((row, v)):
                caption = f"{name} {score:.3f} in {image}"
                shown.append(Picture(source, f"Image {image} under the map of {name}", caption))
        columns, rows = ([], []) if shown else (["image", "class", "score"], rows)
        yield Section(f"Worst {kind}", EXPLAINED[kind], {}, columns, rows, shown)


def _labels(found: Evaluation) -> list[Section]:
    arrays = (found.labels, found.counted)
    figure = label_report(found.scored, *arrays, found.scored.probabilities > found.threshold)[3]
    described = "Matrices of the classes that occur together, and of those that are taken for each other"
    text = "The diagonal, each class with itself, is left white."
    together = Section("Classes together", text, pictures=[Picture(embedded(figure), described)])
    columns, *rows = suspicious_table(found.scored, *arrays)
    some = f"; the clearest {SUSPICIOUS} are shown" if len(rows) > SUSPICIOUS else ""
    text = f"{len(rows):,} labels that the scores contradict, by the rule of confident learning{some}. "
    text += "Scores of images that were trained on do not tell."
    return [together, Section("Suspicious labels", text, {}, columns, rows[:SUSPICIOUS])]


def draw_errors(
    pairs: list[Pair],
    images: VOCImages,
    objects: list[list[VOCObject]],
    resize: bool,
    features_of: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> dict[Pair, str]:
    """Return the sources of pictures of (image, class) pairs: what the network sees, under its map of the class.

    Args:
        images: with the transform of the evaluation, `evaluation_transform` with `resize`.
        objects: of every image those whose boxes are drawn.
        features_of: the CAM branch's features `[1, V, n, n]` of pixels uint8 `[1, S, S, 4]`; None: there are no maps.
    """
    pictures = {}
    for row, v in pairs:
        pixels = images[row][0]
        size, boxed = upright_size(images.paths[row])[::-1], [item for item in objects[row] if item.box]
        seen, cam = PresentClasses([boxed], [size], 0, len(pixels), resize), None  # 0: no mean over classes
        if features_of:
            features = features_of(pixels[None])[0, v].float()
            cam = make_cam(features * covered_cells(seen.frames[0], len(pixels), len(features)))
        boxes = [box for of_class in seen.boxes[0].values() for box in of_class]
        pictures[row, v] = embedded(draw_example(np.asarray(pixels), cam, boxes), "jpg")
    return pictures
