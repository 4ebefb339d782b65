"""Evaluate a trained checkpoint on a split: average precisions, precision and recall, and where its keypoints fall.

Architecture, classes and image size are read from the description beside the checkpoint. With --submission it writes
the archive that the PASCAL VOC test server accepts. Raw scores are kept, and --scores measures them again without the
network. See docs/evaluation.md.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from core.evaluation.config import Config
from core.evaluation.report import Evaluation, evaluation_page
from core.evaluation.scoring import Evaluated, read_again, score, split_of
from tools.metrics.bootstrap import Interval, bootstrap_interval
from tools.metrics.labels import label_report
from tools.metrics.multilabel import Metrics, all_metrics, binary_labels
from tools.metrics.protocols import protocol_tables
from tools.metrics.reports import by_class, free_base, metrics_csv, text_report, write_results
from tools.metrics.scores import Scores, read_scores, write_scores
from tools.metrics.submission import TEST_IMAGES, write_submission
from tools.metrics.thresholds import read_thresholds, recorded_thresholds
from tools.pictures.figure import style
from tools.pictures.report import page_path
from tools.runs.folder import CLASS_PAIRS, IN_PROTOCOLS, LABELS, LOCALIZATION, Folder, checkpoint_path
from tools.system.command_line import parse
from tools.system.errors import UserError, advice, printable, run_main
from tools.system.files import check_writable, provenance, recorded_in_json, result_path

# What makes it another evaluation; another device or batch size does not, nor does a newer checkpoint of this name.
SCORED_WITH = ("checkpoint", "head", "data_dir", "split", "split_sha256", "image_size", "eval_resize", "scales", "flip")
SCORED_WITH += ("amp",)
MEASURED_WITH = ("difficult", "labels", "threshold", "bootstrap", "seed")
LOCALIZED_WITH = ("localization", "strategy", "masks")


def submit(config: Config, scored: Scores) -> list[str]:
    """Write and check the archive; return what to print."""
    image_set = Path(scored.settings.get("split", split_of(config, scored))).name
    write_submission(config.submission, scored.ids, scored.scores, scored.class_names, config.competition, image_set)
    lines = [f"written and read back: {config.submission} ({config.competition}, {len(scored.ids):,} images)"]
    if (image_set, len(scored.ids)) != ("test", TEST_IMAGES):
        lines.append(f"note: the VOC 2012 server accepts only the {TEST_IMAGES:,} images of --split Main/test")
    return lines


def measure(config: Config, evaluated: Evaluated, base: Path) -> list[str]:
    """Compute all metrics and write their files; return what to print."""
    scored, localization, pictures = evaluated
    class_names = scored.class_names
    labels, counted = binary_labels(scored.labels, config.difficult)
    threshold, decision = config.threshold, f"score above {config.threshold:g}"
    if config.thresholds:
        with advice("check --thresholds"):
            threshold, decision = read_thresholds(Path(config.thresholds), class_names).thresholds, "own thresholds"
    arrays = (scored.scores, labels, counted)
    metrics = all_metrics(*arrays, threshold, scored.probabilities)
    interval = bootstrap_interval(*arrays, config.bootstrap, config.seed) if config.bootstrap else None
    text = text_report(class_names, metrics, interval, decision)
    if "eval_resize" in scored.settings:
        shown = "whole images, fitted to" if scored.settings["eval_resize"] else "images' top-left"
        text += f"\nevaluated on {shown} {printable(str(scored.settings.get('image_size')))} pixels"
    tables, figures = {"": metrics_csv(class_names, metrics)}, {}
    if config.check_labels:
        predicted = scored.probabilities > threshold
        with style(config.column):
            found = label_report(scored, labels, counted, predicted)
        more, tables[LABELS], tables[CLASS_PAIRS], figures[LABELS] = found
        text += f"\n\n{more}"
    result = summary(config, scored, metrics, interval)
    if localization:
        text += "\n\n" + localization.text()
        tables[LOCALIZATION] = localization.csv(class_names)
        result["localization"] = localization.summary(class_names)
    lines = write_results(base, text, tables, result, figures)
    if config.report:
        page = page_path(config.report, base.name)
        about = {**provenance(), **scored.settings, **measured_with(config)}
        more = [localization.section()] if localization else []
        found = Evaluation(scored, labels, counted, threshold, metrics, interval)
        evaluation_page(page, f"{base.name}: mAP {metrics.means['mAP']:.2f}", found, pictures, about, more)
        lines.append(f"written: {page}")
    return lines


def follow_protocols(config: Config, scored: Scores, base: Path) -> list[str]:
    """Measure as other code bases do and write the table; return what to print."""
    text, table, result = protocol_tables(config.protocol, scored)
    base, made = base.with_name(base.name + IN_PROTOCOLS), made_with(config, scored) | {"protocol": config.protocol}
    base = free_base(base, made, base if config.out else None)
    result |= {"images": len(scored.ids), "scored_with": scored.settings, "made_with": made}
    return write_results(base, text, {"": table}, result)


def measured_with(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in MEASURED_WITH} | recorded_thresholds(config.thresholds)


def made_with(config: Config, scored: Scores) -> dict[str, Any]:
    """Return the settings that tell these results from others."""
    measured = measured_with(config) | {name: getattr(config, name) for name in LOCALIZED_WITH}
    again = {"scores": str(config.scores.resolve()), "data_dir": str(config.data_dir)} if config.scores else {}
    made = {name: scored.settings.get(name) for name in SCORED_WITH} | {"class_names": scored.class_names}
    return {**made, **measured, **again}


def result_base(config: Config, scored: Scores) -> Path:
    """Return where the result files go, without suffix: not over those of other settings, unless --out says so."""
    if config.out:
        return config.out
    wanted = made_with(config, scored)

    def recorded(base: Path) -> dict[str, Any] | None:
        results, scores = (base.with_name(base.name + suffix) for suffix in (".json", ".npz"))
        if (found := recorded_in_json(results, "made_with")) is not None:
            found = {"class_names": scored.class_names, "masks": None} | found  # which earlier versions did not record
            # Nothing is lost where only the localization is added.
            return found if found.get("localization") else found | {name: wanted[name] for name in LOCALIZED_WITH}
        # Scores alone are those of an unlabeled split or of an interrupted evaluation.
        return made_with(config, read_scores(scores)) if scores.exists() else None

    if config.scores:
        return result_path(Folder().results_again(config.scores), wanted, recorded)
    path = checkpoint_path(config.tag, config.weights)
    return result_path(Folder().results(path, scored.settings["split"]), wanted, recorded)


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
    }


def main() -> None:
    """Write every file before anything is printed: a closed pipe loses printed lines, never results."""
    config = parse(Config, __doc__)
    config = replace(config, localization=config.localization or config.masks is not None)
    if config.out:
        check_writable(config.out, f"{LOCALIZATION}.csv")
    if config.report:
        check_writable(page_path(config.report, "report"))
    evaluated = read_again(config) if config.scores else score(config)
    scored = evaluated.scores
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
        if not binary_labels(scored.labels, config.difficult)[0].any():
            split = split_of(config, scored)
            raise UserError(f"no image of split '{split}' shows a class: there is nothing to measure")
        lines += follow_protocols(config, scored, base) if config.protocol else measure(config, evaluated, base)
    print("\n".join(lines))
    if problem:
        raise problem


if __name__ == "__main__":
    run_main(main)
