"""Holds what a finished audit measured against limits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amnestic.audit.gate import judge, line, parse_condition, verdict_over
from amnestic.audit.gate_quantities import AttackFound, quantities, require_known, why_absent
from amnestic.core.errors import InputError
from amnestic.core.records import plain
from amnestic.core.registry import methods
from amnestic.core.store import Record, Run
from amnestic.report.gate_junit import gate_junit
from amnestic.stages.comparing_attacks import attacks_on
from amnestic.stages.finished import summary_of, write_result


def gate(folder: Path, expressions: Sequence[str]) -> dict[str, Any]:
    """Judge a finished audit, and the attacks on its model, by limits on bounds.

    Args:
        folder: The audit.
        expressions: When the gate fails, each as `amnestic.audit.gate.parse_condition` reads it.

    Returns:
        Plain data: ``run``, ``model``, ``digest``, ``protocol``, ``verdict`` over all, and ``outcomes``, one per
        expression with the fields of `amnestic.audit.gate.Outcome` and the ``line`` that a person reads.

    Raises:
        InputError: If an expression cannot be read, or names a quantity that no run has.
        StoreError: If the audit has not finished, or is of another schema.
    """
    if not expressions:
        raise InputError("expected at least one expression; give --fail-on 'leak_rate.upper_one_sided > 5%'")
    conditions = [parse_condition(text) for text in expressions]
    run = Run.open(folder)
    summary = summary_of(run)
    attacks, stale = _attacks(run, summary)
    there = quantities(summary, attacks)
    for condition in conditions:
        require_known(condition.quantity, there, methods("attack"))
    outcomes = [judge(c, there.get(c.quantity, ()), absent=why_absent(c.quantity, stale)) for c in conditions]
    model = summary.get("model") or {}
    return {
        "run": folder.resolve().name, "model": model.get("name", ""), "digest": model.get("digest", ""),
        "protocol": summary["protocol"]["id"], "verdict": verdict_over(outcomes),
        "outcomes": [plain(outcome) | {"line": line(outcome)} for outcome in outcomes],
    }  # fmt: skip


def write_junit(found: Mapping[str, Any], file: Path) -> None:
    """Write what `gate` returned as JUnit XML.

    Args:
        found: The outcome.
        file: Where to.

    Raises:
        InputError: If it is a folder, or cannot be written.
    """
    write_result(file, gate_junit(found))


def _attacks(run: Run, summary: dict[str, Any]) -> tuple[list[AttackFound], set[str]]:
    """Attacks judged as the audit is now, and methods of those that were judged otherwise."""
    found, stale = [], set()
    for record in attacks_on(run):
        name = record.made_by.name
        if _judged_alike(run, record, summary["protocol"]):
            found.append(AttackFound(record=record.id, method=name, verdict=record.data["verdict"]))
        else:
            stale.add(name)
    return found, stale


def _judged_alike(run: Run, record: Record, protocol: dict[str, Any]) -> bool:
    same = record.data["verdict"]["threshold"] == protocol["threshold"]
    return bool(same and run.record(record.data["arms"]["works"]).parents[1] == protocol["descriptor"])
