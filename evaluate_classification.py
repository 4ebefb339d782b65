"""Average precision of a trained checkpoint on a labelled split, class by class.

Architecture, classes and image size are read from the description beside the checkpoint.
"""

import argparse

from core.training.arguments import PRECISIONS, check_image_size
from core.training.evaluation import predict
from core.training.setup import EXPERIMENTS, checkpoint_path, choose_device, trained_network
from tools.augmentation import evaluation_transform
from tools.average_precision import average_precisions, mean_average_precision
from tools.errors import run_main
from tools.files import write_json
from tools.loader import evaluation_loader
from tools.voc import VOCClassification


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--tag", help="evaluate experiments/models/best_TAG.pth")
    which.add_argument("--weights", help="evaluate this checkpoint of ours")
    parser.add_argument("--data_dir", required=True, help="VOC devkit folder")
    parser.add_argument("--split", default="val", help="list in data/, or of the devkit as Main/val (default val)")
    parser.add_argument("--image_size", type=int, help="pixels, divisible by 32 (default: as trained)")
    parser.add_argument("--batch_size", type=int, default=32, help="images at once (default 32)")
    parser.add_argument("--num_workers", type=int, default=4, help="loader processes (default 4)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument("--amp", default="off", choices=PRECISIONS, help="precision (default off: float32)")
    return parser.parse_args()


def main() -> None:
    """Evaluate, print the table and write it as JSON."""
    args = parse_arguments()
    path = checkpoint_path(args.tag, args.weights)
    network, description = trained_network(path)
    image_size = args.image_size or description["image_size"]
    check_image_size(image_size)
    class_names = description["class_names"]
    transform = evaluation_transform(image_size, normalised=False)
    dataset = VOCClassification(args.data_dir, args.split, class_names, transform)
    device = choose_device(args.device)
    loader = evaluation_loader(dataset, args.batch_size, args.num_workers)
    scores, labels = predict(network.to(device), loader, device, args.amp)

    precisions = 100 * average_precisions(scores, labels)
    mean = 100 * mean_average_precision(scores, labels)
    # A scoring that ignores the image has, for each class, its share of positives as average precision.
    chance = 100 * labels.mean(0)[labels.any(0)].mean()
    for name, value, positives in zip(class_names, precisions, labels.sum(0)):
        shown = f"{value:6.2f}" if positives else "     –"
        print(f"{name:15s} {shown}   {int(positives):5d} positives")
    print(f"{'mean (mAP)':15s} {mean:6.2f}   {len(dataset):5d} images; chance {chance:.2f}")

    result = EXPERIMENTS / "evaluation" / f"{path.stem}_{args.split.replace('/', '_')}.json"
    per_class = {name: float(value) for name, value in zip(class_names, precisions) if value == value}
    write_json(
        result,
        {"checkpoint": str(path), "split": args.split, "image_size": image_size, "images": len(dataset)}
        | {"mAP": mean, "chance": float(chance), "average_precision": per_class},
    )
    print(f"written: {result}")


if __name__ == "__main__":
    run_main(main)
