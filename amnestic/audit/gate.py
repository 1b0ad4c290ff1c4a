"""A gate: limits on the bounds of what a run measured, and whether they are met. Expressions are read, never run."""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean
from amnestic.measures.intervals import rate

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"
BOUNDS = ("upper_one_sided", "upper", "lower", "lower_one_sided")
COMPARED: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le
}  # fmt: skip
EXAMPLE = "leak_rate.upper_one_sided > 5%"
_LONGEST, _SHOWN = 200, 80
_NUMBER = r"[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
_FORM = re.compile(rf"(?P<name>[^\s<>=!]+)\s*(?P<op>>=|<=|>|<)\s*(?P<number>{_NUMBER})\s*(?P<percent>%?)")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """When a gate fails.

    Attributes:
        text: As it was given.
        quantity: What of the run, such as ``controls.heldout.leak_rate``.
        bound: Which of its bounds.
        op: ``>``, ``>=``, ``<`` or ``<=``.
        limit: What the bound is compared with; 5 % is 0.05.
        in_percent: Whether it was given in per cent.
    """

    text: str
    quantity: str
    bound: str
    op: str
    limit: float
    in_percent: bool = False


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A quantity of a run with its bounds.

    Attributes:
        facts: ``n`` or ``n_target``, and the bounds by name; a bound that is `None` was not measured.
        source: Where it was read, for quantities that several records hold.
        is_share: Whether it is the share of n works, so that n alone says how low a bound may be at best.
        lowest: Least value that the quantity can have, or `None`.
        doubt: Why nothing should be decided by it; empty without a reason.
    """

    facts: Mapping[str, Any]
    source: str = ""
    is_share: bool = True
    lowest: float | None = 0.0
    doubt: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one condition came to.

    Attributes:
        condition: The condition.
        verdict: ``pass``, ``fail`` or ``inconclusive``.
        value: The bound, or `None` where it was not measured.
        n: Works behind it.
        why: In words.
        source: Which record it was read from; empty for what the summary holds.
    """

    condition: Condition
    verdict: str
    value: float | None
    n: int | None
    why: str
    source: str = ""


def parse_condition(text: str) -> Condition:
    """Read one expression.

    Args:
        text: ``QUANTITY.BOUND OP NUMBER``, the number with or without ``%``.

    Returns:
        The condition; whether a run has the quantity is not known yet.

    Raises:
        InputError: If it has another form, names a point estimate, or the number is none.

    Example:
        >>> found = parse_condition("leak_rate.upper_one_sided > 5%")
        >>> found.quantity, found.bound, found.op, found.limit
        ('leak_rate', 'upper_one_sided', '>', 0.05)
    """
    if len(text) > _LONGEST:
        raise InputError(f"expected an expression such as '{EXAMPLE}', got one of {len(text)} characters; shorten it")
    found = _FORM.fullmatch(text.strip())
    if found is None:
        joined = re.search(r"\s(and|or|&&|\|\|)\s", text)
        remedy = "give --fail-on once for each comparison" if joined else "correct it"
        raise InputError(f"expected an expression such as '{EXAMPLE}', got {_shown(text)}; {remedy}")
    name, dot, bound = found["name"].rpartition(".")
    if bound == "estimate":
        raise InputError(
            f"{_shown(text)}: a gate looks at bounds, never at a point estimate, which says nothing of how sure it is; "
            f"take {_shown(name)[1:-1]}.upper_one_sided"
        )
    if not dot or not name or bound not in BOUNDS:
        raise InputError(
            f"{_shown(text)}: expected a bound of {', '.join(BOUNDS)} after the quantity, such as "
            f"leak_rate.upper_one_sided{did_you_mean(bound, BOUNDS)}"
        )
    percent = bool(found["percent"])
    limit = float(found["number"]) / (100 if percent else 1)
    if not math.isfinite(limit):
        raise InputError(f"{_shown(text)}: the limit is too large; give a share such as 0.05 or 5%")
    return Condition(text=text.strip(), quantity=name, bound=bound, op=found["op"], limit=limit, in_percent=percent)


def decide(facts: Mapping[str, Any], bound: str, op: str, limit: float, *, is_share: bool = True) -> str:
    """Whether a bound meets a limit, does not, or cannot tell.

    It is a fail where the comparison holds. There is one exception for shares: where n is so small that the comparison
    would hold whatever had been seen, nothing is decided, unless the other end of the interval is beyond the limit all
    the same. And where n is so small that it could never hold, a pass is none.

    Args:
        facts: ``n`` and the bounds.
        bound: The bound that is compared.
        op: ``>``, ``>=``, ``<`` or ``<=``; a fail when ``bound op limit`` holds.
        limit: What it is compared with.
        is_share: Whether it is the share of n works, with bounds as of `amnestic.measures.intervals.rate`.

    Returns:
        ``pass``, ``fail`` or ``inconclusive``.

    Example:
        >>> from amnestic.core.records import plain
        >>> seen = [plain(rate(k, n)) for k, n in ((0, 60), (9, 60), (0, 4), (1, 4), (3, 4))]
        >>> [decide(facts, "upper_one_sided", ">", 0.1) for facts in seen]
        ['pass', 'fail', 'inconclusive', 'inconclusive', 'fail']
    """
    value, n = number(facts.get(bound)), number(facts.get("n", facts.get("n_target")))
    if value is None or not n:
        return INCONCLUSIVE
    holds = COMPARED[op]
    if not is_share:
        return FAIL if holds(value, limit) else PASS
    upward = op.startswith(">")
    mildest, worst = (_bound(k, int(n), bound) for k in ((0, n) if upward else (n, 0)))
    if holds(value, limit):
        other_end = number(facts.get("lower" if upward else "upper"))
        return INCONCLUSIVE if holds(mildest, limit) and not _beyond(other_end, op, limit) else FAIL
    certain = bound.startswith("lower") if upward else bound.startswith("upper")
    return INCONCLUSIVE if certain and not holds(worst, limit) else PASS


def judge(condition: Condition, candidates: Sequence[Measured], *, absent: str = "not measured in this run") -> Outcome:
    """Hold one quantity of a run against a condition.

    Args:
        condition: The condition.
        candidates: Where the run holds the quantity; of several the strongest counts, that with the highest upper
            bound, and hides no other that rises above a limit. One in doubt decides nothing and hides no fail either.
        absent: Why there is none, in words.

    Returns:
        The outcome; inconclusive where nothing was measured.

    Raises:
        InputError: If the quantity has no such bound, or the limit is one that it cannot have.
    """
    if not candidates:
        return Outcome(condition=condition, verdict=INCONCLUSIVE, value=None, n=None, why=absent)
    _require_possible(condition, candidates)
    ranked = sorted(candidates, key=_strength, reverse=True)
    outcomes = [_judged(condition, one, place, len(ranked)) for place, one in enumerate(ranked)]
    trusted = next((outcome for outcome, one in zip(outcomes, ranked, strict=True) if not one.doubt), outcomes[0])
    deciding = outcomes if condition.op.startswith(">") else [trusted]
    return next((outcome for outcome in deciding if outcome.verdict == FAIL), outcomes[0])


def verdict_over(outcomes: Sequence[Outcome]) -> str:
    """One verdict: a fail wins over an inconclusive outcome, that over a pass; nothing asked is nothing decided."""
    verdicts = {outcome.verdict for outcome in outcomes}
    return next((v for v in (FAIL, INCONCLUSIVE, PASS) if v in verdicts), INCONCLUSIVE)


def line(outcome: Outcome) -> str:
    """An outcome in one line."""
    return f"{outcome.verdict}: {outcome.condition.text}: {outcome.why}"


def number(value: object) -> float | None:
    """A finite number, or `None` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _judged(condition: Condition, one: Measured, place: int, of: int) -> Outcome:
    value = number(one.facts.get(condition.bound))
    n = number(one.facts.get("n", one.facts.get("n_target")))
    verdict = decide(one.facts, condition.bound, condition.op, condition.limit, is_share=one.is_share)
    if value is None or not n:
        why = "not measured in this run"
    else:
        works = "1 work" if n == 1 else f"{n:.0f} works"
        why = f"the bound is {_value(value, condition)} ({works})"
        if verdict == INCONCLUSIVE and not one.doubt:
            why += ", too few to decide it"
    if one.doubt:
        verdict, why = INCONCLUSIVE, f"{why}, but {one.doubt}"
    if one.source:
        why += f"; from {one.source}" + (f", {'one' if place else 'the strongest'} of {of}" if of > 1 else "")
    return Outcome(
        condition=condition, verdict=verdict, value=value, n=None if n is None else int(n), why=why, source=one.source
    )  # fmt: skip


def _require_possible(condition: Condition, candidates: Sequence[Measured]) -> None:
    there = [bound for bound in BOUNDS if any(bound in one.facts for one in candidates)]
    if condition.bound not in there:
        raise InputError(f"{_shown(condition.text)}: {condition.quantity} has no such bound; it has {', '.join(there)}")
    lowest = candidates[0].lowest
    if lowest is not None and not lowest <= condition.limit <= 1:
        given = condition.limit
        hint = f"; {given:g} % is written {given:g}% or {given / 100:g}" if 1 < given <= 100 else "; correct it"
        raise InputError(f"{_shown(condition.text)}: expected a limit between {lowest:g} and 1{hint}")


def _strength(one: Measured) -> float:
    known = (number(one.facts.get(bound)) for bound in ("upper_one_sided", "upper"))
    return next((value for value in known if value is not None), -math.inf)


def _bound(k: float, n: int, bound: str) -> float:
    """What a bound of a share would be with k events."""
    found = number(getattr(rate(int(k), n), bound, None))
    return found if found is not None else math.nan  # compares as false, so that nothing follows from it


def _beyond(end: float | None, op: str, limit: float) -> bool:
    """Whether the end of the interval that is nearest to a pass is beyond the limit."""
    return end is not None and (end > limit if op.startswith(">") else end < limit)


def _value(value: float, condition: Condition) -> str:
    return f"{100 * value:.4g} %" if condition.in_percent else f"{value:.4g}"


def _shown(text: str) -> str:
    """Hostile text for a message: control characters escaped, length bounded."""
    shown = repr(text)
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 4] + "...'"
