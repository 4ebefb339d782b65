"""Classes of your own images, and where a trained network looks for them.

    python3 inference_classification.py --tag TAG --images photos/ --pictures
    python3 inference_classification.py --tag TAG --images photos/ --compare
    python3 inference_classification.py --tag TAG --data_dir VOC2012 --split val --compare

Writes a table (CSV and JSON) of each image's predicted classes, their scores and keypoints in the image's own pixels,
and with --pictures a picture of each image under the class activation maps of its classes. Instead, --compare draws
the four strategies side by side on a few images (the paper's figure 2), and --tiles the four tiles of an image and the
map merged from them; both also take a labeled split, whose boxes they show. The description beside
the checkpoint says how it was trained.
"""

import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from core.cam import make_cam
from core.evaluation.classifier import Result, TrainedClassifier, load_classifier, predicted_classes
from core.evaluation.loading import check_image_size, keypoints_of
from core.evaluation.pairs import PresentClasses
from core.evaluation.panels import Example, draw_strategies, draw_tiles
from core.evaluation.prediction import PRECISIONS, autocast
from core.strategy import STRATEGIES
from tools.data.datasets import VOCClassification, preprocess
from tools.data.images import find_images, upright_size
from tools.data.transforms import evaluation_transform, normalize
from tools.metrics.reports import PredictionTable, prediction_paths
from tools.metrics.scores import SCORE_SUFFIXES, write_score_file
from tools.metrics.thresholds import recorded_thresholds
from tools.pictures.figure import check_picture_path, recorded_in_picture, write_picture
from tools.pictures.panels import PANEL
from tools.runs.folder import Folder, checkpoint_path
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, advice, first_few, printable, quoted, reason, run_main
from tools.system.files import check_writable, read_object, result_path

MOST_EXAMPLES = 190  # as a picture has room for
MAX_NAME = 200  # bytes: a file system takes 255, and the temporary file beside a picture has a longer name
STRATEGY_HELP = f"whose keypoints: {', '.join(STRATEGIES)}, or FILE.py that declares STRATEGY (default: as trained)"
PICTURES_HELP = "draw each image too (default: experiments/pictures/NAME, or beside --out)"
SCORES_HELP = "also write the score of every class: a table FILE.csv, or FILE.npz for evaluation's --scores"
OUT_HELP = "table (default experiments/predictions/NAME.csv, and .json), or picture (.png, .jpg, .pdf or .svg)"

_checkpoint, _images, _predictions = (partial(argument, group=name) for name in ("checkpoint", "images", "predictions"))
_output, _computing = (partial(argument, group=name) for name in ("output", "computing"))
_rule, _drawing = partial(_predictions, at_most_one_of="rule"), partial(_output, at_most_one_of="drawing")


@dataclass(frozen=True)
class Config(Arguments):
    tag: str | None = _checkpoint(None, "use experiments/models/best_TAG.pth", one_of="checkpoint")
    weights: str | None = _checkpoint(None, "use this file, described by a .json of the same name", one_of="checkpoint")
    architecture: str | None = _checkpoint(None, "as in training (default: the description's)")
    class_file: str | None = _checkpoint(None, "names of the classes (default: the description's)")
    images: list[str] | None = _images(None, "files, folders (with all below them) or quoted patterns", one_of="images")
    data_dir: str | None = _images(None, "devkit folder, for --compare and --tiles of a --split", one_of="images")
    split: str = _images("val", "list in data/, or of the devkit as Main/val")
    count: int = _images(4, "the first images, drawn by --compare and --tiles", least=1, most=MOST_EXAMPLES)
    image_size: int | None = _images(None, "longer side (a split: crop), pixels, divisible by 32 (default: as trained)")
    threshold: float = _rule(0.5, "predict the classes with at least this score", least=0, most=1)
    thresholds: str | None = _rule(None, "instead, each class's own: a file of tools.thresholds")
    top: int | None = _rule(None, "predict the K highest-scoring classes", least=1, metavar="K", aliases=("topk",))
    strategy: str | None = _predictions(None, STRATEGY_HELP)
    pictures: str | None = _output(None, PICTURES_HELP, bare="", metavar="FOLDER")
    compare: bool = _drawing(False, "draw the four strategies side by side instead")
    tiles: bool = _drawing(False, "draw tiles and merged maps instead")
    panel_size: int = _output(PANEL, "longer side of an image in a picture, pixels", least=100, most=2000)
    out: Path | None = _output(None, OUT_HELP, names_file=True)
    scores_out: Path | None = _output(None, SCORES_HELP, metavar="FILE", names_file=True)
    quiet: bool = _output(False, "no line per image")
    batch_size: int = _computing(16, "images per batch", least=1)
    num_workers: int = _computing(0, "processes that read images (0: this one)", least=0)
    device: str = _computing("auto", "auto, cpu, cuda or cuda:N")
    amp: str = _computing("off", "precision; off: float32", choices=PRECISIONS)

    def check(self) -> None:
        check_image_size(self.image_size)
        instead = "--compare and --tiles draw a picture of their own (--out)"
        for name in ("pictures", "scores_out"):
            if self.draws_examples and getattr(self, name) is not None:
                raise UserError(f"--{name} belongs to the table; {instead}")
        if self.scores_out and self.scores_out.suffix not in SCORE_SUFFIXES:
            raise UserError(f"--scores_out {self.scores_out}: must end in {' or '.join(SCORE_SUFFIXES)}")
        if self.draws_examples and self.out:
            check_picture_path(self.out)
        if self.draws_examples and self.count * self.panel_size > MOST_EXAMPLES * PANEL:
            raise UserError(f"--count {self.count} is too many at --panel_size {self.panel_size}: show fewer")

    @property
    def draws_examples(self) -> bool:
        """Whether it draws a few images in detail instead of writing the table."""
        return self.compare or self.tiles or bool(self.data_dir)


def run(model: TrainedClassifier, config: Config) -> int:
    """Write the table, or draw the examples; return the exit status: 1 if images were skipped."""
    return draw_examples(model, config) if config.draws_examples else predict_images(model, config)


def settings_of(model: TrainedClassifier, config: Config) -> dict[str, Any]:
    """Return what tells these predictions or pictures from others."""
    strategy = model.keypoints.name if model.keypoints else None
    about = {"checkpoint": str(model.checkpoint), "strategy": strategy, "image_size": model.image_size}
    about |= {"amp": config.amp} if config.amp != "off" else {}
    about |= {"topk": config.top} if config.top else {"threshold": config.threshold}
    about |= {"class_names": model.class_names, **recorded_thresholds(config.thresholds)}
    about |= {} if config.pictures is None else {"pictures": config.pictures or True}
    images = [str(Path(name).resolve()) for name in config.images or ()]
    return about | {"source": images or [f"{Path(config.data_dir).resolve()}, {config.split}"]}


# The table and its pictures ----------------------------------------------------------------------------------------


def predict_images(model: TrainedClassifier, config: Config) -> int:
    """Write the table of `--images`, and their pictures if wanted; return 1 if an image or a picture failed."""
    with advice("check --images"):
        paths, others = find_images(config.images)
    if others:
        print(f"note: {len(others):,} other files there were skipped ({first_few([quoted(str(p)) for p in others])})")
    about, folder, used = settings_of(model, config), None, set()
    logits, skipped, undrawn, without = {}, 0, 0, 0  # logits by image
    if config.scores_out:
        check_writable(config.scores_out)
    out = config.out or result_path(Folder().predictions(model.checkpoint), about, recorded_predictions)
    if config.pictures is not None:
        beside = prediction_paths(out)[0].with_suffix("")
        folder = Path(config.pictures or (beside if config.out else Folder().pictures(beside.name)))
    with PredictionTable(out, about) as table:
        results = model.results(paths, config.batch_size, config.num_workers)
        for result in tqdm(results, "inference", len(paths), unit="image", disable=None):
            if result.problem:
                skipped += 1
                tqdm.write(f"skipped: {printable(result.problem)}", file=sys.stderr)
                continue
            labels, more = result.labels(topk=config.top), {}
            without += not labels
            logits[printable(result.path)] = result.logits.numpy()
            if not config.quiet:
                tqdm.write(line_of(result, labels))
            if folder is not None:
                drawn = draw_result(result, labels, folder / unused_name(result.path, used), config.panel_size)
                more, undrawn = {"picture": drawn} if drawn else {}, undrawn + (not drawn)
            table.add(result.path, result.size, result.predictions(labels), **more)
    print(f"written: {table.paths[0]} and {table.paths[1]}" + (f", pictures in {folder}" if folder else ""))
    if config.scores_out and logits:
        write_score_file(config.scores_out, [*logits], model.class_names, np.stack([*logits.values()]))
        print(f"written: {config.scores_out}")
    print(f"{len(paths):,} images, {skipped:,} skipped, {without:,} without a predicted class")
    if skipped:
        print(f"{skipped} images could not be read and were skipped", file=sys.stderr)
    return int(skipped + undrawn > 0)


def recorded_predictions(path: Path) -> dict[str, Any] | None:
    """Return what the table of predictions at `path` says it was made with, or None if there is none."""
    described = prediction_paths(path)[1]
    if not path.exists() and not described.exists():
        return None
    return {name: value for name, value in read_object(described).items() if name != "images"}


def line_of(result: Result, labels: list[str]) -> str:
    """Return an image's predicted classes with their scores, or its strongest one in parentheses."""
    found = ", ".join(f"{name} {result.scores[name]:.2f}" for name in labels or result.labels(topk=1))
    return printable(f"{result.path}: {found if labels else f'none (strongest: {found})'}")


def draw_result(result: Result, labels: list[str], path: Path, panel_size: int) -> str:
    """Write the picture of an image's classes; return its path, or "" if it failed, which a line then says."""
    try:
        write_picture(path, result.plot(*labels), scale=panel_size / PANEL)
        return str(path)
    except Exception as error:  # whatever Pillow, matplotlib or the disk refuse: the table matters more
        tqdm.write(f"no picture of {printable(result.path)}: {printable(reason(error))}", file=sys.stderr)
        return ""


def unused_name(path: str, used: set[str]) -> str:
    """Return the name of the picture of the image `path`: its own, shortened, numbered if another image has it too."""
    stem = os.fsdecode(os.fsencode(Path(path).stem)[:MAX_NAME])
    names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
    name = next(name for name in names if name.lower() not in used)
    used.add(name.lower())
    return f"{name}.png"


# The strategies side by side, and tiles ----------------------------------------------------------------------------


@torch.inference_mode()
def draw_examples(model: TrainedClassifier, config: Config) -> int:
    """Draw the picture of `--compare` or `--tiles`; return 0."""
    if config.tiles and model.keypoints is None:
        raise UserError(f"--tiles: {model.checkpoint} was trained without keypoints: name a strategy with --strategy")
    examples = []
    for image, present, boxes in read_examples(model, config):
        image = image.to(model.device)
        with autocast(model.device, config.amp):
            logits, features = model.network(image[None])
        logits = logits[0].float().cpu()
        if present is None:
            present = predicted_classes(logits, model.threshold, config.top)
            present = present if len(present) else logits.argmax()[None]
        shown = present[logits[present].argmax()][None]
        title = f"{model.class_names[shown]} {torch.sigmoid(logits[shown]).item():.2f}"
        cams, normalization = make_cam(features[0].float()), model.description.normalization
        indices = (index.to(model.device) for index in (present, shown))
        examples.append(Example(image, cams, *indices, title, normalization, boxes))
    if config.tiles:
        figure = draw_tiles(model.network, examples, model.keypoints, model.options)
    else:
        figure = draw_strategies(examples, model.options, model.keypoints)
    about = settings_of(model, config) | {"count": config.count, "panel_size": config.panel_size}
    default = Folder().picture(f"{'tiles' if config.tiles else 'keypoints'}_{model.checkpoint.stem}")
    out = config.out or result_path(default, about, recorded_in_picture)
    write_picture(out, figure, about, config.panel_size / PANEL)
    print(f"written: {out}")
    return 0


def read_examples(model: TrainedClassifier, config: Config) -> Iterator[tuple[torch.Tensor, torch.Tensor | None, dict]]:
    """Yield the first `--count` images, `[3, S, S]`, each with its classes (None: those predicted) and their boxes."""
    if config.images:
        with advice("check --images"):
            paths = find_images(config.images)[0][: config.count]
        for path in paths:
            yield preprocess(path, model.image_size, model.description.normalization).canvas, None, {}
        return
    resize = model.description.arguments.get("eval_resize") is True
    transform = evaluation_transform(model.image_size, resize)
    with advice("check --data_dir and --split; python3 -m tools.check_data lists every problem of a split"):
        dataset = VOCClassification(config.data_dir, config.split, model.class_names, transform)
    labeled = dataset.labels.any(1).nonzero()[: config.count, 0].tolist()
    if not labeled:
        raise UserError(f"no image of split '{config.split}' has a label")
    for index in labeled:
        pixels, labels, _ = dataset[index]
        width, height = upright_size(dataset.paths[index])
        boxed = [item for item in dataset.objects(index) if item.box]
        present = PresentClasses([boxed], [(height, width)], len(labels), model.image_size, resize)
        yield normalize(pixels, model.description.normalization), labels.nonzero()[:, 0], present.boxes[0]


def main() -> None:
    config = parse(Config, __doc__)
    path, threshold = checkpoint_path(config.tag, config.weights), config.thresholds or config.threshold
    how = (config.architecture, config.class_file, config.image_size, config.strategy, threshold)
    model = load_classifier(path, *how, config.device, config.amp)
    keypoints_of(model.description, config.strategy)  # refused before any image is read
    sys.exit(run(model, config))


if __name__ == "__main__":
    run_main(main)
