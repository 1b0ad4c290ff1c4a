"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Audited = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of a finished audit.")]
ModelNow = Annotated[str | None, typer.Option("--model", help="Where the audited model lies now.")]
Edited = Annotated[Path, typer.Option("--out", help="Folder of the new model; must be empty.")]
Options = Annotated[
    list[str] | None, typer.Option("--option", "-o", metavar="KEY=VALUE", help="A setting of the method; repeatable.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")]
Rung = Annotated[int | None, typer.Option(help="Only works on this rung of the ladder.")]
Part = Annotated[str | None, typer.Option(metavar="I/N", help="Such as 1/2: every second work.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many works.")]
AllowPickle = Annotated[bool, typer.Option(help="Load pickled weights, which can run code.")]
References = Annotated[Path, typer.Option(help="Folder of the originals that the audit's prompts name.")]
