"""Arguments of `evaluate_classification.py`."""

from dataclasses import dataclass
from pathlib import Path

from core.evaluation.loading import check_image_size
from core.evaluation.prediction import PRECISIONS
from core.networks import HEADS
from tools.metrics.multilabel import DIFFICULT
from tools.metrics.protocols import PROTOCOLS
from tools.metrics.submission import COMPETITIONS
from tools.pictures.figure import COLUMN_HELP, WIDTHS
from tools.runs.folder import BESIDE
from tools.system.command_line import Arguments, argument
from tools.system.errors import UserError, advice, quoted
from tools.system.files import require_regular_file

SCALES_HELP = "sizes of each image whose logits are averaged, as 0.5,1.0,1.5 (default 1.0)"
DIFFICULT_HELP = "what a class shown only as difficult objects is (default positive: official code; ignore: server)"
OUT_HELP = "result files without suffix (default experiments/evaluation/…)"
RESIZE_HELP = "fit whole images to image_size, as inference does, not their top-left square (default: as trained)"
PROTOCOL_HELP = "measure as other code bases do: all, or names with commas between them; see docs/protocols.md"
LOCALIZATION_HELP = "also measure whether keypoints and CAMs fall on the objects"
MASKS_HELP = "--localization, and CAMs as segmentation seeds; SPLIT (default: the other half) chooses the threshold"
REPORT_HELP = "also write a page to send, FILE.html or a file in this folder: tables, curves, worst errors, provenance"
LABELS_HELP = "also list suspicious labels, and classes that occur together or are confused; for held-out images"

OWN_METRICS = ("report", "check_labels", "thresholds", "localization", "masks")  # --protocol computes none of them


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
    split: str | None = argument(None, "list in data/, or of the devkit as Main/val (default: the run's)", group="data")
    labels: str = argument("xml", "read from XML or the devkit's class lists", group="data", choices=("xml", "lists"))
    num_workers: int = argument(4, "loader processes", group="data", least=0)

    architecture: str | None = argument(None, "as in training (default: the description's)", group="network")
    class_file: Path | None = argument(None, "file with class_names (default: the description's)", group="network")
    head: str | None = argument(None, "of the network (default: the description's)", group="network", choices=HEADS)
    image_size: int | None = argument(None, "pixels, divisible by 32 (default: as trained)", group="network")
    eval_resize: bool | None = argument(None, RESIZE_HELP, group="network")
    batch_size: int = argument(32, "images per batch", group="network", least=1)
    scales: tuple[float, ...] = argument((1.0,), SCALES_HELP, group="network", parse=scales, above=0, most=8)
    flip: bool = argument(False, "also average mirrored views", group="network")
    device: str = argument("auto", "auto, cpu, cuda or cuda:N", group="network")
    amp: str = argument("off", "precision; off: float32", group="network", choices=PRECISIONS)

    difficult: str = argument("positive", DIFFICULT_HELP, group="metrics", choices=DIFFICULT)
    threshold: float = argument(0.5, "a class that scores more is predicted", group="metrics", least=0, most=1)
    thresholds: str | None = argument(None, "instead, each class's own: a file of tools.thresholds", group="metrics")
    protocol: tuple[str, ...] | None = argument(None, PROTOCOL_HELP, group="metrics", parse=comma_separated)
    bootstrap: int = argument(1000, "samples for the interval of the mAP; 0: none", group="metrics", least=0)
    seed: int = argument(0, "random seed of the bootstrap", group="metrics", least=0)
    localization: bool = argument(False, LOCALIZATION_HELP, group="metrics", aliases=("localisation",))
    masks: str | None = argument(None, MASKS_HELP, group="metrics", bare="", metavar="SPLIT")
    check_labels: bool = argument(False, LABELS_HELP, group="metrics")
    strategy: str | None = argument(None, "FILE.py of your own STRATEGY, for --localization", group="metrics")

    out: Path | None = argument(None, OUT_HELP, group="output", names_file=True)
    column: str = argument("screen", COLUMN_HELP, group="output", choices=WIDTHS)
    report: Path | None = argument(None, REPORT_HELP, group="output", metavar="FILE|DIR")
    submission: Path | None = argument(None, "archive for the test server", group="output", metavar="FILE.tar.gz")
    competition: str = argument("comp2", "for which the archive is", group="output", choices=COMPETITIONS)

    def check(self) -> None:
        if not self.scores and not self.data_dir:
            raise UserError("--data_dir is missing: give the devkit folder (VOC2012)")
        localizes = self.localization or self.masks is not None
        if self.scores and localizes:
            instead = "give --tag or --weights instead of --scores"
            raise UserError(f"--localization needs the network, as --masks does: {instead}")
        if unknown := [name for name in self.protocol or () if name not in PROTOCOLS]:
            raise UserError(f"--protocol {quoted(unknown[0])}: choose from {', '.join(PROTOCOLS)}, or all")
        own = [name for name in OWN_METRICS if getattr(self, name) not in (None, False)]
        if own and self.protocol:
            raise UserError(f"--{own[0]} shows the project's own metrics: leave --protocol out")
        if self.strategy and not localizes:
            raise UserError("--strategy is only used by --localization: add that, or leave --strategy out")
        if self.thresholds:
            with advice("check --thresholds"):
                require_regular_file(Path(self.thresholds))
        if self.out and self.out.name.endswith(BESIDE):
            raise UserError(f"--out {self.out}: tables beside a result end in {', '.join(BESIDE)}: rename it")
        check_image_size(self.image_size)
