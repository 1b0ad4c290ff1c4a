"""Did an edit change anything? Two conditions compared over the same works."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import binomtest
from torch import Tensor

from amnestic.core.seeds import seed_for

Rows = Float[np.ndarray, "W"]


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """What an exact McNemar test found.

    Attributes:
        n: Works, concordant ones too.
        only_before: Works that are hit before and not after.
        only_after: Works that are hit after and not before.
        p_value: Two-sided, in (0, 1].
    """

    n: int
    only_before: int
    only_after: int
    p_value: float


@dataclass(frozen=True, kw_only=True)
class PairedChange:
    """A change of a mean, after against before, with its interval and its one-sided bounds.

    Attributes:
        n: Works, the unit that was resampled.
        estimate: The change itself; below 0 is a loss.
        lower: Lower end of the two-sided interval.
        upper: Upper end of the two-sided interval.
        lower_one_sided: Lower bound; its negative is the upper bound on a loss.
        upper_one_sided: Upper bound; below 0 says that the mean fell.
        method: How the interval was made, and whether the change is absolute or relative.
    """

    n: int
    estimate: float
    lower: float
    upper: float
    lower_one_sided: float
    upper_one_sided: float
    method: str


def mcnemar(before: Bool[Tensor, "W"], after: Bool[Tensor, "W"]) -> McNemar:
    """Whether works are hit more or less often after an edit than before it.

    Formula: of the ``b + c`` works hit in one condition only, b is binomial with share 1/2 when the edit does nothing;
    the exact two-sided probability of a split at least as uneven, 1 without such works.

    Args:
        before: One hit or miss per work.
        after: The same works in the same order.

    Returns:
        Counts and a p-value in (0, 1]. A large one is no proof that nothing changed, few discordant works cannot give
        a small one: with ``b + c <= 5`` it is above 0.05.

    Raises:
        ValueError: If a work is missing in one condition, there is none, or the entries are not boolean; compare
            scores with a threshold first.

    Example:
        >>> import torch
        >>> mcnemar(torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool))
        McNemar(n=6, only_before=6, only_after=0, p_value=0.03125)

    Source:
        McNemar, "Note on the sampling error of the difference between correlated proportions", 1947.
    """
    _require_pairs(before, after, ndim=1)
    if before.dtype != torch.bool or after.dtype != torch.bool:
        raise ValueError(f"expected booleans, got {before.dtype} and {after.dtype}; compare with a threshold first")
    only_before, only_after = int((before & ~after).sum()), int((after & ~before).sum())
    discordant = only_before + only_after
    p_value = float(binomtest(only_before, discordant).pvalue) if discordant else 1.0
    return McNemar(n=len(before), only_before=only_before, only_after=only_after, p_value=p_value)


def paired_bootstrap(
    before: Float[Tensor, "W S"],
    after: Float[Tensor, "W S"],
    *,
    seed: int,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    relative: bool = False,
) -> PairedChange:
    """The change of a mean over works and seeds, when images of one work are not independent.

    Formula: ``mean(after) - mean(before)``, divided by ``mean(before)`` when relative; percentiles of the same over
    works (rows) drawn with replacement, each with its values of both conditions. No end is on the wrong side of the
    estimate.

    Args:
        before: One value per work and seed, any unit.
        after: The same works and seeds in the same order, the same unit.
        seed: Decides the resamples, the same for both variants; the order of works does not matter.
        n_resamples: How many times works are drawn.
        confidence: Of the interval and of each one-sided bound, in (0, 1).
        relative: Whether to divide by the mean before; for values on a scale with a true zero.

    Returns:
        The change in the unit of the values, or as a share of the mean before, at least -1 for values that are not
        negative. Compare a bound with a limit: a loss of at most 5 % is ``lower_one_sided >= -0.05`` when relative.
        The interval has no width when all works change alike; for hits that never change take `intervals.rate`.

    Raises:
        ValueError: If a value is missing in one condition, NaN or infinite (leave out the work in both); there are
            fewer than two works; n_resamples is below 1 or confidence not within (0, 1); or a relative change has no
            mean above 0 to refer to (take the absolute one).

    Example:
        >>> import torch
        >>> found = paired_bootstrap(torch.tensor([[2.0], [4.0]]), torch.tensor([[1.0], [2.0]]), seed=0, relative=True)
        >>> found.n, found.estimate, found.lower_one_sided
        (2, -0.5, -0.5)

    Source:
        Efron, "Bootstrap methods: another look at the jackknife", 1979; Field and Welsh, "Bootstrapping clustered
        data", 2007.
    """
    _require_pairs(before, after, ndim=2)
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}; 2000 is usual")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be within (0, 1), got {confidence}; 0.95 is usual")
    pairs = np.array(sorted(zip(_means(before), _means(after), strict=True)))
    if len(pairs) < 2:
        raise ValueError("expected at least two works, got one; a single work says nothing about others")
    rng = np.random.default_rng(seed_for(seed, "paired bootstrap"))
    picks = rng.integers(len(pairs), size=(n_resamples, len(pairs)))
    estimate = float(_change(pairs.mean(axis=0), relative=relative))
    draws = _change(pairs[picks].mean(axis=1), relative=relative)
    tails = (1 - confidence) / 2, (1 + confidence) / 2, 1 - confidence, confidence
    lower, upper, lower_one_sided, upper_one_sided = np.quantile(draws, tails).tolist()
    kind = "relative" if relative else "absolute"
    return PairedChange(
        n=len(pairs),
        estimate=estimate,
        lower=min(lower, estimate),
        upper=max(upper, estimate),
        lower_one_sided=min(lower_one_sided, estimate),
        upper_one_sided=max(upper_one_sided, estimate),
        method=f"{kind}; paired bootstrap {100 * confidence:g} % over works, {n_resamples} resamples",
    )


def _require_pairs(before: Tensor, after: Tensor, *, ndim: int) -> None:
    if before.shape != after.shape or before.ndim != ndim:
        raise ValueError(
            f"expected two tensors of one shape with {ndim} axes, got {tuple(before.shape)} and {tuple(after.shape)}; "
            "keep the works and seeds that both conditions have"
        )
    if before.numel() == 0:
        raise ValueError("expected at least one work, got none; measure both conditions first")


def _means(values: Tensor) -> Rows:
    """One mean per work."""
    if not bool(values.isfinite().all()):
        raise ValueError("values must be finite, got NaN or infinity; leave out such a work in both conditions")
    return values.detach().cpu().double().mean(dim=1).numpy()


def _change(means: Float[np.ndarray, "... 2"], *, relative: bool) -> Float[np.ndarray, "..."]:
    """After minus before, or its share of the mean before."""
    before, after = means[..., 0], means[..., 1]
    change: np.ndarray = after - before
    if relative and before.min() <= 0:
        raise ValueError(
            f"a relative change needs a mean before above 0, overall and in every resample, got {before.min():g}; "
            "take the absolute change"
        )
    if relative:
        change = change / before
    return change
