"""Rows of the tables about an attack, ready to be shown."""

from collections.abc import Iterator
from typing import NamedTuple

from amnestic.report import wording
from amnestic.report.attack_figures import ARMS, arm_name
from amnestic.report.before_after_rows import shown
from amnestic.report.facts import count, listed, mapping, real
from amnestic.report.wording import NOT_MEASURED, Facts, percent, scaled

_NOT_ASKED = "-"


class ArmRow(NamedTuple):
    """One arm."""

    name: str
    setting: str
    before: str
    back: str
    back_note: str
    now: str
    by_median: str
    mean: str
    mean_note: str
    median_step: str


class ControlRow(NamedTuple):
    """Works beside one control."""

    name: str
    paired: str
    rate: str
    rate_note: str
    score: str
    score_note: str
    at_horizon: str
    at_horizon_note: str
    area: str
    area_passes: str
    p_value: str
    quiet: str
    quiet_note: str


class WorkRow(NamedTuple):
    """One work under attack."""

    name: str
    before: str
    after: str
    step: str
    radius: str


class HiddenRow(NamedTuple):
    """One kept step."""

    step: str
    at_risk: str
    found: str
    hidden: str
    interval: str


def arms_of(verdict: Facts) -> dict[str, Facts]:
    """Arms in the order of the page."""
    arms = mapping(verdict.get("arms"))
    order = sorted(arms, key=lambda name: [*ARMS, name].index(name))
    return {name: mapping(arms[name]) for name in order}


def rate_at(arm: Facts, step: float | None = None) -> Facts | None:
    """The rate of works back by a kept step; by the last one without a step. `None`: not measured."""
    points = listed(arm.get("curve"))
    if step is not None:
        points = [point for point in points if real(point.get("step")) == step]
    return wording.rate_of(points[-1].get("ever")) if points else None


def counted(rate: Facts | None) -> str:
    """Works back and works in all.

    Example:
        >>> counted({"estimate": 0.25, "n": 8}), counted(None)
        ('2 of 8', 'not measured')
    """
    share, n = real((rate or {}).get("estimate")), count((rate or {}).get("n"))
    return NOT_MEASURED if share is None or n is None else f"{round(share * n)} of {n}"


def note(rate: Facts | None) -> str:
    """Percentage and interval, or the bound when there was no event."""
    if wording.is_zero(rate):
        return f"upper bound {wording.upper_bound(rate)}"
    ends = wording.interval(rate)
    return "" if ends == NOT_MEASURED else f"{percent(real((rate or {}).get('estimate')))}, {ends}"


def arm_rows(verdict: Facts) -> Iterator[ArmRow]:
    """One row per arm."""
    for name, arm in arms_of(verdict).items():
        points = listed(arm.get("curve"))
        last = points[-1] if points else {}
        mean, whole = mapping(last.get("mean")), rate_at(arm)
        median = count(arm.get("median_step"))
        yield ArmRow(
            name=arm_name(name),
            setting=f"{shown(count(arm.get('tries')))}\u00a0by\u00a0{shown(count(arm.get('seeds')))}",
            before=counted(wording.rate_of(arm.get("before"))),
            back=counted(whole),
            back_note=note(whole),
            now=counted(wording.rate_of(last.get("now"))),
            by_median=counted(wording.rate_of(arm.get("by_median"))),
            mean=scaled(real(mean.get("estimate"))),
            mean_note=_ends(mean),
            median_step="fewer than half" if median is None else str(median),
        )


def control_rows(verdict: Facts) -> Iterator[ControlRow]:
    """One row per control that was attacked."""
    for row in listed(verdict.get("comparisons")):
        gap, at = mapping(row.get("at_budget")), mapping(row.get("at_horizon"))
        quiet = mapping(row.get("horizon"))
        p, steps, passes = real(row.get("p_adjusted")), row.get("area_steps"), row.get("area_passes")
        yield ControlRow(
            name=arm_name(str(row.get("control"))),
            paired="work by work" if mapping(gap.get("rate")).get("paired") else "other works",
            rate=_points(mapping(gap.get("rate"))), rate_note=_point_ends(mapping(gap.get("rate"))),
            score=scaled(real(mapping(gap.get("score")).get("estimate")), signed=True),
            score_note=_ends(mapping(gap.get("score")), signed=True),
            at_horizon=_points(mapping(at.get("rate"))) if at else "the same" if quiet else _NOT_ASKED,
            at_horizon_note=_point_ends(mapping(at.get("rate"))),
            area=scaled(real(mapping(steps).get("estimate")), signed=True) if steps else _NOT_ASKED,
            area_passes=scaled(real(mapping(passes).get("estimate")), signed=True) if passes else _NOT_ASKED,
            p_value=_NOT_ASKED if p is None else wording.p_value(p),
            quiet=_quiet(quiet), quiet_note=_bound(mapping(row.get("horizon_by_bound"))),
        )  # fmt: skip


def work_rows(verdict: Facts) -> list[WorkRow]:
    """One row per work, those first that came back first."""
    works = listed(mapping(mapping(verdict.get("arms")).get("works")).get("works"))
    radii = list(mapping(mapping(verdict.get("radius")).get("works")).get("smallest") or ())
    swept = len(radii) == len(works)
    pairs = [(work, real(radii[i]) if swept else None) for i, work in enumerate(works)]
    last = float("inf")
    pairs.sort(key=lambda pair: (_or(real(pair[0].get("step")), last), -_or(real(pair[0].get("after")), -last)))
    return [
        WorkRow(
            name=str(work.get("work") or "without a name"),
            before=wording.number(real(work.get("before"))), after=wording.number(real(work.get("after"))),
            step="not back" if count(work.get("step")) is None else str(count(work.get("step"))),
            radius=(scaled(radius) if radius is not None else "not back") if swept else NOT_MEASURED,
        )
        for work, radius in pairs
    ]  # fmt: skip


def hidden_rows(verdict: Facts) -> list[HiddenRow]:
    """How many works are left by kept step."""
    return [
        HiddenRow(
            step=shown(count(row.get("step"))), at_risk=shown(count(row.get("at_risk"))),
            found=shown(count(row.get("found"))), hidden=percent(real(mapping(row.get("hidden")).get("estimate"))),
            interval=wording.interval(mapping(row.get("hidden"))),
        )
        for row in listed(mapping(mapping(verdict.get("arms")).get("works")).get("hidden"))
    ]  # fmt: skip


def agreement_rows(verdict: Facts) -> list[tuple[str, str]]:
    """Name and value of what is known about the search's loss and the judge."""
    found = mapping(verdict.get("agreement"))
    if not found:
        return []
    rho, p = real(found.get("rank_correlation")), real(found.get("p_value"))
    fall, gain, below = (mapping(found.get(key)) for key in ("fall", "gain", "below"))
    rows = [
        ("Works looked at, not back before the search", shown(count(found.get("works")))),
        ("Mean relative change of the loss", wording.signed_percent(_negative(real(fall.get("estimate"))))),
        ("Mean gain in similarity", f"{scaled(real(gain.get('estimate')), signed=True)} ({_ends(gain, signed=True)})"),
        ("Rank correlation over works of the fall of the loss with the gain", scaled(rho, signed=True)),
        ("p of a negative correlation", wording.p_value(p)),
    ]
    if below:
        against = arm_name(str(found.get("against")))
        rows.append((f"Final loss, minus that of: {against}", f"{scaled(real(below.get('estimate')), signed=True)} "
                     f"({_ends(below, signed=True)})"))  # fmt: skip
    return rows


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _ends(facts: Facts, *, signed: bool = False) -> str:
    ends = [scaled(real(facts.get(end)), signed=signed) for end in ("lower", "upper")]
    return "no interval" if NOT_MEASURED in ends else " to ".join(ends)


def _points(facts: Facts) -> str:
    value = real(facts.get("estimate"))
    return NOT_MEASURED if value is None else _signed(value)


def _point_ends(facts: Facts) -> str:
    ends = [real(facts.get(end)) for end in ("lower", "upper")]
    return "" if None in ends else " to ".join(_signed(end or 0.0) for end in ends)


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "\u2212").removesuffix(".0")


def _quiet(horizon: Facts) -> str:
    if not horizon:
        return _NOT_ASKED
    step = count(horizon.get("step"))
    if step is None:
        return "never"
    return f"all {step} steps" if horizon.get("is_last") else f"step {step}"


def _bound(horizon: Facts) -> str:
    if not horizon:
        return ""
    step = count(horizon.get("step"))
    return "by upper bound: never" if step is None else f"by upper bound: step {step}"
