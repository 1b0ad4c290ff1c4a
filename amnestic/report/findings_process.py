"""Access, process and review: what a third party needs to trust and to repeat the findings."""

from collections.abc import Mapping

from pydantic import JsonValue

from amnestic.report.findings_parts import Doubt, Missing, Open, Part


class Cost(Part):
    """What something took.

    Attributes:
        what: Which part of the work.
        seconds: Wall time of the last call, or null where it was not recorded; parts that were kept cost nothing.
        forward: Rows through the U-Net, or null.
        backward: Rows that a gradient flowed back through, or null.
    """

    what: str
    seconds: float | None
    forward: float | None = None
    backward: float | None = None


class Access(Part):
    """Audit Card heading 4: what the auditor could get at.

    Attributes:
        model: White box, grey box or black box, by what was done in this run.
        training_data: Access to the training data.
        compute: What the parts of the run took.
        hardware: On what it ran.
    """

    model: str
    training_data: str | Missing
    compute: tuple[Cost, ...]
    hardware: str | Missing


class RecordMade(Part):
    """One finished step of the run.

    Attributes:
        id: Name of its folder in ``records``.
        stage: What kind of step.
        method: Method that made it.
    """

    id: str
    stage: str
    method: str


class Integrity(Part):
    """Audit Card heading 5: what a third party needs to repeat and to check it.

    Attributes:
        settings: Resolved settings that decide the images.
        settings_digest: SHA-256 over them.
        command: Command line that repeats the run.
        platform: Operating system and processor.
        python: Version of Python.
        packages: Versions of the packages that compute.
        commit: Commit of the program and whether it was changed.
        determinism: What is reproducible bit for bit, and what is not.
        records: Every finished step.
        flags: Warnings about validity.
        not_measured: What was left out.
    """

    settings: Mapping[str, JsonValue]
    settings_digest: str
    command: str | Missing
    platform: str
    python: str
    packages: Mapping[str, str]
    commit: str | Missing
    determinism: str
    records: tuple[RecordMade, ...]
    flags: tuple[Doubt, ...]
    not_measured: tuple[Open, ...]


class Signed(Part):
    """One signature of the sign-off block.

    Attributes:
        name: Who.
        role: Their function.
        date: When, ISO 8601.
    """

    name: str
    role: str = ""
    date: str = ""


class Review(Part):
    """Audit Card heading 6: who answers for it, and where complaints go.

    Attributes:
        prepared: Who wrote it.
        reviewed: Who checked it.
        approved: Who approved it.
        signature: Where a detached signature over the digest of this document is found.
        complaint_contact: Where rights holders complain.
        complaint_reference: Complaint that this audit answers.
        retention: How long this document and its evidence are kept, and by whom.
        confidentiality: Who may see it.
    """

    prepared: Signed | Missing
    reviewed: Signed | Missing
    approved: Signed | Missing
    signature: str | Missing
    complaint_contact: str | Missing
    complaint_reference: str | Missing
    retention: str
    confidentiality: str
