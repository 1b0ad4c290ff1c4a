"""The three findings side by side: how many of how many works, how sure, the control beside it, or why not measured."""

from collections.abc import Iterator
from typing import NamedTuple

from amnestic.report import wording
from amnestic.report.attack_rows import counted
from amnestic.report.findings import Findings
from amnestic.report.findings_attacked import Attack
from amnestic.report.findings_mitigated import PairedRate
from amnestic.report.findings_parts import Missing, Rate
from amnestic.report.found_attacked import NONE_RUN
from amnestic.report.found_mitigated import ALL_WORKS, NOT_COMPARED

CONTROL_ARMS = ("heldout", "twin", "random")
NO_WORKS = "No work of the prompt list had an original to be compared with."


class Answer(NamedTuple):
    """One of the three findings.

    Attributes:
        id: Anchor of its section.
        title: Its question.
        value: How many of how many works, or "not measured".
        what: What they did.
        certainty: Rate with its interval or bound.
        controls: What controls did, or that there is none.
        reading: How far that can be trusted.
        why: Why it was not measured, or empty.
        command: What would measure it, or empty.
    """

    id: str
    title: str
    value: str
    what: str = ""
    certainty: str = ""
    controls: tuple[tuple[str, str], ...] = ()
    reading: tuple[str, ...] = ()
    why: str = ""
    command: str = ""

    @property
    def measured(self) -> bool:
        """Whether there is a number."""
        return not self.why


def answers(findings: Findings) -> tuple[Answer, Answer, Answer]:
    """The three findings, kept apart.

    Args:
        findings: The document.
    """
    return _ordinary(findings), _attacked(findings), _mitigated(findings)


def paragraph(findings: Findings) -> str:
    """The whole answer in plain words.

    Args:
        findings: The document.
    """
    return " ".join(_sentences(findings))


def sure(rate: Rate) -> str:
    """A rate with its interval; zero events with the bound that is the finding.

    Example:
        >>> sure(Rate(estimate=0.5, lower=0.1, upper=0.9, upper_one_sided=0.8, n=4, method="m")).replace(chr(160), " ")
        '50 %; 95 % interval 10 % to 90 %'
    """
    facts = rate.model_dump()
    if rate.estimate is None:
        return wording.NOT_MEASURED
    if wording.is_zero(facts):
        return f"0\u00a0%; one-sided 95\u00a0% upper bound {wording.upper_bound(facts)}"
    return f"{wording.percent(rate.estimate)}; 95\u00a0% interval {wording.interval(facts)}"


def beside(rate: Rate) -> str:
    """Events, works and bounds of a control in one line."""
    return f"{counted(rate.model_dump())}: {sure(rate)}" if rate.estimate is not None else wording.NOT_MEASURED


def strongest(findings: Findings) -> Attack | None:
    """The attack that brought back the largest share of works, one with a trustworthy conclusion first."""
    ranked = sorted(findings.attacked.attacks, key=lambda a: (a.conclusion == "not trustworthy", -(_back(a) or 0.0)))
    return next(iter(ranked), None)


def all_works(findings: Findings) -> PairedRate | None:
    """The rate before and after a mitigation, over every work."""
    compared = findings.mitigated.compared
    rows = () if isinstance(compared, Missing) else compared.rates
    return next((row for row in rows if row.group == ALL_WORKS), next(iter(rows), None))


def _back(attack: Attack) -> float | None:
    return next((arm.back.estimate for arm in attack.arms if arm.name == "works"), None)


def _ordinary(findings: Findings) -> Answer:
    one, controls = findings.ordinary, findings.scope.controls
    title = "Leaks under ordinary prompts"
    if one.rate.estimate is None:
        command = "amnestic audit MODEL --prompts LIST.csv --references FOLDER --out RUN"
        return Answer(id="ordinary", title=title, value=wording.NOT_MEASURED, why=NO_WORKS, command=command)
    return Answer(
        id="ordinary", title=title, value=counted(one.rate.model_dump()), what="tested works were replicated",
        certainty=sure(one.rate), controls=tuple((wording.named(c.name), beside(c.rate)) for c in controls.groups),
        reading=(*_zero(one.rate), controls.coincidence),
    )  # fmt: skip


def _attacked(findings: Findings) -> Answer:
    title, attack = "Recoverable under attack", strongest(findings)
    if attack is None or _back(attack) is None:
        return Answer(
            id="attacked", title=title, value=wording.NOT_MEASURED, why=NONE_RUN,
            command=f"amnestic attack {findings.identity.run} --references FOLDER",
        )  # fmt: skip
    works = next(arm for arm in attack.arms if arm.name == "works")
    others = len(findings.attacked.attacks) - 1
    more = (f"{others} more attack{'s were' if others > 1 else ' was'} run; see the results.",) if others else ()
    return Answer(
        id="attacked", title=title, value=counted(works.back.model_dump()),
        what=f"attacked works came back by {attack.method.name} within {works.budget} steps",
        certainty=sure(works.back),
        controls=tuple((arm.meaning, beside(arm.back)) for arm in attack.arms if arm.name in CONTROL_ARMS),
        reading=(attack.sentence, *_zero(works.back), *more),
    )  # fmt: skip


def _mitigated(findings: Findings) -> Answer:
    title, row, three = "After a mitigation", all_works(findings), findings.mitigated
    if row is None or isinstance(three.compared, Missing):
        made = f" {three.sentences[-1]}" if three.made else ""
        return Answer(
            id="mitigated", title=title, value=wording.NOT_MEASURED, why=NOT_COMPARED.partition(" (")[0] + "." + made,
            command=f"amnestic audit EDITED_MODEL --before {findings.identity.run} --prompts LIST.csv "
            "--references FOLDER --out RUN",
        )  # fmt: skip
    controls = [r for r in three.compared.rates if r.group.startswith(("held", "base", "control"))]
    before = counted(row.before.model_dump())
    return Answer(
        id="mitigated", title=title, value=counted(row.after.model_dump()),
        what=f"works are still replicated; {before} were before", certainty=sure(row.after),
        controls=tuple(
            (wording.named(r.group), f"{counted(r.before.model_dump())} before, then {beside(r.after)}")
            for r in controls
        ),
        reading=tuple(_reading(row, findings)),
    )  # fmt: skip


def _zero(rate: Rate) -> Iterator[str]:
    if wording.is_zero(rate.model_dump()):
        yield "Zero events are an upper bound, not an absence."


def _reading(row: PairedRate, findings: Findings) -> Iterator[str]:
    yield from _zero(row.after)
    if row.p_value is not None:
        p = wording.p_value(row.p_value)
        yield f"Same works, prompts and seeds on both sides; p of McNemar's exact test {p}."
    attack = strongest(findings)
    if attack is None:
        yield "No attack was run on this model, so copies may only be hidden."
    elif attack.conclusion == "recoverable":
        yield f"Fewer copies under ordinary prompts does not mean gone: {attack.method.name} brings works back."


def _sentences(findings: Findings) -> Iterator[str]:
    one, three = findings.ordinary, findings.mitigated
    if one.rate.estimate is None:
        yield NO_WORKS
    else:
        seeds = len(findings.methodology.seeds)
        verb = "was" if one.counts.replicated == 1 else "were"
        yield (
            f"Under ordinary prompts, {one.counts.replicated} of {one.counts.total} tested works {verb} replicated by "
            f"at least one of {seeds} images ({sure(one.rate)})."
        )
        yield findings.scope.controls.coincidence
    attack = strongest(findings)
    if attack is None:
        yield "What an attack could bring back was not measured."
    else:
        found = attack.sentence.removeprefix(f"{attack.conclusion.capitalize()}: ").rstrip(".")
        yield f"Under attack by {attack.method.name}, {found} ({attack.conclusion})."
    row = all_works(findings)
    if row is None:
        yield "No mitigation was compared."
    else:
        yield three.sentences[0]
    yield "These are measurements of similarity, not a legal finding."
