"""``amnestic list``."""

from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from amnestic.commands.options import Json
from amnestic.terminal import out, print_json

Family = Literal["localizer", "mitigation", "attack", "finetuning"]


def list_methods(
    family: Annotated[Family, typer.Argument(help="localizer, mitigation, attack or finetuning.")] = "localizer",
    as_json: Json = False,
) -> None:
    """Which methods there are, with their settings.

    Examples:
        amnestic list
        amnestic list attack
        amnestic list mitigation --json
    """
    from amnestic.core.registry import build, methods

    found: list[dict[str, Any]] = [
        {
            "name": name, "what": (kind.__doc__ or "").strip().splitlines()[0],
            "settings": build(family, name).spec().parameters,
        }
        for name, kind in methods(family).items()
    ]  # fmt: skip
    if as_json:
        print_json(found)
        return
    table = Table("name", "what it does", "settings")
    for one in found:
        table.add_row(one["name"], one["what"], "\n".join(f"{key}={value!r}" for key, value in one["settings"].items()))
    out.print(table)
