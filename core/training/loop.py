"""Training, the same for every strategy: only the step is the strategy's own."""

import argparse
import time
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from core.evaluation.loading import make_network
from core.evaluation.prediction import predict
from core.strategy import Crops
from core.training.config import parse_arguments
from core.training.devices import Devices, choose_devices, explain_resource_errors
from core.training.run import Run
from core.training.snapshots import Snapshots
from core.training.trainer import LOSSES, NotFinite, Trainer, TrainingStep
from tools.data.datasets import VOCClassification
from tools.data.devkit import read_class_names
from tools.data.loader import evaluation_loader, interleave, training_loader
from tools.data.transforms import evaluation_transform, training_transform
from tools.metrics.average_precision import average_precisions, mean_average_precision
from tools.runs.folder import EXPERIMENTS
from tools.system.errors import UserError, advice, run_main
from tools.system.interruption import Interrupted, Interruption
from tools.system.processes import Processes


def main(
    training_step: TrainingStep,
    description: str,
    with_teacher: bool = True,
    crops_of: Callable[[torch.Tensor], Crops] = Crops.of,
    head: str = "instances",
) -> None:
    """A training script: read the arguments, train, and turn a user's mistake into one line and exit status 2.

    Args:
        training_step: the strategy.
        description: the script's docstring.
        with_teacher: whether the strategy has an EMA teacher.
        crops_of: the crops that the strategy makes of a batch's labels.
        head: what gives the logits, see `core.networks.Classifier`.
    """

    def start() -> None:
        with Processes() as processes:
            train(parse_arguments(description), training_step, with_teacher, crops_of, head, processes)

    run_main(start)


def train(
    args: argparse.Namespace,
    training_step: TrainingStep,
    with_teacher: bool,
    crops_of: Callable[[torch.Tensor], Crops],
    head: str,
    processes: Processes,
) -> None:
    """Train a strategy from its arguments to its last checkpoint.

    Raises:
        UserError: something the user can mend; found before the first iteration wherever that is possible.
        SystemExit: after SIGINT (status 130) or SIGTERM (143), with the state saved for `--resume`.
    """
    devices = choose_devices(args, processes)
    class_names = read_class_names(args.class_file)
    train_loader, val_loader = make_loaders(args, class_names, processes)
    with Interruption() as interruption, explain_resource_errors(args):
        torch.manual_seed(args.seed)
        network = make_network(args.architecture, args.weights, len(class_names), args.channels_last, head)
        network.to(devices.first)
        devices.share(network, args.replicas, args.sync_bn)
        trainer = Trainer(
            network, training_step, args, len(train_loader), with_teacher, crops_of, processes, devices.gpus
        )
        torch.manual_seed(args.seed + processes.rank)  # from here on, drop-out differs between processes
        with Run(EXPERIMENTS, args, trainer, class_names, train_loader, interruption) as run:
            run.start(_summary(devices, processes, train_loader, val_loader))
            _epochs(run, train_loader, val_loader, Snapshots(run, val_loader))


def _epochs(run: Run, train_loader: DataLoader, val_loader: DataLoader, snapshots: Snapshots) -> None:
    """Epoch after epoch from where the run stands; an interruption leaves it as of the last iteration."""
    try:
        while run.epoch < run.args.max_epoch:
            train_epoch(run, train_loader)
            mean = validate(run, val_loader)
            snapshots.take(mean)
            run.finish_epoch(mean)
        run.finish()
    except Interrupted as interrupted:
        run.interrupt(interrupted)


def train_epoch(run: Run, loader: DataLoader) -> None:
    """The rest of an epoch's training images, with a progress bar and log lines."""
    trainer, length = run.trainer, run.trainer.epoch_iterations
    interval = max(1, int(length * run.args.print_ratio))
    loader.sampler.set_epoch(run.epoch, run.position * run.args.batch_size)
    started, first = time.perf_counter(), run.position
    bar = tqdm(
        total=length * run.args.batch_size,
        initial=run.position * run.args.batch_size,
        unit="img",
        desc=f"epoch {run.epoch + 1}/{run.args.max_epoch}",
        disable=run.log.silent,
    )
    with bar:
        for images, labels, indices in loader:
            run.pause()
            lr, alpha_re = trainer.lr, trainer.alpha_re
            try:
                step = trainer.iterate(images, labels)
                run.losses.append(torch.stack([getattr(step, name) for name in LOSSES]))
            except NotFinite as error:
                run.not_finite(error.step, lr, [loader.dataset.dataset.ids[index] for index in indices])
            run.position += 1
            bar.update(run.args.batch_size)
            if run.position % interval == 0 or run.position == length:
                means = run.mean_losses()
                images_done = (run.position - first) * run.args.batch_size
                bar.set_postfix(loss=f"{means['loss']:.4f}", lr=f"{lr:.2g}")
                run.log_losses({"lr": lr, "alpha_re": alpha_re, **means}, images_done / (time.perf_counter() - started))


def validate(run: Run, loader: DataLoader) -> float:
    """Mean average precision on the validation split, in per cent, logged with that of every class."""
    trainer, class_names = run.trainer, run.class_names
    scores, labels = predict(
        trainer.evaluated, _watched(loader, run), trainer.device, run.args.amp, silent=run.log.silent
    )
    scores, labels = (interleave(trainer.processes.gather(rows)) for rows in (scores, labels))
    try:
        precisions = 100 * average_precisions(scores, labels)
    except ValueError as error:
        raise UserError(
            f"validation after iteration {trainer.iteration}: {error}: the weights have grown too large: start anew "
            "with a lower --lr or a --warmup_epoch; the models of earlier epochs are intact"
        ) from error
    mean = 100 * mean_average_precision(scores, labels)
    per_class = {name: round(float(value), 4) for name, value in zip(class_names, precisions) if value == value}
    left_out = [name for name in class_names if name not in per_class]
    note = f" (no positive of {', '.join(left_out)})" if left_out else ""
    run.log.line(f"[i] iteration={trainer.iteration:,}, epoch={run.epoch + 1}, mAP={mean:.2f}%{note}")
    run.log.line("    " + ", ".join(f"{name} {value:.1f}" for name, value in per_class.items()))
    row = {"epoch": run.epoch + 1, "mAP": mean, "average_precision": per_class, "without_positive": left_out}
    run.log.record("validation", trainer.iteration, row)
    return mean


class _watched:
    """A loader whose batches stop coming when the run is asked to end. All processes stop together."""

    def __init__(self, loader: DataLoader, run: Run):
        self.loader = loader
        self.run = run
        self.common = min(run.trainer.processes.gather(len(loader)))  # batches that every process has

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self):
        for number, batch in enumerate(self.loader):
            if number < self.common:
                self.run.check()
            yield batch


def make_loaders(
    args: argparse.Namespace, class_names: list[str], processes: Processes | None = None
) -> tuple[DataLoader, DataLoader]:
    """Loaders of the training and the validation split; every file is looked for before the first iteration."""
    share = (processes.rank, processes.size) if processes else (0, 1)
    sizes = (args.image_size, args.min_image_size, args.max_image_size)
    with advice("see --augment"):
        augmented = training_transform(*sizes, args.augment)
    plain = evaluation_transform(args.image_size)
    check = "python3 -m tools.check_data lists every problem of a split"
    with advice(f"check --data_dir, --train_split and --class_file; {check}"):
        training = VOCClassification(args.data_dir, args.train_split, class_names, augmented)
    with advice(f"check --data_dir, --val_split and --class_file; {check}"):
        validation = VOCClassification(args.data_dir, args.val_split, class_names, plain)
    with advice("choose another --batch_size"):
        train_loader = training_loader(training, args.batch_size, args.num_workers, args.seed, *share)
    return train_loader, evaluation_loader(validation, args.batch_size, args.num_workers, *share)


def _summary(devices: Devices, processes: Processes, train_loader: DataLoader, val_loader: DataLoader) -> str:
    several = f", {processes.size} processes" if processes.size > 1 else ""
    validation = val_loader.dataset.dataset if processes.size > 1 else val_loader.dataset
    return (
        f"[i] {len(train_loader.dataset):,} training images, {len(validation):,} validation images, "
        f"{len(train_loader):,} iterations an epoch, on {devices.describe()}{several}"
    )
