"""The findings of a run as one published document; ``docs/schema/findings-1.json`` is its schema.

Its skeleton are the six headings of Audit Cards (arXiv 2504.13839): `auditor`, `scope`, `methodology`, `access`,
`integrity`, `review`. Three findings are kept apart: `ordinary`, `attacked`, `mitigated`. Whatever is not known is a
`Missing` with its reason, never a default.
"""

import hashlib
import json
from typing import Literal

from pydantic import ValidationError

from amnestic.core.errors import StoreError
from amnestic.report.findings_attacked import Attacked
from amnestic.report.findings_mitigated import Mitigated
from amnestic.report.findings_ordinary import Decision, EvidenceIndex, Framework, Ordinary
from amnestic.report.findings_parts import Part
from amnestic.report.findings_process import Access, Integrity, Review
from amnestic.report.findings_scope import Auditor, Identity, Methodology, Scope

SCHEMA_VERSION = 1
SCHEMA_ID = "findings-1"


class Findings(Part):
    """Everything that a run found, with what is needed to judge it.

    Attributes:
        schema_version: Of this document's form; another number is read by another version of the program.
        identity: What this document is.
        headline: The findings in a few sentences, each with its certainty.
        auditor: Audit Card heading 1: who audited.
        scope: Audit Card heading 2: what was evaluated.
        methodology: Audit Card heading 3: how.
        access: Audit Card heading 4: with which access and means.
        integrity: Audit Card heading 5: how to repeat and to check it, and what was not measured.
        review: Audit Card heading 6: sign-off, complaints, retention.
        ordinary: Finding 1: leaks under ordinary prompts.
        attacked: Finding 2: recoverable under attack.
        mitigated: Finding 3: after a mitigation.
        decision: What was decided against a limit.
        limits: What the findings do not mean.
        evidence: Where the evidence lies.
        frameworks: Which sections answer which questions of published frameworks.
    """

    schema_version: Literal[1] = 1
    identity: Identity
    headline: tuple[str, ...]
    auditor: Auditor
    scope: Scope
    methodology: Methodology
    access: Access
    integrity: Integrity
    review: Review
    ordinary: Ordinary
    attacked: Attacked
    mitigated: Mitigated
    decision: Decision
    limits: tuple[str, ...]
    evidence: EvidenceIndex
    frameworks: tuple[Framework, ...]


def canonical(findings: Findings) -> str:
    """The document as JSON with one spelling: equal findings give equal bytes.

    Args:
        findings: The document.

    Returns:
        JSON with two spaces of indentation, keys in the order of the schema and a final line break.
    """
    return json.dumps(findings.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def digest_of(findings: Findings) -> str:
    """SHA-256 over the bytes of `canonical`; what a signature is made over and other exports refer to."""
    return hashlib.sha256(canonical(findings).encode()).hexdigest()


def read_findings(text: str) -> Findings:
    """A document that was exported as JSON.

    Args:
        text: Its content.

    Returns:
        The document.

    Raises:
        StoreError: If it is not JSON, of another schema version, or does not fit the schema.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise StoreError(f"expected findings as JSON, got something else ({error}); export them again") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"these findings have schema version {version}, this version reads {SCHEMA_VERSION}; export them again"
        )
    try:
        return Findings.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise StoreError(f"these findings do not fit their schema ({told}); export them again") from error


def schema_text() -> str:
    """The JSON Schema of the document, as it is published in ``docs/schema``."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"amnestic:{SCHEMA_ID}"}
    return json.dumps(schema | Findings.model_json_schema(mode="serialization"), indent=2, ensure_ascii=False) + "\n"
