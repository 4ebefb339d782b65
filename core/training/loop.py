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

from core.evaluation.loading import make_network
from core.evaluation.prediction import predict
from core.losses import class_loss
from core.strategy import Strategy
from core.training.config import Config, parse_config
from core.training.devices import Devices, choose_devices, lower_memory
from core.training.run import Run
from core.training.snapshots import Snapshots
from core.training.trainer import Trainer
from tools.data.annotations import read_sizes
from tools.data.datasets import VOCClassification
from tools.data.devkit import read_class_names
from tools.data.loader import evaluation_loader, interleave, training_loader
from tools.data.sight import sight_note
from tools.data.transforms import evaluation_transform, training_transform
from tools.metrics.average_precision import average_precisions, mean_over_classes
from tools.pictures.figure import rgb_array, write_picture
from tools.runs.folder import Folder
from tools.system.errors import UserError, advice, explain_shortages, run_main
from tools.system.interruption import Interrupted, Interruption
from tools.system.processes import Processes


class Data(NamedTuple):
    """The images of a run: the data sets, and the loaders that this process reads them with."""

    training: VOCClassification
    validation: VOCClassification
    training_loader: DataLoader
    validation_loader: DataLoader


def train(strategy: Strategy, description: str | None) -> None:
    """Run a training script: parse arguments, train, report user errors in one line and exit with status 2.

    Args:
        strategy: what is trained.
        description: the script's docstring, shown by --help.
    """

    def start() -> None:
        with Processes() as processes:
            run_training(strategy, parse_config(strategy, description), processes)

    run_main(start)


def run_training(strategy: Strategy, config: Config, processes: Processes) -> None:
    """Run a complete training.

    Raises:
        UserError: something the user can fix; found before the first iteration wherever that is possible.
        SystemExit: after SIGINT (status 130), SIGTERM (143) or SIGHUP (129), with the state saved for `--resume`.
    """
    then = "; --resume continues from the last state"
    with explain_shortages(then, memory=lower_memory(config)):
        devices = choose_devices(config, processes)
        config = replace(config, replicas=devices.replicas)
        data = make_data(config, read_class_names(config.class_file), processes)
        with Interruption() as interruption:
            _train(strategy, config, devices, data, interruption)


def _train(strategy: Strategy, config: Config, devices: Devices, data: Data, interruption: Interruption) -> None:
    processes, num_classes = devices.processes, len(data.training.class_names)
    torch.manual_seed(config.seed)
    notes: list[str] = []
    head = strategy.head_for(strategy.options(asdict(config)))
    network = make_network(
        *(config.architecture, config.weights, num_classes, config.channels_last, head),
        data.training.class_names,
        notes.append,
    )
    network.to(devices.first)
    devices.configure(network, config.sync_bn)
    trainer = Trainer(network, strategy, config, len(data.training_loader), processes, devices.gpus)
    torch.manual_seed(config.seed + processes.rank)  # from here on, dropout differs between processes
    data_sets = {"training": data.training, "validation": data.validation}
    with Run(Folder(), config, trainer, data_sets, interruption) as run:
        run.start(_summary(devices, processes, data), notes)
        if note := _sight(config, processes, data.validation):
            run.log.line(f"[i] of the validation images, {note}")
        _epochs(run, data)


def _epochs(run: Run, data: Data) -> None:
    """Train epoch by epoch from the run's position; an interruption keeps it as of the last iteration."""
    try:
        while run.epoch < run.config.max_epoch:
            train_epoch(run, data)
            mean = validate(run, data)
            draw_snapshots(run, data.validation, mean)
            run.finish_epoch(mean)
        run.finish()
    except Interrupted as interrupted:
        run.interrupt(interrupted)


def draw_snapshots(run: Run, validation: VOCClassification, mean: float) -> None:
    """Draw validation images after an epoch with this mAP, if `--snapshot_every` asks for it."""
    trainer, epoch, every = run.trainer, run.epoch + 1, run.config.snapshot_every
    if not every or epoch % every or not trainer.processes.is_first:
        return
    options = trainer.strategy.options(trainer.arguments)
    snapshots = Snapshots(validation, run.config.image_size, trainer.strategy, options, run.config.eval_resize)
    title = f"{run.config.tag}, epoch {epoch}, mAP {mean:.1f}: map of a present class, its score"
    figure = snapshots.take(trainer.evaluated, title)
    if figure is not None:
        write_picture(run.folder.snapshots(run.config.tag) / f"epoch_{epoch:03d}.png", figure)
        run.log.picture("snapshot", rgb_array(figure), trainer.iteration)


def train_epoch(run: Run, data: Data) -> None:
    """Train on the rest of an epoch's images, with a progress bar and log lines."""
    trainer, config, loader = run.trainer, run.config, data.training_loader
    length, batch_size = trainer.epoch_iterations, config.batch_size
    interval = max(1, int(length * config.print_ratio))
    loader.sampler.set_epoch(run.epoch, run.position * batch_size)
    started, first = time.perf_counter(), run.position  # of the images of the next log line
    bar = tqdm(
        total=length * batch_size,
        initial=run.position * batch_size,
        unit="img",
        desc=f"epoch {run.epoch + 1}/{config.max_epoch}",
        disable=run.log.silent,
    )
    with bar:
        for images, labels, indices in loader:
            run.between_iterations()
            rates = trainer.lr, trainer.alpha_re
            step, finite = trainer.iterate(images, labels)
            if finite:
                run.add_losses(step)
            else:
                run.not_finite(step, rates[0], [data.training.ids[index] for index in indices])
            run.position += 1
            bar.update(batch_size)
            if run.position % interval == 0 or run.position == length:
                losses = run.mean_losses()
                seconds, count = time.perf_counter() - started, (run.position - first) * batch_size
                started, first = started + seconds, run.position
                bar.set_postfix(loss=f"{losses['loss']:.4f}", lr=f"{rates[0]:.2g}")
                run.log.training(trainer.iteration, run.epoch + 1, rates, losses, count, seconds)


def validate(run: Run, data: Data) -> float:
    """Return the mAP on the validation split, in %, and log it with the loss, the maps' scale and every class's AP."""
    trainer, loader, started = run.trainer, data.validation_loader, time.perf_counter()
    batches = _until_interrupted(run, loader)
    strongest: list[torch.Tensor] = []  # feature of each map; like the logits, they stay on the device
    logits, labels = predict(
        *(trainer.average or trainer.student_forward, batches, trainer.device, run.config.amp),
        *(lambda features, _: strongest.append(features.float().amax((2, 3))), run.log.silent, len(loader)),
    )
    scales = torch.cat(strongest).cpu().numpy() if strongest else logits
    logits, labels, scales = (interleave(trainer.processes.gather(rows)) for rows in (logits, labels, scales))
    try:
        precisions = average_precisions(logits, labels)
    except ValueError as error:
        raise UserError(
            f"validation after iteration {trainer.iteration}: {error}: the weights diverged: restart with a lower --lr "
            "or a --warmup_epoch; the models of earlier epochs are intact"
        ) from error
    mean = 100 * mean_over_classes(precisions)
    values = [None if np.isnan(value) else float(100 * value) for value in precisions]
    loss = float(class_loss(torch.from_numpy(logits), torch.from_numpy(labels)))
    per_class = dict(zip(run.class_names, values, strict=True))
    scale = float(scales[labels > 0].mean()) if (labels > 0).any() else math.nan
    run.log.validation(trainer.iteration, run.epoch + 1, mean, loss, scale, per_class, time.perf_counter() - started)
    return mean


def _until_interrupted(run: Run, loader: DataLoader) -> Iterator[Any]:
    """Yield batches until a signal arrives. All processes stop together, so only at batches that all of them have."""
    common = min(run.trainer.processes.gather(len(loader)))
    for number, batch in enumerate(loader):
        if number < common:
            run.stop_if_requested()
        yield batch


def make_data(config: Config, class_names: list[str], processes: Processes | None = None) -> Data:
    """Return data sets and loaders of a run; every file is looked for before the first iteration."""
    share = (processes.rank, processes.size) if processes else (0, 1)
    with advice("see --augment"):
        augmented = training_transform(config.image_size, config.min_image_size, config.max_image_size, config.augment)
    plain = evaluation_transform(config.image_size, config.eval_resize)
    check = "python3 -m tools.check_data lists every problem of a split"
    with advice(f"check --data_dir, --train_split and --class_file; {check}"):
        training = VOCClassification(
            config.data_dir, config.train_split, class_names, augmented, config.train_difficult
        )
    with advice(f"check --data_dir, --val_split and --class_file; {check}"):
        validation = VOCClassification(config.data_dir, config.val_split, class_names, plain)
    with advice("choose another --batch_size"):
        batches = training_loader(training, config.batch_size, config.num_workers, config.seed, *share)
    return Data(
        training, validation, batches, evaluation_loader(validation, config.batch_size, config.num_workers, *share)
    )


def _sight(config: Config, processes: Processes, validation: VOCClassification) -> str:
    """Say what validation does not see of its images, if anything."""
    if config.eval_resize or not processes.is_first:
        return ""
    sizes = read_sizes(validation.data_dir, validation.ids)
    larger = max(map(max, sizes)) > config.image_size
    objects = [validation.objects(index) for index in range(len(validation))] if larger else []
    return sight_note(sizes, objects, config.image_size)


def _summary(devices: Devices, processes: Processes, data: Data) -> str:
    several = f", {processes.size} processes" if processes.size > 1 else ""
    return (
        f"[i] {len(data.training):,} training images, {len(data.validation):,} validation images, "
        f"{len(data.training_loader):,} iterations per epoch, on {devices.describe()}{several}"
    )
