"""More than a control: differences of rates and means between two arms of an attack, areas and tests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import permutation_test
from torch import Tensor

from amnestic.core.seeds import seed_for
from amnestic.measures.intervals import rate

Rows = Float[np.ndarray, "N"]
_DECIMALS = 12  # sums in another order differ by less; ties must stay ties
_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Excess:
    """How much a target lies above a control; ends are `None` with too few works to have any.

    Attributes:
        estimate: Target minus control.
        lower: Lower end of the two-sided 95 % interval.
        upper: Upper end of it.
        lower_one_sided: Lower 95 % bound; above 0 says that the target lies higher.
        upper_one_sided: Upper 95 % bound.
        n_target: Works of the target.
        n_control: Works of the control, the same ones when paired.
        paired: Whether works were compared with themselves.
        method: How the interval was made.
    """

    estimate: float
    lower: float | None
    upper: float | None
    lower_one_sided: float | None
    upper_one_sided: float | None
    n_target: int
    n_control: int
    paired: bool
    method: str


@dataclass(frozen=True, kw_only=True)
class ExceedsTest:
    """What a permutation test of "the target lies above the control" found.

    Attributes:
        statistic: Mean of the target minus mean of the control.
        p_value: One-sided, in (0, 1].
        n_permutations: Labellings compared with the given one, which is among them when exact.
        exact: Whether they were all there are.
    """

    statistic: float
    p_value: float
    n_permutations: int
    exact: bool


def excess_mean(
    target: Float[Tensor, "N"], control: Float[Tensor, "M"], *, paired: bool, seed: int, n_resamples: int = 2000
) -> Excess:
    """How much a mean over works lies above that of a control.

    Formula: ``mean(target) - mean(control)``; percentiles of the same over works drawn with replacement: pairs when
    paired, each arm by itself otherwise. No end is on the wrong side of the estimate.

    Args:
        target: One value per work, any unit. Where it is a maximum over tries, seeds or steps, both must be one over
            equally many.
        control: The same works in the same order when paired, other works otherwise.
        paired: Whether they are the same works.
        seed: Decides the resamples; the order of works does not matter.
        n_resamples: How many times works are drawn.

    Returns:
        The difference in the unit of the values.

    Raises:
        ValueError: If an arm is empty, a value is NaN or infinite, or paired arms differ in length.

    Example:
        >>> import torch
        >>> found = excess_mean(torch.tensor([0.75, 0.5]), torch.tensor([0.5, 0.25]), paired=True, seed=0)
        >>> found.estimate, found.lower, found.upper
        (0.25, 0.25, 0.25)

    Source:
        Efron, "Bootstrap methods: another look at the jackknife", 1979.
    """
    ours, theirs = _arms(target, control, paired=paired)
    estimate = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2:
        return _excess(estimate, [None] * 4, ours, theirs, paired=paired, method="one work: no interval")
    rng = np.random.default_rng(seed_for(seed, "excess", "paired" if paired else "independent"))
    if paired:
        gaps = np.sort(ours - theirs)
        draws = gaps[rng.integers(len(gaps), size=(n_resamples, len(gaps)))].mean(axis=1)
    else:
        sides = [np.sort(side) for side in (ours, theirs)]
        means = [s[rng.integers(len(s), size=(n_resamples, len(s)))].mean(axis=1) for s in sides]
        draws = means[0] - means[1]
    found = np.quantile(draws, (0.025, 0.975, 0.05, 0.95)).tolist()
    how = "paired" if paired else "independent"
    return _excess(
        estimate, found, ours, theirs, paired=paired, method=f"{how} bootstrap over works, {n_resamples} resamples"
    )


def excess_rate(
    target: Bool[Tensor, "N"], control: Bool[Tensor, "M"], *, paired: bool, seed: int, n_resamples: int = 2000
) -> Excess:
    """How much more often works of the target come back than those of a control.

    Formula: as `excess_mean` of 0 and 1. Where an arm has no hits or only hits the bootstrap does not see how little
    that says, and the Wilson intervals of both rates are joined instead:
    ``d - sqrt((p1 - l1)^2 + (u2 - p2)^2)`` and ``d + sqrt((u1 - p1)^2 + (p2 - l2)^2)``, for pairs as well, where it is
    wider than need be.

    Args:
        target: One hit or miss per work.
        control: The same works in the same order when paired, other works otherwise.
        paired: Whether they are the same works.
        seed: Decides the resamples.
        n_resamples: How many times works are drawn.

    Returns:
        A difference in [-1, 1].

    Raises:
        ValueError: As `excess_mean`; or if the entries are not boolean.

    Example:
        >>> import torch
        >>> yes, no = torch.ones(10, dtype=torch.bool), torch.zeros(10, dtype=torch.bool)
        >>> found = excess_rate(yes, no, paired=False, seed=0)
        >>> found.estimate, round(found.lower, 3)
        (1.0, 0.608)

    Source:
        Newcombe, "Interval estimation for the difference between independent proportions", 1998, method 10.
    """
    if target.dtype != torch.bool or control.dtype != torch.bool:
        raise ValueError(f"expected booleans, got {target.dtype} and {control.dtype}; compare with a threshold first")
    ours, theirs = _arms(target.double(), control.double(), paired=paired)
    if all(0 < side.mean() < 1 for side in (ours, theirs)):
        return excess_mean(target.double(), control.double(), paired=paired, seed=seed, n_resamples=n_resamples)
    found = [*_joined(ours, theirs, 0.95), *_joined(ours, theirs, 0.9)]
    why = "Newcombe, from Wilson intervals of both rates, one of which is 0 or 1"
    return _excess(float(ours.mean() - theirs.mean()), found, ours, theirs, paired=paired, method=why)


def exceeds(
    target: Float[Tensor, "N"], control: Float[Tensor, "M"], *, paired: bool, seed: int, n_permutations: int = 20_000
) -> ExceedsTest:
    """Whether the best scores of works lie above those of a control.

    Formula: T = difference of means. Unpaired: the share of relabellings of works with T at least as large; paired:
    of exchanges of target and control within works. All of them, or b of m random ones: ``(b + 1) / (m + 1)``.

    Args:
        target: Per work its best score over all tries, seeds and kept steps: the maximum is taken before the test, of
            equally many in both arms, so that no correction for it is left to make.
        control: Likewise; the same works in the same order when paired.
        paired: Whether they are the same works.
        seed: Decides random labellings; without effect on an exact test.
        n_permutations: Up to so many labellings all are taken, otherwise so many random ones.

    Returns:
        Statistic and one-sided p-value; over several controls correct it with `amnestic.measures.overlap.holm`.

    Raises:
        ValueError: As `excess_mean`; or if n_permutations is below 1.

    Example:
        >>> import torch
        >>> found = exceeds(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0.1, 0.2, 0.3]), paired=False, seed=0)
        >>> found.p_value, found.n_permutations, found.exact
        (0.05, 20, True)

    Source:
        Pitman, "Significance tests which may be applied to samples from any populations", 1937; Phipson and Smyth,
        "Permutation p-values should never be zero", 2010.
    """
    ours, theirs = _arms(target, control, paired=paired)
    if n_permutations < 1:
        raise ValueError(f"n_permutations must be at least 1, got {n_permutations}; 20000 is usual")
    every = 2 ** len(ours) if paired else math.comb(len(ours) + len(theirs), len(ours))
    gap = _gap(ours, theirs)
    if min(len(ours), len(theirs)) < 2:  # which the library refuses
        return _by_hand(ours, theirs, paired=paired)
    found = permutation_test(
        (ours, theirs), _gap, vectorized=True, n_resamples=n_permutations, batch=_BATCH, alternative="greater",
        permutation_type="samples" if paired else "independent",
        random_state=np.random.default_rng(seed_for(seed, "excess", "permutation")),
    )  # fmt: skip
    return ExceedsTest(
        statistic=float(gap), p_value=float(found.pvalue), n_permutations=len(found.null_distribution),
        exact=every <= n_permutations,
    )  # fmt: skip


def areas(values: Float[Tensor, "N C"], positions: Sequence[float], *, until: float | None = None) -> Tensor:
    """Area below the curve of each work over the budget, as a share of the budget.

    Formula: ``1/B int_0^B v(x) dx``, with v linear between kept steps and level before the first one. Means over
    works of it are areas below the mean curve, so that `excess_mean` of two arms is the area between their curves
    with its interval.

    Args:
        values: By work and kept step: 0 and 1 for hits, or scores.
        positions: Where the C kept steps lie on the axis: steps, or passes; ascending.
        until: Budget B, at most the last position; default the last one.

    Returns:
        ``(N,)`` in the unit of the values: for hits in [0, 1], and differences of arms in [-1, 1]. Compare arms over
        one B.

    Raises:
        ValueError: If positions do not fit or do not ascend, or B is not above 0 and at most the last position.

    Example:
        >>> import torch
        >>> areas(torch.tensor([[0.0, 1.0, 1.0]]), (0, 10, 20)).tolist()
        [0.75]
    """
    places = np.asarray(positions, dtype=np.float64)
    budget = float(places[-1]) if until is None else float(until)
    if values.shape[1:] != places.shape or (np.diff(places) < 0).any():
        raise ValueError(f"expected an ascending position per kept step, got {len(places)} for {tuple(values.shape)}")
    if not 0 < budget <= places[-1]:
        raise ValueError(f"expected a budget above 0 and at most {places[-1]:g}, got {budget:g}; search further")
    grid = np.unique([0.0, budget, *places[(places >= 0) & (places <= budget)]])
    rows = [np.interp(grid, places, row) for row in values.detach().cpu().double().numpy()]
    return torch.from_numpy(np.trapezoid(np.array(rows), grid, axis=1) / budget)


def _arms(target: Tensor, control: Tensor, *, paired: bool) -> tuple[Rows, Rows]:
    ours, theirs = (side.detach().cpu().double().numpy() for side in (target, control))
    if ours.ndim != 1 or theirs.ndim != 1 or not len(ours) or not len(theirs):
        raise ValueError(f"expected one value per work, got shapes {ours.shape} and {theirs.shape}; measure both arms")
    if paired and len(ours) != len(theirs):
        raise ValueError(f"expected the same works in both arms, got {len(ours)} and {len(theirs)}; keep those of both")
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise ValueError("values must be finite, got NaN or infinity; leave out such a work")
    return ours, theirs


def _excess(
    estimate: float, found: Sequence[float | None], ours: Rows, theirs: Rows, *, paired: bool, method: str
) -> Excess:
    lower, upper, lower_one, upper_one = found
    return Excess(
        estimate=estimate, lower=_least(lower, estimate), upper=_most(upper, estimate),
        lower_one_sided=_least(lower_one, estimate), upper_one_sided=_most(upper_one, estimate),
        n_target=len(ours), n_control=len(theirs), paired=paired, method=method,
    )  # fmt: skip


def _least(end: float | None, estimate: float) -> float | None:
    return None if end is None else min(end, estimate)


def _most(end: float | None, estimate: float) -> float | None:
    return None if end is None else max(end, estimate)


def _joined(ours: Rows, theirs: Rows, confidence: float) -> tuple[float, float]:
    one, other = (rate(int(side.sum()), len(side), confidence=confidence) for side in (ours, theirs))
    (p1, l1, u1), (p2, l2, u2) = ((r.estimate or 0.0, r.lower or 0.0, r.upper or 0.0) for r in (one, other))
    return p1 - p2 - math.hypot(p1 - l1, u2 - p2), p1 - p2 + math.hypot(u1 - p1, p2 - l2)


def _gap(ours: np.ndarray, theirs: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(np.round(ours.mean(axis=axis) - theirs.mean(axis=axis), _DECIMALS))


def _by_hand(ours: Rows, theirs: Rows, *, paired: bool) -> ExceedsTest:
    """The exact test when an arm has one work."""
    gap, whole = float(_gap(ours, theirs)), np.concatenate([ours, theirs])
    if paired:
        every = [gap, -gap]
    elif len(ours) == 1:
        every = [float(_gap(whole[[i]], np.delete(whole, i))) for i in range(len(whole))]
    else:
        every = [float(_gap(np.delete(whole, i), whole[[i]])) for i in range(len(whole))]
    p_value = sum(other >= gap for other in every) / len(every)
    return ExceedsTest(statistic=gap, p_value=p_value, n_permutations=len(every), exact=True)
