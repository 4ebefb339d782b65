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
from tools.data.transforms import denormalize, normalize
from tools.pictures.panels import BAR, color_bar, draw_class, panel_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 8
COLUMNS = 4
SIDE = 240  # of a panel, pixels


@torch.no_grad()
def draw_snapshot(
    student: Classifier, dataset: VOCClassification, strategy: Strategy, options: Options, title: str
) -> Figure | None:
    """Draw images of as many classes as possible, each under the map of one of its classes, with the score.

    They are the same at every call; None if none has a label. The network stays in its mode. If the strategy has no
    keypoints, only the maps are drawn.
    """
    chosen = varied(dataset.labels, IMAGES)
    if not chosen:
        return None
    training, device, keypoints = student.training, next(student.parameters()).device, strategy.shown_keypoints()
    student.eval()
    figure, grid = panel_grid(math.ceil(len(chosen) / COLUMNS), [SIDE] * COLUMNS + [BAR], SIDE, title)
    for (index, label), axes in zip(chosen, grid[:, :-1].flat, strict=False):  # the last row may have room
        image = normalize(dataset[index][0], student.normalization)
        logits, features = student(image[None].to(device))
        cams, keypoint, size = make_cam(features[0].float()), None, image.shape[-1]
        if keypoints:
            present = dataset.labels[index].nonzero()[:, 0] if keypoints.per_image else torch.tensor([label])
            keypoint = keypoints.of_image(cams, present.to(device), size, options)[0].tolist()
        heat = resize_cams(cams[label, None], size)[0].cpu().numpy()
        caption = f"{dataset.class_names[label]} {torch.sigmoid(logits[0, label]):.2f}"
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
