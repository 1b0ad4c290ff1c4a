"""``amnestic gate``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from amnestic.commands.exits import VERDICT_EXIT
from amnestic.commands.options import Audited, Json
from amnestic.terminal import out


def gate(
    run: Audited,
    fail_on: Annotated[
        list[str],
        typer.Option(
            "--fail-on", metavar="EXPR", help="Such as 'leak_rate.upper_one_sided > 5%'; repeatable, any of them fails."
        ),
    ],
    as_json: Json = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the outcome as JUnit XML, too.")] = None,
) -> None:
    """Is it within the limits? Compares bounds, never point estimates; 0 met, 3 failed, 4 inconclusive.

    Examples:
        amnestic gate runs/after --fail-on 'leak_rate.upper_one_sided > 5%'
        amnestic gate runs/after --fail-on 'leak_rate.upper_one_sided > 5%' --fail-on 'attack.dori.works.upper > 10%'
        amnestic gate runs/after --fail-on 'leak_rate.upper_one_sided > 5%' --junit gate.xml
    """
    from amnestic import stages

    found = stages.gate(run, fail_on)
    code = VERDICT_EXIT.get(found["verdict"], 0)
    if junit is not None:
        stages.write_junit(found, junit)
    if as_json:
        print(json.dumps(found | {"exit_code": code}, indent=2, allow_nan=False))
    else:
        for outcome in found["outcomes"]:
            out.print(outcome["line"], markup=False)
        out.print(f"verdict: {found['verdict']}")
    if code:
        raise typer.Exit(code)
