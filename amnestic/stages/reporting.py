"""A finished run as a published document, and its exports."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from amnestic.core.errors import InputError
from amnestic.core.names import did_you_mean
from amnestic.core.seal import sealed
from amnestic.core.store import Run, write_atomically
from amnestic.report.as_card import RESULTS_FILE, card_section, eval_results
from amnestic.report.as_cyclonedx import as_cyclonedx
from amnestic.report.as_junit import as_junit
from amnestic.report.as_markdown import as_markdown
from amnestic.report.as_pdf import as_pdf
from amnestic.report.findings import Findings, canonical
from amnestic.report.findings_auditor import AuditorFile, read_auditor
from amnestic.report.findings_parts import Missing, Open
from amnestic.report.found import findings_of
from amnestic.report.run_facts import RunFacts
from amnestic.report.whole import render_findings
from amnestic.sources.packed import is_packed, packed_bytes
from amnestic.stages.facts import REPORTS, facts_of
from amnestic.stages.publishing import publish, require_repository
from amnestic.stages.sealing import seal_run

DEFAULT = ("html", "json", "md")
ALL = "all"
Content = str | bytes


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """What a person asks of a report.

    Attributes:
        run: Folder of a finished audit.
        formats: Names of `FORMATS`, or ``all``, which leaves out what cannot be made here and says so.
        out: Folder of the exports; default ``report`` inside the run.
        auditor: A YAML file with what only a person can say.
        push_to: Repository on the Hub that gets the card as a pull request, or `None`: nothing leaves this machine.
        references: Folder of the originals, from which the page makes blurred pictures and overlays.
        before: Run of the model before a mitigation, from which the page makes blurred pictures.
        show_originals: Show pictures as they are instead of blurred; the page then holds copies of works.
    """

    run: Path
    formats: tuple[str, ...] = DEFAULT
    out: Path | None = None
    auditor: Path | None = None
    push_to: str | None = None
    references: Path | None = None
    before: Path | None = None
    show_originals: bool = False


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What a report wrote.

    Attributes:
        findings: The document.
        files: Files that were written.
        left_out: What could not be made, and why.
        pull_request: Address of the pull request, or `None`.
    """

    findings: Findings
    files: tuple[Path, ...]
    left_out: tuple[Open, ...] = ()
    pull_request: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What exports are made from.

    Attributes:
        asked: What a person asks.
        facts: What the run holds.
        findings: The document.
        pages: The page, once it was made.
    """

    asked: ReportRequest
    facts: RunFacts
    findings: Findings
    pages: dict[str, str] = field(default_factory=dict)

    def page(self) -> str:
        """The document as one HTML file, made once."""
        if "html" not in self.pages:
            self.pages["html"] = _page(self.asked, self.findings)
        return self.pages["html"]


def report(request: ReportRequest) -> Reported:
    """Read a finished run and write its findings in the formats that are asked for.

    Nothing is written before everything that was asked for by name could be made.

    Args:
        request: What is asked.

    Returns:
        What was written.

    Raises:
        InputError: If a format is unknown or needs what is not installed, or the auditor file cannot be used.
        StoreError: If the run has not finished, is of another schema, or a file is not as it was sealed.
    """
    wanted = _formats(request.formats)
    _require_place(request)
    if request.push_to is not None:
        require_repository(request.push_to)
    said = read_auditor(request.auditor) if request.auditor is not None else AuditorFile()
    facts = facts_of(request.run)
    findings = findings_of(facts, said)
    _require_pictures(request, findings)
    source = _Source(asked=request, facts=facts, findings=findings)
    made, left_out = _made(source, wanted, every=ALL in request.formats)
    out = request.out or request.run / REPORTS
    for name, content in made.items():
        write_atomically(out / name, content)
    _seal_again(request.run, [out / name for name in made])
    pushed = publish(source.findings, request.push_to) if request.push_to is not None else None
    return Reported(
        findings=source.findings, files=tuple(out / name for name in made), left_out=tuple(left_out),
        pull_request=pushed,
    )  # fmt: skip


def _formats(asked: tuple[str, ...]) -> tuple[str, ...]:
    for name in asked:
        if name != ALL and name not in FORMATS:
            hint = did_you_mean(name, [*FORMATS, ALL])
            raise InputError(f"unknown format {name!r}: expected {', '.join(FORMATS)} or {ALL}{hint}")
    return tuple(FORMATS) if ALL in asked else tuple(dict.fromkeys(asked or DEFAULT))


def _require_place(request: ReportRequest) -> None:
    out = request.out
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    if out is not None and out.resolve() == request.run.resolve():
        raise InputError(f"--out {out} is the run itself, whose files a report must not overwrite; give a folder in it")


def _made(source: _Source, wanted: tuple[str, ...], *, every: bool) -> tuple[dict[str, Content], list[Open]]:
    """Contents by file name; with `every`, what needs something that is not here is left out with the reason."""
    made: dict[str, Content] = {}
    left_out: list[Open] = []
    for name in wanted:
        try:
            found, without = FORMATS[name](source)
        except InputError as error:
            if not every:
                raise
            left_out.append(Open(what=name, why=str(error)))
            continue
        made |= found
        left_out += without
    return made, left_out


Made = tuple[Mapping[str, Content], list[Open]]


def _text(name: str, export: Callable[[Findings], str], source: _Source) -> Made:
    return {name: export(source.findings)}, []


def _html(source: _Source) -> Made:
    return {"findings.html": source.page()}, []


def _pdf(source: _Source) -> Made:
    return {"findings.pdf": as_pdf(source.page())}, []


def _parquet(source: _Source) -> Made:
    from pyarrow import BufferOutputStream, parquet

    from amnestic.report.as_tables import as_tables

    found: dict[str, Content] = {}
    for name, table in as_tables(source.findings, source.facts.matches, source.facts.samples).items():
        stream = BufferOutputStream()
        parquet.write_table(table, stream)
        found[f"{name}.parquet"] = stream.getvalue().to_pybytes()
    return found, []


def _card(source: _Source) -> Made:
    section = {"card.md": card_section(source.findings)}
    results = eval_results(source.findings)
    if isinstance(results, Missing):
        return section, [Open(what=RESULTS_FILE, why=results.why)]
    return section | {RESULTS_FILE: results}, []


FORMATS: Mapping[str, Callable[[_Source], Made]] = {
    "json": partial(_text, "findings.json", canonical),
    "html": _html,
    "md": partial(_text, "findings.md", as_markdown),
    "parquet": _parquet,
    "junit": partial(_text, "junit.xml", as_junit),
    "cyclonedx": partial(_text, "bom.cdx.json", as_cyclonedx),
    "card": _card,
    "pdf": _pdf,
}
"""Exports by name; each gives contents by file name, and what it left out."""


def _page(asked: ReportRequest, findings: Findings) -> str:
    references, before = asked.references, asked.before
    return render_findings(
        findings, partial(_opened, asked.run),
        originals=None if references is None else partial(_opened, references),
        before=None if before is None else partial(_opened, before), show_originals=asked.show_originals,
    )  # fmt: skip


def _require_pictures(request: ReportRequest, findings: Findings) -> None:
    """Pictures come from the folders that the findings speak of, or from none."""
    if request.references is not None and not request.references.is_dir():
        raise InputError(f"--references {request.references} is no folder; give the folder of the originals")
    if request.before is None:
        return
    compared = findings.mitigated.compared
    if isinstance(compared, Missing):
        raise InputError(
            f"--before {request.before}: this run is not compared with one before a mitigation; leave it out, or give "
            "it to amnestic audit"
        )
    model = Run.open(request.before).manifest()["settings"]["model"]["digest"]
    if model != compared.before_digest:
        raise InputError(
            f"--before {request.before} is the run of another model than the one this run was compared with; give the "
            f"run “{compared.before_run}”"
        )


def _opened(folder: Path, name: str) -> bytes | None:
    """A file by its path in a folder, or a picture in a table there; `None` where it is not there or lies outside."""
    file, home = (folder / name).resolve(), folder.resolve()
    if not file.is_relative_to(home):
        return None
    try:
        return packed_bytes(file) if is_packed(file) else file.read_bytes() if file.is_file() else None
    except (OSError, InputError):
        return None


def _seal_again(folder: Path, files: list[Path]) -> None:
    """Exports inside a sealed run are sealed with it; those elsewhere leave it alone."""
    inside = [f.resolve().relative_to(folder.resolve()).as_posix() for f in files
              if f.resolve().is_relative_to(folder.resolve())]  # fmt: skip
    if inside and sealed(folder):
        seal_run(Run.open(folder), *inside)
