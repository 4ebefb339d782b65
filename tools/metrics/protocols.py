"""What public code bases compute from the same scores and labels: a declaration for each, and one way to follow it.

"mAP on VOC" has several meanings. They differ in what a difficult object counts as, in what is ranked, in the formula,
in the order of equal scores, and in what happens to a class without a positive; see docs/protocols.md.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from tools.metrics.average_precision import mean_over_classes
from tools.metrics.multilabel import MEANS, TOP, binary_labels
from tools.system.errors import first_few
from tools.system.text_table import csv_text, fixed_width_table

NAN = float("nan")


def _float32(scores: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(scores, np.float32))


# The calls by which the code bases order the scores of a class, best first; each leaves equal scores in another order.
SORTS = {
    "torch.sort": lambda scores: torch.sort(_float32(scores), descending=True)[1].numpy(),
    "numpy.argsort(-x)": lambda scores: np.argsort(-scores.astype(np.float64)),
    "numpy.argsort(x)[::-1]": lambda scores: np.argsort(scores.astype(np.float64))[::-1],
    "float32 numpy.argsort(x)[::-1]": lambda scores: np.argsort(scores.astype(np.float32))[::-1],
    "list": lambda scores: np.argsort(-scores, kind="stable"),
    "one step": lambda scores: np.argsort(-scores, kind="stable"),  # they count at once: scikit-learn's rule
}
# By which they mark the three best classes of an image; with fewer than three classes, all.
THREES = {
    "torch.topk": lambda scores: _marked(scores, _float32(scores).topk(min(TOP, scores.shape[1]), 1)[1].numpy()),
    "numpy.argsort(-x)": lambda scores: _marked(scores, np.argsort(-scores.astype(np.float64), axis=1)[:, :TOP]),
    "tied with the third": lambda scores: scores >= np.sort(scores, axis=1)[:, -TOP:][:, :1],
}


def _marked(scores: np.ndarray, columns: np.ndarray) -> np.ndarray:
    marked = np.zeros(scores.shape, bool)
    np.put_along_axis(marked, columns, True, 1)
    return marked


@dataclass(frozen=True)
class Counting:
    """How a code base computes CP, CR, CF1, OP, OR and OF1."""

    difficult: str  # what a class shown only as difficult objects counts as, see `multilabel.binary_labels`
    threshold: float = 0.5  # a class whose ranked score is at least this one is predicted
    strict: bool = False  # only a higher score is
    three: str | None = None  # a key of `THREES`; None: there is no top 3
    three_above: bool = True  # of the three, only those that reach the threshold
    never_predicted: float = 0.0  # precision of a class that is never predicted
    never_adds: int = 0  # what such a class adds to the number of predictions in OP
    no_positive: float = 0.0  # recall of a class without a positive
    nothing: float = 0.0  # OP if nothing is predicted
    zeros: float = NAN  # F1 if precision and recall are 0
    mean_f1: bool = False  # CF1 is the mean of the classes' F1, not the harmonic mean of CP and CR


@dataclass(frozen=True)
class Protocol:
    """How a code base computes average precision, and what it counts."""

    source: str  # the repository, file and function that this follows
    difficult: str  # as in `Counting`, in average precision
    ranked: str = "probabilities"  # or "logits"
    ties: str = "numpy.argsort(-x)"  # the order of equal scores, a key of `SORTS`
    envelope: bool = False  # a precision is raised to the highest at the same or a greater recall (VOC since 2010)
    kept_first: bool = False  # ignored pairs are removed before the sort, which moves equal scores
    no_positive: float = NAN  # average precision of a class without a positive
    original: str = "leaves it out"  # what the original does with such a class
    drop_last: int = 1  # images of the last incomplete batch of this size do not count
    counting: Counting | None = None


_STOPS, _IS_NAN = dict(original="stops with a division by zero"), dict(original="computes NaN")
_IS_ZERO = dict(original="counts it as 0", no_positive=0.0)
_GCN = Counting("negative", 0.0, three="torch.topk", no_positive=NAN, never_adds=1)
_GCN = dict(difficult="ignore", ranked="logits", ties="torch.sort", counting=_GCN, **_STOPS)
_CSRA = Counting("ignore", three="numpy.argsort(-x)", no_positive=NAN, never_adds=1)
_CTRAN = Counting("negative", three="tied with the third")
_SALGL = Counting("ignore", three="numpy.argsort(-x)", never_predicted=1, no_positive=1, nothing=NAN)
_SALGL = dict(difficult="ignore", ties="numpy.argsort(x)[::-1]", kept_first=True, counting=_SALGL)
_OASS = dict(source="Akimoto-Cris/OASSMLL train_classification_with_puzzle_*.py: evaluate", difficult="positive")
_OASS |= dict(ranked="logits", ties="torch.sort", **_STOPS)


def _mmpretrain(difficult: str) -> Protocol:
    source = "open-mmlab/mmpretrain mmpretrain/evaluation/metrics/voc_multi_label.py: VOCAveragePrecision"
    counting = Counting(difficult, three="torch.topk", three_above=False, zeros=0, mean_f1=True)
    return Protocol(source, difficult, ties="torch.sort", kept_first=True, counting=counting, **_IS_ZERO)


def _asl(difficult: str) -> Protocol:
    source = "Alibaba-MIIL/ASL src/helper_functions/helper_functions.py: mAP; validate.py: validate_multi"
    counting = Counting(difficult, 0.8, strict=True, nothing=NAN, mean_f1=True)
    return Protocol(source, difficult, ties="float32 numpy.argsort(x)[::-1]", counting=counting, **_IS_ZERO)


_CSRA_SOURCE = "Kevinz-code/CSRA utils/evaluation/cal_mAP.py: json_map; cal_PR.py: json_metric"
_SSGRL_SOURCE, _Q2L_SOURCE = "HCPLab-SYSU/SSGRL utils/metrics.py: ", "SlongLiu/query2labels lib/utils/metric.py: "
_CTRAN_SOURCE, _SALGL_SOURCE = (
    "QData/C-Tran utils/evaluate.py: compute_metrics",
    "jasonseu/SALGL lib/metrics.py: VOCmAP ",
)
PROTOCOLS = {
    "ml-gcn": Protocol("megvii-research/ML-GCN util.py: AveragePrecisionMeter", **_GCN),
    "add-gcn": Protocol("Yejin0111/ADD-GCN util.py: AveragePrecisionMeter", **_GCN),
    "csra": Protocol(_CSRA_SOURCE, "ignore", kept_first=True, counting=_CSRA, **_STOPS),
    "ssgrl": Protocol(_SSGRL_SOURCE + "voc12_mAP", "negative", "logits", envelope=True, **_IS_NAN),
    "q2l": Protocol(_Q2L_SOURCE + "voc_mAP", "negative", envelope=True, **_IS_NAN),
    "c-tran": Protocol(_CTRAN_SOURCE, "negative", ties="one step", counting=_CTRAN, **_IS_ZERO),
    "salgl": Protocol(_SALGL_SOURCE + "of 2012", envelope=True, **_SALGL, **_IS_ZERO),
    "salgl-2007": Protocol(_SALGL_SOURCE + "of 2007, which is not the 11 points", **_SALGL, **_STOPS),
    "mmpretrain": _mmpretrain("ignore"),
    "mmpretrain-negative": _mmpretrain("negative"),
    "mmpretrain-positive": _mmpretrain("positive"),
    "asl-coco": _asl("positive"),
    "asl-coco-negative": _asl("negative"),
    "voc-server": Protocol("VOC development kit VOCcode: VOCevalcls.m, VOCap.m", "ignore", "logits", "list", True),
    "oass": Protocol(**_OASS),
    "oass-drop-last": Protocol(**_OASS, drop_last=32),
}


class Measured(NamedTuple):
    """What a protocol computes, in %; NaN where the original has NaN or stops."""

    average_precisions: np.ndarray  # `[V]`
    mAP: float  # mean over all classes, as the original takes it
    low: float  # of mAP over all orders of equal scores
    high: float
    counts: dict[str, float]  # by name of the mean, those of the top 3 with "_top3"
    notes: list[str]


def measure(
    protocol: Protocol,
    logits: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    orders: Sequence[np.ndarray] | None = None,
) -> Measured:
    """Compute what a code base computes.

    Args:
        logits, probabilities: `[N, V]`; the latter are the sigmoids of the former.
        labels: `[N, V]`, the devkit's: 1 present, 0 only as difficult objects, −1 absent.
        class_names: V, for the notes.
        orders: rows of each class, best first, instead of those of the protocol's own sort, which leaves equal scores
            in an order that depends on processor and version. Negative rows are padding.
    """
    kept = len(logits) - len(logits) % protocol.drop_last
    ranked, labels = {"logits": logits, "probabilities": probabilities}[protocol.ranked][:kept], labels[:kept]
    positive, counted = binary_labels(labels, protocol.difficult)
    orders = [None] * len(class_names) if orders is None else orders
    columns = zip(ranked.T, positive.T, counted.T, orders, strict=True)
    found = np.array([_of_class(protocol, *column) for column in columns])
    means = 100 * found.mean(axis=0)
    counts = _all_counts(protocol.counting, ranked, labels) if protocol.counting else {}
    measured = Measured(100 * found[:, 0], *means.tolist(), counts, [])
    measured.notes.extend(_notes(protocol, measured, (positive & counted).any(0), class_names))
    if kept < len(logits):
        measured.notes.append(
            f"{len(logits) - kept} images of the last incomplete batch of {protocol.drop_last} left out"
        )
    return measured


def _of_class(
    protocol: Protocol, scores: np.ndarray, positive: np.ndarray, counted: np.ndarray, order: np.ndarray | None
) -> tuple[float, float, float]:
    """Return the average precision of one class, its lowest and its highest over the orders of equal scores."""
    if not (positive & counted).any():
        return (protocol.no_positive,) * 3
    if order is None:
        among = np.flatnonzero(counted) if protocol.kept_first else np.arange(len(scores))
        order = among[SORTS[protocol.ties](scores[among])]
    order = order[order >= 0]
    order = order[counted[order]]
    ranked, places = scores[order], np.flatnonzero(positive[order])
    first, last = (np.searchsorted(-ranked, -ranked[places], side) for side in ("left", "right"))
    if protocol.ties == "one step":
        return (average_precision_of_ranks(last, protocol.envelope),) * 3
    tied = [
        np.searchsorted(first, first, side) for side in ("left", "right")
    ]  # positives before and up to the tied ones
    within = np.arange(len(places)) - tied[0]
    ranks = (places + 1, last - (tied[1] - tied[0]) + within + 1, first + within + 1)
    own, low, high = (average_precision_of_ranks(rank, protocol.envelope) for rank in ranks)
    return own, low, high


def average_precision_of_ranks(ranks: np.ndarray, envelope: bool = False) -> float:
    """Return the mean over the positives of the precision at their rank.

    Args:
        ranks: of the positives `[P]` among the counted images, from 1, ascending; equal ranks count at once.
        envelope: whether each precision is first raised to the highest at the same or a later rank.

    >>> average_precision_of_ranks(np.array([1, 4])), average_precision_of_ranks(np.array([2, 3]), envelope=True)
    (0.75, 0.6666666666666666)
    """
    precision = np.searchsorted(ranks, ranks, "right") / ranks
    return float((np.maximum.accumulate(precision[::-1]) if envelope else precision).mean())


def _all_counts(rule: Counting, ranked: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    predicted = ranked > rule.threshold if rule.strict else ranked >= rule.threshold
    labels, counted = binary_labels(labels, rule.difficult)
    counts = _counts(rule, predicted, labels, counted)
    if rule.three:
        three = THREES[rule.three](ranked) & (predicted | (not rule.three_above))
        counts |= {f"{name}_top{TOP}": value for name, value in _counts(rule, three, labels, counted).items()}
    return counts


def _counts(rule: Counting, predicted: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> dict[str, float]:
    """Return CP, CR, CF1, OP, OR and OF1 in % from boolean `[N, V]`."""
    predicted, labels = predicted & counted, labels & counted
    true, found, positives = (array.sum(0) for array in (predicted & labels, predicted, labels))
    precision = np.where(found > 0, true / np.maximum(found, 1), rule.never_predicted)
    recall = np.where(positives > 0, true / np.maximum(positives, 1), rule.no_positive)
    predictions = found.sum() + rule.never_adds * (found == 0).sum()
    overall = true.sum() / predictions if predictions else rule.nothing
    overall = (overall, true.sum() / positives.sum() if positives.any() else NAN)
    by_class = (precision.mean(), recall.mean())
    f1_by_class = np.mean([_f1(*pair, 0) for pair in zip(precision, recall, strict=True)])
    f1_by_class = f1_by_class if rule.mean_f1 else _f1(*by_class, rule.zeros)
    values = (*by_class, f1_by_class, *overall, _f1(*overall, rule.zeros))
    return {name: 100 * float(value) for name, value in zip(MEANS, values, strict=True)}


def _f1(precision: float, recall: float, zeros: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else zeros


def _notes(protocol: Protocol, measured: Measured, has_positive: np.ndarray, class_names: Sequence[str]) -> list[str]:
    notes = []
    if not has_positive.all():
        empty = [class_names[v] for v in np.flatnonzero(~has_positive)]
        over = mean_over_classes(np.where(has_positive, measured.average_precisions, NAN))
        rest = f"mAP over the other {has_positive.sum()} classes {over:.2f}"
        notes.append(f"no positive in {first_few(empty)}: the original {protocol.original}; {rest}")
    if measured.high - measured.low > 1e-9:
        notes.append(f"equal scores: mAP {measured.low:.2f} to {measured.high:.2f} by their order")
    return notes


def protocol_tables(
    names: Sequence[str], logits: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> tuple[str, str, dict[str, Any]]:
    """Return a row per protocol as text and as CSV, and everything by protocol; other arguments as in `measure`."""
    found = {name: measure(PROTOCOLS[name], logits, probabilities, labels, class_names) for name in names}
    columns = [*MEANS, *(f"{name}_top{TOP}" for name in MEANS)]
    values = {name: (one.mAP, *(one.counts.get(column, NAN) for column in columns)) for name, one in found.items()}
    shown = [("protocol", "mAP", *MEANS, *(f"{name} 3" for name in MEANS))]
    exact = [("protocol", "mAP", *columns, "note")]
    for name, row in values.items():
        shown.append((name, *("–" if np.isnan(value) else f"{value:.2f}" for value in row)))
        cells = ("" if np.isnan(value) else f"{value:.4f}" for value in row)
        exact.append((name, *cells, "; ".join(found[name].notes)))
    notes = [f"{name}: {note}" for name, one in found.items() for note in one.notes]
    result = {}
    for name, one in found.items():
        averages = dict(zip(class_names, one.average_precisions, strict=True))
        result[name] = {**one._asdict(), **asdict(PROTOCOLS[name]), "average_precisions": averages}
    return "\n".join([fixed_width_table(shown, [18, *[6] * 13]), *notes]), csv_text(exact), {"protocols": result}
