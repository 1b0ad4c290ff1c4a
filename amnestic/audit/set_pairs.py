"""Pairs of prompt sets: memorized with memorized, with controls, controls with controls, and what chance gives each."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

import numpy as np
from jaxtyping import Float, Int

from amnestic.measures.overlap import expected_random_iou

KINDS = ("within_memorized", "with_controls", "within_controls")
Matrix = Float[np.ndarray, "M M"]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Overlap of all pairs of one kind.

    Attributes:
        iou: Mean IoU over pairs that have one, in [0, 1]; `None` without such a pair.
        random: What masks of the same sizes have by chance, mean over the same pairs; `None` without such a pair.
        empty_share: Share of the pairs with two empty masks, in [0, 1].
        n: Pairs, the empty ones among them.
    """

    iou: float | None
    random: float | None
    empty_share: float
    n: int


def pairs_by_kind(ious: Matrix, random: Matrix, n_memorized: int) -> dict[str, Pairs]:
    """Means over the pairs of each of `KINDS`.

    Args:
        ious: Symmetric, the memorized sets first; NaN where both masks are empty; the diagonal is not read.
        random: What chance gives, of the same shape and with the same NaN.
        n_memorized: How many sets are memorized, at least 2; so many are controls, too.

    Returns:
        One entry per kind.
    """
    ours, theirs = range(n_memorized), range(n_memorized, len(ious))
    kinds = (combinations(ours, 2), product(ours, theirs), combinations(theirs, 2))
    found = {}
    for kind, pairs in zip(KINDS, kinds, strict=True):
        at = tuple(np.array(list(pairs)).T)
        empty = float(np.isnan(ious[at]).mean())
        found[kind] = Pairs(iou=mean_of(ious[at]), random=mean_of(random[at]), empty_share=empty, n=len(at[0]))
    return found


def chance_in_layer(sizes: Int[np.ndarray, "M"], n_units: int) -> Matrix:
    """`expected_random_iou` of every two masks of one layer.

    Args:
        sizes: Units chosen by each mask.
        n_units: Units of the layer.

    Returns:
        Symmetric; NaN where both sizes are 0 and on the diagonal.
    """
    known = cache(lambda low, high: expected_random_iou((low, high), n_units))  # a long sum, and sizes come again
    each = sizes.tolist()
    return _of_pairs(len(each), lambda i, j: known(min(each[i], each[j]), max(each[i], each[j])))


def chance_over_layers(counts: Int[np.ndarray, "K M"], n_units: Int[np.ndarray, "K"]) -> Matrix:
    """The same over all layers together, for masks that choose as many units of every layer.

    Formula: ``sum_k E_k / (sum_k (n1 + n2) - sum_k E_k)`` with ``E_k = n1 n2 / N_k``; a ratio of expectations, close
    to the expectation of the ratio for masks of more than a few units.

    Args:
        counts: Units chosen in each of K layers by each mask.
        n_units: Units of each layer.

    Returns:
        Symmetric; NaN where both masks are empty and on the diagonal.
    """

    def chance(i: int, j: int) -> float | None:
        shared = float((counts[:, i] / n_units * counts[:, j]).sum())
        chosen = int((counts[:, i] + counts[:, j]).sum())
        return shared / (chosen - shared) if chosen else None

    return _of_pairs(counts.shape[1], chance)


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are neither `None` nor NaN; `None` when nothing is left."""
    known = [float(v) for v in values if v is not None and not math.isnan(v)]
    return sum(known) / len(known) if known else None


def _of_pairs(n: int, what: Callable[[int, int], float | None]) -> Matrix:
    matrix = np.full((n, n), np.nan)
    for i, j in combinations(range(n), 2):
        value = what(i, j)
        matrix[i, j] = matrix[j, i] = np.nan if value is None else value
    return matrix
