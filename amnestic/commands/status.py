"""``amnestic status``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from amnestic.commands.options import Json
from amnestic.terminal import out, print_json, print_summary


def status(run: Annotated[Path, typer.Argument(help="Run folder.")], as_json: Json = False) -> None:
    """How far is a run, and what did it find?

    Examples:
        amnestic status runs/sd14
        amnestic status runs/sd14 --json
    """
    from amnestic.core.names import name_for_others
    from amnestic.core.store import Run

    opened = Run.open(run)
    settings = opened.manifest()["settings"]
    total = settings["n_prompts"] * len(settings["seeds"])
    model, drawn = name_for_others(settings["model"]["name"]), opened.count()
    finished = run / "summary.json"
    summary = json.loads(finished.read_text()) if finished.exists() else None
    if as_json:
        print_json({"model": model, "images": drawn, "of": total, "finished": summary is not None, "summary": summary})
        return
    out.print(f"model: {model}\nimages: {drawn} of {total}", markup=False)
    if summary is not None:
        print_summary(summary)
    else:
        out.print("not finished; issue its command again to continue")
