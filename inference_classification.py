"""Where the four strategies cut: their keypoints on images of a split, side by side (the paper's figure 2).

One row for each image: the class activation map of its strongest present class under the cut of Max, cMax, cTopk and
cTopk-w. Rings mark the local maxima that cTopk and cTopk-w start from.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from core.cam import make_cam
from core.keypoints import cmax_keypoints, ctopk_keypoints, ctopk_w_keypoints, max_keypoints, strongest_peaks
from core.networks import Classifier
from core.training.setup import EXPERIMENTS, checkpoint_path, choose_device, trained_network
from tools.augmentation import denormalise, evaluation_transform
from tools.errors import UserError, run_main
from tools.pictures import caption, draw_cut, draw_points, heat_overlay, sheet, write_picture
from tools.voc import VOCClassification

PANEL = 256  # pixels


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--tag", help="look through experiments/models/best_TAG.pth")
    which.add_argument("--weights", help="look through this checkpoint of ours")
    parser.add_argument("--data_dir", required=True, help="VOC devkit folder")
    parser.add_argument("--split", default="val", help="list in data/, or of the devkit as Main/val (default val)")
    parser.add_argument("--count", type=int, default=4, help="images, from the list's start (default 4)")
    parser.add_argument("--out", help="picture to write (default experiments/pictures/keypoints_NAME.png)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    return parser.parse_args()


@torch.no_grad()
def row_of_panels(
    network: Classifier, image: torch.Tensor, labels: torch.Tensor, class_names: list[str]
) -> list[np.ndarray]:
    """Four panels for one image.

    Args:
        network: in evaluation mode.
        image: `[3, S, S]`; labels: `[V]` with at least one class; both on the network's device.
        class_names: V names.
    """
    size = image.shape[-1]
    logits, features = network(image[None])
    cams = make_cam(features)
    scores = torch.sigmoid(logits[0])
    label = int((scores * labels).argmax())
    cam = cams[:, label]
    of_all = (cams * labels[None, :, None, None]).amax(1)
    name = f"{class_names[label]} {scores[label]:.2f}"
    panels = (
        ("Max", of_all, max_keypoints(cams, labels[None], size), False),
        (f"cMax: {name}", cam, cmax_keypoints(cam, size), False),
        (f"cTopk: {name}", cam, ctopk_keypoints(cam, size), True),
        (f"cTopk-w: {name}", cam, ctopk_w_keypoints(cam, size), True),
    )
    picture = denormalise(image).numpy()
    return [_panel(picture, title, heat, keypoint, peaks) for title, heat, keypoint, peaks in panels]


def _panel(picture: np.ndarray, title: str, heat: torch.Tensor, keypoint: torch.Tensor, with_peaks: bool) -> np.ndarray:
    """One strategy's view: map, cut and, where it has them, local maxima."""
    size = len(picture)
    scale = PANEL / size
    index = (np.arange(PANEL) / scale).astype(int)
    panel = heat_overlay(picture[index][:, index], heat[0].cpu().numpy())
    if with_peaks:
        coordinates, _, taken = strongest_peaks(heat, size)
        panel = draw_points(panel, coordinates[taken].tolist(), scale)
    return caption(draw_cut(panel, keypoint[0].tolist(), scale), title)


def main() -> None:
    """Draw the sheet."""
    args = parse_arguments()
    path = checkpoint_path(args.tag, args.weights)
    network, description = trained_network(path)
    transform = evaluation_transform(description["image_size"])
    dataset = VOCClassification(args.data_dir, args.split, description["class_names"], transform)
    device = choose_device(args.device)
    network.to(device)
    labelled = torch.nonzero(dataset.labels.any(1)).flatten().tolist()[: args.count]
    if not labelled:
        raise UserError(f"no image of split '{args.split}' has a label, or --count {args.count} asks for none")
    rows = []
    for index in labelled:
        image, labels, _ = dataset[index]
        rows.append(row_of_panels(network, image.to(device), labels.to(device), description["class_names"]))
    out = Path(args.out) if args.out else EXPERIMENTS / "pictures" / f"keypoints_{path.stem}.png"
    write_picture(out, sheet(rows))
    print(f"written: {out}")


if __name__ == "__main__":
    run_main(main)
