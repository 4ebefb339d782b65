"""Sheets of validation images during training: what the network attends to, epoch after epoch."""

import torch
from torch.utils.data import DataLoader, Subset

from core.cam import make_cam
from core.evaluation.panels import class_panel, with_bar_space
from core.strategy import SCRIPTS, Cutting
from core.training.run import Run
from tools.data.datasets import VOCClassification
from tools.data.transforms import denormalize, evaluation_transform, normalize
from tools.pictures.panels import color_bar, draw_text, grid, on_white, sheet, write_picture

IMAGES = 8
COLUMNS = 4
SIDE = 240  # pixels


class Snapshots:
    """Draws the same few validation images after every so many epochs (`--snapshot_every`).

    Args:
        run: the training run.
        loader: of the validation images.
    """

    def __init__(self, run: Run, loader: DataLoader):
        self.run = run
        dataset = loader.dataset
        self.dataset: VOCClassification = dataset.dataset if isinstance(dataset, Subset) else dataset
        self.transform = evaluation_transform(run.args.image_size)
        self.chosen = varied(self.dataset.labels, IMAGES)

    def take(self, mean: float) -> None:
        """After an epoch's validation with this mAP: a sheet, if it is time for one. Only the first process draws."""
        args, epoch = self.run.args, self.run.epoch + 1
        due = args.snapshot_every and epoch % args.snapshot_every == 0
        if not (due and self.chosen and self.run.trainer.processes.is_first):
            return
        panels = self._panels()
        page = grid(panels, COLUMNS)
        page = sheet([[page, with_bar_space(color_bar(SIDE, "0", "1"))]], gap=0)
        title = on_white(page[:0], 40, page.shape[1])
        draw_text(title, f"{args.tag}, epoch {epoch}, mAP {mean:.1f}: map of a present class, its score", (24, 12))
        page = sheet([[title], [page]], gap=0)
        write_picture(self.run.files.snapshots / f"epoch_{epoch:03d}.png", page)
        self.run.log.picture("snapshot", page, self.run.trainer.iteration)

    @torch.no_grad()
    def _panels(self):
        """A panel of each image: the map of one of its classes, the same in every epoch."""
        trainer, names = self.run.trainer, self.run.class_names
        student, device = trainer.student, trainer.device
        training = student.training
        student.eval()
        strategy = SCRIPTS.get(trainer.script)
        panels = []
        for index, label in self.chosen:
            image = normalize(self.transform(self.dataset.image(index)))
            logits, features = student(image[None].to(device))
            cams = make_cam(features[0].float())
            keypoint = None
            if strategy:
                cutting = Cutting(strategy, self.run.args.topk, self.run.args.topk_radius)
                present = self.dataset.labels[index].nonzero()[:, 0] if strategy == "Max" else torch.tensor([label])
                keypoint = cutting.keypoints(cams, present.to(device), image.shape[-1])[0].tolist()
            title = f"{names[label]} {torch.sigmoid(logits[0, label]):.2f}"
            panels.append(class_panel(denormalize(image).numpy(), cams[label].cpu().numpy(), keypoint, title, SIDE))
        student.train(training)
        return panels


def varied(labels: torch.Tensor, count: int) -> list[tuple[int, int]]:
    """Images and a class of each, (index, class), of as many classes as there are; the same ones for the same labels.

    Args:
        labels: multi-hot `[N, V]`.
        count: how many at most.
    """
    chosen: list[tuple[int, int]] = []
    taken: set[int] = set()
    # In rounds: an image of every class, then a second of every class, as long as there are new ones.
    for label in [*range(labels.shape[1])] * count:
        images = [index for index in labels[:, label].nonzero()[:, 0].tolist() if index not in taken]
        if images and len(chosen) < count:
            taken.add(images[0])
            chosen.append((images[0], label))
    return chosen
