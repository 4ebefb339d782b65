"""The classifier: a backbone of output stride 16, a CAM branch and class-specific instances (paper, section 2)."""

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from core.batch_norm import ONE_GROUP, Groups, group_batch_norms, set_groups
from core.cam import make_cam
from core.instances import ClassSpecificInstances

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2")
TIMM_PREFIX = "timm/"
# The same networks, with the same names of parameters, in the optional timm.
RESNESTS = {"resnest50": "timm/resnest50d", "resnest101": "timm/resnest101e"}
RESNESTS |= {"resnest200": "timm/resnest200e", "resnest269": "timm/resnest269e"}
ARCHITECTURES = (*RESNETS, *RESNESTS)
HEADS = ("instances", "gap", "max")
TILES = 4  # of a crop
OUTPUT_STRIDE = 16  # pixels per cell of every map
# How a model of timm is asked for its last map at any image size; the first way that works is taken. The first lowers
# the stride of convolutional networks. The others are for tokens: position embeddings and masks that follow the image.
TIMM_WAYS = (
    {"features_only": True, "out_indices": (-1,), "output_stride": OUTPUT_STRIDE},
    {"dynamic_img_size": True},
    {"strict_img_size": False},
    {},
)
TRIED_SIDES = (96, 48)  # of an image and its tiles, in pixels: the smallest sides that show every need of a model
Head = Callable[[int, int], nn.Module]  # of D and V, see `Classifier`


class Classifier(nn.Module):
    """Multi-label classifier: a CAM branch, and logits from class-specific instances.

    Args:
        architecture: one of `ARCHITECTURES`, or "timm/NAME" for a model of the optional timm, which also builds the
            "resnest…".
        num_classes: V.
        channels_last: memory layout. True is several times faster on a CPU and suits the matrix units of a GPU; False
            is the official code's, whose float32 rounding it then reproduces most closely.
        head: what computes the logits: "instances", the method's class-specific instances; "gap" or "max", global
            average or maximum pooling of the CAM branch (baselines; the instances are then unused); or a function of D
            and V that returns a module, which replaces the CAM branch too. It maps the backbone's output `[B, D, h, w]`
            to logits `[B, V]` and features `[B, V, h, w]`; its `per_class` names its tensors with one row per class.

    Raises:
        ValueError: unknown architecture or head (the choices are named), or a model of timm that cannot be used.
        ImportError: "timm/NAME" or "resnest…" without timm.

    Example:
        >>> network = Classifier("resnet18", num_classes=20)
        >>> logits, features = network(torch.zeros(2, 3, 64, 64))
        >>> logits.shape, features.shape
        (torch.Size([2, 20]), torch.Size([2, 20, 4, 4]))
    """

    def __init__(self, architecture: str, num_classes: int, channels_last: bool = True, head: str | Head = "instances"):
        super().__init__()
        if isinstance(head, str) and head not in HEADS:
            raise ValueError(f"unknown head '{head}': choose one of {', '.join(HEADS)}")
        backbone, channels = build_backbone(architecture)
        self.backbone = group_batch_norms(backbone)
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1, bias=False)
        self.instances = ClassSpecificInstances(channels, num_classes)
        self.own_head = None if isinstance(head, str) else head(channels, num_classes)
        self.head = head if isinstance(head, str) else type(self.own_head).__name__
        self.image_groups = self.tile_groups = ONE_GROUP
        self.crops_at_once = 0  # crops of tiles per pass at most; 0: all. It saves memory only without gradient
        self.normalization = None  # for the caller: mean and standard deviation of its images' RGB; None: ImageNet's
        nn.init.kaiming_normal_(self.classifier.weight)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    @property
    def num_classes(self) -> int:
        """V, the number of classes."""
        return self.classifier.out_channels

    def set_replicas(self, replicas: int, devices: int = 1, is_first: bool = True, synchronize: bool = False) -> None:
        """Compute the batch statistics that the official code has on R GPUs, `replicas`.

        There each GPU normalizes its share of the images by itself, the four tiles of a crop are scattered over the
        GPUs, and the running statistics are the first GPU's.

        Args:
            devices: number of devices that share the work, each with its own copy of this network; it divides R.
            is_first: whether this copy's images move the running statistics (of several processes, the first one's do).
            synchronize: compute the batch statistics of the images over all processes.
        """
        self.image_groups = Groups(1, max(replicas // devices, 1), is_first, synchronize)
        self.tile_groups = Groups(1, len(torch.empty(TILES).chunk(replicas)))

    def forward(self, images: Tensor, features_only: bool = False) -> tuple[Tensor | None, Tensor]:
        """Return logits and features of images, or of the tiles of crops.

        In train mode images share their batch statistics; of tiles only the four of one crop do, and the running
        statistics move crop by crop.

        Args:
            images: `[B, 3, h, w]`, or tiles `[crops, 4, 3, h, w]`; h and w divisible by 16.
            features_only: skip the class-specific instances (logits None; their running statistics are not updated).

        Returns:
            logits `[B, V]` and features of the CAM branch `[B, V, h/16, w/16]`; for tiles `[crops, 4, V]` and
            `[crops, 4, V, h/16, w/16]`.
        """
        if images.dim() == 4:
            return self._forward(images, self.image_groups, features_only)
        if len(images) == 0:  # which convolutions would refuse
            cells = [side // OUTPUT_STRIDE for side in images.shape[-2:]]
            features = images.new_zeros(0, images.shape[1], self.num_classes, *cells)
            return None if features_only else features.sum((-2, -1)), features
        parts = [self._forward_crops(part, features_only) for part in images.split(self.crops_at_once or len(images))]
        logits, features = zip(*parts, strict=True)
        return None if features_only else torch.cat(logits), torch.cat(features)

    def _forward_crops(self, tiles: Tensor, features_only: bool):
        """Pass one part of the crops."""
        groups = self.tile_groups._replace(crops=len(tiles))
        logits, features = self._forward(tiles.flatten(0, 1), groups, features_only)
        return None if features_only else logits.unflatten(0, tiles.shape[:2]), features.unflatten(0, tiles.shape[:2])

    def _forward(self, images: Tensor, groups: Groups, features_only: bool):
        set_groups(self.backbone, groups)
        x = self.backbone(images.contiguous(memory_format=self.memory_format))
        return self.from_backbone(x, groups, features_only)

    def from_backbone(self, x: Tensor, groups: Groups = ONE_GROUP, features_only: bool = False):
        """Return logits `[B, V]` (None with `features_only`) and features `[B, V, n, n]` of x `[B, D, n, n]`."""
        if self.own_head:
            logits, features = self.own_head(x)
            return None if features_only else logits, features
        features = self.classifier(x)
        if features_only:
            return None, features
        if self.head == "gap":
            return features.float().mean((-2, -1)), features
        if self.head == "max":
            return features.float().amax((-2, -1)), features
        return self.instances(x, make_cam(features.float()), groups), features


def build_backbone(architecture: str) -> tuple[nn.Module, int]:
    """Return an untrained backbone and its number of output channels D.

    The backbone takes images `[B, 3, h, w]` and returns the last feature map `[B, D, h/16, w/16]`; its parameters have
    torchvision's (timm's) names.
    """
    if architecture.startswith(TIMM_PREFIX):
        return _timm_backbone(architecture.removeprefix(TIMM_PREFIX))
    if architecture not in ARCHITECTURES:
        choices = ", ".join(ARCHITECTURES)
        raise ValueError(f"unknown architecture '{architecture}': choose one of {choices}, or timm/NAME")
    if architecture in RESNESTS:
        network = _resnest(architecture)
    else:
        network = torchvision.models.get_model(architecture, weights=None)
        for layer in network.layer4.modules():
            if isinstance(layer, nn.Conv2d):
                layer.stride = (1, 1)  # without dilation: output stride 16 (official code)
    head = ("avgpool", "global_pool", "fc")
    layers = OrderedDict((name, layer) for name, layer in network.named_children() if name not in head)
    return nn.Sequential(layers), network.fc.in_features


def _resnest(architecture: str) -> nn.Module:
    """Return a ResNeSt whose `layer4` has stride 1: output stride 16 (official code).

    There the first block keeps its 3×3 average pooling and is not dilated, and the other blocks are dilated by 2. At
    this stride timm's own model lacks that pooling, and averages 2 × 2 pixels in the first block's shortcut.
    """
    import timm

    network = timm.create_model(RESNESTS[architecture].removeprefix(TIMM_PREFIX), zero_init_last=False)
    first, *others = network.layer4
    first.avd_last.stride = 1
    first.downsample[0] = nn.Identity()  # averages 2 × 2 pixels where the stride is 2
    for block in others:
        block.conv2.conv.dilation = block.conv2.conv.padding = (2, 2)
    return network


class TimmFeatures(nn.Module):
    """The last feature map of a model of timm, resized to output stride 16 where the model has another.

    A stage of a lower stride would need no resizing, but the last stage is what pretraining made to tell classes apart,
    as in the convolutional networks, whose last stage is kept too.

    Args:
        model: timm's feature extractor; or a whole model, whose tokens, normalized as for its own head, are the map.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.stride = model.feature_info[-1]["reduction"]
        self.is_whole = hasattr(model, "forward_intermediates")
        if self.is_whole:
            model.prune_intermediate_layers(1)  # drops the classification head alone

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == OUTPUT_STRIDE:
            return self.last_map(x)
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride))  # whole cells, cut off again below
        x = F.interpolate(self.last_map(x), scale_factor=self.stride / OUTPUT_STRIDE, mode="bilinear")
        return x[..., : height // OUTPUT_STRIDE, : width // OUTPUT_STRIDE]

    def last_map(self, x: Tensor) -> Tensor:
        """Return the map at the model's own stride, of images whose sides are multiples of it."""
        if self.is_whole:
            return self.model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[-1]
        return self.model(x)[-1]

    @torch.no_grad()
    def channels(self) -> int:
        """Return D; a `ValueError` says why the model cannot be used."""
        self.eval()
        for side in TRIED_SIDES:
            cells = -(-side // self.stride)
            shape = self.last_map(torch.zeros(1, 3, cells * self.stride, cells * self.stride)).shape
            if shape[2:] != (cells, cells):
                found = " × ".join(map(str, shape[2:]))
                raise ValueError(f"its map of {side} × {side} pixels has {found} cells instead of {cells} × {cells}")
        self.train()
        return shape[1]


def _timm_backbone(name: str) -> tuple[nn.Module, int]:
    import timm

    if not timm.is_model(name):
        raise ValueError(f"timm does not have a model '{name}'")
    for keywords in TIMM_WAYS:
        try:
            backbone = TimmFeatures(timm.create_model(name, **keywords))
            return backbone, backbone.channels()
        except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            # The last way's error counts: it asks for nothing but a map.
            reason = str(error) or f"its layers do not take images of {TRIED_SIDES[0]} pixels or their tiles"
    raise ValueError(f"timm/{name} does not return maps of images and of tiles of half their side: {reason}")
