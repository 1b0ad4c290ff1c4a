"""``amnestic attack``."""

from pathlib import Path
from typing import Annotated

import typer

from amnestic.commands.completion import methods_of
from amnestic.commands.options import (
    AllowPickle,
    Audited,
    Device,
    Json,
    Judge,
    Limit,
    ModelNow,
    Options,
    Part,
    References,
    Rung,
    ShowOriginals,
)
from amnestic.terminal import out, print_attack, print_record_json, progress_bars


def attack(
    run: Audited,
    references: References,
    method: Annotated[
        str, typer.Option(help="See: amnestic list attack.", autocompletion=methods_of("attack"))
    ] = "dori",
    option: Options = None,
    rung: Rung = None,
    part: Part = None,
    limit: Limit = None,
    controls: Annotated[int | None, typer.Option(min=0, help="Held-out works; default as many as works.")] = None,
    twin: Annotated[str | None, typer.Option(help="A model that never saw the works, or the run of its audit.")] = None,
    original: Annotated[
        str | None, typer.Option(help="The model before the edit, or the run of its audit: positive control.")
    ] = None,
    random: Annotated[bool, typer.Option(help="Random search with equal passes beside it.")] = True,
    radii: Annotated[
        str, typer.Option(help="Repeat within balls of these radii, in distances of ordinary prompts: 0.25,0.5,1.")
    ] = "",
    early_stop: Annotated[bool, typer.Option("--early-stop", help="Stop the search for a work that is back.")] = False,
    keep: Annotated[str, typer.Option(help="Steps whose inputs are drawn and scored.")] = "0,1,5,10,25,50",
    seeds: Annotated[int | None, typer.Option(min=1, help="Images per input; default the audit's.")] = None,
    descriptor: Judge = "auto",
    sscd_weights: Annotated[Path | None, typer.Option(help="File of published SSCD weights.")] = None,
    clip: Annotated[str | None, typer.Option(help="open_clip model for losses through a descriptor.")] = None,
    clip_pretrained: Annotated[str | None, typer.Option(help="Its weights.")] = None,
    show_originals: ShowOriginals = False,
    model: ModelNow = None,
    device: Device = "auto",
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Can it be brought back? Search inputs that draw known works, beside controls that were never learned.

    Examples:
        amnestic attack runs/edited --references originals/ --original CompVis/stable-diffusion-v1-4
        amnestic attack runs/edited --references originals/ --method auto-dori --twin TWIN
        amnestic attack runs/edited --references originals/ --radii 0.25,0.5,1 --limit 5
    """
    from amnestic import stages
    from amnestic.audit.selection import Selection, part_of
    from amnestic.core.registry import options_from

    request = stages.AttackRequest(
        run=run, references=references, method=method, options=options_from(option or []),
        selection=Selection(rung=rung, part=part_of(part) if part else None, limit=limit), n_controls=controls,
        twin=twin, original=original, random=random, early_stop=early_stop, keep=_steps(keep), n_seeds=seeds,
        radii=_numbers(radii), descriptor=descriptor, sscd_weights=sscd_weights, clip=clip,
        clip_pretrained=clip_pretrained, show_originals=show_originals, model=model, device=device,
        allow_pickle=allow_pickle,
    )  # fmt: skip
    with progress_bars() as show:
        record = stages.attack(request, progress=show)
    if record is None:
        return
    if as_json:
        print_record_json(record)
    else:
        print_attack(record.id, record.data)
        out.print(f"report: {Path(run) / (record.id + '.html')}", markup=False)


def _steps(text: str) -> tuple[int, ...]:
    from amnestic.core.errors import InputError

    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise InputError(f"expected steps such as 0,10,50 for --keep, got {text}")
    return tuple(sorted({int(word) for word in words}))


def _numbers(text: str) -> tuple[float, ...]:
    from amnestic.core.errors import InputError

    try:
        found = tuple(sorted({float(word) for word in text.split(",") if word.strip()}))
    except ValueError:
        found = (-1.0,)
    if any(not radius > 0 for radius in found):
        raise InputError(f"expected positive numbers such as 0.25,0.5,1 for --radii, got {text}")
    return found
