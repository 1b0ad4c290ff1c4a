"""``amnestic doctor``."""

import typer
from rich.table import Table

from amnestic.commands.doctor_checks import BAD, Finding, examine
from amnestic.commands.exits import EXIT_RUNTIME
from amnestic.commands.options import Json
from amnestic.terminal import out, print_json


def doctor(as_json: Json = False) -> None:
    """What is installed, what is missing, and how to get it; downloads nothing.

    Examples:
        amnestic doctor
        amnestic doctor --json
    """
    found = examine()
    broken = [one.what for one in found if one.required and one.state == BAD]
    if as_json:
        print_json({"works": not broken, "missing": broken, "findings": found})
    else:
        out.print(_table(found))
        out.print(f"needed and missing: {', '.join(broken)}" if broken else "nothing that is needed is missing")
    if broken:
        raise typer.Exit(EXIT_RUNTIME)


def _table(found: list[Finding]) -> Table:
    table = Table(title="amnestic doctor")
    for column in ("", "what", "state", "found", "remedy"):
        table.add_column(column)
    section = ""
    for one in found:
        if one.section != section:
            table.add_section()
        table.add_row(one.section if one.section != section else "", one.what, one.state, one.found, one.remedy)
        section = one.section
    return table
