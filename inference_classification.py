"""Classes of your own images, and where a trained network looks for them.

    python3 inference_classification.py --tag TAG --images photos/ --pictures
    python3 inference_classification.py --tag TAG --images photos/ --compare
    python3 inference_classification.py --tag TAG --data_dir VOC2012 --split val --compare

Writes a table (CSV and JSON) of each image's predicted classes, their scores and keypoints in the image's own pixels,
and with --pictures a picture of each image under the class activation maps of its classes. --compare draws instead
the four strategies side by side on a few images (the paper's figure 2), --tiles the four tiles of a crop and the map
laid together from them; for these, --data_dir and --split stand for a labeled split, without --images.

Architecture, classes, image size and strategy are read from the description beside the checkpoint.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from core.cam import make_cam
from core.evaluation.loading import check_image_size, choose_device, trained_network
from core.evaluation.panels import PANEL, class_panel, four_strategies, tiles_view, with_bar_space
from core.networks import Classifier
from core.strategy import STRATEGIES, Cutting
from tools.data.datasets import ImageFiles, Letterboxed, VOCClassification, image_loader
from tools.data.images import find_images, read_upright
from tools.data.transforms import denormalize, evaluation_transform, normalize
from tools.metrics.reports import Prediction, PredictionTable
from tools.pictures.panels import (
    caption,
    check_picture_path,
    color_bar,
    grid,
    on_white,
    resized,
    sheet,
    write_picture,
)
from tools.runs.folder import EXPERIMENTS, checkpoint_path
from tools.system.command_line import Parser
from tools.system.errors import UserError, advice, run_main

COLUMNS = 4  # panels in a row of a picture
NARROWEST = 160  # pixels of a panel, so that its caption fits


@dataclass(frozen=True)
class View:
    """What images are looked at with.

    Attributes:
        network: in evaluation mode, on `device`.
        class_names: V names.
        image_size: S, pixels.
        cutting: how keypoints are found.
    """

    network: Classifier
    device: torch.device
    class_names: list[str]
    image_size: int
    cutting: Cutting


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    group = parser.add_argument_group("checkpoint")
    which = group.add_mutually_exclusive_group(required=True)
    which.add_argument("--tag", help="look through experiments/models/best_TAG.pth")
    which.add_argument("--weights", help="look through this checkpoint, described by a .json of the same name")
    group = parser.add_argument_group("images")
    group.add_argument("--images", nargs="+", help="files, folders (with all below them) or quoted patterns")
    group.add_argument("--data_dir", help="devkit folder, for --compare and --tiles on a labeled split")
    group.add_argument("--split", default="val", help="list in data/, or of the devkit as Main/val (default val)")
    group.add_argument("--count", type=int, default=4, help="images of --compare and --tiles, the first (default 4)")
    group.add_argument(
        "--image_size",
        type=int,
        help="--images are resized so that the longer side has so many pixels, divisible by "
        "32; a split is cropped to it, as in evaluation (default: as trained)",
    )
    group = parser.add_argument_group("predictions")
    chosen = group.add_mutually_exclusive_group()
    chosen.add_argument("--threshold", type=float, default=0.5, help="predict classes of at least this score (0.5)")
    chosen.add_argument("--topk", type=int, help="predict so many classes, the best, whatever their scores")
    group.add_argument("--strategy", choices=STRATEGIES, help="whose keypoint (default: the one that was trained)")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--pictures",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="also a picture of each image (default folder experiments/pictures/NAME)",
    )
    drawn = group.add_mutually_exclusive_group()
    drawn.add_argument("--compare", action="store_true", help="draw the four strategies side by side instead")
    drawn.add_argument("--tiles", action="store_true", help="draw tiles and merged maps instead")
    group.add_argument(
        "--out",
        help="table to write (default experiments/predictions/NAME.csv, and .json beside it), "
        "or with --compare and --tiles the picture",
    )
    group = parser.add_argument_group("computing")
    group.add_argument("--batch_size", type=int, default=16, help="images at once (default 16)")
    group.add_argument("--num_workers", type=int, default=0, help="processes that read images (default 0: this one)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    args = parser.parse_args()
    _check(args)
    return args


def _check(args: argparse.Namespace) -> None:
    if not args.images and not args.data_dir:
        raise UserError("no images: give --images with files, folders or patterns, or --data_dir with a --split")
    if args.images and args.data_dir:
        raise UserError("--images and --data_dir exclude each other: give one of them")
    if args.data_dir and not args.tiles:
        args.compare = True
    if not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold}: must be from 0 to 1")
    for name, least in (("topk", 1), ("count", 1), ("batch_size", 1), ("num_workers", 0)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise UserError(f"--{name} {getattr(args, name)}: must be {least} or more")
    if args.image_size is not None:
        check_image_size(args.image_size)
    if args.compare or args.tiles:
        _check_drawing(args)


def _check_drawing(args: argparse.Namespace) -> None:
    if args.pictures is not None:
        raise UserError("--pictures belongs to the table; --compare and --tiles draw a picture of their own (--out)")
    if args.out:
        check_picture_path(Path(args.out))


def predicted_classes(scores: torch.Tensor, threshold: float, topk: int | None) -> torch.Tensor:
    """Indices of the classes that scores `[V]` predict, the best first."""
    order = scores.argsort(descending=True, stable=True)
    return order[:topk] if topk else order[scores[order] >= threshold]


# The table and its pictures ----------------------------------------------------------------------------------------


def predict_images(args: argparse.Namespace, view: View, checkpoint: Path) -> int:
    """Write the table of `--images`, and their pictures where wanted; gives the number of images left out."""
    with advice("check --images"):
        paths = find_images(args.images)
    out = Path(args.out) if args.out else EXPERIMENTS / "predictions" / f"{checkpoint.stem}.csv"
    folder = None
    if args.pictures is not None:
        folder = Path(args.pictures) if args.pictures else EXPERIMENTS / "pictures" / out.stem
    about = {"checkpoint": str(checkpoint), "strategy": view.cutting.strategy, "image_size": view.image_size}
    about |= {"topk": args.topk} if args.topk else {"threshold": args.threshold}
    loader = image_loader(paths, view.image_size, args.batch_size, args.num_workers)
    names, left_out = PictureNames(), 0
    with PredictionTable(out, about) as table, tqdm(total=len(paths), unit="image", desc="inference") as bar:
        for batch in loader:
            for item in batch:
                if item.problem:
                    tqdm.write(f"skipped: {item.problem}", file=sys.stderr)
                    left_out += 1
            for item, cams, scores in look_at(view, [item for item in batch if not item.problem]):
                labels = predicted_classes(scores, args.threshold, args.topk)
                found = predictions_of(item, cams, scores, labels, view)
                more = {}
                if folder is not None:
                    more["picture"] = str(folder / names.of(item.path))
                    write_picture(Path(more["picture"]), picture_of(item, cams[labels], found, scores, view))
                table.add(item.path, item.size, found, **more)
            bar.update(len(batch))
    print(f"written: {table.paths[0]} and {table.paths[1]}" + (f", pictures in {folder}" if folder else ""))
    return left_out


def predictions_of(
    item: Letterboxed, cams: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, view: View
) -> list[Prediction]:
    """Name, score and keypoint of the classes `labels` `[C]` of an image with maps `[V, n, n]` and scores `[V]`."""
    if not len(labels):
        return []
    keypoints = view.cutting.keypoints(cams, labels, view.image_size).tolist()
    return [
        Prediction(view.class_names[label], float(scores[label]), item.to_original(keypoint))
        for label, keypoint in zip(labels.tolist(), keypoints)
    ]


@torch.no_grad()
def look_at(view: View, batch: list[Letterboxed]) -> Iterator[tuple[Letterboxed, torch.Tensor, torch.Tensor]]:
    """Each image with its maps `[V, n, n]`, 0 where there is no image, and scores `[V]`."""
    if not batch:
        return
    images = torch.stack([item.canvas for item in batch]).to(view.device)
    logits, features = view.network(images)
    scores = torch.sigmoid(logits).cpu()
    for item, maps, image_scores in zip(batch, features.float().cpu(), scores):
        yield item, make_cam(maps * item.covered_cells(maps.shape[-1])), image_scores


class PictureNames:
    """File names of pictures: the image's own, numbered where two images share it."""

    def __init__(self):
        self._taken: set[str] = set()

    def of(self, path: str) -> str:
        """The picture's name for the image `path`."""
        stem, name, number = Path(path).stem, Path(path).stem, 1
        while name.lower() in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name.lower())
        return f"{name}.png"


def picture_of(
    item: Letterboxed, cams: torch.Tensor, found: list[Prediction], scores: torch.Tensor, view: View
) -> np.ndarray:
    """An image, and beside it the map, keypoint and cut of each of its predicted classes.

    Args:
        item: the image; its file is read again, for the picture shows it at its own resolution.
        cams: maps of the predicted classes `[C, n, n]`, and `found` what is known of them.
        scores: of all classes `[V]`.
    """
    picture = np.asarray(read_upright(Path(item.path)))
    plain = resized(picture, PANEL)
    if not found:
        best = int(scores.argmax())
        note = f"none (best: {view.class_names[best]} {scores[best]:.2f})"
        return sheet([[caption(caption(on_white(plain, 0, PANEL), note), Path(item.path).name)]])
    panels = [caption(on_white(plain, 0, NARROWEST), Path(item.path).name)]
    for cam, prediction in zip(cams, found):
        title = f"{prediction.name} {prediction.score:.2f}"
        panels.append(class_panel(picture, item.heat_of(cam), prediction.keypoint, title, PANEL, NARROWEST))
    page = grid(panels, COLUMNS)
    return sheet([[page, with_bar_space(color_bar(max(len(plain), 80), "0", "1"))]], gap=0)


# The strategies side by side, and tiles ----------------------------------------------------------------------------


def examples_of(args: argparse.Namespace, view: View) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """The first `--count` images, `[3, S, S]`, each with the indices of its classes (None: those predicted)."""
    if args.images:
        with advice("check --images"):
            images = ImageFiles(find_images(args.images)[: args.count], view.image_size)
        for index in range(len(images)):
            item = images[index]
            if item.problem:
                raise UserError(item.problem)
            yield item.canvas, None
        return
    transform = evaluation_transform(view.image_size)
    with advice("check --data_dir and --split; python3 -m tools.check_data lists every problem of a split"):
        dataset = VOCClassification(args.data_dir, args.split, view.class_names, transform)
    labeled = torch.nonzero(dataset.labels.any(1)).flatten().tolist()[: args.count]
    if not labeled:
        raise UserError(f"no image of split '{args.split}' has a label")
    for index in labeled:
        pixels, labels, _ = dataset[index]
        yield normalize(pixels), labels.nonzero()[:, 0]


@torch.no_grad()
def draw_examples(args: argparse.Namespace, view: View, checkpoint: Path) -> None:
    """Draw the sheet of `--compare` or `--tiles`."""
    rows = []
    for image, present in examples_of(args, view):
        image = image.to(view.device)
        logits, features = view.network(image[None])
        scores = torch.sigmoid(logits[0])
        if present is None:
            present = predicted_classes(scores, args.threshold, args.topk)
            present = present if len(present) else scores.argmax()[None]
        present = present.to(view.device)
        shown = int(present[scores[present].argmax()])
        name = f"{view.class_names[shown]} {scores[shown]:.2f}"
        picture = denormalize(image).numpy()
        if args.tiles:
            rows.append([tiles_view(view.network, image, picture, shown, name, view.cutting)])
        else:
            rows.append(four_strategies(picture, make_cam(features[0]), present, shown, name, view.cutting))
    kind = "tiles" if args.tiles else "keypoints"
    out = Path(args.out) if args.out else EXPERIMENTS / "pictures" / f"{kind}_{checkpoint.stem}.png"
    write_picture(out, sheet(rows, gap=0 if args.tiles else 10))
    print(f"written: {out}")


def main() -> None:
    """Draw what is asked for, or write the table."""
    args = parse_arguments()
    checkpoint = checkpoint_path(args.tag, args.weights)
    network, description = trained_network(checkpoint)
    device = choose_device(args.device)
    view = View(
        network=network.to(device),
        device=device,
        class_names=description["class_names"],
        image_size=args.image_size or description["image_size"],
        cutting=Cutting.of(description, args.strategy),
    )
    if args.compare or args.tiles:
        draw_examples(args, view, checkpoint)
        return
    left_out = predict_images(args, view, checkpoint)
    if left_out:
        print(f"{left_out} images could not be read and are left out", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
