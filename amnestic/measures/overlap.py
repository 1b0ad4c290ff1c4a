"""Is a subspace shared? Overlap of masks, what chance gives, and tests of the difference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import hypergeom, permutation_test
from torch import Tensor

from amnestic.core.seeds import seed_for

Matrix = Float[np.ndarray, "M M"]
_DECIMALS = 12  # sums in another order differ by less; ties must stay ties
_BATCH = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class PairwiseIou:
    """Overlap of every two of M masks.

    Attributes:
        matrix: Symmetric, in [0, 1]; NaN where both masks are empty, and on the diagonal, which is no pair.
    """

    matrix: Matrix

    @property
    def values(self) -> Float[np.ndarray, "K"]:
        """One value per pair, in the order of `itertools.combinations`, NaN where undefined."""
        return self.matrix[np.triu_indices(len(self.matrix), 1)]

    @property
    def empty_share(self) -> float:
        """Share of pairs with both masks empty, in [0, 1]."""
        return float(np.isnan(self.values).mean())


@dataclass(frozen=True, kw_only=True)
class PermutationTest:
    """What a permutation test found; both values are `None` where the statistic is undefined.

    Attributes:
        statistic: Mean IoU within memorized pairs minus mean IoU of memorized with control masks, in [-1, 1].
        p_value: One-sided, in (0, 1]; small says that memorized masks overlap more with each other.
        n_permutations: Labellings compared with the given one, which is among them when exact.
        exact: Whether they were all there are.
    """

    statistic: float | None
    p_value: float | None
    n_permutations: int
    exact: bool


def iou(one: Bool[Tensor, "..."], other: Bool[Tensor, "..."]) -> float | None:
    """Intersection over union of two masks.

    Formula: ``|A and B| / |A or B|``.

    Args:
        one: Mask over the units of one layer.
        other: Mask over the same units.

    Returns:
        A share in [0, 1], or `None` for two empty masks, which neither agree nor differ; one empty mask gives 0.
        Compare with `expected_random_iou` for the same sizes, not across sizes.

    Raises:
        ValueError: If the masks differ in shape or are not boolean; choose both in the same layer.

    Example:
        >>> import torch
        >>> iou(torch.tensor([True, True, False]), torch.tensor([False, True, True]))
        0.3333333333333333
        >>> iou(torch.tensor([False]), torch.tensor([False])) is None
        True

    Source:
        Jaccard, "The distribution of the flora in the alpine zone", 1912.
    """
    if one.shape != other.shape:
        raise ValueError(
            f"expected masks of one shape, got {tuple(one.shape)} and {tuple(other.shape)}; "
            "choose both in the same layer"
        )
    if one.dtype != torch.bool or other.dtype != torch.bool:
        raise ValueError(f"expected boolean masks, got {one.dtype} and {other.dtype}; compare scores first")
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else None


def pairwise_iou(masks: Sequence[Bool[Tensor, "..."]]) -> PairwiseIou:
    """Overlap of every two of several masks, and how many pairs have none to speak of.

    Args:
        masks: At least two over the same units.

    Returns:
        A matrix as `permutation_p` takes it; report a mean over pairs together with the share that is undefined.

    Raises:
        ValueError: If there are fewer than two masks, or they differ in shape or are not boolean.

    Example:
        >>> import torch
        >>> found = pairwise_iou([torch.tensor([True, True]), torch.tensor([True, False]), torch.tensor([True, False])])
        >>> found.values, found.empty_share
        (array([0.5, 0.5, 1. ]), 0.0)
    """
    if len(masks) < 2:
        raise ValueError(f"expected at least two masks, got {len(masks)}; there is no pair to compare")
    matrix = np.full((len(masks), len(masks)), np.nan)
    for i, j in combinations(range(len(masks)), 2):
        shared = iou(masks[i], masks[j])
        matrix[i, j] = matrix[j, i] = np.nan if shared is None else shared
    return PairwiseIou(matrix=matrix)


def expected_random_iou(sizes: tuple[int, int], total: int) -> float | None:
    """The overlap that two masks of given sizes have by chance.

    Formula: ``E[K / (n1 + n2 - K)]`` with K hypergeometric: n2 of N units drawn, n1 of them marked. Summed over all
    values of K, so exact up to rounding (below 1e-7 of the value for two masks of 10,000 in a million units) and not
    the ratio of means. Time and memory grow with the smaller mask: for layers of millions of units, not billions.

    Args:
        sizes: Chosen units n1 and n2, each in 0..total.
        total: Units N of the layer.

    Returns:
        A share in [0, 1], or `None` when both sizes are 0, as `iou` has it. It is about ``p / (2 - p)`` for two masks
        that choose a share p. Masks with a fixed number per row or with popular units overlap more than this.

    Raises:
        ValueError: If a size is not within 0 and the total; count both masks in one layer.

    Example:
        >>> round(expected_random_iou((1, 1), 4), 6)
        0.25
        >>> round(expected_random_iou((10, 10), 1000), 4)
        0.0053
    """
    if not 0 <= min(sizes) <= max(sizes) <= total:
        raise ValueError(f"sizes must be within 0 and {total}, got {sizes}; count both masks in one layer")
    union = sum(sizes)
    if union == 0:
        return None
    shared = np.arange(max(0, union - total), min(sizes) + 1)
    return float(hypergeom.pmf(shared, total, *sizes) @ (shared / (union - shared)))


def permutation_p(
    ious: Matrix, memorized: Sequence[bool], *, seed: int, n_permutations: int = 20_000
) -> PermutationTest:
    """Whether masks of memorized sets overlap more with each other than with those of control sets.

    Formula: T = mean IoU within memorized pairs minus mean IoU of memorized with control masks, undefined IoUs left
    out; the share of labellings with T at least as large. All of them, or b of m random ones: ``(b + 1) / (m + 1)``.
    A labelling whose T is undefined counts as larger, which never makes p smaller.

    Args:
        ious: Symmetric M x M matrix in [0, 1], NaN where undefined; the diagonal is not read.
        memorized: One label per mask: of a memorized set (true) or of a control set.
        seed: Decides the random labellings; without effect on an exact test.
        n_permutations: Up to so many labellings all are taken, otherwise so many random ones.

    Returns:
        Statistic and p-value, `None` when no pair of memorized masks or no pair of both kinds has an IoU. The p-value
        cannot be below one over the number of labellings; correct it over layers with `holm`.

    Raises:
        ValueError: If the matrix is not as described, labels do not fit it or are not boolean, there are fewer than
            two masks of a kind (make more disjoint sets), or n_permutations is below 1.

    Example:
        >>> import numpy as np
        >>> ious = np.full((6, 6), 0.1)
        >>> ious[:3, :3] = 0.9
        >>> found = permutation_p(ious, [True] * 3 + [False] * 3, seed=0)
        >>> found.statistic, found.p_value, found.n_permutations, found.exact
        (0.8, 0.05, 20, True)

    Source:
        Phipson and Smyth, "Permutation p-values should never be zero", 2010.
    """
    labels = np.asarray(memorized)
    _require_matrix(ious)
    _require_labels(labels, len(ious))
    if n_permutations < 1:
        raise ValueError(f"n_permutations must be at least 1, got {n_permutations}; 20000 is usual")
    pairs = np.where(np.eye(len(ious), dtype=bool), np.nan, ious)

    def contrast(inside: np.ndarray, outside: np.ndarray, axis: int = -1) -> np.ndarray:
        rows = inside[..., :, None]
        gap = _mean(pairs[rows, inside[..., None, :]]) - _mean(pairs[rows, outside[..., None, :]])
        return np.where(np.isnan(gap), np.inf, np.round(gap, _DECIMALS))

    groups = np.flatnonzero(labels), np.flatnonzero(~labels)
    if np.isinf(contrast(*groups)):
        return PermutationTest(statistic=None, p_value=None, n_permutations=0, exact=False)
    found = permutation_test(
        groups,
        contrast,
        vectorized=True,
        n_resamples=n_permutations,
        batch=_BATCH,
        alternative="greater",
        random_state=np.random.default_rng(seed_for(seed, "overlap", "permutation")),
    )
    return PermutationTest(
        statistic=float(found.statistic),
        p_value=float(found.pvalue),
        n_permutations=len(found.null_distribution),
        exact=math.comb(len(labels), int(labels.sum())) <= n_permutations,
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values of several tests, raised so that one error in all of them is as rare as it says.

    Formula: the i-th smallest of m times ``m - i + 1``, not below the ones before it and at most 1.

    Args:
        p_values: One per test, in [0, 1]; `None` or NaN where the test is undefined.

    Returns:
        Adjusted values in the order given, at least as large as those; `None` where undefined, which does not count
        as a test. Compare with the level of the whole family.

    Raises:
        ValueError: If a p-value is not within [0, 1]; give `None` for a test that was not done.

    Example:
        >>> holm([0.25, None, 0.125])
        [0.25, None, 0.25]

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None and not math.isnan(p))
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for done, (p, i) in enumerate(known):
        if not 0 <= p <= 1:
            raise ValueError(f"p-values must be within [0, 1], got {p}; give None for a test that was not done")
        largest = max(largest, min((len(known) - done) * p, 1.0))
        adjusted[i] = largest
    return adjusted


def _mean(block: Float[np.ndarray, "... A B"]) -> np.ndarray:
    """Mean over the last two axes without NaN; NaN where nothing is left."""
    n = np.count_nonzero(~np.isnan(block), axis=(-2, -1))
    return np.where(n == 0, np.nan, np.nansum(block, axis=(-2, -1)) / np.maximum(n, 1))


def _require_matrix(ious: Matrix) -> None:
    if ious.ndim != 2 or not np.array_equal(ious, ious.T, equal_nan=True):
        raise ValueError(f"expected a symmetric matrix of IoUs, got shape {ious.shape}; `pairwise_iou` makes one")
    if ((ious < 0) | (ious > 1)).any():
        raise ValueError("IoUs must be within [0, 1], or NaN where undefined; `pairwise_iou` makes them")


def _require_labels(labels: np.ndarray, n_masks: int) -> None:
    if labels.dtype != np.bool_ or labels.shape != (n_masks,):
        raise ValueError(
            f"expected one true or false per mask, got {labels.dtype} labels of shape {labels.shape} "
            f"for {n_masks} masks"
        )
    n_memorized = int(labels.sum())
    if min(n_memorized, n_masks - n_memorized) < 2:
        raise ValueError(
            f"expected at least two memorized and two control masks, got {n_memorized} and {n_masks - n_memorized}; "
            "make more disjoint sets"
        )
