"""The findings as a CycloneDX ML-BOM: the one standard that carries intervals."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from amnestic.core.errors import InputError
from amnestic.report.findings import Findings, digest_of
from amnestic.report.findings_parts import Missing
from amnestic.report.findings_rates import rates_of

NEEDS = "CycloneDX needs cyclonedx-python-lib; pip install 'amnestic[bom]'"
PREFIX = "amnestic:"


def as_cyclonedx(findings: Findings) -> str:
    """The findings as a CycloneDX 1.6 document in JSON, checked against its schema.

    Components, tools and hashes come from cyclonedx-python-lib; its objects know no model cards, so the card is added
    to the JSON of the model's component.

    Args:
        findings: The document.

    Returns:
        JSON; the same for the same findings.

    Raises:
        InputError: If cyclonedx-python-lib is not installed.
    """
    try:
        from cyclonedx.output.json import JsonV1Dot6
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator
    except ImportError as error:
        raise InputError(NEEDS) from error
    content: dict[str, Any] = json.loads(JsonV1Dot6(_bom(findings)).output_as_string())
    content["metadata"]["component"]["modelCard"] = _card(findings)
    if _when(findings) is None:
        del content["metadata"]["timestamp"]  # the library would rather tell a time of its own
    text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if problem is not None:
        raise ValueError(f"the ML-BOM does not fit its schema: {problem}")
    return text


def _bom(findings: Findings) -> Any:  # noqa: ANN401 - the library is optional
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense
    from cyclonedx.model.tool import ToolRepository

    subject, digest = findings.scope.subject, digest_of(findings)
    files = () if isinstance(subject.files, Missing) else subject.files
    parts = [
        Component(
            name=file.path, type=ComponentType.FILE, bom_ref=f"file:{file.path}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file.sha256)],
        )
        for file in files
    ]  # fmt: skip
    licences = [] if isinstance(subject.licence, Missing) else [DisjunctiveLicense(name=subject.licence)]
    model = Component(
        name=subject.model, version=None if isinstance(subject.revision, Missing) else subject.revision,
        type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref=f"model:{subject.digest}", components=parts,
        licenses=licences, properties=[Property(name=f"{PREFIX}weights.sha256", value=subject.digest)],
    )  # fmt: skip
    tool, _, number = findings.identity.tool.partition(" ")
    measured = Component(name=tool, version=number, type=ComponentType.APPLICATION, bom_ref=f"tool:{tool}")
    about = BomMetaData(
        component=model, timestamp=_when(findings) or datetime.now(UTC), tools=ToolRepository(components=[measured]),
        properties=[Property(name=f"{PREFIX}findings.sha256", value=digest),
                    Property(name=f"{PREFIX}protocol", value=findings.identity.protocol)],
    )  # fmt: skip
    return Bom(metadata=about, serial_number=uuid5(NAMESPACE_URL, f"{PREFIX}{digest}"))


def _when(findings: Findings) -> datetime | None:
    """When it was measured, if that was recorded."""
    try:
        found = datetime.fromisoformat(findings.identity.ended or findings.identity.began)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _card(findings: Findings) -> dict[str, Any]:
    return {
        "modelParameters": {"task": "text-to-image", "architectureFamily": findings.scope.subject.family},
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(findings))},
        "considerations": {"technicalLimitations": [*findings.headline, *findings.limits]},
        "properties": [
            {"name": f"{PREFIX}report", "value": findings.identity.report},
            {"name": f"{PREFIX}decision", "value": findings.decision.sentence},
        ],
    }  # fmt: skip


def _metrics(findings: Findings) -> Iterator[dict[str, Any]]:
    """Rates with their intervals; a rate that was not measured is no metric, and none of zero."""
    for rated in rates_of(findings):
        rate = rated.rate
        if rate.estimate is None:
            continue
        kind = f"memorization rate: {rated.what}"
        where = f"{rated.finding}, {'control: ' if rated.control else ''}{rated.whose}, {rate.n} works"
        metric: dict[str, Any] = {"type": kind, "value": f"{rate.estimate:.6g}", "slice": where}
        if rate.lower is not None and rate.upper is not None:
            metric["confidenceInterval"] = {"lowerBound": f"{rate.lower:.6g}", "upperBound": f"{rate.upper:.6g}"}
        yield metric
        if rate.upper_one_sided is not None:
            bound = f"{rate.upper_one_sided:.6g}"
            yield {"type": f"{kind}, one-sided 95 % upper bound", "value": bound, "slice": where}
