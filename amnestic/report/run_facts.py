"""What a finished run holds, as plain values: the only thing that findings are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amnestic.report.facts import mapping
from amnestic.report.findings_ordinary import File
from amnestic.report.wording import Facts


@dataclass(frozen=True, kw_only=True)
class RecordFacts:
    """A finished record, without its tensors.

    Attributes:
        id: Name of its folder.
        stage: What kind of step.
        name: Method that made it.
        parameters: Its settings.
        data: Its results.
        page: Its own page in the run folder, or empty.
        parents: Digests of what it was computed from.
    """

    id: str
    stage: str
    name: str
    parameters: Facts
    data: Facts
    page: str = ""
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EditFacts:
    """An edit that lies in the run.

    Attributes:
        id: Name of its file.
        name: Mitigation that made it.
        parameters: Its settings.
        about: What the file says of itself.
    """

    id: str
    name: str
    parameters: Facts
    about: Facts


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Everything of a run that findings are made from.

    Attributes:
        folder: Name of the run folder.
        manifest: Content of ``manifest.json``.
        summary: Content of ``summary.json``.
        samples: Rows of ``samples.parquet``.
        matches: Rows of ``matches.parquet``, in the order of the prompt list.
        references: Entries of ``references.json``.
        references_digest: SHA-256 over the set, or empty.
        records: Finished records, in the order of the log.
        edits: Edits in the run.
        events: Lines of the log, the oldest first.
        files: Files of the run, with checksums.
        images: Images kept.
        tool: Name and version of this program.
    """

    folder: str
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    matches: Sequence[Mapping[str, Any]]
    references: Sequence[Mapping[str, Any]] = ()
    references_digest: str = ""
    records: tuple[RecordFacts, ...] = ()
    edits: tuple[EditFacts, ...] = ()
    events: Sequence[Mapping[str, Any]] = ()
    files: tuple[File, ...] = ()
    images: int = 0
    tool: str = "amnestic"

    @property
    def settings(self) -> Facts:
        """Settings that decide the images."""
        return mapping(self.manifest.get("settings"))

    @property
    def provenance(self) -> Facts:
        """Versions, machine and command."""
        return mapping(self.manifest.get("provenance"))

    @property
    def threshold(self) -> float:
        """A copy scores above it."""
        return float(self.summary["threshold"]["value"])

    def records_of(self, stage: str) -> list[RecordFacts]:
        """Records of one stage, in the order of the log."""
        return [record for record in self.records if record.stage == stage]
