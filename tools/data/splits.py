"""Split a data set into lists train and val so that both have the same share of every class."""

import numpy as np

from tools.system.errors import UserError

Lists = dict[str, list[str]]  # by name the image ids of a list
ROUNDS = 100  # exchanges of two images at most; enough for 40,000 images of 80 classes
LAST = 1e6  # cost of taking the last image of a class from a part, above every cost of uneven shares


def split_lists(ids: list[str], labels: np.ndarray, val_share: float, seed: int) -> Lists:
    """Return the lists train, val and trainval; a val share of 0 makes no list val.

    They depend on ids, labels (`[N, V]`, true where an image shows a class) and seed, but not on the images' order.
    """
    order = sorted(range(len(ids)), key=ids.__getitem__)
    ids = [ids[index] for index in order]
    if not val_share:
        return {"train": ids, "trainval": ids}
    if len(ids) < 2:
        raise UserError(f"{len(ids)} image is too few for two lists, train and val: a val share of 0 makes train alone")
    in_val = stratified_split(labels[order], val_share, seed)
    train, val = ([ids[index] for index in np.flatnonzero(part)] for part in (~in_val, in_val))
    return {"train": train, "val": val, "trainval": ids}


def stratified_split(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return which of at least two images form part val: bool `[N]`.

    `labels`, `[N, V]`, are true where an image shows a class; `share`, in (0, 1), is that of val.

    Iterative stratification (Sechidis et al., "On the stratification of multi-label data", ECML PKDD 2011): the images
    of the rarest class are distributed first, each to the part that lacks most images of this class. Two rules are
    added: val has exactly `share` of all images (rounded, at least one in each part), and as far as this allows, every
    class with at least two images appears in both parts.
    """
    images = len(labels)
    count = min(max(round(share * images), 1), images - 1)
    order = np.random.default_rng(seed).permutation(images)
    shuffled = np.ascontiguousarray(labels[order], np.float32)
    in_val = _iterative_stratification(shuffled, share, count)
    total = shuffled.sum(0)
    for index in np.argsort(total, kind="stable"):
        shown = shuffled[:, index] > 0
        found = in_val[shown].sum()
        if total[index] >= 2 and found in (0, total[index]):
            _move(shuffled, in_val, share, into_val=found == 0, rows=shown)
    while surplus := int(in_val.sum()) - count:
        _move(shuffled, in_val, share, into_val=surplus < 0)
    for _ in range(ROUNDS):
        other = in_val.copy()
        _move(shuffled, other, share, into_val=True)
        _move(shuffled, other, share, into_val=False)
        if _error(shuffled, other, share) >= _error(shuffled, in_val, share):
            break
        in_val = other
    return in_val[np.argsort(order)]


def _iterative_stratification(labels: np.ndarray, share: float, count: int) -> np.ndarray:
    """Distribute the images by the published rule, ties in their order; return which are in val."""
    total = labels.sum(0)
    wanted = np.where(total >= 2, np.clip(share * total, 1, total - 1), share * total)
    lacking = np.stack([total - wanted, wanted])  # images of every class, of train and of val
    room = np.array([len(labels) - count, count])
    part = np.full(len(labels), -1)
    while (left := labels[part < 0].sum(0)).any():
        rarest = np.where(left > 0, left, np.inf).argmin()
        for row in np.flatnonzero((part < 0) & (labels[:, rarest] > 0)):
            part[row] = max((0, 1), key=lambda index: (lacking[index, rarest], room[index]))
            lacking[part[row]] -= labels[row]
            room[part[row]] -= 1
    unlabeled = np.flatnonzero(part < 0)
    part[unlabeled[: max(room[1], 0)]] = 1
    return part == 1


def _error(labels: np.ndarray, in_val: np.ndarray, share: float) -> float:
    """Return the squared errors of the classes' shares, and `LAST` for each class that is in one part alone."""
    total, found = labels.sum(0), labels[in_val].sum(0)
    alone = (total >= 2) & ((found == 0) | (found == total))
    return float(((found - share * total) ** 2).sum() + LAST * alone.sum())


def _move(labels: np.ndarray, in_val: np.ndarray, share: float, into_val: bool, rows: np.ndarray | bool = True) -> None:
    """Move that one of `rows` into or out of val which brings the classes closest to their shares (squared errors)."""
    total, found = labels.sum(0), labels[in_val].sum(0)
    sign, source = (1, total - found) if into_val else (-1, found)
    costs = labels @ (1 + 2 * sign * (found - share * total) + LAST * ((source == 1) & (total >= 2)))
    in_val[np.where((in_val != into_val) & rows, costs, np.inf).argmin()] = into_val
