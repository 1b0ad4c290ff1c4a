"""Which pictures show the same work."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from amnestic.core.errors import InputError, NotFinite

_TILE = 1024


def cluster_works(
    embeddings: Float[Tensor, "R D"], names: Sequence[str], *, threshold: float, declared: Mapping[str, str]
) -> dict[str, str]:
    """Group pictures that show the same work.

    Pictures are joined when ``cos(a, b) > threshold`` or when the prompt list declares the same work for both; a work
    is a connected component of these joins (single linkage). Pictures that are declared to show different works are
    never joined, however alike: what is linked to several of them, directly or by a chain, goes where the chain is
    shortest, and among those to the work of the picture most like it (the first in alphabetical order of equals).

    The work is the unit of every statistic: several files of one original are memorized together and copied together,
    so counting each of them as a trial would make intervals too narrow, and a work on both sides of a split would leak.
    Single linkage errs towards fewer, larger works: a chain of pairs can join two pictures that are not alike.

    Args:
        embeddings: One descriptor per picture, R pictures, D descriptor width; need not be normalised. A zero
            vector is like nothing.
        names: R distinct reference ids.
        threshold: Cosine similarity in [-1, 1], on the scale of the descriptor.
        declared: Reference id to work id where the prompt list names one; ids not among `names` are ignored.

    Returns:
        Work id per name: the declared one; otherwise the file stem of the first member, spelled out as its path where
        another work already has that name. The same whatever the order of the input.

    Raises:
        InputError: If lengths differ, a name occurs twice, the threshold is out of range, or a declared work is
            named like a picture of another work.
        NotFinite: If a descriptor holds NaN or infinity.

    Example:
        >>> import torch
        >>> two = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]])
        >>> cluster_works(two, ["a.png", "b.png", "c.png"], threshold=0.9, declared={})
        {'a.png': 'a', 'b.png': 'b', 'c.png': 'a'}
    """
    _require_clusterable(embeddings, names, threshold)
    order = sorted(range(len(names)), key=names.__getitem__)
    ordered = [names[i] for i in order]
    # Sorted before comparing, so that rounding cannot depend on the order of the input either.
    unit = torch.nn.functional.normalize(embeddings.detach().cpu()[order].double(), dim=1)
    labels = _grow_declared(unit, _declared_labels(ordered, declared), threshold)
    left = np.flatnonzero(labels < 0)
    labels[left] = left[_join_similar(unit[torch.from_numpy(left)], threshold)]
    members: dict[int, list[str]] = {}
    for name, label in zip(ordered, labels.tolist(), strict=True):
        members.setdefault(label, []).append(name)
    spelled = _work_ids(list(members.values()), declared)
    return {name: spelled[members[label][0]] for name, label in zip(ordered, labels.tolist(), strict=True)}


def _require_clusterable(embeddings: Tensor, names: Sequence[str], threshold: float) -> None:
    if embeddings.ndim != 2 or len(embeddings) != len(names):
        shape = tuple(embeddings.shape)
        raise InputError(f"expected one descriptor per name, got shape {shape} for {len(names)} names; match them")
    if len(set(names)) < len(names):
        twice = min(name for name, count in Counter(names).items() if count > 1)
        raise InputError(f"reference {twice!r} is given twice; give every picture once")
    if not -1 <= threshold <= 1:
        raise InputError(f"the threshold for one work must be a cosine in [-1, 1], got {threshold}; correct it")
    if not torch.isfinite(embeddings).all():
        raise NotFinite("a reference descriptor holds NaN or infinity; compute descriptors in float32")


def _merge(labels: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join pairs; a label is always the smallest index of its group."""
    n = len(labels)
    rows, columns = np.concatenate([left, np.arange(n)]), np.concatenate([right, labels])
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(n, n))
    _, groups = connected_components(graph, directed=False)
    _, first = np.unique(groups, return_index=True)
    merged: NDArray[np.int64] = first[groups].astype(np.int64)
    return merged


def _declared_labels(names: list[str], declared: Mapping[str, str]) -> NDArray[np.int64]:
    """For each name the first one of the same declared work, or -1 without a declared work."""
    first: dict[str, int] = {}
    found = [first.setdefault(declared[name], i) if declared.get(name) else -1 for i, name in enumerate(names)]
    return np.array(found, dtype=np.int64)


def _grow_declared(unit: Tensor, labels: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """Let declared works take in what is like them, then what is like that, until nothing more is."""
    labels, front = labels.copy(), np.flatnonzero(labels >= 0)
    while len(front):
        left = np.flatnonzero(labels < 0)
        score, best = _most_similar(unit[torch.from_numpy(left)], unit[torch.from_numpy(front)])
        joined = score > threshold
        labels[left[joined]] = labels[front[best[joined]]]
        front = left[joined]
    return labels


def _most_similar(rows: Tensor, others: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """For each row the highest cosine with the others, and the first that has it; a tile at a time."""
    score, best = np.full(len(rows), -np.inf), np.zeros(len(rows), dtype=np.int64)
    for top in range(0, len(rows), _TILE):
        part = slice(top, top + _TILE)
        for start in range(0, len(others), _TILE):
            cosine = (rows[part] @ others[start : start + _TILE].T).clamp(max=1.0).numpy()
            # Rounded, because equal vectors at different places of a matrix product may differ in the last bit.
            column = cosine.round(12).argmax(axis=1)
            found = np.take_along_axis(cosine, column[:, None], axis=1)[:, 0]
            higher = found.round(12) > score[part].round(12)
            score[part][higher], best[part][higher] = found[higher], start + column[higher]
    return score, best


def _join_similar(unit: Tensor, threshold: float) -> NDArray[np.int64]:
    """Join pairs above the threshold, one tile of the similarity matrix at a time to bound memory."""
    labels = np.arange(len(unit))
    for top in range(0, len(unit), _TILE):
        for left in range(top, len(unit), _TILE):
            # Clamped, because rounding can push the cosine of equal vectors past 1.
            cosine = (unit[top : top + _TILE] @ unit[left : left + _TILE].T).clamp(max=1.0)
            rows, columns = (index.numpy() for index in torch.nonzero(cosine > threshold, as_tuple=True))
            joins = rows + top != columns + left
            if joins.any():
                labels = _merge(labels, rows[joins] + top, columns[joins] + left)
    return labels


def _work_ids(groups: Iterable[list[str]], declared: Mapping[str, str]) -> dict[str, str]:
    """Distinct work id for each group, keyed by the group's first member; no group takes a declared name by chance."""
    named = {group[0]: next((declared[m] for m in group if declared.get(m)), "") for group in groups}
    found = {first: work for first, work in named.items() if work}
    left = [first for first, work in named.items() if not work]
    spellings: tuple[Callable[[str], str], ...] = (
        lambda name: PurePosixPath(name).stem,
        lambda name: PurePosixPath(name).with_suffix("").as_posix(),
        lambda name: name,
    )
    for spell in spellings:
        count, taken = Counter(spell(first) for first in left), {*found.values(), *declared.values()}
        fresh = {first: spell(first) for first in left if count[spell(first)] == 1 and spell(first) not in taken}
        found |= fresh
        left = [first for first in left if first not in fresh]
    if left:
        raise InputError(f"the prompt list names a work {left[0]!r}, which is also the path of a picture; rename it")
    return found
