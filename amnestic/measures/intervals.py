"""Shares and means with the intervals that are needed to judge them."""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from amnestic.core.errors import InputError, NotFinite
from amnestic.core.records import Rate

Vector = Float[np.ndarray, "C"]
NOT_MEASURED = Rate(estimate=None, lower=None, upper=None, upper_one_sided=None, n=0, method="not measured")


def rate(k: int, n: int, *, confidence: float = 0.95) -> Rate:
    """The share of k events in n independent trials.

    Formula: ``k / n``; two-sided Wilson score interval; one-sided Clopper-Pearson upper bound, which for no events is
    ``1 - (1 - confidence) ** (1 / n)``.

    Args:
        k: Events, in 0..n.
        n: Trials that are independent of each other; for several images per work use `cluster_rate`.
        confidence: Of the interval and of the bound, in (0, 1).

    Returns:
        A rate in [0, 1], or one that says "not measured" without trials. Compare the one-sided bound with a limit, the
        interval with other rates of the same protocol.

    Raises:
        InputError: If k is not within 0..n or the confidence not within (0, 1).

    Example:
        >>> round(rate(0, 59).upper_one_sided, 4)
        0.0495

    Source:
        Wilson, 1927; Clopper and Pearson, 1934; compared by Brown, Cai and DasGupta, 2001.
    """
    _require_confidence(confidence)
    if not 0 <= k <= n:
        raise InputError(f"events must be within 0 and the number of trials, got {k} of {n}")
    if n == 0:
        return NOT_MEASURED
    lower, upper = binomtest(k, n).proportion_ci(confidence, method="wilson")
    return Rate(
        estimate=k / n,
        lower=min(float(lower), k / n),
        upper=max(float(upper), k / n),
        upper_one_sided=_upper(k, n, confidence),
        n=n,
        method=f"Wilson {_percent(confidence)}; one-sided Clopper-Pearson {_percent(confidence)}",
    )


def cluster_rate(
    hits: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    rng: np.random.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Rate:
    """The share of images that are hits, when images of one work are not independent.

    Formula: hits over images; percentiles of the same share over works drawn with replacement. The one-sided bound is
    the percentile at `confidence`, but never below the Clopper-Pearson bound of no events in as many works: a few
    events must not look safer than none. Where the bootstrap has no spread another interval is taken and named in
    `method`: with no hits, or only hits, Clopper-Pearson over works (a work is hit when any of its images is); with
    one work, [0, 1]; with several works of one and the same share, Wilson over images.

    Args:
        hits: One 0 or 1 per image.
        clusters: The work each image belongs to, in the same order.
        rng: Decides the resamples; the result does not depend on the order of images.
        resamples: How many times works are drawn.
        confidence: Of the interval and of the bound, in (0, 1).

    Returns:
        A rate in [0, 1] whose `n` is the number of works, or one that says "not measured" without images.

    Raises:
        InputError: If lengths differ, hits are not 0 or 1, resamples is below 1 or confidence not within (0, 1).

    Example:
        >>> import numpy as np
        >>> found = cluster_rate([0] * 8, ["a"] * 4 + ["b"] * 4, rng=np.random.default_rng(0))
        >>> found.estimate, found.n, round(found.upper_one_sided, 3)
        (0.0, 2, 0.776)

    Source:
        Field and Welsh, "Bootstrapping clustered data", 2007; Clopper and Pearson, 1934.
    """
    _require_confidence(confidence)
    values = np.asarray(hits, dtype=np.float64).reshape(-1)
    if not np.isin(values, (0.0, 1.0)).all():
        raise InputError("hits must be 0 or 1 per image; compare scores with a threshold first")
    sums, sizes = _per_cluster(values, clusters)
    if len(sums) == 0:
        return NOT_MEASURED
    if (sums == 0).all() or (sums == sizes).all():
        return _exact(int(np.count_nonzero(sums)), len(sums), confidence)
    estimate = float(sums.sum() / sizes.sum())
    if len(sums) == 1:
        return Rate(estimate=estimate, lower=0.0, upper=1.0, upper_one_sided=1.0, n=1, method="one work: no interval")
    floor = _upper(0, len(sums), confidence)
    if (sums * sizes[0] == sums[0] * sizes).all():
        flat = rate(int(sums.sum()), int(sizes.sum()), confidence=confidence)
        lower, upper, one_sided = flat.lower, flat.upper, flat.upper_one_sided
        method = f"Wilson {_percent(confidence)} over images, all works having one share"
    else:
        draws = _bootstrap(sums, sizes, rng, resamples)
        lower, upper, one_sided = (float(np.quantile(draws, q)) for q in (*_tails(confidence), confidence))
        method = f"cluster bootstrap {_percent(confidence)} over works, {resamples} resamples"
    return Rate(
        estimate=estimate,
        lower=min(lower or 0.0, estimate),
        upper=max(upper or 0.0, estimate),
        upper_one_sided=max(one_sided or 0.0, floor, estimate),
        n=len(sums),
        method=f"{method}; one-sided bound not below that of no events in {len(sums)} works",
    )


def cluster_mean(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    rng: np.random.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """The mean over images, when images of one work are not independent.

    Formula: sum of values over number of images; percentiles of the same mean over works drawn with replacement.

    Args:
        values: One value per image, any unit; NaN means "not measured" and is left out.
        clusters: The work each image belongs to, in the same order.
        rng: Decides the resamples; the result does not depend on the order of images.
        resamples: How many times works are drawn.
        confidence: Of the interval, in (0, 1).

    Returns:
        Mean, lower and upper end in the unit of `values`. The ends are NaN with fewer than two works, the mean too
        when there is no value.

    Raises:
        InputError: If lengths differ, resamples is below 1 or the confidence not within (0, 1).
        NotFinite: If a value is infinite; find where it was computed.

    Example:
        >>> import numpy as np
        >>> cluster_mean([1.0, 1.0, 1.0], ["a", "a", "b"], rng=np.random.default_rng(0))
        (1.0, 1.0, 1.0)

    Source:
        Field and Welsh, "Bootstrapping clustered data", 2007.
    """
    _require_confidence(confidence)
    measured = np.asarray(values, dtype=np.float64).reshape(-1)
    if np.isinf(measured).any():
        raise NotFinite("values must be finite or NaN, got infinity; find where it was computed")
    sums, sizes = _per_cluster(measured, clusters)
    if len(sums) == 0:
        return math.nan, math.nan, math.nan
    mean = math.fsum(sums) / float(sizes.sum())
    if len(sums) == 1:
        return mean, math.nan, math.nan
    draws = _bootstrap(sums, sizes, rng, resamples)
    lower, upper = (float(np.quantile(draws, q)) for q in _tails(confidence))
    return mean, min(lower, mean), max(upper, mean)


def _per_cluster(values: Vector, clusters: Sequence[Hashable]) -> tuple[Vector, Vector]:
    """Sum and number of measured values per cluster, sorted so that the order of images does not matter."""
    if len(values) != len(clusters):
        raise InputError(f"there must be one work per image, got {len(clusters)} works for {len(values)} images")
    members: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values.tolist(), clusters, strict=True):
        if not math.isnan(value):
            members.setdefault(cluster, []).append(value)
    pairs = sorted((math.fsum(m), float(len(m))) for m in members.values())
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _bootstrap(sums: Vector, sizes: Vector, rng: np.random.Generator, resamples: int) -> Vector:
    """The ratio of sums to sizes over clusters drawn with replacement."""
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}")
    draws = np.empty(resamples)
    for i in range(resamples):
        picks = rng.integers(len(sums), size=len(sums))
        draws[i] = sums[picks].sum() / sizes[picks].sum()
    return draws


def _exact(k: int, n: int, confidence: float) -> Rate:
    """Clopper-Pearson over works."""
    lower, upper = binomtest(k, n).proportion_ci(confidence, method="exact")
    why = "only hits" if k else "no hits"
    return Rate(
        estimate=k / n,
        lower=float(lower),
        upper=float(upper),
        upper_one_sided=_upper(k, n, confidence),
        n=n,
        method=f"Clopper-Pearson {_percent(confidence)} over works (a work is hit when any image is), {why}",
    )


def _upper(k: int, n: int, confidence: float) -> float:
    """One-sided Clopper-Pearson upper bound."""
    return float(binomtest(k, n, alternative="less").proportion_ci(confidence, method="exact").high)


def _tails(confidence: float) -> tuple[float, float]:
    return (1 - confidence) / 2, (1 + confidence) / 2


def _percent(confidence: float) -> str:
    return f"{100 * confidence:g} %"


def _require_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be within (0, 1), got {confidence}; 0.95 is usual")
