"""Attacks that two models met alike, and those that cannot be compared, with the reason."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from amnestic.audit.attack_arms import Arm, arm_of
from amnestic.audit.run_comparison import AttackComparison, compare_attack
from amnestic.core.records import digest
from amnestic.core.store import Record, Run, different

Reasons = list[tuple[str, str]]
THIRD_MODELS = ("twin", "original")
"""Arms on a model that is neither of the two."""
NOT_OF_THE_METHOD = ("batch_size",)
"""Settings that change how fast something is found, not what."""


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """A run whose attacks are compared.

    Attributes:
        run: Its folder.
        threshold: Of its audit.
        descriptor: Identity of the descriptor that judged it.
    """

    run: Run
    threshold: float
    descriptor: str


def compare_attacks(one: Attacked, other: Attacked) -> tuple[list[AttackComparison], Reasons]:
    """Compare what the same attack brought out of two models.

    Args:
        one: Run of the first model.
        other: Run of the second.

    Returns:
        Attacks of the same method and settings that have an arm in common, attacked with the same known images, seeds
        and kept steps; and what is left out, with the reason.
    """
    left: Reasons = []
    first, second = (_by_settings(attacked, which, left) for attacked, which in ((one, "first"), (other, "second")))
    found = []
    for key, records in second.items():
        if key not in first:
            left.append(_only("second", records[-1], list(first.values())))
            continue
        for record in records:
            best = max((_pair(one, other, earlier, record) for earlier in first[key]), key=lambda pair: len(pair[0]))
            arms, unlike = best[0], best[1]
            left += unlike
            made = record.made_by
            compared = compare_attack(made.name, made.parameters, (best[2], record.id), arms)
            if compared is not None:
                found.append(compared)
            elif arms:
                left.append((f"attack {made.name}", "the arms have no work in common"))
    left += [_only("first", records[-1], list(second.values())) for key, records in first.items() if key not in second]
    return found, left


def _by_settings(attacked: Attacked, which: str, left: Reasons) -> dict[str, list[Record]]:
    """Attacks judged as the audit was, by method and settings, the oldest first."""
    found: dict[str, list[Record]] = {}
    for record in attacks_on(attacked.run):
        threshold = record.data["verdict"]["threshold"]
        if threshold != attacked.threshold:
            what = f"attack {record.made_by.name} of the {which} run"
            left.append((what, f"it was judged at another threshold, {threshold:g}"))
        else:
            found.setdefault(digest(record.made_by.name, _settings(record)), []).append(record)
    return found


def attacks_on(run: Run) -> list[Record]:
    """The judged attacks of a run, the oldest first."""
    return [run.record(name) for name in run.records("attack")]


def _settings(record: Record) -> dict[str, Any]:
    return {k: v for k, v in record.made_by.parameters.items() if k not in NOT_OF_THE_METHOD}


def _only(which: str, record: Record, others: Sequence[Sequence[Record]]) -> tuple[str, str]:
    name, like = record.made_by.name, [r[-1] for r in others if r[-1].made_by.name == record.made_by.name]
    what = f"attack {name} of the {which} run"
    if not like:
        return what, "the other run was not attacked with it"
    return what, f"the other run was attacked with other settings ({different(_settings(like[-1]), _settings(record))})"


def _pair(
    one: Attacked, other: Attacked, earlier: Record, later: Record
) -> tuple[dict[str, tuple[Arm, Arm]], Reasons, str]:  # fmt: skip
    """Arms that two attacks have in common, and why the others are left out."""
    arms: dict[str, tuple[Arm, Arm]] = {}
    left: Reasons = []
    names = dict.fromkeys([*later.data["arms"], *earlier.data["arms"]])
    for name in names:
        what = f"attack {later.made_by.name}, arm {name}"
        why = next(_reasons_against(name, earlier, later), "")
        if not why:
            pair = one.run.record(earlier.data["arms"][name]), other.run.record(later.data["arms"][name])
            why = next(_unlike(one, pair), "")
            if not why:
                arms[name] = arm_of(pair[0], one.threshold), arm_of(pair[1], other.threshold)
        if why:
            left.append((what, why))
    return arms, left, earlier.id


def _reasons_against(name: str, earlier: Record, later: Record) -> Iterator[str]:
    if name in THIRD_MODELS:
        yield "it was made on a third model"
    if name not in earlier.data["arms"]:
        yield "the first run has none"
    if name not in later.data["arms"]:
        yield "the second run has none"


def _unlike(one: Attacked, pair: tuple[Record, Record]) -> Iterator[str]:
    earlier, later = pair
    if earlier.parents[1] != later.parents[1] or earlier.parents[1] != one.descriptor:
        yield "it was judged by another descriptor than the audits"
    for key, word in (("steps", "kept steps"), ("seeds", "scoring seeds")):
        if earlier.data[key] != later.data[key]:
            yield f"the {word} differ ({earlier.data[key]} and {later.data[key]})"
    if earlier.parents[2] != later.parents[2]:
        yield "other known images were attacked, or with other prompts beside them"
