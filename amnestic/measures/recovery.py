"""Do works come back under an attack, and after how much search? One arm by itself: rates, means, steps, horizon."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from amnestic.core.records import Rate
from amnestic.core.seeds import seed_for
from amnestic.measures.intervals import cluster_mean, rate

Best = Float[Tensor, "N C"]
Bound = Literal["estimate", "upper_one_sided"]
_NOT_MADE = -2


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over works with its 95 % interval.

    Attributes:
        estimate: The mean.
        lower: Lower end, `None` with fewer than two works.
        upper: Upper end, likewise.
    """

    estimate: float
    lower: float | None
    upper: float | None


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """An arm at one kept step.

    Attributes:
        step: Steps searched.
        ever: Share of works that came back at this kept step or an earlier one.
        now: Share of works that are back at this very step.
        mean: Mean over works of the best score up to this step.
        mean_now: Mean over works of the best score at this very step.
    """

    step: int
    ever: Rate
    now: Rate
    mean: Mean
    mean_now: Mean


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """How many works an attack has not brought back yet.

    Attributes:
        step: Kept step.
        since: The kept step before it; what is found at `step` came back somewhere in between.
        at_risk: Works not back at `since`.
        found: Those of them that are back at `step`.
        hidden: Share of all works that is still not back.
    """

    step: int
    since: int | None
    at_risk: int
    found: int
    hidden: Rate


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """The budget up to which a control stays quiet.

    Attributes:
        step: Largest kept step at which it does, at all earlier ones as well; `None`: not even before the search.
        is_last: Whether that is the last kept step, so that the horizon may lie further.
        level: Largest rate that counts as quiet.
        by: What of the rate is held against it: ``estimate`` or ``upper_one_sided``.
    """

    step: int | None
    is_last: bool
    level: float
    by: Bound


def best_scores(
    scores: Float[Tensor, "N K C S"],
    *,
    steps: Sequence[int],
    stopped: Int[Tensor, "K N"] | None = None,
    over_seeds: Literal["max", "median"] = "max",
) -> Best:
    """Score of the best try of each work at each kept step.

    Formula: ``max_k max_s scores``, or ``max_k median_s scores``. A try that was not made says nothing; one that was
    stopped early holds the same input from then on, so that values missing later are the one it was stopped with.

    Args:
        scores: Similarity with the work's own original, in [-1, 1]; N works, K tries, C kept steps, S seeds.
        steps: The C kept steps, ascending.
        stopped: Step at which each try was called back; -1 never, -2 not made. `None`: all went to the end.
        over_seeds: Which image of an input counts.

    Returns:
        ``(N, C)``, float64. A maximum over K tries and S seeds: compare with controls of as many alone.

    Raises:
        ValueError: If shapes do not fit, there is no work, or a score is missing; score every try that was made.

    Example:
        >>> import torch
        >>> best_scores(torch.tensor([[[[0.1, 0.3]], [[0.2, 0.0]]]]), steps=(0,)).tolist()
        [[0.30000001192092896]]
    """
    _require_scores(scores, steps, stopped)
    values = scores.detach().cpu().double()
    values = values.amax(-1) if over_seeds == "max" else values.quantile(0.5, dim=-1)
    if stopped is not None:
        values = _held(values, steps, stopped.detach().cpu().T)
    if bool(values.isnan().any()) or bool(values.amax(1).isinf().any()):
        raise ValueError(
            "expected a score of every try that was made, at every kept step, got NaN or no try at all for a work; "
            "score them, or mark tries that were not made by -2 in stopped"
        )
    return values.amax(1)


def so_far(best: Best) -> Best:
    """The best score up to each kept step; what an attacker holds who keeps everything.

    Example:
        >>> import torch
        >>> so_far(torch.tensor([[0.25, 0.75, 0.5]])).tolist()
        [[0.25, 0.75, 0.75]]
    """
    return best.cummax(dim=1).values


def recovery_curve(best: Best, steps: Sequence[int], threshold: float, *, seed: int) -> tuple[CurvePoint, ...]:
    """Share of works that came back, and their mean score, by budget.

    Formula: a work is back where its best score is above the threshold; Wilson intervals of rates, percentiles over
    works drawn with replacement of means.

    Args:
        best: From `best_scores`, in [-1, 1].
        steps: The C kept steps.
        threshold: A copy scores above it.
        seed: Decides the resamples.

    Returns:
        One point per kept step. What came back ever depends on how many steps were kept: compare arms that kept the
        same ones.
    """
    total = so_far(best)
    return tuple(
        CurvePoint(
            step=int(step), ever=share_above(total[:, c], threshold), now=share_above(best[:, c], threshold),
            mean=mean_over_works(total[:, c], seed=seed), mean_now=mean_over_works(best[:, c], seed=seed),
        )
        for c, step in enumerate(steps)
    )  # fmt: skip


def share_above(values: Float[Tensor, "N"], threshold: float) -> Rate:
    """Share of works above a threshold; `amnestic.measures.intervals.rate` of it."""
    return rate(int((values > threshold).sum()), len(values))


def mean_over_works(values: Float[Tensor, "N"], *, seed: int) -> Mean:
    """Mean of one value per work; `amnestic.measures.intervals.cluster_mean` of it.

    Example:
        >>> import torch
        >>> mean_over_works(torch.tensor([0.5]), seed=0)
        Mean(estimate=0.5, lower=None, upper=None)
    """
    rng = np.random.default_rng(seed_for(seed, "recovery", "mean"))
    found = cluster_mean(values.tolist(), range(len(values)), rng=rng)
    estimate, lower, upper = (None if np.isnan(v) else float(v) for v in found)
    if estimate is None:
        raise ValueError("expected at least one work, got none; a mean of nothing is not 0")
    return Mean(estimate=estimate, lower=lower, upper=upper)


def first_steps(best: Best, steps: Sequence[int], threshold: float) -> tuple[int | None, ...]:
    """The first kept step at which each work is back, or `None`.

    Example:
        >>> import torch
        >>> first_steps(torch.tensor([[0.1, 0.8, 0.3], [0.1, 0.2, 0.7]]), (0, 10, 50), 0.7)
        (10, None)
    """
    above = (best > threshold).tolist()
    return tuple(next((int(s) for s, back in zip(steps, row, strict=True) if back), None) for row in above)


def median_step(first: Sequence[int | None]) -> int | None:
    """The first kept step by which at least half of all works are back; `None` if that never happens.

    Example:
        >>> median_step([10, None, 50, 5]), median_step([10, None, None])
        (10, None)
    """
    found = sorted(step for step in first if step is not None)
    half = -(-len(first) // 2)
    return found[half - 1] if first and len(found) >= half else None


def hidden_table(first: Sequence[int | None], steps: Sequence[int]) -> tuple[Hidden, ...]:
    """How many works are left that the attack has not brought back, step by step.

    Formula: Kaplan-Meier, ``prod_c (1 - found_c / at_risk_c)``. No work leaves before the end of the budget, so that
    it equals the share of works not back yet, whose Wilson interval is given.

    Args:
        first: From `first_steps`.
        steps: The same kept steps.

    Returns:
        One row per kept step.

    Source:
        Kaplan and Meier, "Nonparametric estimation from incomplete observations", 1958.
    """
    rows, since, left = [], None, len(first)
    for step in steps:
        found = sum(1 for one in first if one == step)
        rows.append(
            Hidden(step=int(step), since=since, at_risk=left, found=found, hidden=rate(left - found, len(first)))
        )
        since, left = int(step), left - found
    return tuple(rows)


def horizon(rates: Sequence[Rate], steps: Sequence[int], *, level: float = 0.05, by: Bound = "estimate") -> Horizon:
    """The budget at which the false-positive rate still holds.

    Formula: the largest kept step at which, and before which, the rate of a control is at most `level`.

    Args:
        rates: Of works that cannot come back, because the model never saw them, by kept step.
        steps: The kept steps.
        level: In [0, 1).
        by: ``estimate``, or ``upper_one_sided`` for its 95 % bound, which needs 59 quiet works to be below 0.05.

    Returns:
        The step; what is found beyond it may have been put in by the search.

    Raises:
        ValueError: If level is not within [0, 1).

    Example:
        >>> from amnestic.measures.intervals import rate
        >>> horizon([rate(0, 20), rate(1, 20), rate(2, 20)], (0, 50, 100)).step
        50
        >>> horizon([rate(0, 20)], (0,), by="upper_one_sided").step is None
        True
    """
    if not 0 <= level < 1:
        raise ValueError(f"level must be within [0, 1), got {level}; 0.05 is usual")
    last = None
    for place, found in enumerate(rates):
        value = getattr(found, by)
        if value is None or value > level:
            break
        last = place
    step = None if last is None else int(steps[last])
    return Horizon(step=step, is_last=last == len(steps) - 1, level=level, by=by)


def _require_scores(scores: Tensor, steps: Sequence[int], stopped: Tensor | None) -> None:
    if scores.ndim != 4 or 0 in scores.shape or scores.shape[2] != len(steps):
        raise ValueError(
            f"expected scores by work, try, kept step and seed for {len(steps)} kept steps, got {tuple(scores.shape)}"
        )
    if list(steps) != sorted(set(steps)):
        raise ValueError(f"expected ascending steps, got {tuple(steps)}")
    if stopped is not None and stopped.shape != (scores.shape[1], scores.shape[0]):
        raise ValueError(
            f"expected by try and work where it was stopped, {scores.shape[1]} x {scores.shape[0]}, got "
            f"{tuple(stopped.shape)}"
        )


def _held(values: Float[Tensor, "N K C"], steps: Sequence[int], stopped: Int[Tensor, "N K"]) -> Float[Tensor, "N K C"]:
    """Values with gaps after a stop filled, and nothing where no try was made."""
    values = values.clone()
    for place, step in enumerate(steps[:-1]):
        gaps = values[:, :, place + 1].isnan() & (stopped >= 0) & (stopped <= step)
        values[:, :, place + 1] = torch.where(gaps, values[:, :, place], values[:, :, place + 1])
    return values.masked_fill((stopped == _NOT_MADE)[:, :, None], -torch.inf)
