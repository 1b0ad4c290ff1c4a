"""The findings as JUnit XML: a test case for every question that a gate can ask."""

from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

from amnestic.report import wording
from amnestic.report.findings import Findings, digest_of
from amnestic.report.findings_parts import Missing, Rate
from amnestic.report.xml_text import xml_text


class Case(NamedTuple):
    """One question: `outcome` is ``passed``, ``failure``, ``error`` or ``skipped``."""

    suite: str
    name: str
    outcome: str
    message: str = ""


def as_junit(findings: Findings) -> str:
    """The findings as JUnit XML.

    A work above the threshold is a failure with its score, a work that came back under attack likewise; controls are
    cases of their own, where a failure says that the threshold calls likeness a copy. What was not measured is skipped,
    never passed.

    Args:
        findings: The document.

    Returns:
        XML with a declaration.
    """
    cases = [*_works(findings), *_controls(findings), *_attacks(findings), *_decision(findings), *_open(findings)]
    root = ElementTree.Element("testsuites", _counts(cases) | {"name": findings.identity.title})
    for suite in dict.fromkeys(case.suite for case in cases):
        mine = [case for case in cases if case.suite == suite]
        when = {"timestamp": findings.identity.began} if findings.identity.began[:1].isdigit() else {}
        box = ElementTree.SubElement(root, "testsuite", _counts(mine) | {"name": suite} | when)
        _properties(box, findings)
        for case in mine:
            one = ElementTree.SubElement(box, "testcase", {"classname": suite, "name": case.name})
            if case.outcome != "passed":
                kind = {} if case.outcome == "skipped" else {"type": suite}
                ElementTree.SubElement(one, case.outcome, {"message": case.message} | kind)
    return xml_text(root)


def _works(findings: Findings) -> Iterator[Case]:
    threshold = findings.methodology.detector.threshold
    for work in findings.ordinary.works:
        told = (
            f"score {wording.number(work.score)} above the threshold {wording.number(threshold)} "
            f"({work.seeds_above} of {work.seeds} images, best seed {work.seed})"
        )
        yield Case("ordinary prompts", work.work, "failure" if work.replicated else "passed", told)


def _controls(findings: Findings) -> Iterator[Case]:
    groups = findings.scope.controls.groups
    for group in groups:
        yield Case("controls", wording.named(group.name), _outcome(group.rate), _rate(group.rate))
    if not groups:
        yield Case("controls", "negative controls", "skipped", findings.scope.controls.coincidence)


def _attacks(findings: Findings) -> Iterator[Case]:
    for attack in findings.attacked.attacks:
        suite = f"attack {attack.method.name} ({attack.id})"
        for arm in attack.arms:
            if arm.name == "works":
                for work in arm.results:
                    told = f"back at step {work.step}: score {wording.number(work.after)}"
                    unknown = work.step is None and work.after is None
                    outcome = "skipped" if unknown else "passed" if work.step is None else "failure"
                    yield Case(suite, work.work, outcome, wording.NOT_MEASURED if unknown else told)
            elif arm.name in ("heldout", "twin"):
                yield Case(suite, f"control: {arm.meaning}", _outcome(arm.back), _rate(arm.back))


def _decision(findings: Findings) -> Iterator[Case]:
    made = findings.decision
    outcome = {"pass": "passed", "fail": "failure", "inconclusive": "error"}.get(made.verdict, "skipped")
    asked = "limit" if isinstance(made.expression, Missing) else made.expression
    yield Case("gate", asked, outcome, made.sentence)


def _open(findings: Findings) -> Iterator[Case]:
    for row in findings.integrity.not_measured:
        yield Case("not measured", row.what, "skipped", row.why)


def _outcome(rate: Rate) -> str:
    """Of a control, which fails by a single event."""
    return "skipped" if rate.estimate is None else "failure" if rate.estimate else "passed"


def _rate(rate: Rate) -> str:
    found = rate.model_dump()
    return (
        f"{wording.percent(rate.estimate)} of {rate.n}, 95 % interval {wording.interval(found)}, "
        f"one-sided upper bound {wording.upper_bound(found)}"
    )


def _counts(cases: list[Case]) -> dict[str, str]:
    outcomes = [case.outcome for case in cases]
    named = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    return {"tests": str(len(cases))} | {key: str(outcomes.count(value)) for key, value in named.items()}


def _properties(box: ElementTree.Element, findings: Findings) -> None:
    found = {
        "report": findings.identity.report, "findings.sha256": digest_of(findings),
        "protocol": findings.identity.protocol, "model.digest": findings.scope.subject.digest,
        "leak_rate": _rate(findings.ordinary.rate),
    }  # fmt: skip
    properties = ElementTree.SubElement(box, "properties")
    for name, value in found.items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": value})
