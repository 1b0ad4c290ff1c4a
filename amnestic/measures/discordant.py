"""How large is a change of a rate over the same works, and how large a one could have been seen?"""

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import beta, binom
from torch import Tensor

from amnestic.measures.paired import PairedChange, mcnemar

ALPHA, POWER = 0.05, 0.8
_NEVER = 1e-100  # six works must differ, which is below any float at that share; the library overflows further down
_HALVINGS = 50


def rate_change(before: Bool[Tensor, "W"], after: Bool[Tensor, "W"]) -> PairedChange:
    """The change of the share of works that are hit, with exact bounds.

    Formula: of n works, b are hit only before and c only after; the change ``(c - b) / n`` is ``d (2 t - 1)`` with the
    share d of works that differ and the share t of those that are hit after. A bound joins a Clopper-Pearson bound
    of t with that bound of d which makes it wider, each with half of the error that the bound may make, so that it
    holds whatever d is. The lower one-sided bound is above 0 exactly if the rate rose and the two-sided p-value of
    `amnestic.measures.paired.mcnemar` is below 0.05, the upper one below 0 exactly if it fell.

    Args:
        before: One hit or miss per work.
        after: The same works in the same order.

    Returns:
        A change in [-1, 1], after minus before; the interval and each one-sided bound hold with at least 95 %. No
        bound has no width: where no work differs, some may among works like these.

    Raises:
        ValueError: As `amnestic.measures.paired.mcnemar`.

    Example:
        >>> import torch
        >>> same = torch.zeros(48, dtype=torch.bool)
        >>> found = rate_change(same, same)
        >>> found.estimate, round(found.lower_one_sided, 3), round(found.upper_one_sided, 3)
        (0.0, -0.074, 0.074)

    Source:
        Clopper and Pearson, 1934; the conditional test is McNemar's, 1947. The union of the two bounds is this
        project's own.
    """
    test = mcnemar(before, after)
    n, fell, rose = test.n, test.only_before, test.only_after
    return PairedChange(
        n=n, estimate=(rose - fell) / n,
        lower=-_upper(n, rose, fell, ALPHA / 2), upper=_upper(n, fell, rose, ALPHA / 2),
        lower_one_sided=-_upper(n, rose, fell, ALPHA), upper_one_sided=_upper(n, fell, rose, ALPHA),
        method="absolute; exact, from Clopper-Pearson bounds of the share of works that differ and of their direction",
    )  # fmt: skip


def minimum_detectable_change(n: int, discordant: int) -> float | None:
    """The smallest rise of a rate that an exact McNemar test would find, for a comparison like this one.

    Formula: the smallest change c at which the two-sided exact test at level 0.05 says "rose" with probability 0.8,
    when of n works a share ``max(d, c)`` differs, d being the share that differed, and the change lies in their
    direction. The same holds for a fall.

    Args:
        n: Works.
        discordant: Works that were hit on one side only.

    Returns:
        A share in (0, 1]; `None` for fewer than six works, of which even a change of all is not found.

    Raises:
        ValueError: If `discordant` is not within 0 and n.

    Example:
        >>> round(minimum_detectable_change(48, 0), 3), minimum_detectable_change(5, 0)
        (0.16, None)

    Source:
        Connor, "Sample size for testing differences in proportions for the paired-sample design", 1987, for power
        given the share that differs; summed exactly here.
    """
    if not 0 <= discordant <= n:
        raise ValueError(f"works that differ must be within 0 and the number of works, got {discordant} of {n}")
    if n == 0 or power_of_mcnemar(n, 1.0, 1.0) < POWER:
        return None
    low, high, differing = 0.0, 1.0, discordant / n
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = power_of_mcnemar(n, max(differing, middle), middle)
        low, high = (low, middle) if found >= POWER else (middle, high)
    return high


def power_of_mcnemar(n: int, differing: float, change: float) -> float:
    """How likely the two-sided exact McNemar test at level 0.05 says that a rate rose.

    Formula: the sum over d of the probability that d of n works differ, times that of at least as many rises among
    them as the test needs.

    Args:
        n: Works.
        differing: Expected share of works that differ, in [0, 1].
        change: True change of the rate, in [0, differing].

    Returns:
        A probability; at no change at most 0.025.

    Raises:
        ValueError: If the change is not within 0 and the share that differs.

    Example:
        >>> round(power_of_mcnemar(6, 1.0, 1.0), 3), round(power_of_mcnemar(5, 1.0, 1.0), 3)
        (1.0, 0.0)
    """
    if not 0 <= change <= differing <= 1:
        raise ValueError(f"expected 0 <= change <= differing <= 1, got {change} and {differing}")
    if differing < _NEVER:
        return 0.0
    d = np.arange(n + 1)
    enough = binom.ppf(1 - ALPHA / 2, d, 0.5)  # more rises than that are needed
    direction = 0.5 + change / (2 * differing)
    return float((binom.pmf(d, n, differing) * binom.sf(enough, d, direction)).sum())


def _upper(n: int, down: int, up: int, error: float) -> float:
    """Upper bound of ``(up - down) / n`` that errs with at most this probability."""
    differ = down + up
    direction = 2 * _clopper_pearson(up, differ, error / 2)[1] - 1
    least, most = _clopper_pearson(differ, n, error / 2)
    return float(direction * (most if direction > 0 else least))


def _clopper_pearson(k: int, n: int, error: float) -> Float[np.ndarray, "2"]:
    """Lower and upper bound, each of which errs with at most this probability."""
    lower = beta.ppf(error, k, n - k + 1) if k else 0.0
    upper = beta.ppf(1 - error, k + 1, n - k) if k < n else 1.0
    return np.array([lower, upper])
