"""Findings from a run: the facts that it holds and what a person says of it, as one document."""

from amnestic.core.names import name_for_others
from amnestic.core.records import digest, plain
from amnestic.report.facts import mapping
from amnestic.report.findings import Findings
from amnestic.report.findings_attacked import Attacked
from amnestic.report.findings_auditor import AuditorFile
from amnestic.report.findings_mitigated import Mitigated
from amnestic.report.findings_ordinary import Decision, Ordinary
from amnestic.report.findings_parts import Missing, not_measured
from amnestic.report.findings_scope import Identity
from amnestic.report.found_attacked import attacked
from amnestic.report.found_frameworks import FRAMEWORKS, LIMITS
from amnestic.report.found_mitigated import mitigated
from amnestic.report.found_ordinary import decision, evidence, ordinary
from amnestic.report.found_process import access, integrity, review
from amnestic.report.found_scope import auditor, methodology, scope
from amnestic.report.run_facts import RunFacts


def findings_of(facts: RunFacts, said: AuditorFile | None = None) -> Findings:
    """The findings of a run.

    Args:
        facts: What the run holds.
        said: What a person says of it, or `None`.

    Returns:
        The document; the same for the same facts and words, whenever it is made.

    Raises:
        StoreError: If the parts of the run do not belong together.
    """
    said = said or AuditorFile()
    one = ordinary(facts)
    two = attacked(facts)
    three = mitigated(facts, two)
    decided = decision(facts, said)
    return Findings(
        identity=_identity(facts, said), headline=_headline(one, two, three, decided), auditor=auditor(said),
        scope=scope(facts, said), methodology=methodology(facts, said), access=access(facts, said),
        integrity=integrity(facts), review=review(said), ordinary=one, attacked=two, mitigated=three, decision=decided,
        limits=LIMITS, evidence=evidence(facts, one.works), frameworks=FRAMEWORKS,
    )  # fmt: skip


def _identity(facts: RunFacts, said: AuditorFile) -> Identity:
    model = name_for_others(str(mapping(facts.settings.get("model")).get("name")))
    packages = mapping(facts.provenance.get("packages"))
    timed = {k: v for k, v in facts.summary.items() if k != "timings"}
    known = digest(
        facts.manifest.get("digest"), timed, [record.id for record in facts.records], said.model_dump(mode="json")
    )  # fmt: skip
    return Identity(
        report=known[:12], title=said.title or f"Memorization audit of {model}", run=facts.folder,
        protocol=str(mapping(facts.summary.get("protocol")).get("id")),
        tool=f"amnestic {packages.get('amnestic', 'of an unknown version')}", written_by=facts.tool,
        began=str(facts.provenance.get("utc") or "not recorded"),
        ended=next((str(event["utc"]) for event in reversed(facts.events) if event.get("utc")), None),
        language=said.language or "en", smoke_only=_smoke(facts),
    )  # fmt: skip


def _smoke(facts: RunFacts) -> bool | Missing:
    command = plain(facts.provenance.get("command"))
    if not command:
        return not_measured("this run did not record its command")
    return " --limit " in str(command)


def _headline(one: Ordinary, two: Attacked, three: Mitigated, decided: Decision) -> tuple[str, ...]:
    """What was found, in the order of the three findings; the last sentence is what was decided."""
    certainty = one.sentences[2] if one.rate.n and len(one.sentences) > 2 else one.sentences[-1]
    found = [one.sentences[0], certainty, *two.sentences, three.sentences[0], decided.sentence]
    return tuple(line for line in found if line)
