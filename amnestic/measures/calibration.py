"""Decision thresholds from pairs that are known not to be copies."""

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from amnestic.core.errors import InputError, NotFinite
from amnestic.core.records import Threshold


def calibrate_threshold(null_scores: ArrayLike, *, false_positive_rate: float = 0.01) -> Threshold:
    """The smallest threshold that at most the declared share of null scores exceeds.

    Formula: the ``(a + 1)``-th largest null score, where a is the largest whole number with
    ``a / n <= false_positive_rate``; a copy scores strictly above it.

    Args:
        null_scores: Similarities of pairs that are no copies of each other, any order; at least
            ``ceil(1 / false_positive_rate)`` of them. They should be as hard as the pairs that will be judged: the
            largest of several similarities, if that is what is judged.
        false_positive_rate: Declared share of null pairs above the threshold, in (0, 1).

    Returns:
        A threshold on the scale of `null_scores`, for the same descriptor and preprocessing only. The share holds on
        the null scores given; a new one of the same kind exceeds it with probability at most ``(a + 1) / (n + 1)``,
        so give many more than the minimum (at the minimum this is twice the declared rate).

    Raises:
        InputError: If the rate is not within (0, 1) or there are too few null scores; the message says how many.
        NotFinite: If a score is NaN or infinite; leave out pairs that were not measured.

    Example:
        >>> found = calibrate_threshold([i / 100 for i in range(100)], false_positive_rate=0.05)
        >>> found.value, found.provenance
        (0.94, 'calibrated on 100 null pairs at a false positive rate of 0.05')
    """
    if not 0 < false_positive_rate < 1:
        raise InputError(f"the false positive rate must be within (0, 1), got {false_positive_rate}; 0.01 is usual")
    scores = np.sort(_scores(null_scores))[::-1]
    n, needed = len(scores), math.ceil(1 / false_positive_rate)
    if n < needed:
        raise InputError(
            f"a false positive rate of {false_positive_rate:g} needs at least {needed} null scores, got {n}; "
            "give more references or declare a higher rate"
        )
    allowed = math.floor(n * false_positive_rate) + 1
    while allowed / n > false_positive_rate:
        allowed -= 1
    return Threshold(
        value=float(scores[allowed]),
        provenance=f"calibrated on {n} null pairs at a false positive rate of {false_positive_rate:g}",
        false_positive_rate=false_positive_rate,
        n_null=n,
    )


def auc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """How well a score separates: the chance that a positive scores above a negative.

    Formula: ``(#{p > n} + #{p = n} / 2) / (P N)``, the Mann-Whitney statistic over the number of pairs.

    Args:
        positives: Scores of those that should be high, any unit.
        negatives: Scores of those that should be low, same unit.

    Returns:
        Area under the ROC curve in [0, 1]; 0.5 is chance, below it the score points the other way.

    Raises:
        InputError: If one side is empty.
        NotFinite: If a score is NaN or infinite; leave out what was not measured.

    Example:
        >>> auc([0.9, 0.5], [0.5, 0.1])
        0.875

    Source:
        Hanley and McNeil, 1982.
    """
    high, low = _scores(positives), _scores(negatives)
    if len(high) == 0 or len(low) == 0:
        raise InputError(f"scores of both kinds are needed, got {len(high)} positive and {len(low)} negative ones")
    ranks = rankdata(np.concatenate([high, low]))[: len(high)]
    above = float(ranks.sum()) - len(high) * (len(high) + 1) / 2
    return above / (len(high) * len(low))


def _scores(values: ArrayLike) -> Float[np.ndarray, "N"]:
    scores = np.asarray(values, dtype=np.float64).reshape(-1)
    if not np.isfinite(scores).all():
        raise NotFinite("scores must be finite, got NaN or infinity; leave out what was not measured")
    return scores
