"""``amnestic verify``."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from amnestic.commands.exits import EXIT_GATE_FAILED
from amnestic.commands.options import Json
from amnestic.core.errors import InputError, StoreError

Sealed = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]


def verify(
    run: Sealed,
    digest: Annotated[
        str | None, typer.Option(metavar="HEX", help="The digest that was told for the run; SHA-256 of SHA256SUMS.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Check the signature, too; see: amnestic sign.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Is the run as it was sealed? Tells every file that changed, is missing or was added; 3 when there is one.

    Examples:
    amnestic verify runs/audit
    amnestic verify runs/audit --public-key auditor.pub
    """
    from amnestic.core.seal import SIGNATURE, SUMS, Difference, Kind, check
    from amnestic.core.store import Run

    if digest is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise InputError(f"expected 64 hexadecimal digits after --digest, got {digest!r}; copy them whole")
    if not (run / SUMS).exists():
        Run.open(run)  # says what is wrong with a folder that is no run, or one of another schema
    checked = check(run)
    found = list(checked.differences)
    told = Difference(name=SUMS, kind=Kind.CHANGED)
    if digest is not None and digest.lower() != checked.digest and told not in found:
        found.append(told)
    signature = _signature(run, public_key)
    if signature in ("missing", "does not fit"):
        found.append(Difference(name=SIGNATURE, kind=Kind.MISSING if signature == "missing" else Kind.CHANGED))
    if not found:
        Run.open(run)
    about = {
        "run": run.name, "whole": not found and not checked.log_lines, "digest": checked.digest, "files": checked.files,
        "differences": [{"file": d.name, "kind": str(d.kind)} for d in found], "log_lines_since": checked.log_lines,
        "signature": signature, "not_covered": list(checked.left_out),
    }  # fmt: skip
    print(json.dumps(about, indent=2)) if as_json else _print(run, about, [*map(str, found)])
    if found:
        raise typer.Exit(EXIT_GATE_FAILED)
    if checked.log_lines:
        raise StoreError(
            f"{run} is as it was sealed, but a command that began since has not finished ({checked.log_lines} more "
            "lines in events.jsonl); issue that command again"
        )


def _signature(run: Path, public_key: Path | None) -> str:
    from amnestic.core.seal import SIGNATURE

    if not (run / SIGNATURE).is_file():
        return "none" if public_key is None else "missing"
    if public_key is None:
        return "not checked"
    from amnestic.core.signature import signature_fits

    return "fits" if signature_fits(run, public_key) else "does not fit"


def _print(run: Path, about: dict[str, Any], lines: list[str]) -> None:
    """Plain lines, whatever a file is called: nothing is wrapped, coloured or read as markup."""
    from amnestic.core.seal import printable

    if lines:
        print(
            *lines,
            f"{run} is not as it was sealed: {len(lines)} of its files differ. If a command was interrupted, issue it "
            "again; else put the sealed files back.", sep="\n",
        )  # fmt: skip
        return
    signed = {"none": "not signed", "not checked": "signed; check it with --public-key FILE", "fits": "signature fits"}
    print(f"{about['files']} files as they were sealed\ndigest: {about['digest']}\n{signed[about['signature']]}")
    if about["not_covered"]:
        print(f"not covered, since each stands for itself: {', '.join(map(printable, about['not_covered']))}")
