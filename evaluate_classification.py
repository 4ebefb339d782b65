"""Evaluate a trained checkpoint on a split: average precisions, precision and recall, and where its keypoints fall.

Architecture, classes and image size are read from the description beside the checkpoint. With --submission it writes
the archive that the PASCAL VOC test server accepts. Raw scores are kept, and --scores measures them again without the
network. See docs/evaluation.md.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from core.evaluation.folding import folded
from core.evaluation.loading import check_image_size, choose_device, keypoints_of, trained_network
from core.evaluation.localization import THE_FOUR, Localization
from core.evaluation.masks import Seeds
from core.evaluation.pairs import PresentClasses
from core.evaluation.prediction import PRECISIONS, TestTimeAugmentation, predict
from core.networks import HEADS, Classifier
from core.strategy import KEYPOINTS
from tools.data.annotations import VOCObject, labels_of_objects, read_label_lists, read_objects, read_sizes
from tools.data.datasets import VOCImages
from tools.data.devkit import annotation_files, check_folder, read_class_names, split_path
from tools.data.loader import evaluation_loader
from tools.data.sight import sight_note
from tools.data.transforms import evaluation_transform
from tools.metrics.bootstrap import Interval, bootstrap_interval
from tools.metrics.multilabel import DIFFICULT, Metrics, all_metrics, binary_labels
from tools.metrics.protocols import PROTOCOLS, protocol_tables
from tools.metrics.readers import logits_of, read_results
from tools.metrics.reports import by_class, free_base, metrics_csv, text_report, write_results
from tools.metrics.scores import Scores, read_scores, write_scores
from tools.metrics.submission import COMPETITIONS, TEST_IMAGES, check_submission, write_submission
from tools.metrics.thresholds import read_thresholds, recorded_thresholds
from tools.runs.checkpoints import Description
from tools.runs.folder import BESIDE, IN_PROTOCOLS, LOCALIZATION, Folder, checkpoint_path
from tools.system.command_line import Arguments, argument, parse
from tools.system.errors import UserError, advice, printable, quoted, run_main
from tools.system.files import check_writable, provenance, recorded_in_json, require_regular_file, result_path, sha256

# What makes it another evaluation; another device or batch size does not, nor does a newer checkpoint of this name.
SCORED_WITH = ("checkpoint", "head", "data_dir", "split", "split_sha256", "image_size", "eval_resize", "scales", "flip")
SCORED_WITH += ("amp",)
MEASURED_WITH = ("difficult", "labels", "threshold", "bootstrap", "seed")
LOCALIZED_WITH = ("localization", "strategy", "masks")
SCALES_HELP = "views of each image, as 0.5,1.0,1.5 (default 1.0)"
DIFFICULT_HELP = "what a class shown only as difficult objects is (default positive: official code; ignore: server)"
OUT_HELP = "result files without suffix (default experiments/evaluation/…)"
RESIZE_HELP = "fit whole images to image_size, as inference does, not their top-left square (default: as trained)"
PROTOCOL_HELP = "measure as other code bases do: all, or names with commas between them; see docs/protocols.md"
LOCALIZATION_HELP = "also measure whether keypoints and CAMs fall on the objects"
MASKS_HELP = "--localization, and CAMs as segmentation seeds; SPLIT (default: the other half) chooses the threshold"


def scales(text: str) -> tuple[float, ...]:
    """Read numbers with commas between them."""
    return tuple(float(number) for number in text.split(","))


def comma_separated(text: str) -> tuple[str, ...]:
    return tuple(PROTOCOLS) if text == "all" else tuple(text.split(","))


@dataclass(frozen=True)
class Config(Arguments):
    tag: str | None = argument(None, "evaluate experiments/models/best_TAG.pth", one_of="source")
    weights: str | None = argument(None, "evaluate this checkpoint: ours, or the official code's", one_of="source")
    scores: Path | None = argument(None, "measure these scores again, without a network", one_of="source")

    data_dir: Path | None = argument(None, "VOC devkit folder; not needed with --scores", group="data")
    split: str | None = argument(None, "list in data/, or of the devkit as Main/val (default val)", group="data")
    labels: str = argument("xml", "from XML or the devkit's class lists", group="data", choices=("xml", "lists"))
    num_workers: int = argument(4, "loader processes", group="data", least=0)

    architecture: str | None = argument(None, "default: the description's beside the checkpoint", group="network")
    class_file: Path | None = argument(None, "file with class_names (default: the description's)", group="network")
    head: str | None = argument(None, "of the logits (default: the description's)", group="network", choices=HEADS)
    image_size: int | None = argument(None, "pixels, divisible by 32 (default: as trained)", group="network")
    eval_resize: bool | None = argument(None, RESIZE_HELP, group="network")
    batch_size: int = argument(32, "images per batch", group="network", least=1)
    scales: tuple[float, ...] = argument((1.0,), SCALES_HELP, group="network", parse=scales, above=0, most=8)
    flip: bool = argument(False, "mirrored views too", group="network")
    device: str = argument("auto", "auto, cpu, cuda or cuda:N", group="network")
    amp: str = argument("off", "precision; off: float32", group="network", choices=PRECISIONS)

    difficult: str = argument("positive", DIFFICULT_HELP, group="metrics", choices=DIFFICULT)
    threshold: float = argument(0.5, "a class that scores more is predicted", group="metrics", least=0, most=1)
    thresholds: str | None = argument(None, "instead, those of a file of tools.thresholds", group="metrics")
    protocol: tuple[str, ...] | None = argument(None, PROTOCOL_HELP, group="metrics", parse=comma_separated)
    bootstrap: int = argument(1000, "samples for the interval of the mAP; 0: none", group="metrics", least=0)
    seed: int = argument(0, "of the bootstrap", group="metrics", least=0)
    localization: bool = argument(False, LOCALIZATION_HELP, group="metrics", aliases=("localisation",))
    masks: str | None = argument(None, MASKS_HELP, group="metrics", bare="", metavar="SPLIT")
    strategy: str | None = argument(None, "FILE.py of your own STRATEGY, for --localization", group="metrics")

    out: Path | None = argument(None, OUT_HELP, group="output", names_file=True)
    submission: Path | None = argument(None, "archive for the test server", group="output", metavar="FILE.tar.gz")
    competition: str = argument("comp2", "of the archive", group="output", choices=COMPETITIONS)

    def check(self) -> None:
        if not self.scores and not self.data_dir:
            raise UserError("--data_dir is missing: give the devkit folder (VOC2012)")
        localizes = self.localization or self.masks is not None
        if self.scores and localizes:
            raise UserError(
                "--localization needs the network, as --masks does: give --tag or --weights instead of --scores"
            )
        for name in self.protocol or ():
            if name not in PROTOCOLS:
                raise UserError(f"--protocol {quoted(name)}: choose from {', '.join(PROTOCOLS)}, or all")
        if self.strategy and not localizes:
            raise UserError("--strategy is only used by --localization: add that, or leave --strategy out")
        if self.thresholds:
            with advice("check --thresholds"):
                require_regular_file(Path(self.thresholds))
        if self.out and self.out.name.endswith(BESIDE):
            raise UserError(f"--out {self.out}: tables beside a result end in {' or '.join(BESIDE)}: rename it")
        if self.image_size is not None:
            check_image_size(self.image_size)


def score(config: Config) -> tuple[Scores, Localization | None]:
    """Score the images of the split; return also what --localization measured on the way."""
    path, split = checkpoint_path(config.tag, config.weights), config.split or "val"
    class_names = read_class_names(config.class_file) if config.class_file else None
    network, description = trained_network(path, config.architecture, class_names, config.head)
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
    return scored, localization


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


def localization_of(
    config: Config, description: Description, present: PresentClasses, network: Classifier
) -> Localization:
    """Prepare to measure the four strategies' keypoints, and those of the checkpoint's own strategy."""
    # A checkpoint of the official code does not say its strategy, but it is one of the four, which are measured anyway.
    is_one_of_the_four = config.strategy is None and description.strategy is None
    own, options = keypoints_of(description, "cTopk-w" if is_one_of_the_four else config.strategy)
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


def read_again(config: Config) -> Scores:
    """Read the scores of a file; with --data_dir, read their labels again."""
    names = read_class_names(config.class_file) if config.class_file else None
    with advice("check --scores and --class_file" if names else "check --scores"):
        scored = read_results(config.scores, names)
    check_archive(config, scored.class_names)
    if config.data_dir:
        scored.labels, _ = read_labels(config, split_of(config, scored), scored.ids, scored.class_names)
    if scored.labels is None and not config.submission:
        raise UserError(f"--scores {config.scores} holds no labels: give --data_dir to read them")
    return scored


def split_of(config: Config, scored: Scores) -> str:
    """Return the split that the user named, or else that of the scores."""
    return config.split or scored.settings.get("split", "val")


def check_archive(config: Config, class_names: list[str]) -> None:
    """Refuse, before anything is computed, a --submission that the server does not accept."""
    if config.submission:
        with advice("choose another --submission, or leave it out"):
            check_submission(config.submission, class_names)


def submit(config: Config, scored: Scores) -> list[str]:
    """Write and check the archive; return what to print."""
    image_set = Path(scored.settings.get("split", split_of(config, scored))).name
    write_submission(config.submission, scored.ids, scored.scores, scored.class_names, config.competition, image_set)
    lines = [f"written and read back: {config.submission} ({config.competition}, {len(scored.ids):,} images)"]
    if (image_set, len(scored.ids)) != ("test", TEST_IMAGES):
        lines.append(f"note: the VOC 2012 server accepts only the {TEST_IMAGES:,} images of --split Main/test")
    return lines


def measure(config: Config, scored: Scores, localization: Localization | None, base: Path) -> list[str]:
    """Compute all metrics and write their files; return what to print."""
    class_names, ranked = scored.class_names, scored.scores
    labels, counted = binary_labels(scored.labels, config.difficult)
    if not (labels & counted).any():
        raise UserError(f"no image of split '{split_of(config, scored)}' shows a class: there is nothing to measure")
    threshold, decision = config.threshold, f"score above {config.threshold:g}"
    if config.thresholds:
        with advice("check --thresholds"):
            threshold, decision = read_thresholds(Path(config.thresholds), class_names).thresholds, "own thresholds"
    metrics = all_metrics(ranked, labels, counted, threshold, scored.probabilities)
    interval = bootstrap_interval(ranked, labels, counted, config.bootstrap, config.seed) if config.bootstrap else None
    text = text_report(class_names, metrics, interval, decision)
    if "eval_resize" in scored.settings:
        shown = "whole images, fitted to" if scored.settings["eval_resize"] else "images' top-left"
        text += f"\nevaluated on {shown} {printable(str(scored.settings.get('image_size')))} pixels"
    tables = {"": metrics_csv(class_names, metrics)}
    result = summary(config, scored, metrics, interval)
    if localization:
        text += "\n\n" + localization.text()
        tables[LOCALIZATION] = localization.csv(class_names)
        result["localization"] = localization.summary(class_names)
    written = write_results(base, f"{text}\n\n{result['command']}", tables, result)
    return [text, *(f"written: {path}" for path in written)]


def follow_protocols(config: Config, scored: Scores, base: Path) -> list[str]:
    """Measure as other code bases do and write the table; return what to print."""
    arrays = (logits_of(scored), scored.probabilities, scored.labels)
    text, table, result = protocol_tables(config.protocol, *arrays, scored.class_names)
    base, made = base.with_name(base.name + IN_PROTOCOLS), made_with(config, scored) | {"protocol": config.protocol}
    base = free_base(base, made, base if config.out else None)
    result |= {"images": len(scored.ids), "scored_with": scored.settings, "made_with": made, **provenance()}
    return [text, *(f"written: {path}" for path in write_results(base, text, {"": table}, result))]


def measured_with(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in MEASURED_WITH} | recorded_thresholds(config.thresholds)


def made_with(config: Config, scored: Scores) -> dict[str, Any]:
    """Return the settings that tell these results from others."""
    measured = measured_with(config) | {name: getattr(config, name) for name in LOCALIZED_WITH}
    again = {"scores": str(config.scores.resolve()), "data_dir": str(config.data_dir)} if config.scores else {}
    return {**scored_with(scored), **measured, **again}


def scored_with(scored: Scores) -> dict[str, Any]:
    return {name: scored.settings.get(name) for name in SCORED_WITH} | {"class_names": scored.class_names}


def result_base(config: Config, scored: Scores) -> Path:
    """Return where the result files go, without suffix: not over those of other settings, unless --out says so."""
    if config.out:
        return config.out
    wanted = made_with(config, scored)

    def recorded(base: Path) -> dict[str, Any] | None:
        results, scores = (base.with_name(base.name + suffix) for suffix in (".json", ".npz"))
        if (found := recorded_in_json(results, "made_with")) is not None:
            found = {"class_names": scored.class_names, "masks": None} | found  # which results of before do not record
            # Nothing is lost where only the localization is added.
            return found if found.get("localization") else found | {name: wanted[name] for name in LOCALIZED_WITH}
        # Scores alone are those of an unlabeled split or of an interrupted evaluation.
        return wanted | scored_with(read_scores(scores)) if scores.exists() else None

    if config.scores:
        return result_path(Folder().results_again(config.scores), wanted, recorded)
    path = checkpoint_path(config.tag, config.weights)
    return result_path(Folder().results(path, config.split or "val"), wanted, recorded)


def summary(config: Config, scored: Scores, metrics: Metrics, interval: Interval | None) -> dict[str, Any]:
    """Return what the JSON file holds, without localization."""
    averages = zip(scored.class_names, metrics.per_class["AP"], strict=True)
    return {
        "checkpoint": scored.settings.get("checkpoint"),
        "split": scored.settings.get("split", split_of(config, scored)),
        "image_size": scored.settings.get("image_size"),
        "images": len(scored.ids),
        "mAP": metrics.means["mAP"],
        "chance": metrics.means["chance"],
        "average_precision": {name: value for name, value in averages if not np.isnan(value)},
        "means": metrics.means,
        "interval_95": interval and {"low": 100 * interval.low, "high": 100 * interval.high},
        "per_class": by_class(scored.class_names, metrics.per_class),
        "measured_with": measured_with(config),
        "scored_with": scored.settings,
        "made_with": made_with(config, scored),
        **provenance(),
    }


def main() -> None:
    """Write every file before anything is printed: a closed pipe costs words, never results."""
    config = parse(Config, __doc__)
    config = replace(config, localization=config.localization or config.masks is not None)
    if config.out:
        check_writable(config.out, f"{LOCALIZATION}.csv")
    scored, localization = (read_again(config), None) if config.scores else score(config)
    base, lines, problem = result_base(config, scored), [], None
    if not config.scores or config.data_dir:  # labels that were read now make the scores complete
        path = base.with_name(f"{base.name}.npz")
        write_scores(path, scored)
        lines.append(f"written: {path}")
    if config.submission:
        try:
            lines += submit(config, scored)
        except UserError as error:
            problem = error  # the metrics do not depend on the archive
    if scored.labels is None:
        lines.append("no labels, no metrics: the images of this split have no annotations")
    else:
        lines += (
            follow_protocols(config, scored, base) if config.protocol else measure(config, scored, localization, base)
        )
    print("\n".join(lines))
    if problem:
        raise problem


if __name__ == "__main__":
    run_main(main)
