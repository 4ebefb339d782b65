"""What public code bases compute from the same scores and labels: a declaration for each, and one way to follow it.

"mAP on VOC" has several meanings. They differ in what a difficult object counts as, in what is ranked, in the formula,
in the order of equal scores, and in what happens to a class without a positive; see docs/protocols.md.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from tools.metrics.average_precision import mean_over_classes, precisions_at
from tools.metrics.multilabel import MEANS, NAN, TOP, Counting, binary_labels, marked, precision_recall
from tools.metrics.reports import shown
from tools.metrics.scores import Scores
from tools.system.errors import first_few
from tools.system.text_table import csv_text, fixed_width_table


def _float32(scores: np.ndarray) -> torch.Tensor:
    return torch.tensor(scores, dtype=torch.float32)


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
    "torch.topk": lambda scores: marked(scores, _float32(scores).topk(min(TOP, scores.shape[1]), 1)[1].numpy()),
    "numpy.argsort(-x)": lambda scores: marked(scores, np.argsort(-scores.astype(np.float64), axis=1)[:, :TOP]),
    "tied with the third": lambda scores: scores >= np.sort(scores, axis=1)[:, -TOP:][:, :1],
}


@dataclass(frozen=True)
class Protocol:
    """How a code base computes average precision, and what it counts."""

    source: str  # the repository, file and function that this follows
    difficult: str  # what a class shown only as difficult objects counts as, see `multilabel.binary_labels`
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
_CTRAN_SOURCE = "QData/C-Tran utils/evaluate.py: compute_metrics"
_SALGL_SOURCE = "jasonseu/SALGL lib/metrics.py: VOCmAP "
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
    if protocol.ties != "list":  # networks compute float32, the server reads text
        ranked = _float32(ranked).numpy()
    positive, counted = binary_labels(labels, protocol.difficult)
    orders = [None] * len(class_names) if orders is None else orders
    columns = zip(ranked.T, positive.T, counted.T, orders, strict=True)
    found = 100 * np.array([_of_class(protocol, *column) for column in columns])
    counts = _counts(protocol.counting, ranked, labels) if protocol.counting else {}
    measured = Measured(found[:, 0], *found.mean(axis=0).tolist(), counts, [])
    measured.notes.extend(_notes(protocol, measured, positive.any(0), class_names))
    if kept < len(logits):
        left_out = f"{len(logits) - kept} images of the last incomplete batch of {protocol.drop_last}"
        measured.notes.append(f"{left_out} left out")
    return measured


def _of_class(
    protocol: Protocol, scores: np.ndarray, positive: np.ndarray, counted: np.ndarray, order: np.ndarray | None
) -> tuple[float, float, float]:
    """Return the average precision of one class, its lowest and its highest over the orders of equal scores."""
    if not positive.any():
        return (protocol.no_positive,) * 3
    if order is None:
        among = np.flatnonzero(counted) if protocol.kept_first else np.arange(len(scores))
        order = among[SORTS[protocol.ties](scores[among])]
    order = order[order >= 0]
    order = order[counted[order]]
    falling, places = -scores[order], np.flatnonzero(positive[order])
    first, last = (np.searchsorted(falling, falling[places], side) for side in ("left", "right"))
    # Among equal scores the positives come last in the worst order and first in the best.
    before, up_to = (np.searchsorted(first, first, side) for side in ("left", "right"))
    within = np.arange(len(places)) - before
    ranks = (places + 1, last - (up_to - before) + within + 1, first + within + 1)
    if protocol.ties == "one step":
        ranks = (last,) * 3
    return tuple(float(precisions_at(rank, protocol.envelope).mean()) for rank in ranks)


def _counts(rule: Counting, ranked: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return CP, CR, CF1, OP, OR and OF1 in %, and those of the top 3."""
    positive, counted = binary_labels(labels, rule.difficult)
    predicted = {"": ranked > rule.threshold if rule.strict else ranked >= rule.threshold}
    if rule.three:
        predicted[f"_top{TOP}"] = THREES[rule.three](ranked) & (predicted[""] | (not rule.three_above))
    found = {suffix: precision_recall(chosen, positive, counted, rule) for suffix, chosen in predicted.items()}
    return {name + suffix: 100 * float(getattr(one, name)) for suffix, one in found.items() for name in MEANS}


def _notes(protocol: Protocol, measured: Measured, has_positive: np.ndarray, class_names: Sequence[str]) -> list[str]:
    notes = []
    if not has_positive.all():
        empty = [class_names[v] for v in np.flatnonzero(~has_positive)]
        over = mean_over_classes(measured.average_precisions[has_positive])
        rest = f"; mAP over the other {has_positive.sum()} classes {over:.2f}" if has_positive.any() else ""
        notes.append(f"no positive in {first_few(empty)}: the original {protocol.original}{rest}")
    if measured.high - measured.low > 1e-9:
        notes.append(f"equal scores: mAP {measured.low:.2f} to {measured.high:.2f} by their order")
    return notes


def protocol_tables(names: Sequence[str], scored: Scores) -> tuple[str, str, dict[str, Any]]:
    """Return a row per protocol as text and as CSV, and everything by protocol."""
    # The originals compare and rank float32 sigmoids, which are equal where logits are above 17.
    logits = scored.logits
    probabilities = torch.sigmoid(_float32(scored.scores)).numpy() if scored.are_logits else scored.scores
    columns = [*MEANS, *(f"{name}_top{TOP}" for name in MEANS)]
    text = [("protocol", "mAP", *MEANS, *(f"{name} 3" for name in MEANS))]
    table, notes, result = [("protocol", "mAP", *columns, "note")], [], {}
    for name in names:
        found = measure(PROTOCOLS[name], logits, probabilities, scored.labels, scored.class_names)
        values = (found.mAP, *(found.counts.get(column, NAN) for column in columns))
        text.append((name, *map(shown, values)))
        table.append((name, *(shown(value, 4, missing="") for value in values), "; ".join(found.notes)))
        notes += [f"{name}: {note}" for note in found.notes]
        averages = dict(zip(scored.class_names, found.average_precisions, strict=True))
        result[name] = {**found._asdict(), **asdict(PROTOCOLS[name]), "average_precisions": averages}
    return "\n".join([fixed_width_table(text, [18, *[6] * 13]), *notes]), csv_text(table), {"protocols": result}
