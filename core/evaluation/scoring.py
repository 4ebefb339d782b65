"""From the arguments of an evaluation to scores, labels, and what is measured while the network runs."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Subset

from core.evaluation.config import Config
from core.evaluation.folding import folded
from core.evaluation.loading import choose_device, keypoints_of, trained_network
from core.evaluation.localization import THE_FOUR, Localization
from core.evaluation.masks import Seeds
from core.evaluation.pairs import PresentClasses
from core.evaluation.prediction import TestTimeAugmentation, autocast, predict, to_device
from core.evaluation.report import Pair, draw_errors, worst_errors
from core.networks import Classifier
from core.strategy import KEYPOINTS
from tools.data.annotations import VOCObject, labels_of_objects, read_label_lists, read_objects, read_sizes
from tools.data.datasets import VOCImages
from tools.data.devkit import annotation_files, check_folder, read_class_names, read_split, split_path
from tools.data.loader import evaluation_loader
from tools.data.sight import sight_note
from tools.data.transforms import evaluation_transform
from tools.metrics.multilabel import binary_labels
from tools.metrics.readers import read_results
from tools.metrics.scores import Scores
from tools.metrics.submission import check_submission
from tools.runs.checkpoints import Description
from tools.runs.folder import checkpoint_path
from tools.system.errors import UserError, advice
from tools.system.files import sha256


class Evaluated(NamedTuple):
    """The scores of a split, and what was measured on the way."""

    scores: Scores
    localization: Localization | None = None
    pictures: dict[Pair, str] = {}  # sources, for --report


def score(config: Config) -> Evaluated:
    """Score the images of the split."""
    path = checkpoint_path(config.tag, config.weights)
    class_names = read_class_names(config.class_file) if config.class_file else None
    network, description = trained_network(path, config.architecture, class_names, config.head)
    split = config.split or str(description.arguments.get("val_split") or "val")
    resize = description.arguments.get("eval_resize") is True if config.eval_resize is None else config.eval_resize
    image_size = config.image_size or description.image_size
    check_archive(config, description.class_names)
    with advice("check --data_dir and --split"):
        dataset = VOCImages(config.data_dir, split, evaluation_transform(image_size, resize))
        sizes = read_sizes(dataset.data_dir, dataset.ids)
    labels, objects = read_labels(config, split, dataset.ids, description.class_names)
    if not resize and (note := sight_note(sizes, objects, image_size)):
        print(f"note: {note}")
    device, network, localization = choose_device(config.device), folded(network), None
    views = TestTimeAugmentation(network, config.scales, config.flip).to(device)
    loader = evaluation_loader(dataset, config.batch_size, config.num_workers)
    if config.localization:
        present = PresentClasses(objects, sizes, len(description.class_names), image_size, resize)
        localization = localization_of(config, description, present, network)
    try:
        if config.masks is not None:
            localization.seeds = seeds_of(config, description.class_names, dataset, localization, views)
        logits, _ = predict(views, loader, device, config.amp, localization.observe if localization else None)
    except torch.cuda.OutOfMemoryError as error:
        size = config.batch_size
        raise UserError(f"out of memory at --batch_size {size}: try a smaller one, or --amp bf16") from error
    settings = {"checkpoint": str(path), "checkpoint_sha256": sha256(path), "architecture": description.architecture}
    settings |= {"head": network.head, "split": split, "split_sha256": sha256(split_path(config.data_dir, split))}
    settings |= {"data_dir": str(dataset.data_dir.resolve()), "image_size": image_size, "eval_resize": resize}
    settings |= {"scales": config.scales, "flip": config.flip, "batch_size": config.batch_size, "amp": config.amp}
    settings["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    scored = Scores(dataset.ids, description.class_names, logits, labels, settings)
    with advice("look at these images, or try --amp off"):
        scored.check(f"checkpoint {path}")

    @torch.inference_mode()
    def features_of(pixels: torch.Tensor) -> torch.Tensor:
        with autocast(device, config.amp):
            return network(to_device(pixels, device, network), features_only=True)[1]

    return Evaluated(scored, localization, pictures_of(config, scored, dataset, objects, resize, features_of))


def pictures_of(
    config: Config, scored: Scores, images: VOCImages, objects: list[list[VOCObject]], resize: bool, features_of: Any
) -> dict[Pair, str]:
    """Return pictures of the worst errors, if there is a report and there are labels."""
    if config.report is None or scored.labels is None:
        return {}
    found = worst_errors(scored.scores, *binary_labels(scored.labels, config.difficult))
    return draw_errors([pair for pairs in found.values() for pair in pairs], images, objects, resize, features_of)


def read_labels(
    config: Config, split: str, ids: list[str], class_names: list[str]
) -> tuple[np.ndarray | None, list[list[VOCObject]]]:
    """Read labels `[N, V]` (see `Scores`), and the objects of each image that localization counts.

    A submission's images may have no annotations: their labels are None.
    """
    may_be_unlabeled = config.submission and config.labels == "xml" and not config.localization
    if may_be_unlabeled and annotation_files(config.data_dir).missing(ids):
        return None, []
    objects = []
    if config.labels == "xml" or config.localization:
        with advice("check --data_dir and --split; python3 -m tools.check_data lists every problem of a split"):
            check_folder(config.data_dir, ("Annotations",))
            objects = read_objects(config.data_dir, ids, split, class_names)
    if config.labels == "lists":
        with advice("--labels lists reads the devkit's lists of this split; give --labels xml otherwise"):
            labels = read_label_lists(config.data_dir, split, ids, class_names)
    else:
        labels = labels_of_objects(objects, len(class_names))
    if config.difficult != "positive":
        objects = [[item for item in of_image if not item.difficult] for of_image in objects]
    return labels, objects


def localization_of(config: Config, about: Description, present: PresentClasses, network: Classifier) -> Localization:
    """Prepare to measure the four strategies' keypoints, and those of the checkpoint's own strategy."""
    # A checkpoint of the official code does not say its strategy, but it is one of the four, which are measured anyway.
    is_one_of_the_four = config.strategy is None and about.strategy is None
    own, options = keypoints_of(about, "cTopk-w" if is_one_of_the_four else config.strategy)
    if own is None and config.strategy:
        print(f"note: {config.strategy} declares no keypoints, as Strategy(…, keypoints=FUNCTION): none are measured")
    # Of the project's keypoints, "centre" is measured as a level of chance.
    keypoints = THE_FOUR if own is None or own in KEYPOINTS.values() else (*THE_FOUR, own)
    try:
        return Localization(present, keypoints, options, network)
    except ValueError as error:
        raise UserError(f"--localization: {error}: give the strategy another name") from error


def seeds_of(
    config: Config, class_names: list[str], images: VOCImages, localization: Localization, views: TestTimeAugmentation
) -> Seeds:
    """Prepare to measure maps against masks; predict the images of `--masks SPLIT`, which choose the thresholds."""
    present, maps = localization.present, localization.maps
    with advice("check --masks"):
        seeds = Seeds(images.data_dir, images.ids, present, maps)
        if not config.masks:
            return seeds
        others = VOCImages(config.data_dir, config.masks, images.transform)
        if shared := set(others.ids).intersection(images.ids):
            raise UserError(f"--masks {config.masks} shares {len(shared):,} images with the evaluated split")
        _, objects = read_labels(config, config.masks, others.ids, class_names)
        present = replace(present, objects=objects, sizes=read_sizes(others.data_dir, others.ids))
        seeds.elsewhere = Seeds(others.data_dir, others.ids, present, maps)
    loader = evaluation_loader(Subset(others, [*seeds.elsewhere.masks]), config.batch_size, config.num_workers)
    predict(views, loader, choose_device(config.device), config.amp, seeds.elsewhere.observe)
    return seeds


def read_again(config: Config) -> Evaluated:
    """Read the scores of a file; with --data_dir, read their labels again."""
    names = read_class_names(config.class_file) if config.class_file else None
    with advice("check --scores and --class_file" if names else "check --scores"):
        scored = read_results(config.scores, names)
    check_archive(config, scored.class_names)
    objects: list[list[VOCObject]] = []
    if config.data_dir:
        if config.split:
            with advice("check --scores and --split"):
                ids = read_split(config.data_dir, config.split, set(scored.ids))
                scored = scored.of_images(ids, f"{config.scores} has other images than split '{config.split}'")
        scored.labels, objects = read_labels(config, split_of(config, scored), scored.ids, scored.class_names)
    if scored.labels is None and not config.submission:
        raise UserError(f"--scores {config.scores} holds no labels: give --data_dir to read them")
    pictures = {}
    if objects and config.report:
        how = scored.settings.get("image_size"), scored.settings.get("eval_resize") is True
        size = how[0] if isinstance(how[0], int) else max(map(max, read_sizes(config.data_dir, scored.ids)))
        images = VOCImages(config.data_dir, split_of(config, scored), evaluation_transform(size, how[1]))
        if images.ids == scored.ids:
            pictures = pictures_of(config, scored, images, objects, how[1], None)
    return Evaluated(scored, None, pictures)


def split_of(config: Config, scored: Scores) -> str:
    """Return the split that the user named, or else that of the scores."""
    return config.split or scored.settings.get("split", "val")


def check_archive(config: Config, class_names: list[str]) -> None:
    """Refuse, before anything is computed, a --submission that the server does not accept."""
    if config.submission:
        with advice("choose another --submission, or leave it out"):
            check_submission(config.submission, class_names)
