"""What public code bases compute from the same scores and labels: a declaration for each, and one way to follow it.

"mAP on VOC" has several meanings. They differ in what a difficult object counts as, in what is ranked, in the formula,
in the order of equal scores, and in what a class without a positive does; see docs/protocols.md. Each `Protocol` names
the file and function that it follows.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tools.metrics.average_precision import mean_over_classes
from tools.metrics.multilabel import MEANS, TOP, binary_labels
from tools.system.errors import first_few
from tools.system.text_table import csv_text, fixed_width_table

NAN = float("nan")


# What is ranked, and how equal scores are ordered: the calls of the code bases themselves. --------------------------


def _logits(logits: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return logits


def _probabilities(logits: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return probabilities


def _torch_sort(scores: np.ndarray) -> np.ndarray:
    import torch  # half a second, and a program that measures by NumPy alone does not need it

    return torch.sort(torch.from_numpy(np.ascontiguousarray(scores, np.float32)), descending=True)[1].numpy()


def _sort_negated(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores.astype(np.float64))


def _sort_reversed(scores: np.ndarray) -> np.ndarray:
    return np.argsort(scores.astype(np.float64))[::-1]


def _sort_reversed32(scores: np.ndarray) -> np.ndarray:
    return np.argsort(scores.astype(np.float32))[::-1]


def _sort_stable(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, kind="stable")


def _three_by_torch(scores: np.ndarray) -> np.ndarray:
    import torch

    best = torch.from_numpy(np.ascontiguousarray(scores, np.float32)).topk(min(TOP, scores.shape[1]), 1)[1]
    return _marked(scores.shape, best.numpy())


def _three_by_numpy(scores: np.ndarray) -> np.ndarray:
    return _marked(scores.shape, np.argsort(-scores.astype(np.float64), axis=1)[:, :TOP])


def _tied_with_third(scores: np.ndarray) -> np.ndarray:
    return scores >= np.sort(scores, axis=1)[:, -min(TOP, scores.shape[1])][:, None]


def _marked(shape: tuple[int, ...], columns: np.ndarray) -> np.ndarray:
    marked = np.zeros(shape, bool)
    np.put_along_axis(marked, columns, True, 1)
    return marked


# Declarations --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counting:
    """How a code base computes CP, CR, CF1, OP, OR and OF1.

    Attributes:
        difficult: what a class shown only as difficult objects counts as, see `multilabel.binary_labels`.
        threshold, strict: a class is predicted if its ranked score is at least the threshold; `strict`: above it.
        three: marks the classes in question for top 3; None: there is no top 3. `three_above`: only those predicted.
        never_predicted, no_positive: precision of a class that is never predicted, recall of one without a positive.
        never_adds: what a class that is never predicted adds to the number of predictions in OP.
        nothing: OP if nothing is predicted; zeros: F1 if precision and recall are 0.
        mean_f1: whether CF1 is the mean of the classes' F1, not the harmonic mean of CP and CR.
    """

    difficult: str
    threshold: float = 0.5
    strict: bool = False
    three: Callable[[np.ndarray], np.ndarray] | None = None
    three_above: bool = True
    never_predicted: float = 0.0
    no_positive: float = 0.0
    never_adds: int = 0
    nothing: float = 0.0
    zeros: float = NAN
    mean_f1: bool = False


@dataclass(frozen=True)
class Protocol:
    """How a code base computes average precision, and what it counts.

    Attributes:
        source: the repository, file and function that the declaration follows.
        difficult: as in `Counting`, for average precision.
        ranked: what is sorted, from logits and probabilities.
        order: sorts the scores of a class, best first; equal scores fall as this call leaves them. None: they count at
            once, as one step (scikit-learn's rule).
        envelope: whether a precision is raised to the highest at the same or a greater recall (VOC since 2010).
        kept_first: whether ignored pairs are removed before the sort, which matters only for the order of equal scores.
        no_positive: the average precision of a class without a positive; `empty` says what the original does then.
        drop_last: images of the last incomplete batch of this size are left out.
    """

    source: str
    difficult: str
    ranked: Callable[[np.ndarray, np.ndarray], np.ndarray] = _probabilities
    order: Callable[[np.ndarray], np.ndarray] | None = _sort_negated
    envelope: bool = False
    kept_first: bool = False
    no_positive: float = NAN
    empty: str = "leaves it out"
    drop_last: int = 1
    counting: Counting | None = None

    def description(self) -> dict[str, Any]:
        """Return the declaration as plain values, functions by name."""
        values = {name: getattr(value, "__name__", value) for name, value in asdict(self).items()}
        if self.counting:
            values["counting"] = {name: getattr(value, "__name__", value) for name, value in values["counting"].items()}
        return values


_2010 = dict(envelope=True)
_STOPS = "stops with a division by zero"
_IS_NAN = "computes NaN"
_IS_ZERO = "counts it as 0"
_METER = Counting("negative", 0.0, three=_three_by_torch, no_positive=NAN, never_adds=1)
_GCN = dict(difficult="ignore", ranked=_logits, order=_torch_sort, empty=_STOPS, counting=_METER)
_SALGL = dict(
    difficult="ignore", order=_sort_reversed, kept_first=True,
    counting=Counting("ignore", three=_three_by_numpy, never_predicted=1, no_positive=1, nothing=NAN),
)  # fmt: skip


def _mmpretrain(difficult: str) -> Protocol:
    source = "open-mmlab/mmpretrain mmpretrain/evaluation/metrics/voc_multi_label.py: VOCAveragePrecision"
    counting = Counting(difficult, three=_three_by_torch, three_above=False, zeros=0, mean_f1=True)
    empty = dict(no_positive=0, empty=_IS_ZERO)
    return Protocol(source, difficult, order=_torch_sort, kept_first=True, counting=counting, **empty)


def _asl(difficult: str) -> Protocol:
    source = "Alibaba-MIIL/ASL src/helper_functions/helper_functions.py: mAP; validate.py: validate_multi"
    counting = Counting(difficult, 0.8, strict=True, nothing=NAN, mean_f1=True)
    return Protocol(source, difficult, order=_sort_reversed32, no_positive=0, empty=_IS_ZERO, counting=counting)


_OASS = dict(difficult="positive", ranked=_logits, order=_torch_sort, empty=_STOPS)
_OASS["source"] = "Akimoto-Cris/OASSMLL train_classification_with_puzzle_*.py: evaluate"
PROTOCOLS = {
    "ml-gcn": Protocol("megvii-research/ML-GCN util.py: AveragePrecisionMeter", **_GCN),
    "add-gcn": Protocol("Yejin0111/ADD-GCN util.py: AveragePrecisionMeter", **_GCN),
    "csra": Protocol(
        "Kevinz-code/CSRA utils/evaluation/cal_mAP.py: json_map; cal_PR.py: json_metric",
        "ignore",
        kept_first=True,
        empty=_STOPS,
        counting=Counting("ignore", three=_three_by_numpy, no_positive=NAN, never_adds=1),
    ),
    "ssgrl": Protocol("HCPLab-SYSU/SSGRL utils/metrics.py: voc12_mAP", "negative", _logits, empty=_IS_NAN, **_2010),
    "q2l": Protocol("SlongLiu/query2labels lib/utils/metric.py: voc_mAP", "negative", empty=_IS_NAN, **_2010),
    "c-tran": Protocol(
        "QData/C-Tran utils/evaluate.py: compute_metrics",
        "negative",
        order=None,
        no_positive=0,
        empty=_IS_ZERO,
        counting=Counting("negative", three=_tied_with_third),
    ),
    "salgl": Protocol(
        "jasonseu/SALGL lib/metrics.py: VOCmAP('2012')", envelope=True, no_positive=0, empty=_IS_ZERO, **_SALGL
    ),
    "salgl-2007": Protocol("jasonseu/SALGL lib/metrics.py: VOCmAP('2007'), not the 11 points", empty=_STOPS, **_SALGL),
    "mmpretrain": _mmpretrain("ignore"),
    "mmpretrain-negative": _mmpretrain("negative"),
    "mmpretrain-positive": _mmpretrain("positive"),
    "asl-coco": _asl("positive"),
    "asl-coco-negative": _asl("negative"),
    "voc-server": Protocol("VOC development kit, VOCcode/VOCevalcls.m, VOCap.m", "ignore", _logits, _sort_stable, True),
    "oass": Protocol(**_OASS),
    "oass-drop-last": Protocol(**_OASS, drop_last=32),
}  # fmt: skip


# Computation ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What a protocol computes, in %; NaN where the original has NaN or stops."""

    average_precisions: np.ndarray  # `[V]`
    mAP: float  # mean over all classes, as the original takes it
    low: float  # of mAP over all orders of equal scores
    high: float
    counts: dict[str, float] = field(default_factory=dict)  # by name of the mean, the top 3's with "_top3"
    notes: list[str] = field(default_factory=list)


def measure(
    protocol: Protocol,
    logits: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str] = (),
    orders: Sequence[np.ndarray] | None = None,
) -> Measured:
    """Compute what a code base computes.

    Args:
        logits, probabilities: `[N, V]`, float32 as the network's; the latter is the sigmoid of the former.
        labels: `[N, V]`, the devkit's: 1 present, 0 only as difficult objects, −1 absent.
        class_names: for the notes.
        orders: the order of the images for each class, best first, instead of that of the protocol's own sort, which
            leaves equal scores in an order that depends on processor and version. Negative indices are padding.
    """
    kept = len(logits) - len(logits) % protocol.drop_last
    ranked, labels = protocol.ranked(logits, probabilities)[:kept], labels[:kept]
    positive, counted = binary_labels(labels, protocol.difficult)
    found = np.array(
        [
            _of_class(protocol, score, hit, use, None if orders is None else orders[v])
            for v, (score, hit, use) in enumerate(zip(ranked.T, positive.T, counted.T, strict=True))
        ]
    )
    means = 100 * found.mean(axis=0)
    counts = _all_counts(protocol.counting, ranked, labels) if protocol.counting else {}
    measured = Measured(100 * found[:, 0], *means.tolist(), counts)
    measured.notes.extend(_notes(protocol, measured, (positive & counted).any(0), class_names, len(logits) - kept))
    return measured


def _of_class(
    protocol: Protocol, scores: np.ndarray, positive: np.ndarray, counted: np.ndarray, order: np.ndarray | None
) -> tuple[float, float, float]:
    """Return the average precision of one class, its lowest and its highest over the orders of equal scores."""
    if not positive.any():
        return (protocol.no_positive,) * 3
    if order is None:
        sort = protocol.order or _sort_stable
        order = np.flatnonzero(counted)[sort(scores[counted])] if protocol.kept_first else sort(scores)
    order = order[order >= 0]
    order = order[counted[order]]
    ranked = scores[order]
    places = np.flatnonzero(positive[order])
    first = np.searchsorted(-ranked, -ranked[places], "left")
    last = np.searchsorted(-ranked, -ranked[places], "right")
    if protocol.order is None:
        return (average_precision_of_ranks(last, protocol.envelope),) * 3
    within = np.arange(len(places)) - np.searchsorted(first, first, "left")  # place among the tied positives
    tied = np.searchsorted(first, first, "right") - np.searchsorted(first, first, "left")
    ranks = (places + 1, last - tied + within + 1, first + within + 1)
    own, low, high = (average_precision_of_ranks(rank, protocol.envelope) for rank in ranks)
    return own, low, high


def average_precision_of_ranks(ranks: np.ndarray, envelope: bool = False) -> float:
    """Return the mean over the positives of the precision at their rank.

    Args:
        ranks: of the positives `[P]` among the counted images, from 1, ascending; equal ranks count at once.
        envelope: whether each precision is first raised to the highest at the same or a later rank.

    >>> average_precision_of_ranks(np.array([1, 4, 5])), average_precision_of_ranks(np.array([1, 4, 5]), envelope=True)
    (0.7, 0.7333333333333334)
    """
    precision = np.searchsorted(ranks, ranks, "right") / ranks
    return float((np.maximum.accumulate(precision[::-1]) if envelope else precision).mean())


def _all_counts(rule: Counting, ranked: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    predicted = ranked > rule.threshold if rule.strict else ranked >= rule.threshold
    labels, counted = binary_labels(labels, rule.difficult)
    counts = _counts(rule, predicted, labels, counted)
    if rule.three:
        three = rule.three(ranked) & predicted if rule.three_above else rule.three(ranked)
        counts |= {f"{name}_top{TOP}": value for name, value in _counts(rule, three, labels, counted).items()}
    return counts


def _counts(rule: Counting, predicted: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> dict[str, float]:
    """Return CP, CR, CF1, OP, OR and OF1 in % from boolean `[N, V]`."""
    predicted, labels = predicted & counted, labels & counted
    true, found, positives = (array.sum(0) for array in (predicted & labels, predicted, labels))
    precision = np.where(found > 0, true / np.maximum(found, 1), rule.never_predicted)
    recall = np.where(positives > 0, true / np.maximum(positives, 1), rule.no_positive)
    predictions = found.sum() + rule.never_adds * (found == 0).sum()
    OP = true.sum() / predictions if predictions else rule.nothing
    OR = true.sum() / positives.sum() if positives.any() else NAN
    CP, CR = precision.mean(), recall.mean()
    CF1 = np.mean([_f1(*pair, 0) for pair in zip(precision, recall, strict=True)])
    CF1 = CF1 if rule.mean_f1 else _f1(CP, CR, rule.zeros)
    values = (CP, CR, CF1, OP, OR, _f1(OP, OR, rule.zeros))
    return {name: 100 * float(value) for name, value in zip(MEANS, values, strict=True)}


def _f1(precision: float, recall: float, zeros: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else zeros


def _notes(
    protocol: Protocol, measured: Measured, has_positive: np.ndarray, class_names: Sequence[str], dropped: int
) -> list[str]:
    notes = []
    if not has_positive.all():
        empty = [class_names[v] if len(class_names) else f"class {v}" for v in np.flatnonzero(~has_positive)]
        over = mean_over_classes(np.where(has_positive, measured.average_precisions, NAN))
        rest = f"mAP over the other {has_positive.sum()} classes {over:.2f}" if has_positive.any() else "none is left"
        notes.append(f"no positive in {first_few(empty)}: the original {protocol.empty}; {rest}")
    if measured.high - measured.low > 1e-9:
        notes.append(f"equal scores: mAP {measured.low:.2f} to {measured.high:.2f} by their order")
    if dropped:
        notes.append(f"without the {dropped} images of the last incomplete batch of {protocol.drop_last}")
    return notes


def protocol_tables(
    names: Sequence[str],
    logits: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
) -> tuple[str, str, dict[str, Any]]:
    """Return a row per protocol as text and as CSV, and everything by protocol; arguments as `measure`."""
    found = {name: measure(PROTOCOLS[name], logits, probabilities, labels, class_names) for name in names}
    columns = [*MEANS, *(f"{name}_top{TOP}" for name in MEANS)]
    head = ("protocol", "mAP", *MEANS, *(f"{name} 3" for name in MEANS))
    rows = [[name, one.mAP, *(one.counts.get(column, NAN) for column in columns)] for name, one in found.items()]
    shown = [(name, *(f"{value:.2f}" if np.isfinite(value) else "–" for value in values)) for name, *values in rows]
    lines = [fixed_width_table([head, *shown], [18, *[6] * 13]), ""]
    lines += [f"{name}: {note}" for name, one in found.items() for note in one.notes]
    exact = [[name, *(f"{value:.4f}" if np.isfinite(value) else "" for value in values)] for name, *values in rows]
    notes = ["; ".join(one.notes) for one in found.values()]
    table = csv_text(
        [["protocol", "mAP", *columns, "note"], *([*row, note] for row, note in zip(exact, notes, strict=True))]
    )
    result = {}
    for name, one in found.items():
        averages = dict(zip(class_names, one.average_precisions, strict=True))
        ties = {"mAP_lowest": one.low, "mAP_highest": one.high}
        result[name] = {"mAP": one.mAP, **ties, "means": one.counts, "average_precision": averages}
        result[name] |= {"notes": one.notes, **PROTOCOLS[name].description()}
    return "\n".join(lines).rstrip(), table, {"protocols": result}
