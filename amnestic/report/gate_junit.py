"""The outcome of a gate as JUnit XML, which continuous integration shows beside other tests."""

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from amnestic.report.xml_text import xml_text


def gate_junit(found: Mapping[str, Any]) -> str:
    """One test case per expression.

    Args:
        found: What `amnestic.stages.gate` returns.

    Returns:
        XML that ends in a new line. A gate that failed is a failure; one that could not decide is an error, since a
        skipped test would look like one that passed.

    Example:
        >>> outcome = {"condition": {"text": "leak_rate.upper > 5%"}, "verdict": "pass", "why": "the bound is 4 %"}
        >>> print(gate_junit({"run": "v2", "outcomes": [outcome]}).splitlines()[1])
        <testsuite name="amnestic gate" tests="1" failures="0" errors="0">
    """
    outcomes = found["outcomes"]
    count = {word: sum(o["verdict"] == word for o in outcomes) for word in ("fail", "inconclusive")}
    suite = ElementTree.Element(
        "testsuite", name="amnestic gate", tests=str(len(outcomes)), failures=str(count["fail"]),
        errors=str(count["inconclusive"]),
    )  # fmt: skip
    for outcome in outcomes:
        name = outcome["condition"]["text"]
        case = ElementTree.SubElement(suite, "testcase", classname=f"amnestic.gate.{found['run']}", name=name)
        why = outcome["why"]
        kind = {"fail": "failure", "inconclusive": "error"}.get(outcome["verdict"])
        if kind:
            ElementTree.SubElement(case, kind, message=why, type=outcome["verdict"]).text = f"{name}: {why}"
        else:
            ElementTree.SubElement(case, "system-out").text = why
    return xml_text(suite)
