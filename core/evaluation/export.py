"""One file of a trained network that runs without this repository: ONNX, or PyTorch's own `torch.export`."""

import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import nn

from core.cam import make_cam
from core.evaluation.classifier import TrainedClassifier
from core.networks import Classifier
from tools.data.datasets import preprocess
from tools.data.images import ImageSource
from tools.system.errors import UserError, reason, shorten

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}  # by format
NEEDED = ("onnx", "onnxscript", "onnxruntime")
METADATA = "oass"  # the key of an ONNX file's metadata; in one of torch.export, the extra file oass.json
# The outputs, and their largest difference from PyTorch's; of logits, as a share of the largest one, if above 1.
OUTPUTS = {"logits": 1e-3, "scores": 1e-3, "cams": 1e-2}


class ExportedNetwork(nn.Module):
    """From normalized images `[B, 3, S, S]` to logits and scores `[B, V]` and class activation maps `[B, V, n, n]`."""

    def __init__(self, network: Classifier):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, features = self.network(images)
        return logits, torch.sigmoid(logits), make_cam(features)


@torch.no_grad()
def export(model: TrainedClassifier, kind: str, images: Sequence[ImageSource]) -> tuple[bytes, dict[str, float]]:
    """Return the content of an exported file, and by output its largest difference from PyTorch on the images.

    The model is on the CPU; there is at least one image. A UserError: a package is missing, the format cannot express
    the network, or the differences are too large.
    """
    if missing := [name for name in NEEDED if kind == "onnx" and importlib.util.find_spec(name) is None]:
        raise UserError(f"--format onnx needs {', '.join(missing)}: pip install {' '.join(missing)}")
    about, network = model.description, ExportedNetwork(model.network).eval()
    thresholds = torch.as_tensor(model.threshold, dtype=torch.float64).expand(len(about.class_names)).tolist()
    metadata = {name: getattr(about, name) for name in ("class_names", "image_size", "mean", "std", "architecture")}
    metadata = json.dumps({**metadata, "thresholds": thresholds}, ensure_ascii=False)
    canvases = [preprocess(image, about.image_size, about.normalization).canvas for image in images]
    batch = torch.stack([*canvases, canvases[0]])  # at least two images: a program of one would be for one alone
    try:
        program = torch.export.export(network, (batch,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
        content, run = (_onnx if kind == "onnx" else _torch_export)(program, metadata)
        both = (zip(each(batch), each(batch[:1]), strict=True) for each in (network, run))
        (expected, found), differences = (list(map(torch.cat, outputs)) for outputs in both), {}
        for name, ours, theirs in zip(OUTPUTS, expected, found, strict=True):
            differences[name] = float((theirs - ours).abs().max()) / max(1.0, float(ours.abs().max()))
    except Exception as error:  # PyTorch's exporters raise anything
        why = shorten(reason(error))
        raise UserError(f"{about.architecture} cannot be exported with --format {kind}: {why}") from error
    if wrong := [f"{name} by {found:.2g}" for name, found in differences.items() if not found <= OUTPUTS[name]]:
        raise UserError(f"the exported file differs from PyTorch ({', '.join(wrong)}): nothing was written")
    return content, differences


def _torch_export(program: torch.export.ExportedProgram, metadata: str) -> tuple[bytes, Callable]:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tensors that are views of others
        torch.export.save(program, file, extra_files={f"{METADATA}.json": metadata})
    return file.getvalue(), torch.export.load(io.BytesIO(file.getvalue())).module()


def _onnx(program: torch.export.ExportedProgram, metadata: str) -> tuple[bytes, Callable]:
    import onnxruntime

    names = {"input_names": ["images"], "output_names": list(OUTPUTS)}
    converted = torch.onnx.export(program.run_decompositions(), dynamo=True, verbose=False, **names)
    converted.model.metadata_props[METADATA] = metadata
    content = converted.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda images: map(torch.from_numpy, session.run(None, {"images": images.numpy()}))
