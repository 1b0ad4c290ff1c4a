"""Reads a finished run into plain values, and refuses one that is not as it was sealed."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amnestic.core.edit_file import load_edit
from amnestic.core.errors import StoreError
from amnestic.core.provenance import versions
from amnestic.core.records import plain
from amnestic.core.seal import LOG, listing, sealed
from amnestic.core.store import Run
from amnestic.report.findings_ordinary import File
from amnestic.report.run_facts import EditFacts, RecordFacts, RunFacts
from amnestic.stages.finished import summary_of
from amnestic.stages.scores import scored

REPORTS = "report"
"""Folder inside a run where its exports lie, unless another is given; no part of the evidence."""
ABOUT = {
    "manifest.json": "settings and provenance of the run",
    "summary.json": "rates, controls and intervals",
    "references.json": "every original with its checksum and status",
    "samples.parquet": "prompts, seeds and checksums of the images",
    "matches.parquet": "scores of every image",
    "report.html": "page of the audit",
    "locality.html": "page of the study of where memorization lies",
}
ATTACK_PAGE = re.compile(r"attack-[0-9a-f]+\.html")
PAGES = {"locality": "locality.html"}


def facts_of(folder: Path) -> RunFacts:
    """Everything of a finished run that its findings are made from.

    Args:
        folder: The run.

    Returns:
        Plain values.

    Raises:
        StoreError: If it holds no run, has not finished, is of another schema, or a file is not as it was sealed.
    """
    run = Run.open(folder)
    summary = summary_of(run)
    files = tuple(_files(run))
    score = scored(run)
    return RunFacts(
        folder=folder.resolve().name, manifest=run.manifest(), summary=summary, samples=run.read_table("samples"),
        matches=run.read_table("matches"), references=_json(folder / "references.json"),
        references_digest=score.parents[1] if len(score.parents) > 1 else "", records=tuple(_records(run)),
        edits=tuple(_edits(run)), events=_events(folder / LOG), files=files, images=run.count(),
        tool=f"amnestic {versions().get('amnestic', 'from a checkout')}",
    )  # fmt: skip


def _files(run: Run) -> Iterator[File]:
    """Tables, pages, records and edits with their checksums; images are named by `samples.parquet`."""
    sums = sealed(run.folder)
    for name in listing(run.folder).files:
        if not _about(name):
            continue
        with (run.folder / name).open("rb") as opened:
            now = hashlib.file_digest(opened, "sha256").hexdigest()
        if sums.get(name, now) != now:
            raise StoreError(
                f"{run.folder / name} is not as it was sealed, so nothing is reported; put the sealed file back "
                f"(amnestic verify {run.folder} lists all that differ)"
            )
        yield File(path=name, about=_about(name), sha256=now)


def _about(name: str) -> str:
    """What is in a file; empty for images and for what others put into the folder, such as exports of a report."""
    top, _, rest = name.partition("/")
    if top == "records":
        return f"record {rest.partition('/')[0]}"
    if top == "edits":
        return "an edit, with the weights before and after"
    return ABOUT.get(name, "page of an attack" if ATTACK_PAGE.fullmatch(name) else "")


def _records(run: Run) -> Iterator[RecordFacts]:
    """Records without their tensors, which may be large; in the order of the log, which a copy of the run keeps."""
    place = {event["record"]: i for i, event in enumerate(_events(run.folder / LOG)) if "record" in event}
    files = (run.folder / "records").glob("*/record.json")
    for file in sorted(files, key=lambda f: (place.get(f.parent.name, -1), f.parent.name)):
        content = _json(file)
        if not isinstance(content, dict) or not {"schema", "stage", "made_by", "data"} <= content.keys():
            raise StoreError(f"{file} is no record; delete its folder and issue its command again")
        stage, made_by, data = content["stage"], content["made_by"], content["data"]
        page = PAGES.get(stage, f"{file.parent.name}.html")
        yield RecordFacts(
            id=file.parent.name, stage=stage, name=made_by["name"], parameters=made_by["parameters"], data=data,
            page=page if (run.folder / page).is_file() else "", parents=tuple(content.get("parents") or ()),
        )  # fmt: skip


def _edits(run: Run) -> Iterator[EditFacts]:
    for file in sorted((run.folder / "edits").glob("*.safetensors")):
        edit, about = load_edit(file)
        yield EditFacts(id=file.stem, name=edit.made_by.name, parameters=plain(edit.made_by.parameters), about=about)


def _json(file: Path) -> Any:  # noqa: ANN401 - any JSON
    if not file.is_file():
        return []
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be read ({error}); issue the command that makes it again") from error


def _events(file: Path) -> list[dict[str, Any]]:
    """Lines of the log; one that an interruption cut off is left out."""
    found = []
    for line in file.read_text("utf-8", errors="replace").splitlines() if file.is_file() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            found.append(event)
    return found
