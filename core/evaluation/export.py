"""One file of a trained network that runs without this repository: ONNX, or PyTorch's own `torch.export`."""

import importlib.util
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from core.cam import make_cam
from core.evaluation.classifier import TrainedClassifier
from core.networks import Classifier
from tools.data.datasets import preprocess
from tools.data.images import ImageSource
from tools.system.errors import UserError, shorten
from tools.system.files import reason

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}  # by format
NEEDED = ("onnx", "onnxscript", "onnxruntime")
INPUT, OUTPUTS = "images", ("logits", "scores", "cams")
METADATA = "oass"  # under which an ONNX file's metadata hold the description; of torch.export: the extra file oass.json
# Largest difference from PyTorch; of logits, as a share of the largest one if that is above 1.
TOLERANCES = {"logits": 1e-3, "scores": 1e-3, "cams": 1e-2}


class ExportedNetwork(nn.Module):
    """From normalized images `[B, 3, S, S]` to logits and scores `[B, V]` and class activation maps `[B, V, n, n]`."""

    def __init__(self, network: Classifier):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, features = self.network(images)
        return logits, torch.sigmoid(logits), make_cam(features)


def export(model: TrainedClassifier, kind: str, images: Sequence[ImageSource]) -> tuple[bytes, dict[str, float]]:
    """Return the content of an exported file, and by output its largest difference from PyTorch on the images.

    Args:
        model: on the CPU.
        kind: "onnx" or "torch_export".
        images: at least one.

    Raises:
        UserError: a package is missing, the format cannot express the network, or the differences are too large.
    """
    missing = [name for name in NEEDED if kind == "onnx" and importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx needs {', '.join(missing)}: pip install {' '.join(NEEDED)}")
    network = ExportedNetwork(model.network).eval()
    canvases = [preprocess(image, model.image_size, model.description.normalization).canvas for image in images]
    batch = torch.stack([*canvases, canvases[0]])  # at least two images: of one, a program would be for one alone
    about = json.dumps(metadata(model), ensure_ascii=False)
    try:
        program = torch.export.export(network, (batch,), dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}})
        content, run = (_as_onnx if kind == "onnx" else _as_torch_export)(program, about)
        differences = _differences(network, run, (batch, batch[:1]))
    except Exception as error:  # PyTorch's exporters raise anything
        why = shorten(reason(error))
        raise UserError(f"{model.description.architecture} cannot be exported with --format {kind}: {why}") from error
    for name, tolerance in TOLERANCES.items():
        if not differences[name] <= tolerance:
            raise UserError(
                f"the exported {name} differ from PyTorch's by {differences[name]:.2g}: nothing was written"
            )
    return content, differences


def metadata(model: TrainedClassifier) -> dict[str, Any]:
    """Return what a user of the exported file has to know."""
    count, threshold = len(model.class_names), model.threshold
    return {
        "class_names": model.class_names,
        "image_size": model.image_size,
        "mean": model.description.mean,
        "std": model.description.std,
        "thresholds": threshold.tolist() if torch.is_tensor(threshold) else [threshold] * count,
        "architecture": model.description.architecture,
    }


def _as_torch_export(program: torch.export.ExportedProgram, about: str) -> tuple[bytes, Callable]:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={f"{METADATA}.json": about})
    content = file.getvalue()
    return content, torch.export.load(io.BytesIO(content)).module()


def _as_onnx(program: torch.export.ExportedProgram, about: str) -> tuple[bytes, Callable]:
    import onnxruntime

    converted = torch.onnx.export(
        program.run_decompositions(), input_names=[INPUT], output_names=OUTPUTS, dynamo=True, verbose=False
    )
    converted.model.metadata_props[METADATA] = about
    content = converted.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda images: map(torch.from_numpy, session.run(None, {INPUT: images.numpy()}))


@torch.no_grad()
def _differences(network: nn.Module, run: Callable, batches: Sequence[torch.Tensor]) -> dict[str, float]:
    """Return the largest difference of each output between the network and the exported program."""
    largest = dict.fromkeys(OUTPUTS, 0.0)
    for images in batches:
        for name, expected, found in zip(OUTPUTS, network(images), run(images), strict=True):
            scale = max(1.0, float(expected.abs().max()))
            largest[name] = max(largest[name], float((found - expected).abs().max()) / scale)
    return largest
