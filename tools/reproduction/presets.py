"""Data and settings of the studies that `reproduce_tables.py` knows by name."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Data and settings of a study."""

    about: str
    arguments: dict[str, Any]  # of the training scripts
    seeds: tuple[int, ...] = (0,)  # unless --seeds is given
    toy_images: int = 0  # number of images to draw; 0: --data_dir names the data
    longer_side: int = 0  # length to scale the images down to first, pixels; 0: do not scale


_LOSSES = {"alpha_p": 0.5, "alpha_re": 3.0, "alpha_schedule_re": 0.05}
_SMALL = {"train_split": "Main/train", "val_split": "Main/val", "num_workers": 0, "batch_size": 16, "momentum": 0.9}

_PAPER: dict[str, Any] = {"train_split": "train_aug", "val_split": "val", "num_workers": 4}
_PAPER |= {"architecture": "resnet50", "weights": "imagenet"}
_PAPER |= {"image_size": 512, "min_image_size": 320, "max_image_size": 640}
_PAPER |= {"batch_size": 32, "max_epoch": 15, "lr": 0.1, "momentum": 1e-4, **_LOSSES}

_VOC_SAMPLE: dict[str, Any] = {**_SMALL, "architecture": "timm/tf_efficientnet_lite0", "weights": "imagenet"}
_VOC_SAMPLE |= {"image_size": 160, "min_image_size": 100, "max_image_size": 200}
_VOC_SAMPLE |= {"max_epoch": 7, "lr": 0.03, **_LOSSES}

_TOY: dict[str, Any] = {**_SMALL, "architecture": "resnet18", "weights": "none"}
_TOY |= {"image_size": 64, "min_image_size": 48, "max_image_size": 80}
_TOY |= {"max_epoch": 5, "lr": 0.05, **_LOSSES}

PRESETS = {
    "paper": Preset(
        "the paper's: ResNet-50, VOC 2012 (train_aug and val), 512 px, batch 32, 15 epochs", _PAPER, seeds=(0, 1, 2)
    ),
    "voc-sample": Preset(
        "EfficientNet-Lite0 on a few thousand photographs at 160 px, feasible on two cores",
        _VOC_SAMPLE,
        longer_side=156,
    ),
    "toy": Preset(
        "untrained ResNet-18 on drawn images: shows that everything runs, not which strategy is best",
        _TOY,
        toy_images=400,
    ),
}
