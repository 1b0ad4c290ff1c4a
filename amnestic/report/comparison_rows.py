"""Rows of the tables about two audits, ready to be shown."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from amnestic.report import wording
from amnestic.report.attack_figures import ARMS, arm_name
from amnestic.report.before_after_rows import RateRow, p_equals, rate_row
from amnestic.report.facts import listed, mapping, real
from amnestic.report.wording import NOT_MEASURED, Facts, scaled


class GroupRow(NamedTuple):
    """One group of works under both models; every value is ready to be shown."""

    name: str
    rate: RateRow
    change: str
    change_note: str
    p_adjusted: str
    detectable: str
    reading: str
    score_before: str
    score_after: str
    score: str
    score_note: str
    newly: tuple[str, ...]
    no_longer: tuple[str, ...]


class AttackRows(NamedTuple):
    """One attack on both models."""

    name: str
    settings: str
    arms: tuple[GroupRow, ...]


def group_row(group: Facts) -> GroupRow:
    """A row of `amnestic.audit.run_comparison.GroupComparison` as plain data."""
    change, score, p = mapping(group.get("change")), mapping(group.get("score_change")), real(group.get("p_adjusted"))
    name = str(group.get("group") or "without a name")
    return GroupRow(
        name=arm_name(name) if name.split(" ")[0] in ARMS else wording.named(name), rate=rate_row(group),
        change=points(real(change.get("estimate"))), change_note=_ends(change, points),
        p_adjusted=NOT_MEASURED if p is None else f"p\u00a0{p_equals(p)}",
        detectable=_detectable(real(group.get("detectable"))), reading=str(group.get("reading") or NOT_MEASURED),
        score_before=wording.number(real(group.get("score_before"))),
        score_after=wording.number(real(group.get("score_after"))),
        score=_signed(real(score.get("estimate"))), score_note=_ends(score, _signed),
        newly=_names(group.get("newly")), no_longer=_names(group.get("no_longer")),
    )  # fmt: skip


def attack_rows(found: Facts) -> Iterator[AttackRows]:
    """The attacks that were compared."""
    for attack in listed(found.get("attacks")):
        settings = ", ".join(f"{k}={v}" for k, v in mapping(attack.get("parameters")).items())
        arms = tuple(group_row(arm) for arm in listed(attack.get("arms")))
        yield AttackRows(name=str(attack.get("method") or "without a name"), settings=settings, arms=arms)


def left_out(found: Facts) -> list[tuple[str, str]]:
    """What was not compared, and why."""
    pairs = found.get("not_compared")
    return [(str(what), str(why)) for what, why in pairs] if isinstance(pairs, Sequence) else []


def points(share: float | None) -> str:
    """A difference of two shares in percentage points, with its sign.

    Example:
        >>> points(0.125), points(0.0), points(None)
        ('+12.5', '0', 'not measured')
    """
    if share is None:
        return NOT_MEASURED
    text = f"{100 * share:+.1f}".removesuffix(".0")
    return "0" if text in ("+0", "-0") else text.replace("-", "\u2212")


def _detectable(share: float | None) -> str:
    return "none: too few works" if share is None else f"{100 * share:.0f}"


def _signed(value: float | None) -> str:
    return scaled(value, signed=True)


def _ends(facts: Facts, show: Callable[[float | None], str]) -> str:
    ends = [show(real(facts.get(end))) for end in ("lower", "upper")]
    return "no interval" if NOT_MEASURED in ends else " to ".join(ends)


def _names(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()
