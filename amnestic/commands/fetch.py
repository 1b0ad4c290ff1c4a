"""``amnestic fetch``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from amnestic.commands.exits import EXIT_INCONCLUSIVE
from amnestic.terminal import out, progress_bars

SHOWN = 10


def fetch(
    prompts: Annotated[Path, typer.Argument(help="Prompt list with http(s) addresses in a column image or url.")],
    folder: Annotated[Path, typer.Option("--out", help="New folder; issue the same command again to fetch the rest.")],
    workers: Annotated[int, typer.Option(min=1, max=32, help="Images fetched at once.")] = 4,
    max_bytes: Annotated[int, typer.Option(help="Largest file.")] = 32 * 1024 * 1024,
    max_pixels: Annotated[int, typer.Option(help="Largest width times height.")] = 64_000_000,
    connect_timeout: Annotated[float, typer.Option(help="Seconds for a connection.")] = 10.0,
    read_timeout: Annotated[float, typer.Option(help="Seconds of silence.")] = 15.0,
    total_timeout: Annotated[float, typer.Option(help="Seconds for one image, with redirects and retries.")] = 120.0,
    redirects: Annotated[int, typer.Option(min=0, max=20, help="How often a server may point elsewhere.")] = 5,
    retries: Annotated[int, typer.Option(min=0, max=10, help="Tries after the first if a server is busy.")] = 3,
    longest_wait: Annotated[float, typer.Option(help="Seconds that a busy server may ask to wait.")] = 30.0,
    allow_private: Annotated[bool, typer.Option("--allow-private", help="Also from the own network.")] = False,
) -> None:
    """Fetch the originals that a list names by address, with limits; an audit itself never touches the network.

    Examples:
        amnestic fetch works.csv --out originals/
        amnestic fetch works.csv --out originals/ --workers 8 --max-bytes 8000000
    """
    from amnestic import stages

    request = stages.FetchRequest(
        prompts=prompts, out=folder, workers=workers,
        limits=stages.Limits(
            max_bytes=max_bytes, max_pixels=max_pixels, connect_timeout=connect_timeout, read_timeout=read_timeout,
            total_timeout=total_timeout, redirects=redirects, retries=retries, longest_wait=longest_wait,
            allow_private=allow_private,
        ),
    )  # fmt: skip
    with progress_bars() as show:
        found = stages.fetch(request, progress=show)
    counts = {status: n for status, n in found.counts().items() if n or status == "ok"}
    table = Table(*counts, title=f"{len(found.fetched)} addresses, {found.before} of them fetched before")
    table.add_row(*(str(n) for n in counts.values()))
    out.print(table)
    failed = [one for one in found.fetched if one.status != "ok"]
    for one in failed[:SHOWN]:
        out.print(f"{one.status}: {one.url!r}: {one.reason}", markup=False)
    if len(failed) > SHOWN:
        out.print(f"... and {len(failed) - SHOWN} more; all of them stand in {folder / 'fetched.jsonl'}", markup=False)
    if found.local:
        out.print(f"{len(found.local)} images are named as files; put them into {folder}", markup=False)
    out.print(f"list: {found.prompts}\nnow: amnestic audit MODEL --prompts {found.prompts} --references {folder}",
              markup=False)  # fmt: skip
    if len(failed) == len(found.fetched):
        raise typer.Exit(EXIT_INCONCLUSIVE)
