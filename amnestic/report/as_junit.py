"""The findings as JUnit XML: a test case for every question that a gate can ask."""

import re
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

from amnestic.report import wording
from amnestic.report.findings import Findings, digest_of
from amnestic.report.findings_parts import Missing, Rate

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Case(NamedTuple):
    """One question: `outcome` is ``passed``, ``failure``, ``error`` or ``skipped``."""

    suite: str
    name: str
    outcome: str
    message: str = ""


def as_junit(findings: Findings) -> str:
    """The findings as JUnit XML.

    A work above the threshold is a failure with its score, a work that came back under attack likewise; controls are
    cases of their own, where a failure says that the threshold calls likeness a copy; what was not measured is skipped.

    Args:
        findings: The document.

    Returns:
        XML with a declaration.
    """
    cases = [*_works(findings), *_controls(findings), *_attacks(findings), *_decision(findings), *_open(findings)]
    root = ElementTree.Element("testsuites", _counts(cases) | {"name": _xml(findings.identity.title)})
    for suite in dict.fromkeys(case.suite for case in cases):
        mine = [case for case in cases if case.suite == suite]
        when = {"timestamp": findings.identity.began} if findings.identity.began[:1].isdigit() else {}
        box = ElementTree.SubElement(root, "testsuite", _counts(mine) | {"name": _xml(suite)} | when)
        _properties(box, findings)
        for case in mine:
            one = ElementTree.SubElement(box, "testcase", {"classname": _xml(suite), "name": _xml(case.name)})
            if case.outcome != "passed":
                kind = {} if case.outcome == "skipped" else {"type": _xml(suite)}
                ElementTree.SubElement(one, case.outcome, {"message": _xml(case.message)} | kind)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


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
        hit = bool(group.rate.estimate)
        yield Case("controls", wording.named(group.name), "failure" if hit else "passed", _rate(group.rate))
    if not groups:
        yield Case("controls", "negative controls", "skipped", findings.scope.controls.coincidence)


def _attacks(findings: Findings) -> Iterator[Case]:
    for attack in findings.attacked.attacks:
        suite = f"attack {attack.method.name} ({attack.id})"
        for arm in attack.arms:
            if arm.name == "works":
                for work in arm.results:
                    told = f"back at step {work.step}: score {wording.number(work.after)}"
                    yield Case(suite, work.work, "passed" if work.step is None else "failure", told)
            elif arm.name in ("heldout", "twin"):
                back = bool(arm.back.estimate)
                yield Case(suite, f"control: {arm.meaning}", "failure" if back else "passed", _rate(arm.back))


def _decision(findings: Findings) -> Iterator[Case]:
    made = findings.decision
    outcome = {"pass": "passed", "fail": "failure", "inconclusive": "error"}.get(made.verdict, "skipped")
    asked = "limit" if isinstance(made.expression, Missing) else made.expression
    yield Case("gate", asked, outcome, made.sentence)


def _open(findings: Findings) -> Iterator[Case]:
    for row in findings.integrity.not_measured:
        yield Case("not measured", row.what, "skipped", row.why)


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
        ElementTree.SubElement(properties, "property", {"name": name, "value": _xml(value)})


def _xml(text: str) -> str:
    """Text without characters that XML cannot hold; everything else is escaped when it is written."""
    return _NOT_XML.sub("\ufffd", text)
