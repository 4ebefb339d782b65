"""Evaluate a trained checkpoint on a split: average precisions, precision and recall, and where its keypoints fall.

Architecture, classes and image size are read from the description beside the checkpoint. With --submission it writes
the archive that the PASCAL VOC test server takes. Raw scores are kept, and --scores measures them again without the
network. See docs/evaluation.md.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.evaluation.loading import check_image_size, choose_device, trained_network
from core.evaluation.localization import Localization
from core.evaluation.prediction import PRECISIONS, TestTimeAugmentation, predict
from core.keypoints import TOPK, TOPK_RADIUS
from core.networks import HEADS
from tools.data.annotations import labels_of_objects, read_label_lists, read_objects, read_sizes
from tools.data.datasets import VOCImages
from tools.data.devkit import check_folder, missing_files, read_class_names, split_path
from tools.data.loader import evaluation_loader
from tools.data.transforms import evaluation_transform
from tools.metrics.bootstrap import Interval, bootstrap_interval
from tools.metrics.multilabel import DIFFICULT, Metrics, all_metrics, labels_of
from tools.metrics.reports import csv_text, mean_row, result_name, table, write_results
from tools.metrics.scores import Scores, read_scores, write_scores
from tools.metrics.submission import COMPETITIONS, TEST_IMAGES, check_submission, write_submission
from tools.runs.folder import EXPERIMENTS, checkpoint_path
from tools.system.command_line import Parser
from tools.system.errors import UserError, advice, run_main
from tools.system.files import provenance, sha256


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--tag", help="evaluate experiments/models/best_TAG.pth")
    which.add_argument("--weights", metavar="FILE", help="evaluate this checkpoint: ours, or one of the official code")
    which.add_argument("--scores", metavar="FILE", help="measure these scores (.npz) again, without a network")
    data = parser.add_argument_group("data")
    data.add_argument("--data_dir", help="VOC devkit folder; needless with --scores")
    data.add_argument("--split", help="list in data/, or of the devkit as Main/val (default val; that of --scores)")
    data.add_argument("--labels", default="xml", choices=("xml", "lists"), help="from XML, or the devkit's class lists")
    data.add_argument("--num_workers", type=int, default=4, help="loader processes (default 4)")
    network = parser.add_argument_group("network")
    network.add_argument("--architecture", help="default: the description's beside the checkpoint")
    network.add_argument("--class_file", help="JSON file with class_names (default: the description's)")
    network.add_argument("--head", choices=HEADS, help="what gives the logits (default: the description's)")
    network.add_argument("--image_size", type=int, help="pixels, divisible by 32 (default: as trained)")
    network.add_argument("--batch_size", type=int, default=32, help="images at once (default 32)")
    network.add_argument("--scales", type=_numbers, default=[1.0], help="views of each image, as 0.5,1.0,1.5,2.0")
    network.add_argument("--flip", action="store_true", help="mirrored views too")
    network.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    network.add_argument("--amp", default="off", choices=PRECISIONS, help="precision (default off: float32)")
    metrics = parser.add_argument_group("metrics")
    metrics.add_argument(
        "--difficult",
        default="positive",
        choices=DIFFICULT,
        help="what a class is that an image shows only as difficult objects (default positive, as the official code; "
        "the devkit and the server ignore it)",
    )
    metrics.add_argument("--threshold", type=float, default=0.5, help="of precision and recall (default 0.5)")
    metrics.add_argument("--bootstrap", type=int, default=1000, help="samples of the mAP's interval, 0: none")
    metrics.add_argument("--seed", type=int, default=0, help="of the bootstrap (default 0)")
    metrics.add_argument("--localization", action="store_true", help="do keypoints and CAMs lie on the objects?")
    output = parser.add_argument_group("output")
    output.add_argument("--out", help="result files without suffix (default experiments/evaluation/NAME_SPLIT)")
    output.add_argument("--submission", metavar="FILE.tar.gz", help="archive for the test server")
    output.add_argument("--competition", default="comp2", choices=COMPETITIONS, help="of the archive (default comp2)")
    args = parser.parse_args()
    _check(args)
    return args


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number <= 8 for number in numbers):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of scales as 0.5,1.0,1.5 (each above 0, at most 8)")
    return numbers


def _check(args: argparse.Namespace) -> None:
    args.split = args.split or (None if args.scores else "val")
    if not args.scores and not args.data_dir:
        raise UserError("--data_dir is missing: give the devkit folder (VOC2012)")
    if args.scores and args.localization:
        raise UserError("--localization needs the network: give --tag or --weights instead of --scores")
    if not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold}: must be in 0…1, as the scores are")
    for name, least in (("batch_size", 1), ("num_workers", 0), ("bootstrap", 0), ("seed", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} {getattr(args, name)}: must be {least} or more")
    if args.image_size is not None:
        check_image_size(args.image_size)


def score(args: argparse.Namespace) -> tuple[Scores, Localization | None]:
    """Scores of the split's images, and what `--localization` collected on the way."""
    path = checkpoint_path(args.tag, args.weights)
    class_names = read_class_names(args.class_file) if args.class_file else None
    network, description = trained_network(
        path, architecture=args.architecture, class_names=class_names, head=args.head
    )
    class_names, image_size = description["class_names"], args.image_size or description["image_size"]
    if args.submission:
        check_submission(Path(args.submission), class_names)
    with advice("check --data_dir and --split"):
        dataset = VOCImages(args.data_dir, args.split, evaluation_transform(image_size))
    presence, objects = read_labels(args, dataset.ids, class_names)
    localization = None
    if args.localization:
        trained = description.get("arguments", {})
        sizes = read_sizes(dataset.data_dir, dataset.ids)
        topk = (trained.get("topk", TOPK), trained.get("topk_radius", TOPK_RADIUS))
        localization = Localization(objects, sizes, len(class_names), image_size, *topk)
    device = choose_device(args.device)
    views = TestTimeAugmentation(network, args.scales, args.flip).to(device).eval()
    loader = evaluation_loader(dataset, args.batch_size, args.num_workers)
    try:
        scores, _ = predict(views, loader, device, args.amp, localization.observe if localization else None)
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(f"out of memory at --batch_size {args.batch_size}: try a smaller one, or --amp bf16") from error
    settings = {
        "checkpoint": str(path),
        "checkpoint_sha256": sha256(path),
        "architecture": description["architecture"],
        "head": network.head,
        "split": args.split,
        "split_sha256": sha256(split_path(args.data_dir, args.split)),
        "image_size": image_size,
        "scales": args.scales,
        "flip": args.flip,
        "batch_size": args.batch_size,
        "amp": args.amp,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }
    return Scores(dataset.ids, class_names, scores, presence, settings), localization


def read_labels(args: argparse.Namespace, ids: list[str], class_names: list[str]) -> tuple[np.ndarray | None, list]:
    """Presence `[N, V]`, or None where a submission's images have no annotations; and the objects that count."""
    data_dir, objects = Path(args.data_dir), []
    unlabeled = args.submission and missing_files(data_dir, ids, "Annotations", ".xml")
    if unlabeled and args.labels == "xml" and not args.localization:
        return None, objects
    if args.labels == "xml" or args.localization:
        with advice("check --data_dir and --split; python3 -m tools.check_data lists every problem of a split"):
            check_folder(data_dir, ("Annotations",))
            objects = read_objects(data_dir, ids, args.split, class_names)
    if args.labels == "lists":
        with advice("--labels lists reads the devkit's lists of this split; give --labels xml otherwise"):
            presence = read_label_lists(data_dir, args.split, ids, class_names)
    else:
        presence = labels_of_objects(objects, len(class_names))
    counting = [[item for item in some if args.difficult == "positive" or not item.difficult] for some in objects]
    return presence, counting


def read_again(args: argparse.Namespace) -> Scores:
    """The scores of a file; with --data_dir, labels are read anew."""
    scored = read_scores(Path(args.scores))
    args.split = args.split or scored.settings.get("split", "val")
    if args.submission:
        check_submission(Path(args.submission), scored.class_names)
    if args.data_dir:
        scored.presence, _ = read_labels(args, scored.ids, scored.class_names)
    if scored.presence is None and not args.submission:
        raise UserError(f"--scores {args.scores} holds no labels: give --data_dir to read them")
    return scored


def measure(args: argparse.Namespace, scored: Scores) -> tuple[Metrics, Interval | None]:
    """All metrics, and the mAP's bootstrap interval."""
    labels, counted = labels_of(scored.presence, args.difficult)
    if not (labels & counted).any():
        raise UserError(f"no image of split '{args.split}' shows a class: there is nothing to measure")
    metrics = all_metrics(scored.scores, labels, counted, args.threshold)
    interval = bootstrap_interval(scored.scores, labels, counted, args.bootstrap, args.seed) if args.bootstrap else None
    return metrics, interval


def summary(args: argparse.Namespace, scored: Scores, metrics: Metrics, interval: Interval | None) -> dict[str, Any]:
    """What the JSON file says, but for localization."""
    names, per_class = scored.class_names, metrics.per_class
    return {
        "checkpoint": scored.settings.get("checkpoint"),
        "split": scored.settings.get("split", args.split),
        "image_size": scored.settings.get("image_size"),
        "images": len(scored.ids),
        "mAP": metrics.means["mAP"],
        "chance": metrics.means["chance"],
        "average_precision": {name: value for name, value in zip(names, per_class["AP"]) if value == value},
        "means": metrics.means,
        "interval_95": interval and {"low": 100 * interval.low, "high": 100 * interval.high},
        "per_class": {
            name: {column: values[row] for column, values in per_class.items()} for row, name in enumerate(names)
        },
        "measured_with": {
            name: getattr(args, name) for name in ("difficult", "labels", "threshold", "bootstrap", "seed")
        },
        "scored_with": scored.settings,
        **provenance(),
    }


def base_path(args: argparse.Namespace) -> Path:
    """Where the result files go, without suffix. Measuring again does not replace the first results."""
    if args.out:
        return Path(args.out)
    if args.scores:
        return EXPERIMENTS / "evaluation" / f"{Path(args.scores).stem}_again"
    return EXPERIMENTS / "evaluation" / result_name(checkpoint_path(args.tag, args.weights).stem, args.split)


def submit(args: argparse.Namespace, scored: Scores) -> None:
    """Write and check the archive."""
    path, image_set = Path(args.submission), Path(scored.settings.get("split", args.split)).name
    write_submission(path, scored.ids, scored.scores, scored.class_names, args.competition, image_set)
    print(f"written and read back: {path} ({args.competition}, {len(scored.ids):,} images)")
    if (image_set, len(scored.ids)) != ("test", TEST_IMAGES):
        print(f"note: the VOC 2012 server takes the {TEST_IMAGES:,} images of --split Main/test alone")


def main() -> None:
    """Score, measure, print and write."""
    args = parse_arguments()
    base = base_path(args)
    if args.scores:
        scored, localization = read_again(args), None
    else:
        scored, localization = score(args)
        scored.check(f"checkpoint {scored.settings['checkpoint']}")
        write_scores(base.with_name(f"{base.name}.npz"), scored)
        print(f"written: {base.with_name(base.name + '.npz')}")
    if args.submission:
        submit(args, scored)
    if scored.presence is None:
        print("no labels, no metrics: the images of this split have no annotations")
        return
    metrics, interval = measure(args, scored)
    text = table(scored.class_names, metrics, interval, args.threshold)
    tables = {"": csv_text(scored.class_names, metrics.per_class, mean_row(metrics))}
    result = summary(args, scored, metrics, interval)
    if localization:
        text += "\n\n" + localization.text()
        tables["_localization"] = csv_text(scored.class_names, localization.per_class(), localization.class_means())
        result["localization"] = localization.summary(scored.class_names)
    print(text)
    for path in write_results(base, f"{text}\n\n{result['command']}", tables, result):
        print(f"written: {path}")


if __name__ == "__main__":
    run_main(main)
