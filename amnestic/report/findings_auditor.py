"""What only a person can say about an audit: a small YAML file beside the run."""

import datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean
from amnestic.report.findings_parts import Missing, Part, not_given
from amnestic.report.findings_process import Signed

MOST_BYTES = 1_000_000


class SignedBy(Part):
    """One signature in the file.

    Attributes:
        name: Who.
        role: Their function.
        date: When.
    """

    name: str
    role: str = ""
    date: datetime.date | None = None

    def signed(self) -> Signed:
        """As the findings show it."""
        return Signed(name=self.name, role=self.role, date=str(self.date or ""))


class AuditorFile(Part):
    """Every key of the file; all of them may be left out.

    Attributes:
        name: Who is responsible for the audit.
        role: Their function.
        organisation: For whom they work.
        background: What qualifies them.
        independence: How independent they are of who made the model.
        conflict: Conflicts of interest, or that there are none.
        client: Who asked for the audit.
        contact: Where questions go.
        title: Heading of the report.
        language: Of what is written here, as a BCP 47 tag.
        purpose: Why the audit was made.
        licence: Of the model.
        safety_filters: Filters of the product, and whether it was tested with and without them.
        terms: Whether terms of use prohibit copying outputs, and how users are told.
        modification: What was changed in the model by whom.
        reference_set: Name of the set of originals; ``ORG/NAME`` where it is a dataset on the Hub.
        reference_description: Address of its Croissant or other description.
        membership: How it is known that the works were in the training data.
        rights: On which basis the originals are used here.
        matching: How controls were matched to the works.
        training_data: Access to the training data.
        hardware: On what it ran.
        human_review: Who looked at the pairs, and by which protocol.
        limit_set_by: Who set the limit.
        limit_reason: Why this limit.
        prepared: Who wrote the report.
        reviewed: Who checked it.
        approved: Who approved it.
        signature: Where a detached signature is found.
        complaint_contact: Where rights holders complain.
        complaint_reference: Complaint that this audit answers.
        retention: How long the report and its evidence are kept, and by whom.
        confidentiality: Who may see it.
    """

    name: str | None = None
    role: str | None = None
    organisation: str | None = None
    background: str | None = None
    independence: str | None = None
    conflict: str | None = None
    client: str | None = None
    contact: str | None = None
    title: str | None = None
    language: str | None = None
    purpose: str | None = None
    licence: str | None = None
    safety_filters: str | None = None
    terms: str | None = None
    modification: str | None = None
    reference_set: str | None = None
    reference_description: str | None = None
    membership: str | None = None
    rights: str | None = None
    matching: str | None = None
    training_data: str | None = None
    hardware: str | None = None
    human_review: str | None = None
    limit_set_by: str | None = None
    limit_reason: str | None = None
    prepared: SignedBy | None = None
    reviewed: SignedBy | None = None
    approved: SignedBy | None = None
    signature: str | None = None
    complaint_contact: str | None = None
    complaint_reference: str | None = None
    retention: str | None = None
    confidentiality: str | None = None

    def said(self, key: str) -> str | Missing:
        """What the file says under a key of plain text, or that nobody said it."""
        text = getattr(self, key)
        return text.strip() if text and text.strip() else not_given(key)

    def signed(self, key: str) -> Signed | Missing:
        """Who signed under a key, or that nobody did."""
        one: SignedBy | None = getattr(self, key)
        return one.signed() if one and one.name.strip() else not_given(key)


def read_auditor(path: Path) -> AuditorFile:
    """What a person wrote about the audit.

    Args:
        path: A YAML file with keys of `AuditorFile`.

    Returns:
        Its content.

    Raises:
        InputError: If it cannot be read, is no mapping, or has an unknown key or a value of another kind.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} is larger than {MOST_BYTES:,} bytes; an auditor file is a page of text")
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give a YAML file with --auditor") from error
    except (yaml.YAMLError, RecursionError) as error:
        told = " ".join(str(error).split())
        raise InputError(f"{path} is not YAML ({told}); write lines like 'name: A. Person'") from error
    if content is not None and not isinstance(content, dict):
        raise InputError(f"expected lines like 'name: A. Person' in {path}, got {type(content).__name__}; correct it")
    try:
        return AuditorFile.model_validate(content or {})
    except ValidationError as error:
        raise InputError(_told(path, error.errors()[0])) from error


def _told(path: Path, problem: Any) -> str:  # noqa: ANN401 - pydantic's own description
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] != "extra_forbidden":
        return f"{path}, key {where}: {problem['msg'].lower()}; got {str(problem['input'])[:60]!r}; correct it"
    known = list(SignedBy.model_fields if len(problem["loc"]) > 1 else AuditorFile.model_fields)
    hint = did_you_mean(str(problem["loc"][-1]), known) or f"; known keys: {', '.join(known)}"
    return f"{path}: unknown key {where!r}{hint}"
