"""Data, epochs and validation, the same for every strategy; one iteration is `core.training.trainer`."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from core.evaluation.loading import load_first_weights, untrained_network
from core.evaluation.prediction import predict
from core.losses import class_loss
from core.strategy import KEYPOINTS, Strategy
from core.training.config import Config, parse_config
from core.training.devices import Devices, choose_devices, lower_memory
from core.training.pace import peak_memory
from core.training.run import Run
from core.training.selection import cut_selection
from core.training.snapshots import draw_snapshot
from core.training.trainer import Trainer
from tools.data.annotations import read_sizes
from tools.data.datasets import VOCClassification
from tools.data.devkit import read_class_names
from tools.data.loader import evaluation_loader, interleave, training_loader
from tools.data.sight import sight_note
from tools.data.transforms import evaluation_transform, training_transform
from tools.metrics.average_precision import average_precisions, mean_over_classes
from tools.pictures.figure import rgb_array, write_picture
from tools.system.console import duration
from tools.system.errors import UserError, advice, explain_shortages, run_main
from tools.system.interruption import Interruption
from tools.system.processes import Processes


class Data(NamedTuple):
    """The images of a run: "training", "validation" and, with `--select_split`, "selection"."""

    sets: dict[str, VOCClassification]
    loaders: dict[str, DataLoader]  # with which this process reads them


def train(strategy: Strategy, description: str | None) -> None:
    """Run a training script: parse arguments, train, report user errors in one line and exit with status 2.

    `description`, the script's docstring, is shown by --help.
    """

    def start() -> None:
        if strategy.name in KEYPOINTS and callable(strategy.keypoints):
            named = f"strategy {strategy.name} has keypoints of its own, but the name of known ones"
            raise UserError(f"{named}, which would be shown instead: rename it in its STRATEGY")
        with Processes() as processes:
            run_training(strategy, parse_config(strategy, description), processes)

    run_main(start)


def run_training(strategy: Strategy, config: Config, processes: Processes) -> None:
    """Run a complete training.

    Raises:
        UserError: something the user can fix; found before the first iteration wherever that is possible.
        SystemExit: after SIGINT (status 130), SIGTERM (143) or SIGHUP (129), with the state saved for `--resume`.
    """
    with explain_shortages("; --resume continues from the last state", memory=lower_memory(config)):
        devices = choose_devices(config, processes)
        notes = [f"settings other than the defaults: {config.changed() or 'none'}"]
        config, names = replace(config, replicas=devices.replicas), read_class_names(config.class_file)
        torch.manual_seed(config.seed)
        head = strategy.head_for(strategy.options(asdict(config)))
        network = untrained_network(config.architecture, len(names), config.channels_last, head)  # refused at once
        data = make_data(config, names, processes)
        notes.append(load_first_weights(network, config.architecture, config.weights, names, notes.append))
        with Interruption() as interruption:
            network.to(devices.first)
            network.set_replicas(config.replicas, devices.count, processes.is_first, synchronize=config.sync_bn)
            trainer = Trainer(network, strategy, config, len(data.loaders["training"]), processes, devices.gpus)
            torch.manual_seed(config.seed + processes.rank)  # from here on, dropout differs between processes
            with Run(config, trainer, data.sets, interruption) as run:
                if run.start(_summary(config, devices, data), notes):
                    _epochs(run, data)


def _epochs(run: Run, data: Data) -> None:
    while run.epoch < run.config.max_epoch:
        train_epoch(run, data)
        values = validate(run, data)
        _draw_snapshot(run, data, values["map"])
        run.finish_epoch(values)
    run.finish()


def train_epoch(run: Run, data: Data) -> None:
    """Train on the rest of an epoch's images, with a progress bar and log lines."""
    trainer, config, loader = run.trainer, run.config, data.loaders["training"]
    length, batch_size = trainer.epoch_iterations, config.batch_size
    interval = max(1, int(length * config.print_ratio))
    title, done = f"epoch {run.epoch + 1}/{config.max_epoch}", run.position * batch_size
    loader.sampler.set_epoch(run.epoch, done)
    started, first = time.perf_counter(), run.position  # of the images of the next log line
    # None: no bar where no terminal shows it.
    with tqdm(None, title, length * batch_size, unit="img", initial=done, disable=run.log.silent or None) as bar:
        for images, labels, indices in run.pace.batches(loader):
            run.stop_or_save()
            rates = trainer.lr, trainer.alpha_re
            step, finite = trainer.iterate(images, labels)
            if finite:
                run.add_losses(step)
            else:
                run.not_finite(step, rates[0], [data.sets["training"].ids[index] for index in indices])
            run.position += 1
            bar.update(batch_size)
            if run.position % interval == 0 or run.position == length:
                losses = run.mean_losses()
                seconds, count = time.perf_counter() - started, (run.position - first) * batch_size
                started, first = started + seconds, run.position
                bar.set_postfix(loss=f"{losses['loss']:.4f}", lr=f"{rates[0]:.2g}")
                last = run.position == length
                run.log.training(trainer.iteration, run.epoch + 1, rates, losses, count, seconds, run.progress(), last)


def validate(run: Run, data: Data) -> dict[str, float]:
    """Return the values of a validation, see `RunLog.validation`, and log them with every class's average precision."""
    started, iteration = time.perf_counter(), run.trainer.iteration
    predicted = {name: _predict(run, loader) for name, loader in data.loaders.items() if name != "training"}
    logits, labels, scales = predicted["validation"]
    present = labels > 0
    try:
        precisions = average_precisions(logits, labels)
        values = {"map": 100 * mean_over_classes(precisions)}
        values["eval_class_loss"] = float(class_loss(torch.from_numpy(logits), torch.from_numpy(labels)))
        values["map_scale"] = float(scales[present].mean()) if present.any() else math.nan
        if "selection" in predicted:
            values["select_map"] = 100 * mean_over_classes(average_precisions(*predicted["selection"][:2]))
    except ValueError as error:
        fix = "restart with a lower --lr or a --warmup_epoch; the models of earlier epochs are intact"
        raise UserError(f"validation after iteration {iteration}: {error}: the weights diverged: {fix}") from error
    shares = [None if np.isnan(value) else float(100 * value) for value in precisions]
    per_class = dict(zip(run.class_names, shares, strict=True))
    seconds, pace = time.perf_counter() - started, run.pace
    pace.validation, pace.validations = pace.validation + seconds, pace.validations + 1
    chance = dict(zip(run.class_names, np.round(100 * present.mean(0), 4).tolist(), strict=True))
    run.log.validation(iteration, run.epoch + 1, {**values, "chance": chance}, per_class, seconds)
    spent = f"{duration(pace.training)} of training ({duration(pace.waiting)} waiting for data)"
    memory = peak_memory(run.trainer.gpus)
    run.log.line(f"    so far {spent}, {duration(pace.validation)} of validation, peak memory {memory}")
    return values


def _predict(run: Run, loader: DataLoader) -> list[np.ndarray]:
    """Return logits, labels and strongest features of a loader's images, `[N, V]` each, of all processes.

    They stop together at a signal.
    """
    trainer = run.trainer
    common = min(trainer.processes.gather(len(loader)))  # batches that all processes have

    def batches() -> Iterator[Any]:
        for number, batch in enumerate(loader):
            if number < common:
                run.stop_or_save(may_save=False)
            yield batch

    strongest: list[torch.Tensor] = []  # like the logits, they stay on the device
    how = {"amp": run.config.amp, "silent": run.log.silent or None, "total": len(loader)}
    how["observe"] = lambda features, _: strongest.append(features.float().amax((2, 3)))
    logits, labels = predict(trainer.average or trainer.student_forward, batches(), trainer.device, **how)
    scales = torch.cat(strongest).cpu().numpy() if strongest else logits
    return [interleave(trainer.processes.gather(rows)) for rows in (logits, labels, scales)]


def _draw_snapshot(run: Run, data: Data, mean: float) -> None:
    """Draw validation images after an epoch with this mAP, if `--snapshot_every` asks for it."""
    trainer, epoch, every = run.trainer, run.epoch + 1, run.config.snapshot_every
    if not every or epoch % every or not trainer.processes.is_first:
        return
    title = f"{run.config.tag}, epoch {epoch}, mAP {mean:.1f}: map of a present class, its score"
    options = trainer.strategy.options(trainer.arguments)
    figure = draw_snapshot(trainer.evaluated, data.sets["validation"], trainer.strategy, options, title)
    if figure is not None:
        write_picture(run.folder.snapshots(run.config.tag) / f"epoch_{epoch:03d}.png", figure)
        run.log.picture("snapshot", rgb_array(figure), trainer.iteration)


def make_data(config: Config, class_names: list[str], processes: Processes) -> Data:
    """Return data sets and loaders of a run; every file is looked for before the first iteration."""
    share = processes.rank, processes.size
    with advice("see --augment"):
        sizes = config.image_size, config.min_image_size, config.max_image_size
        augmented = training_transform(*sizes, config.augment, getattr(config, "cutout", 0.0))  # baselines' alone
    plain = evaluation_transform(config.image_size, config.eval_resize)
    sets = {}
    for name, option, transform in (("training", "train_split", augmented), ("validation", "val_split", plain)):
        check = "python3 -m tools.check_data lists every problem of a split"
        with advice(f"check --data_dir, --{option} and --class_file; {check}"):
            split, difficult = getattr(config, option), config.train_difficult if name == "training" else "positive"
            sets[name] = VOCClassification(config.data_dir, split, class_names, transform, difficult, config.limit)
    if config.select_split is not None:
        sets["training"], sets["selection"] = cut_selection(config, sets["training"], sets["validation"])
    with advice("choose another --batch_size"):
        batches = training_loader(sets["training"], config.batch_size, config.num_workers, config.seed, *share)
    loaders = {"training": batches}
    for name in [name for name in sets if name not in loaders]:
        loaders[name] = evaluation_loader(sets[name], config.batch_size, config.num_workers, *share)
    return Data(sets, loaders)


def _summary(config: Config, devices: Devices, data: Data) -> list[str]:
    """Return the log's first lines on the data and the devices, and on what validation does not see of its images."""
    processes, validation = devices.processes, data.sets["validation"]
    several = f", {processes.size} processes" if processes.size > 1 else ""
    images, iterations = len(data.sets["training"]), len(data.loaders["training"])
    counts = f"{images:,} training images, {len(validation):,} validation images, {len(validation.class_names)} classes"
    lines = [f"[i] {counts}, {iterations:,} iterations per epoch, on {devices.describe()}{several}"]
    if dropped := images - iterations * config.batch_size:
        lines.append(f"[i] an epoch leaves out {dropped:,} images, others each time: they fill no batch")
    if iterations < 10:  # the running statistics and the schedule are then coarse
        lines.append(f"[!] only {iterations} iterations per epoch: try a smaller --batch_size, or more images")
    if config.min_image_size > config.image_size:
        side = config.image_size
        parts = f"{config.min_image_size} exceeds --image_size {side}: training sees only parts of the images"
        tried = f"--min_image_size {side * 5 // 8} --max_image_size {side * 5 // 4}"
        lines.append(f"[!] --min_image_size {parts}; try {tried}")
    if config.limit:
        lines.append(f"[!] --limit {config.limit}: only the first images of each list, to try things out")
    if "selection" in data.sets:
        chosen = f"the best epoch is chosen on {len(data.sets['selection']):,} other images"
        lines.append(f"[i] {chosen}, which are not trained on (--select_split {config.select_split})")
    if not config.eval_resize and processes.is_first:
        sizes = read_sizes(validation.data_dir, validation.ids)
        larger = max(map(max, sizes)) > config.image_size
        objects = [validation.objects(index) for index in range(len(validation))] if larger else []
        note = sight_note(sizes, objects, config.image_size)
        lines += [f"[i] of the validation images, {note}"] if note else []
    return lines
