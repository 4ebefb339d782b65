"""Maps of (image, class) pairs: a network's own, its Grad-CAM and LayerCAM, and chance; and how they frame objects.

Shapes: K pairs, D channels, V classes, n cells and S pixels of a map's side.
"""

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from core.cam import make_cam
from core.evaluation.pairs import Pairs
from core.keypoints import resize_cams
from core.networks import Classifier
from tools.data.transforms import covered_cells

CENTRE = "centre"
THRESHOLDS = np.arange(100) / 100  # of maps in 0…1: what exceeds one counts as object
IOUS = (0.3, 0.5, 0.7)  # those of MaxBoxAccV2
PAIRS_AT_ONCE = 16  # whose gradients are computed together: each has a copy of its image's features


class Maps:
    """The maps that are measured, by kind.

    CAM: the network's own. Grad-CAM and LayerCAM: of the backbone's output x for the logit of the class,
    relu(Σ_c mean_hw(∂logit/∂x_c) · x_c) and relu(Σ_c relu(∂logit/∂x_c) · x_c). Centre, which needs no network: a
    Gaussian at the center of the visible image, σ a quarter of its sides.

    References: Selvaraju et al., Grad-CAM, ICCV 2017; Jiang et al., LayerCAM, IEEE TIP 2021.
    """

    def __init__(self, image_size: int, network: Classifier | None = None):
        self.image_size, self.network = image_size, network
        self.kinds = ["CAM", *(("Grad-CAM", "LayerCAM") if network else ()), CENTRE]
        if network:  # the features that it returns remember what they were computed from
            (network.own_head or network.classifier).register_forward_hook(_remember_source)

    def of_pairs(self, features: Tensor, pairs: Pairs) -> Tensor:
        """Return maps in 0…1 at the size of the canvas, `[kinds, K, S, S]`, from features `[B, V, n, n]`."""
        if not len(pairs.image):
            return torch.zeros(len(self.kinds), 0, self.image_size, self.image_size, device=features.device)
        of_cells = [features[pairs.image, pairs.label].float()]
        if self.network:
            of_cells += self._from_gradients(features, pairs)
        inside = covered_cells(pairs.frames, self.image_size, features.shape[-1])[pairs.image]
        maps = [resize_cams(make_cam(of_kind * inside), self.image_size) for of_kind in of_cells]
        start, end = pairs.region[:, :2, None], pairs.region[:, 2:, None]
        pixels = 2 * torch.arange(self.image_size, device=features.device) + 1
        rows, columns = torch.exp(-2 * ((pixels - start - end) / (end - start)).square()).unbind(1)
        return torch.stack([*maps, rows[:, :, None] * columns[:, None]])

    def _from_gradients(self, features: Tensor, pairs: Pairs) -> Tensor:
        """Return Grad-CAM and LayerCAM before their ReLU, which `make_cam` applies: `[2, K, n, n]`."""
        found = []
        with torch.inference_mode(False), torch.enable_grad():
            parts = (of_pairs.clone().split(PAIRS_AT_ONCE) for of_pairs in (pairs.image, pairs.label))
            for image, label in zip(*parts, strict=True):
                x = features.source[image].float().requires_grad_()  # a copy for each pair, which its logit alone sees
                logits = self.network.from_backbone(x)[0].gather(1, label[:, None])
                (slopes,) = torch.autograd.grad(logits.sum(), x)
                weights, x = (slopes.mean((2, 3), keepdim=True), slopes.relu()), x.detach()
                found.append(torch.stack([(weight * x).sum(1) for weight in weights]))
        return torch.cat(found, 1)


def _remember_source(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, Tensor]) -> None:
    (output[1] if isinstance(output, tuple) else output).source = inputs[0]


def best_overlaps(maps: Tensor, pairs: Pairs) -> list[np.ndarray]:
    """Return `overlaps_by_threshold` of maps `[kinds, K, S, S]` with a pair's boxes, for each pair that shows any."""

    def of_pair(pair: int) -> np.ndarray:
        top, left, bottom, right = pairs.region[pair].tolist()
        boxes = (pairs.boxes[pairs.owner == pair] - pairs.region[pair, [0, 1, 0, 1]]).cpu()
        of_kinds = maps[:, pair, top:bottom, left:right].cpu().numpy()
        return np.stack([overlaps_by_threshold(of_kind, boxes) for of_kind in of_kinds])

    return [of_pair(pair) for pair in pairs.shown.nonzero()[:, 0].tolist()]


def overlaps_by_threshold(heat: np.ndarray, boxes: Tensor) -> np.ndarray:
    """Return by threshold the largest IoU of a box around a part of the map with one of `boxes`: `[thresholds]`.

    The map `[h, w]` is scaled to 0…1 by its minimum and maximum; the parts are the connected components (8 neighbors)
    of the pixels that exceed the threshold. Boxes are `[T, 4]` (top, left, bottom, right), the last two exclusive.
    """
    heat = heat.astype(float) - heat.min()
    if not heat.any():
        return np.zeros(len(THRESHOLDS))
    exceeded = np.searchsorted(THRESHOLDS, heat / heat.max()).astype(np.uint8)  # how many thresholds a pixel exceeds
    parts, starts = [], []  # of all thresholds, and where those of each begin: every threshold has one
    for at in range(len(THRESHOLDS)):
        # 8 times faster than `connectedComponentsWithStats`. Contours with a parent are those of holes.
        contours, (family,) = cv2.findContours((exceeded > at).view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        starts.append(len(parts))
        parts += [cv2.boundingRect(contours[one]) for one in np.flatnonzero(family[:, 3] < 0)]
    left, top, width, height = torch.tensor(parts).double().unbind(1)
    overlaps = box_iou(torch.stack((top, left, top + height, left + width), 1), boxes.double()).amax(1)
    return np.maximum.reduceat(overlaps.numpy(), starts)


def box_accuracy(overlaps: list[np.ndarray]) -> dict[str, float]:
    """Return MaxBoxAccV2 in %: the mean over `IOUS` of the share of pairs that reach it at the threshold best for it.

    `overlaps` are those of each pair by threshold. NaN without a pair.

    Reference: Choe et al., Evaluating weakly supervised object localization methods right, CVPR 2020 (V2 in its
    extension, IEEE TPAMI), for one class per image; here every present class is a pair with a map and boxes of its own.
    """
    reached = {f"IoU {iou}": np.array(overlaps) >= iou for iou in IOUS}
    best = {name: 100 * float(hits.mean(0).max()) if len(hits) else np.nan for name, hits in reached.items()}
    return {**best, "MaxBoxAccV2": float(np.mean(list(best.values())))}
