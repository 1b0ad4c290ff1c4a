"""What of a run a gate can be set on: every quantity with bounds, by its name."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amnestic.audit.attack_comparison import CONTROLS, NEVER_SEEN
from amnestic.audit.attack_verdict import NOT_TRUSTWORTHY
from amnestic.audit.gate import Measured
from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean

_FIXED = (
    r"leak_rate", r"median_based_rate", r"clip\.leak_rate", r"by_label\.(VM|TM|none)\.leak_rate",
    r"controls\.(heldout|base)\.(leak_rate|images)", r"ladder\.[0-9]{1,9}\.leak_rate",
)  # fmt: skip
_ARMS = ("works", *CONTROLS, "excess", *(f"excess.{control}" for control in CONTROLS))
Quantities = dict[str, list[Measured]]


@dataclass(frozen=True, kw_only=True)
class AttackFound:
    """One judged attack of a run.

    Attributes:
        record: Its name.
        method: Name of the attack.
        verdict: An `amnestic.audit.attack_verdict.AttackVerdict` as plain data.
    """

    record: str
    method: str
    verdict: Mapping[str, Any]


def quantities(summary: Mapping[str, Any], attacks: Sequence[AttackFound] = ()) -> Quantities:
    """Every quantity of a run that has bounds.

    Args:
        summary: Content of ``summary.json``.
        attacks: Judged attacks on the run's model, by its own descriptor and threshold.

    Returns:
        Name -> where the run holds it; several places for attacks that were made more than once.

    Example:
        >>> leaks = {"estimate": 0.0, "lower": 0.0, "upper": 0.06, "upper_one_sided": 0.05, "n": 59}
        >>> list(quantities({"leak_rate": leaks, "controls": {"base": {"leak_rate": leaks}}}))
        ['leak_rate', 'controls.base.leak_rate']
    """
    found: Quantities = {}
    sources = [_of_summary(summary), _of_edit(_mapping(summary.get("before_after")))]
    sources += [_of_attack(attack) for attack in attacks]
    for source in sources:
        for name, measured in source:
            found.setdefault(name, []).append(measured)
    return found


def require_known(name: str, there: Collection[str], attack_methods: Collection[str]) -> None:
    """Tell a name that no run has from one that this run merely did not measure.

    Args:
        name: Of a quantity.
        there: Names of those that this run has.
        attack_methods: Names of all attacks.

    Raises:
        InputError: If no run could have it; the sentence lists what this one has.
    """
    if name in there or any(re.fullmatch(form, name, re.ASCII) for form in _FIXED):
        return
    kind, _, rest = name.partition(".")
    method, _, arm = rest.partition(".")
    if kind == "attack" and method in attack_methods and arm in _ARMS:
        return
    edited = [one for one in there if one.startswith("before_after.")]
    if kind == "before_after" and rest and not edited:
        return
    shown = repr(name) if len(name) <= 60 else repr(name[:57]) + "..."
    of_attacks = [f"attack.{one}.{place}" for one in attack_methods for place in _ARMS] if kind == "attack" else []
    listed = [one for one in there if kind == "before_after" or one not in edited]
    more = [f"{len(edited)} of before_after.*"] if len(listed) < len(there) else []
    raise InputError(
        f"expected a quantity of this run ({', '.join([*listed, *more])}), got "
        f"{shown}{did_you_mean(name, [*there, *of_attacks])}"
    )


def why_absent(name: str, stale: Collection[str] = ()) -> str:
    """Why a run may lack a quantity that others have.

    Args:
        name: Of the quantity.
        stale: Attacks that were made, but judged by another descriptor or threshold than the run's.

    Returns:
        Words that end in the remedy.
    """
    kind, _, rest = name.partition(".")
    method = rest.partition(".")[0]
    if kind == "attack" and method in stale:
        return f"not measured in this run as it is judged now; attack again: amnestic attack RUN --method {method}"
    remedies = {
        "attack": f"attack first, with this control: amnestic attack RUN --method {method}",
        "before_after": "audit the edited model with --before RUN",
        "clip": "audit with --clip NAME",
        "ladder": "the prompt list names no work of this rung",
        "by_label": "the prompt list has no such work",
        "controls": "the prompt list has no such control",
    }
    remedy = remedies.get(kind)
    return "not measured in this run" + (f"; {remedy}" if remedy else "")


def _of_summary(summary: Mapping[str, Any]) -> Iterator[tuple[str, Measured]]:
    yield from _rate("leak_rate", summary.get("leak_rate"))
    yield from _rate("median_based_rate", summary.get("median_based_rate"))
    yield from _rate("clip.leak_rate", _mapping(summary.get("clip")).get("leak_rate"))
    for label, row in _mapping(summary.get("by_label")).items():
        yield from _rate(f"by_label.{label}.leak_rate", _mapping(row).get("leak_rate"))
    for control, row in _mapping(summary.get("controls")).items():
        for name in ("leak_rate", "images"):
            yield from _rate(f"controls.{control}.{name}", _mapping(row).get(name))
    for row in _rows(summary.get("ladder")):
        yield from _rate(f"ladder.{row.get('rung')}.leak_rate", row.get("leak_rate"))


def _of_edit(edited: Mapping[str, Any]) -> Iterator[tuple[str, Measured]]:
    for row in _rows(edited.get("rates")):
        for side in ("before", "after"):
            yield from _rate(f"before_after.{_slug(row.get('group'))}.{side}", row.get(side))
    for row in _rows(edited.get("changes")):
        yield from _change(f"before_after.{_slug(row.get('name'))}.{_slug(row.get('group'))}", row.get("change"))
    for row in _rows(edited.get("distances")):
        yield from _change(f"before_after.{_slug(row.get('name'))}", row.get("change"))


def _of_attack(attack: AttackFound) -> Iterator[tuple[str, Measured]]:
    prefix, verdict = f"attack.{attack.method}", attack.verdict
    doubt = "the attack's own verdict is that it is not trustworthy"
    doubted = doubt if verdict.get("conclusion") == NOT_TRUSTWORTHY else ""
    for arm, row in _mapping(verdict.get("arms")).items():
        points = _rows(_mapping(row).get("curve"))
        if points:
            why = doubted if arm == "works" else ""
            yield from _rate(f"{prefix}.{arm}", points[-1].get("ever"), source=attack.record, doubt=why)
    for row in _rows(verdict.get("comparisons")):
        gap = _mapping(row.get("at_horizon") or row.get("at_budget"))
        control = str(row.get("control"))
        names = [f"{prefix}.excess.{control}"] + [f"{prefix}.excess"] * (control in NEVER_SEEN)
        source = f"{attack.record}, beside {control}"
        for name in names:
            yield from _change(name, gap.get("rate"), source=source, lowest=-1.0, doubt=doubted)


def _rate(name: str, facts: object, *, source: str = "", doubt: str = "") -> Iterator[tuple[str, Measured]]:
    if isinstance(facts, Mapping):
        yield name, Measured(facts=facts, source=source, doubt=doubt)


def _change(
    name: str, facts: object, *, source: str = "", lowest: float | None = None, doubt: str = ""
) -> Iterator[tuple[str, Measured]]:
    if isinstance(facts, Mapping):
        yield name, Measured(facts=facts, source=source, is_share=False, lowest=lowest, doubt=doubt)


def _slug(words: object) -> str:
    """Words as a part of a name: ``SSCD_Orig (max over seeds)`` is ``sscd-orig-max-over-seeds``."""
    return re.sub(r"[^a-z0-9]+", "-", str(words).lower()).strip("-")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list | tuple) else []
