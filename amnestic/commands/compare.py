"""``amnestic compare``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from amnestic.commands.exits import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE
from amnestic.commands.options import Json
from amnestic.core.amounts import percent
from amnestic.core.errors import InputError
from amnestic.terminal import out

SUFFIXES = (".html", ".json", ".md")
_MOST_NAMES = 10


def compare(
    before: Annotated[Path, typer.Argument(metavar="RUN_A", help="Finished audit of the first model.")],
    after: Annotated[Path, typer.Argument(metavar="RUN_B", help="Finished audit of the second one.")],
    file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it: FILE.html, FILE.json or FILE.md.")
    ] = None,
    as_json: Json = False,
    fail_on_regression: Annotated[
        bool, typer.Option("--fail-on-regression", help="Exit 3 when a rise is certain, 4 when too few works tell.")
    ] = False,
) -> None:
    """Does RUN_B memorize more than RUN_A? The same prompts, seeds and judge, compared work by work.

    Examples:
        amnestic compare runs/v1 runs/v2
        amnestic compare runs/v1 runs/v2 --out comparison.html
        amnestic compare runs/v1 runs/v2 --fail-on-regression
    """
    if file is not None and file.suffix not in SUFFIXES:
        raise InputError(f"expected --out to end in {', '.join(SUFFIXES)}, got {file.name}; give one of them")
    from amnestic import stages

    found = stages.compare(before, after)
    if file is not None:
        stages.write_comparison(found, file)
    if as_json:
        print(json.dumps(found, indent=2, allow_nan=False))
    else:
        _print(found)
        if file is not None:
            out.print(f"written: {file}", markup=False)
    code = {"regression": EXIT_GATE_FAILED, "inconclusive": EXIT_INCONCLUSIVE}.get(found["conclusion"], 0)
    if fail_on_regression and code:
        raise typer.Exit(code)


def _print(found: Mapping[str, Any]) -> None:
    table = Table(title="share of works that replicate")
    for column in ("group", "works", "before", "after", "change, in points", "Holm-adjusted p", "reading"):
        table.add_column(column)
    rows = [(group["group"], group) for group in found["groups"]]
    rows += [(f"{attack['method']}: {arm['group']}", arm) for attack in found["attacks"] for arm in attack["arms"]]
    for name, group in rows:
        change = group["change"]
        points = [f"{100 * change[key]:+.1f}" for key in ("estimate", "lower", "upper")]
        table.add_row(
            Text(name), str(group["works"]), percent(group["before"]["estimate"]), percent(group["after"]["estimate"]),
            f"{points[0]} ({points[1]} to {points[2]})", f"{group['p_adjusted']:.2g}", group["reading"],
        )  # fmt: skip
    out.print(table)
    for name, group in rows:
        for what, works in (("after only", group["newly"]), ("before only", group["no_longer"])):
            if works:
                more = f" and {len(works) - _MOST_NAMES} more" if len(works) > _MOST_NAMES else ""
                out.print(f"{name}, {what}: {', '.join(map(_shown, works[:_MOST_NAMES]))}{more}", markup=False)
    for note in found["notes"]:
        out.print(note, markup=False)
    for what, why in found["not_compared"]:
        out.print(f"not compared: {what}: {why}", markup=False)
    out.print(found["sentence"], markup=False)


def _shown(name: str) -> str:
    """A name without characters that would steer a terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in name)
