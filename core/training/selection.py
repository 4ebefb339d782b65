"""Images apart from training and validation, on which a run chooses its best epoch (`--select_split`)."""

import copy

from core.training.config import Config
from tools.data.datasets import VOCClassification
from tools.data.splits import split_lists
from tools.system.errors import UserError, advice, first_few


def cut_selection(
    config: Config, training: VOCClassification, validation: VOCClassification
) -> tuple[VOCClassification, VOCClassification]:
    """Return the training images that remain, and the images that choose the best epoch, transformed as validation's.

    A share of the training list is cut by stratified sampling over the classes, which depends on ids, labels and
    `--seed` alone. A list of its own is taken as it is, and its images are cut from the training list.

    Raises:
        UserError: the images of a list are validated on too, or nothing is left to train on.
    """
    share = config.select_share
    if share is not None:
        cut = split_lists(training.ids, training.labels.numpy() > 0, share, config.seed)["val"]
        judged = training
        if config.train_difficult != "positive":  # validation and selection count difficult objects as the paper does
            judged = VOCClassification(config.data_dir, config.train_split, training.class_names, limit=config.limit)
        chosen = _part(judged, set(cut))
    else:
        with advice("check --select_split and --class_file"):
            chosen = VOCClassification(config.data_dir, config.select_split, training.class_names, limit=config.limit)
    chosen.transform = validation.transform
    ids = set(chosen.ids)
    if both := sorted(ids.intersection(validation.ids)):
        seen = f"{len(both):,} images of --select_split {config.select_split} are in --val_split {config.val_split} too"
        raise UserError(f"{seen} ({first_few(both)}): the best epoch has to be chosen on others")
    remaining = _part(training, set(training.ids) - ids)
    if not remaining.ids:
        raise UserError(f"--select_split {config.select_split} leaves no image of --train_split {config.train_split}")
    return remaining, chosen


def _part(images: VOCClassification, ids: set[str]) -> VOCClassification:
    """Return the images with these ids, in their order."""
    part, indices = copy.copy(images), [index for index, image_id in enumerate(images.ids) if image_id in ids]
    part.ids, part.paths, part.annotations = (
        [values[index] for index in indices] for values in (images.ids, images.paths, images.annotations)
    )
    part.labels = images.labels[indices]
    return part
