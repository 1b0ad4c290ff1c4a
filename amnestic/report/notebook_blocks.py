"""What a notebook shows of a run, of records and of findings: plain values to pieces of a page."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from amnestic.report import wording
from amnestic.report.attack_figures import budget_figure
from amnestic.report.attack_rows import arm_rows, arms_of
from amnestic.report.before_after import before_after
from amnestic.report.blocks import Block
from amnestic.report.facts import listed, mapping, real
from amnestic.report.figures import ladder_figure, leak_figure
from amnestic.report.findings import Findings, digest_of
from amnestic.report.findings_parts import NOT_APPLICABLE, NOT_GIVEN, Missing, Open
from amnestic.report.notebook_figures import layers_figure
from amnestic.report.subspace_answer import answer
from amnestic.report.subspace_figures import layer_overlap_figure
from amnestic.report.wording import NOT_MEASURED, Facts, percent

BUDGETS = ("step", "passes")
LEFT_OUT = "left out"
STATES = (NOT_MEASURED, LEFT_OUT, NOT_GIVEN, NOT_APPLICABLE)
"""What nobody knows, the most important first."""
NO_COMPARISON = "This run was not compared with another one: audit the edited model with before=FOLDER."


def summary_blocks(summary: Facts) -> list[Block]:
    """The rate beside its controls, in words and as a figure.

    Args:
        summary: Content of ``summary.json``.
    """
    controls = mapping(summary.get("controls"))
    rates = {"works": wording.rate_of(summary)} | {name: wording.rate_of(one) for name, one in controls.items()}
    told = mapping(summary.get("descriptor")).get("name"), real(mapping(summary.get("threshold")).get("value"))
    note = f"Judged by {told[0]}: an image is a copy above {wording.number(told[1])}. Bars are 95\u00a0% intervals."
    return [Block(words=tuple(wording.verdict(summary)), svg=leak_figure(rates), note=note)]


def ladder_blocks(summary: Facts) -> list[Block]:
    """Similarity and rate by how often works were seen in training.

    Args:
        summary: Content of ``summary.json``.
    """
    threshold = real(mapping(summary.get("threshold")).get("value"))
    svg = ladder_figure(listed(summary.get("ladder")), threshold=threshold)
    return [Block(svg=svg) if svg else Block(words=(f"Ladder: {NOT_MEASURED}; the prompt list names no rungs.",))]


def change_blocks(summary: Facts) -> list[Block]:
    """What an edit changed: rates, means over the same prompts and seeds, and distances.

    Args:
        summary: Content of ``summary.json`` of the edited model.
    """
    found = before_after(summary.get("before_after"))
    if found is None:
        return [Block(words=(NO_COMPARISON,))]
    means = [
        (row.name, row.group, row.before, row.after, row.change, row.interval, row.better)
        for row in (*found.changes, *found.distances)
    ]
    head = ("mean", "of", "before", "after", "change", "95\u00a0% interval", "")
    missing = "; ".join(f"{what}: {why}" for what, why in found.not_measured)
    return [
        Block(words=found.sentences, svg=found.figure),
        Block(head=head, rows=tuple(means), note=f"Not measured: {missing}" if missing else ""),
    ]


def layers_blocks(name: str, data: Facts) -> list[Block]:
    """How many units of each layer were located.

    Args:
        name: What located them, in words.
        data: Of the record.
    """
    if data.get("outcome") != "found":
        return [Block(title=name, words=("Nothing was located.",))]
    told = (
        f"{data['units']:,} units, {percent(real(data.get('share')))} of those that were searched; works: "
        f"{len(data['works'])}, controls: {len(data['controls'])}; {data['passes']:,} rows through the U-Net"
    )
    svg = layers_figure(name, listed(data.get("sites")), data["counts"])
    return [Block(title=name, words=(f"{told}.",), svg=svg)]


def sharing_blocks(data: Facts) -> list[Block]:
    """Whether sets of works share a subspace, beside control sets and chance.

    Args:
        data: Of the record of `amnestic.stages.analyze`.
    """
    told = answer(data)
    svg = layer_overlap_figure(listed(data.get("layers")))
    return [Block(words=(told.headline, *told.sentences), svg=svg)]


def verdict_blocks(data: Facts) -> list[Block]:
    """What an attack brought back beside its controls, and why that may not be trusted.

    Args:
        data: Of the record of an attack.
    """
    verdict = mapping(data.get("verdict"))
    arms = tuple((row.name, row.before, row.back, row.back_note, row.mean) for row in arm_rows(verdict))
    flags = tuple(
        (str(f.get("name")), str(f.get("because") or ""), str(f.get("meaning") or ""), str(f.get("remedy") or ""))
        for f in listed(verdict.get("flags"))
    )
    open_questions = tuple((str(what), str(why)) for what, why in verdict.get("not_measured") or ())
    said = str(verdict.get("sentence") or f"Not measured: {NOT_MEASURED}")
    blocks = [
        Block(words=(said, *map(str, verdict.get("why") or ()))),
        Block(head=("", "back before", "back by the end", "", "mean best similarity"), rows=arms),
    ]
    if flags:
        blocks.append(Block(title="Flags", head=("flag", "because", "meaning", "remedy"), rows=flags))
    if open_questions:
        blocks.append(Block(title="Not measured", head=("what", "why"), rows=open_questions))
    return blocks


def curve_blocks(data: Facts, over: str) -> list[Block]:
    """What came back by budget, works beside controls.

    Args:
        data: Of the record of an attack.
        over: ``step`` or ``passes``.

    Raises:
        ValueError: If `over` is something else.
    """
    if over not in BUDGETS:
        raise ValueError(f"expected over to be {' or '.join(BUDGETS)}, got {over}; correct it")
    verdict = mapping(data.get("verdict"))
    arms = arms_of(verdict)
    if over == "step":  # random search has no steps in common with a search by gradient
        arms = {name: arm for name, arm in arms.items() if name != "random"}
    svg = budget_figure(arms, real(verdict.get("threshold")), horizon=real(verdict.get("judged_at")), over=over)
    return [Block(svg=svg) if svg else Block(words=(f"Recovery by {over}: {NOT_MEASURED}.",))]


def findings_blocks(findings: Findings) -> list[Block]:
    """The three findings in their own words, what was decided, and what they do not mean.

    Args:
        findings: The document.
    """
    identity = findings.identity
    return [
        Block(words=(identity.title, *findings.headline), note=f"report {identity.report}, protocol "
              f"{identity.protocol}, {identity.tool}; digest of this document {digest_of(findings)}"),
        Block(title="1. Leaks under ordinary prompts", words=findings.ordinary.sentences),
        Block(title="2. Recoverable under attack", words=findings.attacked.sentences),
        Block(title="3. After a mitigation", words=findings.mitigated.sentences),
        Block(title="Decision", words=(findings.decision.sentence,)),
        Block(title="What this does not mean", words=findings.limits),
    ]  # fmt: skip


def missing_blocks(findings: Findings) -> list[Block]:
    """Everything that the document does not know: what was not measured, not given, or has no meaning here.

    Args:
        findings: The document.
    """
    found = sorted(dict.fromkeys(_unknown(findings, "")), key=lambda row: STATES.index(row[1]))
    return [Block(head=("what", "state", "why, and how it could be had"), rows=tuple(found))]


def _unknown(part: object, place: str) -> Iterator[tuple[str, str, str]]:
    """Place, state and reason, wherever the document says that something is missing or was left out."""
    if isinstance(part, Missing):
        yield place, part.state, part.why
    elif isinstance(part, Open):
        yield part.what, LEFT_OUT, part.why
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from _unknown(getattr(part, name), f"{place}.{name}" if place else name)
    elif isinstance(part, Mapping):
        for name, one in part.items():
            yield from _unknown(one, f"{place}.{name}")
    elif isinstance(part, Sequence) and not isinstance(part, str):
        for one in part:
            yield from _unknown(one, place)


def gate_blocks(outcome: Mapping[str, Any]) -> list[Block]:
    """How a run was judged by limits on bounds.

    Args:
        outcome: What `amnestic.stages.gate` returned.
    """
    lines = tuple(str(one["line"]) for one in outcome["outcomes"])
    return [Block(words=(f"Gate: {outcome['verdict']}.", *lines))]
