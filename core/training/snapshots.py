"""Snapshots of training: the same few validation images under the network's maps, to compare between epochs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from core.cam import make_cam
from core.keypoints import resize_cams
from core.networks import Classifier
from core.strategy import Options, Strategy
from tools.data.datasets import VOCClassification
from tools.data.transforms import denormalize, evaluation_transform, normalize
from tools.pictures.panels import BAR, color_bar, draw_class, panel_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 8
COLUMNS = 4
SIDE = 240  # of a panel, pixels


class Snapshots:
    """The same validation images, of as many classes as possible, drawn whenever `take` is called.

    The dataset's own transform is not used. If the strategy has no keypoints, only the maps are drawn.
    """

    def __init__(
        self,
        dataset: VOCClassification,
        image_size: int,
        strategy: Strategy,
        options: Options,
        eval_resize: bool = False,
    ):
        self.dataset = dataset
        self.transform = evaluation_transform(image_size, eval_resize)
        self.keypoints = strategy.shown_keypoints()
        self.options = options
        self.chosen = varied(dataset.labels, IMAGES)

    @torch.no_grad()
    def take(self, student: Classifier, title: str) -> Figure | None:
        """Draw each image under the map of one of its classes, with the score, or return None if none has a label.

        The network stays in its mode.
        """
        if not self.chosen:
            return None
        training, device = student.training, next(student.parameters()).device
        student.eval()
        figure, grid = panel_grid(math.ceil(len(self.chosen) / COLUMNS), [SIDE] * COLUMNS + [BAR], SIDE, title)
        for (index, label), axes in zip(self.chosen, grid[:, :-1].flat, strict=False):  # the last row may have room
            image = normalize(self.transform(self.dataset.image(index)), student.normalization)
            logits, features = student(image[None].to(device))
            cams, keypoint, size = make_cam(features[0].float()), None, image.shape[-1]
            if self.keypoints:
                present = self.dataset.labels[index].nonzero()[:, 0]
                classes = present if self.keypoints.per_image else torch.tensor([label])
                keypoint = self.keypoints.of_image(cams, classes.to(device), size, self.options)[0].tolist()
            heat = resize_cams(cams[label, None], size)[0].cpu().numpy()
            caption = f"{self.dataset.class_names[label]} {torch.sigmoid(logits[0, label]):.2f}"
            shown = draw_class(axes, denormalize(image, student.normalization).numpy(), heat, keypoint, caption)
        color_bar(grid[0, -1], shown)
        student.train(training)
        return figure


def varied(labels: torch.Tensor, count: int) -> list[tuple[int, int]]:
    """Return at most `count` pairs (image, one of its classes) of labels `[N, V]`, of as many classes as possible."""
    chosen: dict[int, int] = {}
    # In rounds: one image of every class, then a second one, while there are new ones.
    for label in [*range(labels.shape[1])] * count:
        images = [index for index in labels[:, label].nonzero()[:, 0].tolist() if index not in chosen]
        if images and len(chosen) < count:
            chosen[images[0]] = label
    return list(chosen.items())
