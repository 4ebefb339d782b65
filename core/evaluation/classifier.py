"""A trained network from Python: images in; scores, class activation maps and keypoints out.

    model = load_classifier("experiments/models/best_Dogs.pth")
    result = model.predict("photo.jpg")
    result.scores["dog"], result.labels(), result.cam("dog"), result.keypoint("dog")

`inference_classification.py` calls this module, so both compute the same bits for the same batches of images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from core.cam import make_cam
from core.evaluation.folding import folded
from core.evaluation.loading import UnknownStrategy, check_image_size, choose_device, keypoints_of, trained_network
from core.evaluation.panels import draw_prediction
from core.evaluation.prediction import autocast
from core.networks import Classifier
from core.strategy import Keypoints, Options
from tools.data.datasets import ImageFiles, Letterboxed, image_loader
from tools.data.devkit import read_class_names
from tools.data.images import ImageSource, as_rgb, find_images
from tools.data.transforms import covered_cells
from tools.metrics.reports import Prediction
from tools.metrics.thresholds import read_thresholds
from tools.pictures.figure import rgb_array
from tools.runs.checkpoints import Description
from tools.runs.hub import weights_file
from tools.system.errors import UserError, advice, first_few, quoted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained network in evaluation mode, and how its images are prepared and its keypoints found."""

    checkpoint: Path
    network: Classifier
    description: Description  # of the checkpoint, with what the caller replaced
    keypoints: Keypoints | None  # None: its strategy has none
    options: Options
    device: torch.device
    amp: str = "off"
    threshold: float | torch.Tensor = 0.5  # a class with at least this score is predicted; `[V]`: above its own

    class_names = property(attrgetter("description.class_names"), doc="The V classes, in the order of the logits.")
    image_size = property(attrgetter("description.image_size"), doc="S, pixels.")

    def predict(
        self, images: ImageSource | Sequence[ImageSource], batch_size: int = 16, num_workers: int = 0
    ) -> Result | list[Result]:
        """Return the result of an image (a file, a PIL image or pixels, see `as_rgb`), or those of a list or a folder.

        Raises:
            UserError: the image cannot be read. Of several images, its result has a `problem` instead.
        """
        if isinstance(images, str | Path) and os.path.isdir(images):
            images = find_images([str(images)])[0]
        elif isinstance(images, ImageSource):
            (result,) = self.results([images])
            if result.problem:
                raise UserError(result.problem)
            return result
        return list(self.results(images, batch_size, num_workers))

    @torch.inference_mode()
    def results(self, images: Sequence[ImageSource], batch_size: int = 16, num_workers: int = 0) -> Iterator[Result]:
        """Yield the result of each image, batch by batch, for any number of them; `num_workers` processes read them."""
        files = ImageFiles(images, self.image_size, self.description.normalization)
        sources = iter(images)
        for batch in image_loader(files, batch_size, num_workers):
            found = iter(())
            if canvases := [item.canvas for item in batch if not item.problem]:
                with autocast(self.device, self.amp):
                    logits, features = self.network(torch.stack(canvases).to(self.device))
                found = zip(logits.float().cpu(), features.cpu(), strict=True)
            for item in batch:
                outputs = (torch.zeros(0), torch.zeros(0)) if item.problem else next(found)
                # The canvas, the largest part by far, keeps its sides alone.
                yield Result(self, next(sources), item._replace(canvas=item.canvas[:0].clone()), *outputs)


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What a network finds in an image. Maps and keypoints refer to the upright image, in its own pixels."""

    model: TrainedClassifier
    source: ImageSource  # as it was given; it is read again for `plot`
    item: Letterboxed  # where it is on the network's canvas
    logits: torch.Tensor  # `[V]` float32, on the CPU; empty if it has a `problem`
    features: torch.Tensor  # of the CAM branch `[V, n, n]`, on the CPU; empty if it has a `problem`

    def __repr__(self) -> str:
        found = self.problem or ", ".join(f"{name} {self.scores[name]:.2f}" for name in self.labels()) or "no class"
        return f"<{self.path or 'image'}: {found}>"

    path = property(attrgetter("item.path"), doc="The image's file; empty for pixels.")
    size = property(attrgetter("item.size"), doc="(height, width) of the upright image, pixels.")
    problem = property(attrgetter("item.problem"), doc="Why it cannot be read, in one line; empty if it can.")

    @cached_property
    def scores(self) -> dict[str, float]:
        """Scores in 0…1 by class. Rank by `logits`: the scores of those above 17 are equal."""
        return dict(zip(self.model.class_names, torch.sigmoid(self.logits).tolist(), strict=not self.problem))

    def labels(self, threshold: float | None = None, topk: int | None = None) -> list[str]:
        """Return the classes with at least this score (None: the model's `threshold`), or the top K, highest first."""
        predicted = predicted_classes(self.logits, self.model.threshold if threshold is None else threshold, topk)
        return [self.model.class_names[index] for index in predicted]

    def cams(self, names: Sequence[str]) -> torch.Tensor:
        """Return the class activation maps of C classes on the network's canvas: `[C, n, n]`, 0 outside the image."""
        if self.problem:
            raise UserError(self.problem)
        if unknown := [str(name) for name in names if name not in self.scores]:
            raise UserError(f"unknown class {quoted(unknown[0])}: choose one of {first_few(list(self.scores), 100)}")
        maps = self.features[[self.model.class_names.index(name) for name in names]]
        inside = covered_cells(torch.tensor(self.item.box), self.model.image_size, maps.shape[-1])
        return make_cam(maps.float() * inside)

    def cam(self, name: str) -> np.ndarray:
        """Return the class activation map of a class in the image's own pixels: float32 `[height, width]` in 0…1."""
        heat = torch.from_numpy(self.item.heat_of(self.cams([name])[0]))
        return F.interpolate(heat[None, None], self.size, mode="bilinear")[0, 0].numpy()

    def keypoint(self, name: str) -> tuple[int, int] | None:
        """Return the (row, column) where the strategy would cut the image for a class; None if it has no keypoints.

        Max has one keypoint per image, for all predicted classes; `name` then counts as predicted.
        """
        others = self.labels() if self.model.keypoints and self.model.keypoints.per_image else []
        return self.keypoints(list(dict.fromkeys([name, *others])))[0]

    def keypoints(self, names: Sequence[str]) -> list[tuple[int, int] | None]:
        """Return a keypoint for each of these classes, see `keypoint`, as if they were the predicted ones."""
        model, cams = self.model, self.cams(names)
        if not model.keypoints or not names:
            return [None] * len(names)
        found = model.keypoints.of_image(cams, torch.arange(len(cams)), model.image_size, model.options)
        return [self.item.to_original(point) for point in found.tolist()]

    def predictions(self, names: Sequence[str]) -> list[Prediction]:
        """Return classes with their scores and keypoints."""
        points = self.keypoints(names)
        return [Prediction(name, self.scores[name], point) for name, point in zip(names, points, strict=True)]

    def plot(self, *names: str) -> Figure:
        """Draw the image, and map, keypoint and cut of each class: those named, else predicted, else the strongest."""
        note = "" if names or self.labels() else "no class predicted; strongest:"
        shown = names or self.labels() or self.labels(topk=1)
        return draw_prediction(self.item, as_rgb(self.source), self.cams(shown), self.predictions(shown), note)

    def _repr_png_(self) -> bytes | None:
        """The picture that a notebook shows."""
        return None if self.problem else Image.fromarray(rgb_array(self.plot()))._repr_png_()


def predicted_classes(
    logits: torch.Tensor, threshold: float | torch.Tensor = 0.5, topk: int | None = None
) -> torch.Tensor:
    """Return the indices of the classes that logits `[V]` predict, highest first: scores would be equal from 17 on.

    A class needs at least the threshold, or to be above its own of thresholds `[V]`; `topk`: the K highest instead.
    """
    order = logits.argsort(descending=True, stable=True)
    scores = torch.sigmoid(logits.double())  # as in the evaluation that chose thresholds
    reached = scores > threshold if torch.is_tensor(threshold) else scores >= threshold
    return order[:topk] if topk else order[reached[order]]


def _refuse(error: UserError, *_: object) -> None:
    raise error


def load_classifier(
    path: str | Path,
    architecture: str | None = None,
    class_names: Sequence[str] | str | Path | None = None,
    image_size: int | None = None,
    strategy: str | None = None,
    threshold: float | str | Path = 0.5,
    device: str = "auto",
    amp: str = "off",
) -> TrainedClassifier:
    """Load a checkpoint of ours or of the official code, or a folder with `config.json` and weights.

    The arguments are the command line's: they replace what the .json file beside it, or the folder's config.json, says.
    A UserError says what does not fit. Of a strategy that is unknown here without `strategy`, only keypoints raise it.

    Args:
        class_names: in any order, or a class file.
        threshold: see `TrainedClassifier`, or a file of `tools.thresholds`.
    """
    checkpoint = weights_file(Path(path))
    if isinstance(class_names, str | Path):
        class_names = read_class_names(class_names)
    check_image_size(image_size)
    network, description = trained_network(checkpoint, architecture, class_names and list(class_names))
    description = replace(description, image_size=image_size or description.image_size)
    try:
        how = keypoints_of(description, strategy)
    except UnknownStrategy as error:
        how = Keypoints(description.strategy, partial(_refuse, error)), Options()
    where = choose_device(device)
    if isinstance(threshold, str | Path):
        with advice("check --thresholds"):
            threshold = torch.tensor(read_thresholds(Path(threshold), description.class_names).thresholds)
    return TrainedClassifier(checkpoint, folded(network).to(where), description, *how, where, amp, threshold)
