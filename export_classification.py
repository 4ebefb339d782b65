"""Export a trained network to one file that runs without this repository.

    python3 export_classification.py --tag TAG --format onnx
    python3 export_classification.py --tag TAG --format torch_export --thresholds thresholds.json --images photos/

The file takes normalized images [B, 3, S, S] and returns logits, scores and class activation maps; its metadata name
the classes, the image size, the normalization and the thresholds. Before it is written, it is run and compared with
PyTorch on real images: those of --images, or the first ones of the run's validation. See docs/deploy.md.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from core.evaluation.classifier import TrainedClassifier, load_classifier
from core.evaluation.export import SUFFIXES, export
from tools.data.datasets import VOCImages
from tools.data.images import find_images
from tools.runs.folder import Folder, checkpoint_path
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, advice, run_main
from tools.system.files import check_writable, replace_file

CHECKED = 8  # images

_checkpoint, _output = (partial(argument, group=name) for name in ("checkpoint", "output"))


@dataclass(frozen=True)
class Config(Arguments):
    tag: str | None = _checkpoint(None, "export experiments/models/best_TAG.pth", one_of="checkpoint")
    weights: str | None = _checkpoint(None, "export this file, described by a .json, or folder", one_of="checkpoint")
    architecture: str | None = _checkpoint(None, "of the network (default: the description's)")
    class_file: str | None = _checkpoint(None, "names of the classes (default: the description's)")
    image_size: int | None = _checkpoint(None, "S, pixels, divisible by 32 (default: as trained)")
    format: str = _output("onnx", "of the file", choices=tuple(SUFFIXES))
    thresholds: str | None = _output(None, "each class's own, a file of tools.thresholds (default: 0.5 for all)")
    images: list[str] | None = _output(None, f"files or folders: the first {CHECKED} check it (default: validation's)")
    out: Path | None = _output(None, "default: experiments/exports/NAME.onnx or .pt2, replaced", names_file=True)


def images_to_check(config: Config, model: TrainedClassifier) -> list[Path]:
    """Return a few real images: the user's, or of the split on which the run was validated."""
    if config.images:
        with advice("check --images"):
            return find_images(config.images)[0][:CHECKED]
    arguments = model.description.arguments
    if not arguments.get("data_dir"):
        raise UserError("the file is checked on real images, and the checkpoint names none: give --images")
    with advice("the file is checked on real images: give --images"):
        return VOCImages(arguments["data_dir"], str(arguments.get("val_split"))).paths[:CHECKED]


def main() -> None:
    config = parse(Config, __doc__)
    path, threshold = checkpoint_path(config.tag, config.weights), config.thresholds or 0.5
    strategy = "cMax"  # any: keypoints are not exported
    how = (config.architecture, config.class_file, config.image_size, strategy, threshold)
    model = load_classifier(path, *how, device="cpu")
    images = images_to_check(config, model)
    out = config.out or Folder().export(path, SUFFIXES[config.format])
    check_writable(out)
    content, differences = export(model, config.format, images)
    replace_file(out, lambda temporary: temporary.write_bytes(content))
    shown = ", ".join(f"{name} {difference:.1g}" for name, difference in differences.items())
    print(f"largest differences from PyTorch on {len(images)} images: {shown}")
    print(f"written: {out} ({len(content) / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_main(main)
