"""Export a trained network to one file that runs without this repository.

    python3 export_classification.py --tag TAG --format onnx
    python3 export_classification.py --tag TAG --format torch_export --thresholds thresholds.json --images photos/

The file takes normalized images [B, 3, S, S] and returns logits, scores and class activation maps; its metadata name
the classes, the image size, the normalization and the thresholds. Before it is written, it is run and compared with
PyTorch on real images: those of --images, or the first ones of the run's validation. See docs/deploy.md.
"""

from dataclasses import dataclass
from pathlib import Path

from core.evaluation.classifier import load_classifier
from core.evaluation.export import SUFFIXES, export
from tools.data.datasets import VOCImages
from tools.data.images import find_images
from tools.runs.folder import Folder, checkpoint_path
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import advice, run_main
from tools.system.files import check_writable, replace_file

CHECKED = 8  # images


@dataclass(frozen=True)
class Config(Arguments):
    tag: str | None = argument(None, "export experiments/models/best_TAG.pth", one_of="checkpoint")
    weights: str | None = argument(None, "export this file, described by a .json, or folder", one_of="checkpoint")
    architecture: str | None = argument(None, "as in training (default: the description's)")
    class_file: str | None = argument(None, "names of the classes (default: the description's)")
    image_size: int | None = argument(None, "S, pixels, divisible by 32 (default: as trained)")
    format: str = argument("onnx", "file format", choices=tuple(SUFFIXES))
    thresholds: str | None = argument(None, "each class's own, a file of tools.thresholds (default: 0.5 for all)")
    images: list[str] | None = argument(None, f"files or folders; {CHECKED} of them check it (default: validation's)")
    out: Path | None = argument(None, "default: experiments/exports/NAME.onnx or .pt2, replaced", names_file=True)


def main() -> None:
    config = parse(Config, __doc__)
    path, how = checkpoint_path(config.tag, config.weights), (config.architecture, config.class_file, config.image_size)
    strategy = "cMax"  # any: keypoints are not exported
    model = load_classifier(path, *how, strategy, config.thresholds or 0.5, device="cpu")
    trained = {"data_dir": "", "val_split": "", **model.description.arguments}
    with advice("the file is checked on real images: give --images"):
        split = str(trained["data_dir"]), str(trained["val_split"])
        images = find_images(config.images)[0] if config.images else VOCImages(*split).paths
    out = config.out or Folder().export(model.checkpoint, SUFFIXES[config.format])
    check_writable(out)
    content, differences = export(model, config.format, images[:CHECKED])
    replace_file(out, lambda temporary: temporary.write_bytes(content))
    shown = ", ".join(f"{name} {difference:.1g}" for name, difference in differences.items())
    print(f"largest differences from PyTorch on {len(images[:CHECKED])} images: {shown}")
    print(f"written: {out} ({len(content) / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_main(main)
