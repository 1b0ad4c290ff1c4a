"""``amnestic report``."""

from pathlib import Path
from typing import Annotated

import typer

from amnestic.commands.options import Audited
from amnestic.terminal import errors, out

FORMATS_HELP = "json, html, md, parquet, junit, cyclonedx, card, pdf, or all; repeatable."


def report(
    run: Audited,
    formats: Annotated[list[str] | None, typer.Option("--format", "-f", help=FORMATS_HELP)] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Default: report inside the run.")] = None,
    auditor: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="What only a person can say: name, client, sign-off ...")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="Folder of the originals: adds them, blurred, and where images agree with them.")
    ] = None,
    before: Annotated[
        Path | None, typer.Option(help="Run of the model before a mitigation: adds its images, blurred.")
    ] = None,
    show_originals: Annotated[
        bool, typer.Option("--show-originals", help="Pictures as they are; the page then holds copies of works.")
    ] = False,
    push_to: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Offer the card to a model on the Hub as a pull request.")
    ] = None,
) -> None:
    """What did the run find, as documents? Ordinary prompts, attacks and mitigation kept apart, with every bound.

    Examples:
    amnestic report runs/audit
    amnestic report runs/audit --format all --auditor auditor.yaml --out handover
    """
    from amnestic import stages
    from amnestic.stages.reporting import DEFAULT

    made = stages.report(
        stages.ReportRequest(
            run=run, formats=tuple(formats or DEFAULT), out=folder, auditor=auditor, push_to=push_to,
            references=references, before=before, show_originals=show_originals,
        )
    )  # fmt: skip
    for line in made.findings.headline:
        out.print(line, markup=False)
    for file in made.files:
        out.print(str(file), markup=False)
    for row in made.left_out:
        errors.print(f"left out: {row.what}: {row.why}", markup=False)
    if made.pull_request:
        out.print(f"pull request: {made.pull_request}", markup=False)
