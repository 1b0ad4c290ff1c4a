"""An attack on works beside one control: how much more comes back, at which budget, and whether that is chance."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from amnestic.audit.attack_arms import Arm, shared_places
from amnestic.core.errors import InputError
from amnestic.core.records import Rate
from amnestic.measures.excess import ExceedsTest, Excess, areas, exceeds, excess_mean, excess_rate
from amnestic.measures.overlap import holm
from amnestic.measures.recovery import Horizon, horizon, recovery_curve, share_above, so_far

NEVER_SEEN = ("heldout", "twin")
"""Controls where nothing can come back but what the search puts in."""
CONTROLS = (*NEVER_SEEN, "random", "original")


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Works beside a control at one budget.

    Attributes:
        step: Kept step of the works.
        control_step: Kept step of the control that has cost no more passes, for random search; else the same.
        target: Share of works that came back up to it.
        control: The same share of the control.
        rate: Excess of the rate.
        score: Excess of the mean best score.
    """

    step: int
    control_step: int
    target: Rate
    control: Rate
    rate: Excess
    score: Excess


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Works beside one control.

    Attributes:
        control: ``heldout``, ``twin``, ``random`` or ``original``.
        works: Works of the control that take part; where they are the same ones, those that both arms have.
        at_budget: At the end of the search.
        at_horizon: At the largest budget at which no false-positive control recovers; `None` without one, and where
            that is the end of the search.
        area_steps: Area between the curves of rates over the steps; `None` for random search, whose steps cost unlike.
        area_passes: The same over the passes that both arms made; `None` where none were counted.
        test: Whether the best score of each work lies above that of the control.
        p_adjusted: Its p-value, Holm-adjusted over controls; `None` for the positive control.
        horizon: Budget up to which the control stays quiet by its estimate; `None` unless it never saw the works.
        horizon_by_bound: The same by its one-sided upper bound.
    """

    control: str
    works: int
    at_budget: Gap
    at_horizon: Gap | None
    area_steps: Excess | None
    area_passes: Excess | None
    test: ExceedsTest
    p_adjusted: float | None
    horizon: Horizon | None
    horizon_by_bound: Horizon | None


def compare(arms: Mapping[str, Arm], *, seed: int, level: float) -> tuple[tuple[Comparison, ...], int | None]:
    """Works beside every control that there is.

    Args:
        arms: By name; ``works`` and any of `CONTROLS`.
        seed: Decides resamples and labellings.
        level: Rate up to which a control counts as quiet.

    Returns:
        Comparisons, and the step at which works may be judged: the end of the search or the earliest horizon of
        controls that never saw the works; `None` where such a control is not even quiet before the search.

    Raises:
        InputError: If a control had other tries, scoring seeds or kept steps than the works; attack it likewise.
    """
    works = arms["works"]
    horizons = {name: _horizons(arms[name], seed, level) for name in NEVER_SEEN if name in arms}
    steps = [h.step for h, _ in horizons.values()]
    known = [step for step in steps if step is not None]
    at = None if len(known) < len(steps) else min([works.steps[-1], *known])
    found = [_beside(name, works, arms[name], at, seed) for name in CONTROLS if name in arms]
    found = [
        replace(c, horizon=horizons[c.control][0], horizon_by_bound=horizons[c.control][1])
        if c.control in horizons
        else c
        for c in found
    ]
    adjusted = holm([None if c.control == "original" else c.test.p_value for c in found])
    return tuple(replace(c, p_adjusted=p) for c, p in zip(found, adjusted, strict=True)), at


def _horizons(arm: Arm, seed: int, level: float) -> tuple[Horizon, Horizon]:
    rates = [point.ever for point in recovery_curve(arm.best, arm.steps, arm.threshold, seed=seed)]
    return (
        horizon(rates, arm.steps, level=level),
        horizon(rates, arm.steps, level=level, by="upper_one_sided"),
    )


def _beside(name: str, works: Arm, control: Arm, at: int | None, seed: int) -> Comparison:
    _require_alike(name, works, control)
    paired = name != "heldout"
    if paired:
        ours, theirs = shared_places(works.works, control.works)
        if not ours:
            raise InputError(f"expected {name} to hold the same works, it shares none; attack the same ones there")
        works, control = _part(works, ours), _part(control, theirs)
    last = works.steps[-1]
    mine, other = (so_far(arm.best) for arm in (works, control))
    aligned = _aligned(name, works, control, len(works.steps) - 1)
    return Comparison(
        control=name, works=len(control.works), at_budget=_gap(name, works, control, last, seed),
        at_horizon=None if at in (None, last) else _gap(name, works, control, at or 0, seed),
        area_steps=_area(works, control, (works.steps, control.steps), paired, seed)
        if name != "random"
        else None,
        area_passes=_area(works, control, (works.passes, control.passes), paired, seed),
        test=exceeds(mine[:, -1], other[:, aligned], paired=paired, seed=seed), p_adjusted=None, horizon=None,
        horizon_by_bound=None,
    )  # fmt: skip


def _part(arm: Arm, places: list[int]) -> Arm:
    """Some works of an arm."""
    return replace(
        arm, works=tuple(arm.works[i] for i in places), scores=arm.scores[places], loss=arm.loss[:, :, places],
        gradient=arm.gradient[:, :, places], stopped=arm.stopped[:, places], forward=arm.forward[:, :, places],
        backward=arm.backward[:, :, places], plain=None if arm.plain is None else arm.plain[places],
    )  # fmt: skip


def _gap(name: str, works: Arm, control: Arm, step: int, seed: int) -> Gap:
    place = works.steps.index(step)
    there = _aligned(name, works, control, place)
    ours, theirs = so_far(works.best)[:, place], so_far(control.best)[:, there]
    paired = name != "heldout"
    return Gap(
        step=step, control_step=control.steps[there], target=share_above(ours, works.threshold),
        control=share_above(theirs, works.threshold),
        rate=excess_rate(ours > works.threshold, theirs > works.threshold, paired=paired, seed=seed),
        score=excess_mean(ours, theirs, paired=paired, seed=seed),
    )  # fmt: skip


def _aligned(name: str, works: Arm, control: Arm, place: int) -> int:
    """The kept step of a control that belongs to one of the works: the same, or for random search one as dear."""
    if name != "random":
        return place
    most = works.passes[place] * (1 + 1e-9)
    return max([i for i, passes in enumerate(control.passes) if passes <= most], default=0)


def _area(
    works: Arm, control: Arm, axes: tuple[tuple[float, ...], tuple[float, ...]], paired: bool, seed: int
) -> Excess | None:
    until = min(axis[-1] for axis in axes)
    if until <= 0:
        return None
    below = [
        areas((so_far(arm.best) > works.threshold).double(), axis, until=until)
        for arm, axis in zip((works, control), axes, strict=True)
    ]
    return excess_mean(below[0], below[1], paired=paired, seed=seed)


def _require_alike(name: str, works: Arm, control: Arm) -> None:
    """The best of many is larger than the best of few: tries, seeds and kept steps must be as many."""
    ours, theirs = ((a.scores.shape[1], a.scores.shape[3], a.steps, a.threshold) for a in (works, control))
    what = ("tries", "scoring seeds", "kept steps", "a threshold")
    free = {"tries", "kept steps"} if name == "random" else set()
    unlike = [w for w, a, b in zip(what, ours, theirs, strict=True) if a != b and w not in free]
    if unlike:
        raise InputError(
            f"expected the control {name} to be attacked like the works, but it differs in {' and '.join(unlike)}; "
            "attack it with the same settings"
        )
