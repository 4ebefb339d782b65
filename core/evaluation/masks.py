"""Maps as segmentation seeds: their mIoU with a devkit's masks, over all thresholds of the background."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from core.evaluation.maps import THRESHOLDS, Maps
from core.evaluation.pairs import Pairs, PresentClasses
from tools.data.images import opened_image
from tools.system.errors import UserError, first_few

VOID = 255  # pixels of a mask that do not count


class Seeds:
    """Measures, image by image, the seeds of several kinds of maps against the masks in `SegmentationClass`.

    A pixel is of the present class whose map is strongest there, and of the background if that does not exceed the
    threshold. The mIoU is the mean over the background and the classes that the masks show. Its maximum over the
    thresholds is optimistic, so `result` also has it at the threshold that is best on other images: the seeds of
    another split, `elsewhere`, or for each half of the images the other half.

    Of the images `ids` those with a mask count; none is a `UserError`.
    """

    def __init__(self, data_dir: Path, ids: list[str], present: PresentClasses, maps: Maps):
        masks = {index: data_dir / "SegmentationClass" / f"{name}.png" for index, name in enumerate(ids)}
        self.masks = {index: path for index, path in masks.items() if path.is_file()}
        if not self.masks:
            raise UserError(f"{data_dir / 'SegmentationClass'} lacks the masks of all images, such as {ids[0]}.png")
        self.present, self.maps = present, maps
        self.elsewhere: Seeds | None = None
        # Pixels: by half of the images (every other one), kind, right/predicted/true, class, threshold.
        self.areas = np.zeros((2, len(maps.kinds), 3, present.num_classes + 1, len(THRESHOLDS)), int)
        self.images = self.unlabeled = 0

    @torch.no_grad()
    def observe(self, features: Tensor, indices: Tensor) -> None:
        """Take in a batch: features of the CAM branch `[B, V, n, n]`, and indices of the images `[B]`."""
        pairs = self.present.pairs(indices.tolist(), features.device)
        self.add(self.maps.of_pairs(features, pairs), pairs, indices.tolist())

    def add(self, maps: Tensor, pairs: Pairs, indices: list[int]) -> None:
        """Take in the maps `[kinds, K, S, S]` of the images `indices`."""
        for at, index in enumerate(indices):
            if index not in self.masks:
                continue
            own, size = pairs.image == at, self.present.sizes[index]
            top, left, bottom, right = self.present.regions[index].tolist()
            of_image = pad(maps[:, own, top:bottom, left:right], (0, 0, 0, 0, 1, 0))
            if self.present.resize:
                of_image = interpolate(of_image, size, mode="bilinear", align_corners=False)
            truth = read_mask(self.masks[index], self.present.num_classes, size)
            truth = truth[: of_image.shape[2], : of_image.shape[3]]
            counted, classes = truth != VOID, np.array([0, *(pairs.label[own].cpu().numpy() + 1)])
            strength, which = (part[:, counted] for part in map(np.asarray, of_image.cpu().max(1)))
            for kind, areas in enumerate(self.areas[self.images % 2]):
                areas += seed_areas(truth[counted], classes[which[kind]], strength[kind], self.present.num_classes)
            self.images += 1
            self.unlabeled += bool(set(np.unique(truth[counted])) - {0, *classes})

    def result(self, kind: int) -> dict[str, Any]:
        """Return the mIoU in % of a kind of maps, at its best threshold and at those of other images, and its curve."""
        halves = self.areas[:, kind]
        chosen_on = [self.elsewhere.areas[:, kind].sum(0)] * 2 if self.elsewhere else halves[::-1]
        chosen = [int(mean_iou(areas).argmax()) for areas in chosen_on]
        curve, best = mean_iou(halves.sum(0)), mean_iou(halves.sum(0)).argmax()
        at_chosen = halves[0, ..., chosen[0]] + halves[1, ..., chosen[1]]
        result = {"best mIoU": float(curve[best]), "its threshold": float(THRESHOLDS[best])}
        result |= {"mIoU": float(mean_iou(at_chosen)), "thresholds": THRESHOLDS[chosen].tolist()}
        return result | {"curve": curve.tolist()}

    def note(self) -> str:
        """Say what is counted, and where the threshold of the mIoU comes from."""
        where = f"{self.elsewhere.images:,} other masks" if self.elsewhere else "the other half of them"
        wrong = f", of which {self.unlabeled:,} show classes that the annotations lack" if self.unlabeled else ""
        return f"mIoU of seeds: {self.images:,} masks{wrong}; the threshold is the best on {where}"


def seed_areas(truth: np.ndarray, strongest: np.ndarray, strength: np.ndarray, num_classes: int) -> np.ndarray:
    """Return numbers of pixels that are right, predicted and true, by class and threshold: `[3, V + 1, thresholds]`.

    Args:
        truth, strongest: classes of pixels `[P]`, 0 is the background; strength: `[P]`, of the strongest's map.
    """
    exceeded = np.searchsorted(THRESHOLDS, strength)  # how many thresholds are below
    shape = (num_classes + 1, len(THRESHOLDS) + 1)

    def above(classes: np.ndarray, which: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return how many pixels of each class exceed each threshold `[V + 1, thresholds]`."""
        flat = classes[which].astype(int) * shape[1] + exceeded[which]
        counts = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
        return (counts.sum(1, keepdims=True) - counts.cumsum(1))[:, :-1]

    right, predicted, foreground = above(truth, truth == strongest), above(strongest), above(truth)
    true = np.bincount(truth, minlength=shape[0])[:, None].repeat(len(THRESHOLDS), 1)
    right[0], predicted[0] = true[0] - foreground[0], len(truth) - foreground.sum(0)
    return np.stack((right, predicted, true))


def mean_iou(areas: np.ndarray) -> np.ndarray:
    """Return the mIoU in % of areas `[3, V + 1, …]`, over the classes with a true pixel; 0 without any."""
    areas = areas[:, areas[2].reshape(areas.shape[1], -1)[:, 0] > 0]
    right, predicted, true = areas
    return 100 * (right / (predicted + true - right)).sum(0) / max(len(true), 1)


def read_mask(path: Path, num_classes: int, size: tuple[int, int]) -> np.ndarray:
    """Return the class of each pixel, 0 for the background and `VOID` for none: `[height, width]`."""
    with opened_image(path) as image:
        mask = np.asarray(image)
    if mask.shape != size:
        raise UserError(f"{path} has the shape {mask.shape}, and its image {size} (height, width)")
    if wrong := sorted(set(np.unique(mask).tolist()) - {*range(num_classes + 1), VOID}):
        raise UserError(f"{path} has values ({first_few(list(map(str, wrong)))}) beyond the {num_classes} classes")
    return mask
