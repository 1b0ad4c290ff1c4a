"""``amnestic locate``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from amnestic.commands.completion import methods_of, records_of
from amnestic.commands.options import AllowPickle, Audited, Device, Json, Limit, ModelNow, Options, Part, Rung
from amnestic.terminal import out, print_located, print_record_json, print_sharing, progress_bars


def locate(
    run: Audited,
    method: Annotated[
        str, typer.Option(help="See: amnestic list localizer.", autocompletion=methods_of("localizer"))
    ] = "wanda-subspace",
    option: Options = None,
    rung: Rung = None,
    part: Part = None,
    limit: Limit = None,
    controls: Annotated[Literal["base", "heldout", "both"], typer.Option(help="Prompts to compare with.")] = "base",
    like: Annotated[
        str, typer.Option(help="Record whose size random-units imitates.", autocompletion=records_of("locate"))
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Starting noises per prompt.")] = 1,
    references: Annotated[Path | None, typer.Option(help="Originals, for methods that look at them.")] = None,
    analyze: Annotated[bool, typer.Option("--analyze", help="Test instead whether works share a subspace.")] = False,
    sets: Annotated[int, typer.Option(min=2, help="With --analyze: disjoint sets of works.")] = 6,
    set_size: Annotated[int, typer.Option(min=1, help="With --analyze: works in each set.")] = 10,
    transfer_seeds: Annotated[int, typer.Option(min=0, help="With --analyze: images per work and mask.")] = 2,
    model: ModelNow = None,
    device: Device = "auto",
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Where is it kept? Find the units that hold the works which an audit found replicated.

    Examples:
        amnestic locate runs/sd14
        amnestic locate runs/sd14 --method wanda-subspace -o r=0.1 --part 1/2
        amnestic locate runs/sd14 --analyze
    """
    from amnestic import stages
    from amnestic.audit.selection import Selection, part_of
    from amnestic.core.registry import options_from

    selection = Selection(rung=rung, part=part_of(part) if part else None, limit=limit, controls=controls)
    request = stages.LocateRequest(
        run=run, method=method, options=options_from(option or []), selection=selection,
        like=like, n_seeds=seeds, references=references, model=model, device=device, allow_pickle=allow_pickle,
    )  # fmt: skip
    with progress_bars() as show:
        if analyze:
            wanted = stages.AnalyzeRequest(locate=request, n_sets=sets, size=set_size, transfer_seeds=transfer_seeds)
            shared = stages.analyze(wanted, progress=show)
        else:
            record = stages.locate(request, progress=show)
    found = shared if analyze else record
    if found is None:
        return
    if as_json:
        print_record_json(found)
    elif analyze:
        print_sharing(found.data)
        out.print(f"report: {run / 'subspace.html'}", markup=False)
    else:
        print_located(found.id, found.data)
