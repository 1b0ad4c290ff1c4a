"""``amnestic locate``."""

from pathlib import Path
from typing import Annotated

import typer

from amnestic.commands.options import AllowPickle, Audited, Device, Limit, ModelNow, Options, Part, Rung
from amnestic.terminal import out, print_located, print_sharing, progress_bars


def locate(
    run: Audited,
    method: Annotated[str, typer.Option(help="See: amnestic list localizer.")] = "wanda-subspace",
    option: Options = None,
    rung: Rung = None,
    part: Part = None,
    limit: Limit = None,
    controls: Annotated[str, typer.Option(help="Prompts to compare with: base, heldout or both.")] = "base",
    like: Annotated[str, typer.Option(help="Record whose size random-units imitates.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Starting noises per prompt.")] = 1,
    references: Annotated[Path | None, typer.Option(help="Originals, for methods that look at them.")] = None,
    analyze: Annotated[bool, typer.Option("--analyze", help="Test instead whether works share a subspace.")] = False,
    sets: Annotated[int, typer.Option(min=2, help="With --analyze: disjoint sets of works.")] = 6,
    set_size: Annotated[int, typer.Option(min=1, help="With --analyze: works in each set.")] = 10,
    transfer_seeds: Annotated[int, typer.Option(min=0, help="With --analyze: images per work and mask.")] = 2,
    model: ModelNow = None,
    device: Device = "auto",
    allow_pickle: AllowPickle = False,
) -> None:
    """Where is it kept? Find the units that hold the works which an audit found replicated."""
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
    if analyze and shared is not None:
        print_sharing(shared.data)
        out.print(f"report: {run / 'subspace.html'}", markup=False)
    elif not analyze and record is not None:
        print_located(record.id, record.data)
