"""The published method as a reader of the paper would first write it: oracle of the tests, baseline of the benchmarks.

Everything is literal and slow on purpose: one copy of the feature map per class, keypoints in NumPy on the host, one
crop at a time through the network. Nothing here comes from `core`, so that an error there cannot hide here. Works for
any backbone of output stride 16, image size and batch size, on any device.

Source: Xu et al., Object-Aware Self-supervised Multi-Label Learning, ICIP 2022 (arXiv 2205.07028), with the details of
the official code as the golden numbers pin them. Where the text leaves a reading open, the golden numbers confirm:

- Top-k: first the k strongest local maxima of the whole map, then the radius drops some of these (not the reverse). The
  coordinate sum is integer-divided by the number that stayed. The radius is measured from the arg-max as it is found,
  even where that arg-max would itself be replaced by the centre. If no peak is left, the keypoint is the centre, not
  the arg-max.
- Weighted top-k: the weights are normalized over the k strongest alone; each term is truncated before the sum.
- A keypoint with a row or a column of 0 is replaced whole by the centre, in all four strategies, Max and cMax included.
- Max: the maximum over the present classes is taken at feature resolution, and that one map is resized (not the
  reverse; only the whole steps tell these apart, not the keypoints of units.npz).
- Teacher: the average after the step of iteration t = 0 has weight 1 - 1/(0 + 1) = 0, so it equals the student then.

The golden numbers do not tell apart, and the text decides: strict radius; the weighted mean in float64 as
(coordinate * value) / sum (float32 in this order can lose a pixel with a single peak).

Symbols: B images, V classes, D channels, S image side (pixels), n feature map side (cells), P peaks or maps.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from skimage.feature import peak_local_max
from torch import Tensor, nn

STRATEGIES = ("max", "cMax", "cTopk", "cTopk_w")
CAM_EPSILON = 1e-5
FEATURE_STRIDE = 16  # pixels per feature cell, of every backbone
REFERENCE_SIZE = 512  # image side in pixels at which the two distances below are meant
PEAK_DISTANCE = 20
TOPK_RADIUS = 128.0

Keypoint = tuple[int, int]


@dataclass(frozen=True)
class Hyper:
    """Settings of a step; the names and defaults of the training scripts. `topk_radius` is in pixels at S = 512."""

    lr: float = 0.1
    wd: float = 1e-4
    momentum: float = 1e-4  # not 0.9: the official optimizer passes its weight decay as the momentum
    nesterov: bool = True
    alpha_re: float = 1.0
    alpha_schedule_re: float = 0.5
    alpha_p: float = 1.0
    alpha_ema: float = 0.99
    re_loss: str = "L1_Loss"
    topk: int = 5
    topk_radius: float = TOPK_RADIUS


class Crop(NamedTuple):
    """One keypoint: the image it cuts, its class (None: all present, in Max), and the target of its losses [V]."""

    image: int
    class_index: int | None
    keypoint: Keypoint
    target: Tensor


# ---------------------------------------------------------------------------------------------------------- network


def resnet_backbone(architecture: str = "resnet50") -> nn.Sequential:
    """A torchvision ResNet without weights and head, output stride 16: [B,3,S,S] -> [B,D,S/16,S/16].

    The stride of layer4 becomes 1, without dilation. State-dict names are torchvision's; `.feature_dim` holds D.
    """
    network = getattr(torchvision.models, architecture)(weights=None)
    for module in network.layer4.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (1, 1)
    children = OrderedDict((name, child) for name, child in network.named_children() if name not in ("avgpool", "fc"))
    backbone = nn.Sequential(children)
    backbone.feature_dim = network.fc.in_features
    return backbone


def make_cam(features: Tensor, epsilon: float = CAM_EPSILON) -> Tensor:
    """Class activation maps in [0, 1) from head outputs, both [B,V,n,n], normalized per image and class (paper)."""
    positive = F.relu(features)
    maximum = positive.amax(dim=(2, 3), keepdim=True)
    return F.relu(positive - epsilon) / (maximum + epsilon)


class OracleClassifier(nn.Module):
    """Backbone, CAM branch and class-specific instances, one copy of the feature map per class (paper, network).

    Parameters are named as in the official code: `model.*`, `classifier.weight`, `BN.{v}.*`, `stage6.{v}.weight`.
    """

    def __init__(self, backbone: nn.Module, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.model = backbone
        self.classifier = nn.Conv2d(feature_dim, num_classes, 1, bias=False)
        self.BN = nn.ModuleList(nn.BatchNorm2d(feature_dim) for _ in range(num_classes))
        self.stage6 = nn.ModuleList(nn.Conv2d(feature_dim, 1, 1, bias=False) for _ in range(num_classes))
        nn.init.kaiming_normal_(self.classifier.weight)  # alone: stage6 keeps nn.Conv2d's default (golden numbers)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images [B,3,S,S] -> logits [B,V], features [B,V,n,n]."""
        return self.head(self.model(images))

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Feature map x [B,D,n,n] -> logits [B,V], features [B,V,n,n]."""
        features = self.classifier(x)
        cam = make_cam(features)
        logits = [self._instance_logit(x, cam, v) for v in range(self.num_classes)]
        return torch.stack(logits, dim=1), features

    def _instance_logit(self, x: Tensor, cam: Tensor, v: int) -> Tensor:
        """x [B,D,n,n], cam [B,V,n,n] -> logit [B] of class v; the gradient flows through the cam too."""
        instance = x * cam[:, v : v + 1]
        return self.stage6[v](self.BN[v](instance)).mean(dim=(1, 2, 3))


def resnet_classifier(architecture: str = "resnet50", num_classes: int = 20) -> OracleClassifier:
    """An `OracleClassifier` on `resnet_backbone(architecture)`."""
    backbone = resnet_backbone(architecture)
    return OracleClassifier(backbone, backbone.feature_dim, num_classes)


# --------------------------------------------------------------------------------------------- replicas (DataParallel)


@contextmanager
def running_statistics_discarded(network: nn.Module) -> Iterator[None]:
    """Within the block, batch norms move copies of their running statistics that are thrown away at its end."""
    kept = [
        (module, dict(module._buffers))
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    for module, buffers in kept:
        # New tensors, not a copy back in place: autograd may still hold the old ones.
        module._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})
    try:
        yield
    finally:
        for module, buffers in kept:
            module._buffers.update(buffers)


def forward_replicas(network: OracleClassifier, batch: Tensor, replicas: int = 1) -> tuple[Tensor, Tensor]:
    """What `DataParallel` over `replicas` GPUs returns for `batch` [B,3,S,S]: logits [B,V], features [B,V,n,n].

    Each part of the batch is normalized with its own statistics; the running statistics are those of the first part.
    """
    first, *others = batch.chunk(replicas)
    outputs = [network(first)]
    for part in others:
        with running_statistics_discarded(network):
            outputs.append(network(part))
    return torch.cat([logits for logits, _ in outputs]), torch.cat([features for _, features in outputs])


# -------------------------------------------------------------------------------------------------------- keypoints


def scaled_to(size: int, distance: float) -> float:
    """`distance` in pixels at S = 512, in pixels of an image of side `size`."""
    return distance * size / REFERENCE_SIZE


def resize_cam(cam: Tensor, size: int) -> np.ndarray:
    """Maps [P,n,n] -> responses [P,S,S], bilinear with half-pixel centres, on the host without gradient."""
    maps = cam.detach().float()[None]
    return F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)[0].cpu().numpy()


def strongest_pixel(response: np.ndarray) -> Keypoint:
    """Arg-max (row, column) of response [S,S]; of equals the first in reading order."""
    row, column = np.unravel_index(response.argmax(), response.shape)
    return int(row), int(column)


def centre(response: np.ndarray) -> Keypoint:
    """The middle (S/2, S/2) of response [S,S]."""
    return response.shape[0] // 2, response.shape[1] // 2


def centre_if_on_edge(keypoint: Keypoint, response: np.ndarray) -> Keypoint:
    """The centre in place of a keypoint in row or column 0, which would leave two of the four tiles empty."""
    return centre(response) if 0 in keypoint else keypoint


def local_maxima(response: np.ndarray) -> np.ndarray:
    """Local maxima [P,2] (row, column) of response [S,S], strongest first; distance and border of 20 px at S = 512."""
    distance = max(1, round(scaled_to(response.shape[0], PEAK_DISTANCE)))
    return peak_local_max(response, min_distance=distance, exclude_border=True)


def strongest_maxima(response: np.ndarray, k: int, radius: float) -> np.ndarray:
    """Of the k strongest local maxima of response [S,S], those nearer than `radius` (px at S = 512; 0: all): [P,2]."""
    peaks = local_maxima(response)[:k]
    if radius == 0:
        return peaks
    distances = np.sqrt(((peaks - np.array(strongest_pixel(response))) ** 2).sum(axis=1))
    return peaks[distances < scaled_to(response.shape[0], radius)]


def strongest_class(cam: Tensor, label: Tensor) -> Tensor:
    """Max: the map [1,n,n] of the maximum over the present classes, at feature resolution. cam [V,n,n], label [V]."""
    return (cam * label[:, None, None]).amax(dim=0, keepdim=True)


def max_keypoint(response: np.ndarray) -> Keypoint:
    """Max and cMax: arg-max of response [S,S], of `strongest_class` in Max, of one class in cMax -> (row, column)."""
    return centre_if_on_edge(strongest_pixel(response), response)


def ctopk_keypoint(response: np.ndarray, k: int = 5, radius: float = TOPK_RADIUS) -> Keypoint:
    """cTopk: integer mean of the strongest local maxima of response [S,S] near its arg-max -> (row, column)."""
    peaks = strongest_maxima(response, k, radius)
    if len(peaks) == 0:
        return centre(response)
    row, column = peaks.sum(axis=0) // len(peaks)
    return centre_if_on_edge((int(row), int(column)), response)


def ctopk_w_keypoint(response: np.ndarray, k: int = 5, radius: float = 0) -> Keypoint:
    """cTopk-w: mean of the strongest local maxima of response [S,S], weighted by response -> (row, column)."""
    peaks = strongest_maxima(response, k, radius)
    if len(peaks) == 0:
        return centre(response)
    values = response[peaks[:, 0], peaks[:, 1]].astype(np.float64)
    row, column = (peaks * values[:, None] / values.sum()).astype(int).sum(axis=0)
    return centre_if_on_edge((int(row), int(column)), response)


def class_keypoint(strategy: str, response: np.ndarray, hyper: Hyper) -> Keypoint:
    """Keypoint (row, column) of one class's response [S,S] in the strategies with one keypoint per class."""
    if strategy == "cMax":
        return max_keypoint(response)
    if strategy == "cTopk":
        return ctopk_keypoint(response, hyper.topk, hyper.topk_radius)
    if strategy == "cTopk_w":
        return ctopk_w_keypoint(response, hyper.topk)
    raise ValueError(f"no strategy {strategy!r} with a keypoint per class; there are {STRATEGIES[1:]}")


def find_crops(strategy: str, features: Tensor, labels: Tensor, size: int, hyper: Hyper) -> list[Crop]:
    """The crops of a batch, image by image and class by class. features [B,V,n,n], labels [B,V] multi-hot, size S."""
    crops = []
    for image, (cam, label) in enumerate(zip(make_cam(features.detach()), labels, strict=True)):
        crops += crops_of_image(strategy, image, cam, label, size, hyper)
    return crops


def crops_of_image(strategy: str, image: int, cam: Tensor, label: Tensor, size: int, hyper: Hyper) -> list[Crop]:
    """The crops of image number `image`: cam [V,n,n], label [V], size S. One for Max, else one per present class."""
    if strategy == "max":
        return [Crop(image, None, max_keypoint(resize_cam(strongest_class(cam, label), size)[0]), label)]
    one_hot = torch.eye(len(label), device=label.device)
    classes = label.nonzero()[:, 0].tolist()
    responses = resize_cam(cam[classes], size) if classes else []
    keypoints = [class_keypoint(strategy, response, hyper) for response in responses]
    return [Crop(image, v, keypoint, one_hot[v]) for v, keypoint in zip(classes, keypoints, strict=True)]


# -------------------------------------------------------------------------------------------------- tiles and merge


def cut_tiles(image: Tensor, keypoint: Keypoint) -> Tensor:
    """The four rectangles around the keypoint, each resized with nearest: image [3,S,S] -> tiles [4,3,S/2,S/2].

    Order: top-left, top-right, bottom-left, bottom-right.
    """
    row, column = keypoint
    half = image.shape[-1] // 2
    rectangles = (image[:, :row, :column], image[:, :row, column:], image[:, row:, :column], image[:, row:, column:])
    return torch.cat([F.interpolate(part[None], size=(half, half), mode="nearest") for part in rectangles])


def merge_tiles(tile_features: Tensor, keypoint: Keypoint, side: int, stride: int = FEATURE_STRIDE) -> Tensor:
    """Tile features [4,V,n/2,n/2], resized with nearest and laid where the tiles were cut: merged [V,n,n], n = `side`.

    `keypoint` is in pixels; `stride` is the pixels per feature cell.
    """
    row, column = (max(1, coordinate // stride) for coordinate in keypoint)
    top_left, top_right, bottom_left, bottom_right = tile_features.split(1)
    merged = tile_features.new_zeros(tile_features.shape[1], side, side)
    merged[:, :row, :column] = F.interpolate(top_left, size=(row, column), mode="nearest")[0]
    merged[:, :row, column:] = F.interpolate(top_right, size=(row, side - column), mode="nearest")[0]
    merged[:, row:, :column] = F.interpolate(bottom_left, size=(side - row, column), mode="nearest")[0]
    merged[:, row:, column:] = F.interpolate(bottom_right, size=(side - row, side - column), mode="nearest")[0]
    return merged


def merged_features(
    network: OracleClassifier, images: Tensor, crops: list[Crop], side: int, replicas: int
) -> list[Tensor]:
    """Each crop's tiles of images [B,3,S,S] through the network, one crop at a time: a merged map [V,n,n] per crop."""
    merged = []
    for crop in crops:
        _, tile_features = forward_replicas(network, cut_tiles(images[crop.image], crop.keypoint), replicas)
        merged.append(merge_tiles(tile_features, crop.keypoint, side))
    return merged


# ------------------------------------------------------------------------------------------------------------ losses


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """MultiLabelSoftMarginLoss of logits and labels, both [B,V], averaged over everything."""
    return F.multilabel_soft_margin_loss(logits, labels)


def crop_class_loss(merged: Tensor, target: Tensor) -> Tensor:
    """Classification loss of one crop's globally averaged merged map [V,n,n] against target [V]."""
    return classification_loss(merged.mean(dim=(1, 2))[None], target[None])


def crop_re_loss(features: Tensor, merged: Tensor, target: Tensor, kind: str = "L1_Loss") -> Tensor:
    """Reconstruction loss of one crop: features and merged [V,n,n], target [V]; absent classes count 0 in the mean."""
    difference = features - merged
    distance = difference**2 if kind == "L2_Loss" else difference.abs()
    return (distance * target[:, None, None]).mean()


def mean_over_crops(losses: list[Tensor], like: Tensor) -> Tensor:
    """Mean of scalars; 0 for a batch without any present class, which has no crops."""
    return torch.stack(losses).mean() if losses else like.new_zeros(())


def alpha_re_at(iteration: int, max_iteration: int, hyper: Hyper) -> float:
    """Weight of the reconstruction loss: a ramp from 0 over the first share `alpha_schedule_re` of the training."""
    return min(hyper.alpha_re * iteration / (max_iteration * hyper.alpha_schedule_re), hyper.alpha_re)


# ------------------------------------------------------------------------------------------- optimizer, teacher, step


def make_optimizer(student: OracleClassifier, hyper: Hyper) -> torch.optim.SGD:
    """SGD with the groups backbone weights, backbone biases, head weights, head biases (batch norm's included)."""
    groups = [
        {"params": [], "base_lr": hyper.lr, "weight_decay": hyper.wd},
        {"params": [], "base_lr": 2 * hyper.lr, "weight_decay": 0.0},
        {"params": [], "base_lr": 10 * hyper.lr, "weight_decay": hyper.wd},
        {"params": [], "base_lr": 20 * hyper.lr, "weight_decay": 0.0},
    ]
    for name, parameter in student.named_parameters():
        in_head, is_bias = not name.startswith("model."), name.endswith("bias")
        groups[2 * in_head + is_bias]["params"].append(parameter)
    # A backbone may have no biases, and SGD refuses an empty group.
    groups = [group for group in groups if group["params"]]
    return torch.optim.SGD(groups, lr=hyper.lr, momentum=hyper.momentum, nesterov=hyper.nesterov)


def set_learning_rates(optimizer: torch.optim.SGD, iteration: int, max_iteration: int) -> list[float]:
    """Poly schedule lr * (1 - t/T)^0.9 on every group; the learning rates set."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * (1 - iteration / max_iteration) ** 0.9
    return [group["lr"] for group in optimizer.param_groups]


def make_teacher(student: OracleClassifier) -> OracleClassifier:
    """The teacher before the first step: a copy of the student that needs no gradient."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, iteration: int, alpha_ema: float) -> None:
    """Exponential moving average of the parameters, in place; buffers stay the teacher's own."""
    alpha = min(1 - 1 / (iteration + 1), alpha_ema)
    for average, parameter in zip(teacher.parameters(), student.parameters(), strict=True):
        average.mul_(alpha).add_(parameter, alpha=1 - alpha)


def merged_by_strategy(
    strategy: str,
    student: OracleClassifier,
    teacher: OracleClassifier | None,
    images: Tensor,
    crops: list[Crop],
    side: int,
    replicas: int,
) -> list[Tensor]:
    """Merged maps [V,n,n] of the crops: in Max by the student with gradient, else by the teacher without."""
    if strategy == "max":
        return merged_features(student, images, crops, side, replicas)
    teacher.train()  # its batch norms use the statistics of a crop's four tiles, like the student's
    with torch.no_grad():
        return merged_features(teacher, images, crops, side, replicas)


def step_losses(
    logits: Tensor, labels: Tensor, features: Tensor, crops: list[Crop], merged: list[Tensor], hyper: Hyper
) -> tuple[Tensor, Tensor, Tensor]:
    """class_loss, p_class_loss, re_loss (scalars) of logits and labels [B,V], features [B,V,n,n], merged [V,n,n]."""
    pairs = list(zip(crops, merged, strict=True))
    class_loss = classification_loss(logits, labels)
    p_class_losses = [crop_class_loss(whole, crop.target) for crop, whole in pairs]
    re_losses = [crop_re_loss(features[crop.image], whole, crop.target, hyper.re_loss) for crop, whole in pairs]
    return class_loss, mean_over_crops(p_class_losses, class_loss), mean_over_crops(re_losses, class_loss)


def training_step(
    strategy: str,
    student: OracleClassifier,
    teacher: OracleClassifier | None,
    optimizer: torch.optim.SGD,
    images: Tensor,
    labels: Tensor,
    iteration: int,
    max_iteration: int,
    hyper: Hyper | None = None,
    replicas: int = 1,
) -> dict:
    """One whole step: forward, crops, losses, backward, optimizer, teacher. Changes both networks in place.

    `strategy` is one of `STRATEGIES`; `teacher` is None for "max". images [B,3,S,S], labels [B,V] multi-hot float;
    `replicas`: as `DataParallel` over that many GPUs computes it.
    Return keypoints (one [row, column] per crop, in order), crops, logits [B,V], features [B,V,n,n], merged (a list of
    [V,n,n]), loss, class_loss, p_class_loss, re_loss, alpha_re, learning_rates (per group). The gradients stay in the
    student's parameters.
    """
    hyper = hyper or Hyper()
    learning_rates = set_learning_rates(optimizer, iteration, max_iteration)
    logits, features = forward_replicas(student.train(), images, replicas)
    crops = find_crops(strategy, features, labels, images.shape[-1], hyper)
    merged = merged_by_strategy(strategy, student, teacher, images, crops, features.shape[-1], replicas)

    class_loss, p_class_loss, re_loss = step_losses(logits, labels, features, crops, merged, hyper)
    alpha_re = alpha_re_at(iteration, max_iteration, hyper)
    loss = class_loss + hyper.alpha_p * p_class_loss + alpha_re * re_loss

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if teacher is not None:
        update_teacher(teacher, student, iteration, hyper.alpha_ema)

    return {
        "keypoints": [list(crop.keypoint) for crop in crops],
        "crops": crops,
        "logits": logits.detach(),
        "features": features.detach(),
        "merged": [whole.detach() for whole in merged],
        "loss": loss.item(),
        "class_loss": class_loss.item(),
        "p_class_loss": p_class_loss.item(),
        "re_loss": re_loss.item(),
        "alpha_re": alpha_re,
        "learning_rates": learning_rates,
    }
