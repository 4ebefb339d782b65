"""Classes of your own images, and where a trained network looks for them.

    python3 inference_classification.py --tag TAG --images photos/ --pictures
    python3 inference_classification.py --tag TAG --images photos/ --compare
    python3 inference_classification.py --tag TAG --data_dir VOC2012 --split val --compare

Writes a table (CSV and JSON) of each image's predicted classes, their scores and keypoints in the image's own pixels,
and with --pictures a picture of each image under the class activation maps of its classes. Instead, --compare draws
the four strategies side by side on a few images (the paper's figure 2), and --tiles draws the four tiles of an image
and the map merged from them; both also take a labeled split (--data_dir and --split) instead of --images.

Architecture, classes, image size and strategy are read from the description beside the checkpoint.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from core.cam import make_cam
from core.evaluation.loading import check_image_size, choose_device, keypoints_of, trained_network
from core.evaluation.panels import Example, draw_prediction, draw_strategies, draw_tiles
from core.networks import Classifier
from core.strategy import STRATEGIES, Keypoints, Options
from tools.data.datasets import ImageFiles, Letterboxed, VOCClassification, image_loader
from tools.data.devkit import read_class_names
from tools.data.images import find_images
from tools.data.transforms import evaluation_transform, normalize
from tools.metrics.reports import Prediction, PredictionTable
from tools.pictures.figure import check_picture_path, write_picture
from tools.runs.folder import Folder, checkpoint_path
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, advice, run_main


@dataclass(frozen=True)
class Config(Arguments):
    tag: str | None = argument(None, "use experiments/models/best_TAG.pth", group="checkpoint", one_of="checkpoint")
    weights: str | None = argument(
        None, "use this checkpoint, described by a .json of the same name", group="checkpoint", one_of="checkpoint"
    )
    architecture: str | None = argument(None, "of the network (default: the description's)", group="checkpoint")
    class_file: str | None = argument(None, "names of the classes (default: the description's)", group="checkpoint")
    images: list[str] | None = argument(None, "files, folders (with all below them) or quoted patterns", group="images")
    data_dir: str | None = argument(None, "devkit folder, for --compare and --tiles on a labeled split", group="images")
    split: str = argument("val", "list in data/, or of the devkit as Main/val", group="images")
    count: int = argument(4, "the first images, drawn by --compare and --tiles", group="images", least=1)
    image_size: int | None = argument(
        None,
        "--images are resized so that the longer side has this many pixels, divisible by 32; a split is cropped to it, "
        "as in evaluation (default: as trained)",
        group="images",
    )
    threshold: float = argument(
        0.5, "predict the classes with at least this score", group="predictions", at_most_one_of="rule", least=0, most=1
    )
    topk: int | None = argument(
        None, "predict the K highest-scoring classes", group="predictions", at_most_one_of="rule", least=1, metavar="K"
    )
    strategy: str | None = argument(
        None,
        f"whose keypoint: {', '.join(STRATEGIES)}, or FILE.py that declares STRATEGY (default: the trained one's)",
        group="predictions",
    )
    pictures: str | None = argument(
        None,
        "also draw each image (default folder experiments/pictures/NAME)",
        group="output",
        bare="",
        metavar="FOLDER",
    )
    compare: bool = argument(
        False, "draw the four strategies side by side instead", group="output", at_most_one_of="drawing"
    )
    tiles: bool = argument(False, "draw tiles and merged maps instead", group="output", at_most_one_of="drawing")
    out: Path | None = argument(
        None,
        "table to write (default experiments/predictions/NAME.csv, and .json beside it), or with --compare and --tiles "
        "the picture (.png, .jpg, .pdf or .svg)",
        group="output",
    )
    batch_size: int = argument(16, "images per batch", group="computing", least=1)
    num_workers: int = argument(0, "processes that read images (0: this one)", group="computing", least=0)
    device: str = argument("auto", "auto, cpu, cuda or cuda:N", group="computing")

    def check(self) -> None:
        if not self.images and not self.data_dir:
            raise UserError("no images: give --images with files, folders or patterns, or --data_dir with a --split")
        if self.images and self.data_dir:
            raise UserError("--images and --data_dir exclude each other: give one of them")
        if self.image_size is not None:
            check_image_size(self.image_size)
        if not self.draws_examples:
            return
        if self.pictures is not None:
            raise UserError(
                "--pictures belongs to the table; --compare and --tiles draw a picture of their own (--out)"
            )
        if self.out:
            check_picture_path(self.out)

    @property
    def draws_examples(self) -> bool:
        """Whether it draws a few images in detail (`--compare`, `--tiles`) instead of writing the table."""
        return self.compare or self.tiles or bool(self.data_dir)


@dataclass(frozen=True)
class LoadedModel:
    """A trained network and how its keypoints are found.

    Attributes:
        checkpoint: the network's file.
        network: in evaluation mode, on `device`.
        class_names: V names.
        image_size: S, pixels.
        keypoints: of its strategy; None if that has none.
        options: of the keypoints.
    """

    checkpoint: Path
    network: Classifier
    device: torch.device
    class_names: list[str]
    image_size: int
    keypoints: Keypoints | None
    options: Options


def load_model(config: Config) -> LoadedModel:
    """Load what the arguments name.

    Raises:
        UserError: no such checkpoint, or its description does not suffice.
    """
    checkpoint = checkpoint_path(config.tag, config.weights)
    class_names = read_class_names(config.class_file) if config.class_file else None
    network, description = trained_network(checkpoint, config.architecture, class_names)
    keypoints, options = keypoints_of(description, config.strategy)
    device = choose_device(config.device)
    image_size = config.image_size or description.image_size
    return LoadedModel(checkpoint, network.to(device), device, description.class_names, image_size, keypoints, options)


def run(model: LoadedModel, config: Config) -> int:
    """Write the table, or draw the examples; return the exit status: 1 if images were skipped."""
    if config.draws_examples:
        draw_examples(model, config)
        return 0
    skipped = predict_images(model, config)
    if skipped:
        print(f"{skipped} images could not be read and were skipped", file=sys.stderr)
    return 1 if skipped else 0


def predicted_classes(scores: torch.Tensor, threshold: float, topk: int | None) -> torch.Tensor:
    """Return the indices of the classes that scores `[V]` predict, highest score first."""
    order = scores.argsort(descending=True, stable=True)
    return order[:topk] if topk else order[scores[order] >= threshold]


# The table and its pictures ----------------------------------------------------------------------------------------


def predict_images(model: LoadedModel, config: Config) -> int:
    """Write the table of `--images`, and their pictures if wanted; return how many images were skipped."""
    with advice("check --images"):
        paths = find_images(config.images)
    out = config.out or Folder().predictions(model.checkpoint)
    folder = None
    if config.pictures is not None:
        folder = Path(config.pictures) if config.pictures else Folder().pictures(out.stem)
    strategy = model.keypoints.name if model.keypoints else None
    about = {"checkpoint": str(model.checkpoint), "strategy": strategy, "image_size": model.image_size}
    about |= {"topk": config.topk} if config.topk else {"threshold": config.threshold}
    loader = image_loader(paths, model.image_size, config.batch_size, config.num_workers)
    used, skipped = set(), 0
    with PredictionTable(out, about) as table, tqdm(total=len(paths), unit="image", desc="inference") as bar:
        for batch in loader:
            for item in batch:
                if item.problem:
                    tqdm.write(f"skipped: {item.problem}", file=sys.stderr)
                    skipped += 1
            for item, cams, scores in predict_batch(model, [item for item in batch if not item.problem]):
                labels = predicted_classes(scores, config.threshold, config.topk)
                predictions = predictions_of(model, item, cams, scores, labels)
                more = {}
                if folder is not None:
                    more["picture"] = str(folder / unused_name(item.path, used))
                    figure = draw_prediction(item, cams[labels], predictions, scores, model.class_names)
                    write_picture(Path(more["picture"]), figure)
                table.add(item.path, item.size, predictions, **more)
            bar.update(len(batch))
    print(f"written: {table.paths[0]} and {table.paths[1]}" + (f", pictures in {folder}" if folder else ""))
    return skipped


@torch.no_grad()
def predict_batch(
    model: LoadedModel, batch: list[Letterboxed]
) -> Iterator[tuple[Letterboxed, torch.Tensor, torch.Tensor]]:
    """Yield each image with its maps `[V, n, n]`, 0 outside the image, and its scores `[V]`, on the CPU."""
    if not batch:
        return
    images = torch.stack([item.canvas for item in batch]).to(model.device)
    logits, features = model.network(images)
    scores = torch.sigmoid(logits).cpu()
    for item, maps, image_scores in zip(batch, features.float().cpu(), scores, strict=True):
        yield item, make_cam(maps * item.covered_cells(maps.shape[-1])), image_scores


def predictions_of(
    model: LoadedModel, item: Letterboxed, cams: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor
) -> list[Prediction]:
    """Return name, score and keypoint of the classes `labels` `[C]` of an image; see `predict_batch`."""
    keypoints: list[tuple[int, int] | None] = [None] * len(labels)
    if model.keypoints and len(labels):
        found = model.keypoints.of_image(cams, labels, model.image_size, model.options)
        keypoints = [item.to_original(keypoint) for keypoint in found.tolist()]
    return [
        Prediction(model.class_names[label], float(scores[label]), keypoint)
        for label, keypoint in zip(labels.tolist(), keypoints, strict=True)
    ]


def unused_name(path: str, used: set[str]) -> str:
    """Return the name of the picture of the image `path`: the image's own, numbered if another image has it too."""
    stem, name, number = Path(path).stem, Path(path).stem, 1
    while name.lower() in used:
        number += 1
        name = f"{stem}_{number}"
    used.add(name.lower())
    return f"{name}.png"


# The strategies side by side, and tiles ----------------------------------------------------------------------------


@torch.no_grad()
def draw_examples(model: LoadedModel, config: Config) -> None:
    """Draw the picture of `--compare` or `--tiles`."""
    if config.tiles and model.keypoints is None:
        raise UserError(f"--tiles: {model.checkpoint} was trained without keypoints: name a strategy with --strategy")
    examples = []
    for image, present in read_examples(model, config):
        image = image.to(model.device)
        logits, features = model.network(image[None])
        scores = torch.sigmoid(logits[0])
        if present is None:
            present = predicted_classes(scores, config.threshold, config.topk)
            present = present if len(present) else scores.argmax()[None]
        present = present.to(model.device)
        shown = int(present[scores[present].argmax()])
        title = f"{model.class_names[shown]} {scores[shown]:.2f}"
        examples.append(Example(image, make_cam(features[0]), present, shown, title))
    kind = "tiles" if config.tiles else "keypoints"
    out = config.out or Folder().picture(f"{kind}_{model.checkpoint.stem}")
    if config.tiles:
        figure = draw_tiles(model.network, examples, model.keypoints, model.options)
    else:
        figure = draw_strategies(examples, model.options, model.keypoints)
    write_picture(out, figure)
    print(f"written: {out}")


def read_examples(model: LoadedModel, config: Config) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Yield the first `--count` images, `[3, S, S]`, each with the indices of its classes (None: those predicted)."""
    if config.images:
        with advice("check --images"):
            images = ImageFiles(find_images(config.images)[: config.count], model.image_size)
        for index in range(len(images)):
            item = images[index]
            if item.problem:
                raise UserError(item.problem)
            yield item.canvas, None
        return
    transform = evaluation_transform(model.image_size)
    with advice("check --data_dir and --split; python3 -m tools.check_data lists every problem of a split"):
        dataset = VOCClassification(config.data_dir, config.split, model.class_names, transform)
    labeled = torch.nonzero(dataset.labels.any(1)).flatten().tolist()[: config.count]
    if not labeled:
        raise UserError(f"no image of split '{config.split}' has a label")
    for index in labeled:
        pixels, labels, _ = dataset[index]
        yield normalize(pixels), labels.nonzero()[:, 0]


def main() -> None:
    config = parse(Config, __doc__)
    status = run(load_model(config), config)
    if status:
        sys.exit(status)


if __name__ == "__main__":
    run_main(main)
