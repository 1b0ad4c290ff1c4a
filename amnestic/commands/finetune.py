"""``amnestic finetune``."""

from pathlib import Path
from typing import Annotated

import typer

from amnestic.commands.completion import methods_of
from amnestic.commands.options import (
    AllowPickle,
    Audited,
    Device,
    Edited,
    Json,
    Judge,
    Limit,
    ModelNow,
    Options,
    Part,
    References,
    Rung,
)
from amnestic.core.amounts import percent
from amnestic.terminal import out, print_record_json, progress_bars


def finetune(
    run: Audited,
    folder: Edited,
    references: References,
    method: Annotated[
        str, typer.Option(help="See: amnestic list finetuning.", autocompletion=methods_of("finetuning"))
    ] = "adversarial",
    option: Options = None,
    attack: Annotated[
        str,
        typer.Option(
            help="Searches adversarial embeddings; see: amnestic list attack.", autocompletion=methods_of("attack")
        ),
    ] = "dori",
    attack_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A setting of the attack; repeatable.")
    ] = None,
    surrogates_from: Annotated[
        str | None, typer.Option(help="Pruned model, or its audit's run, that draws surrogates.")
    ] = None,
    surrogates: Annotated[int, typer.Option(min=1, help="So many per work.")] = 10,
    surrogate_below: Annotated[float, typer.Option(help="Less similar to the original than this.")] = 0.5,
    leave_out_copies: Annotated[
        bool, typer.Option("--leave-out-copies", help="Leave out works of which the pruned model draws only copies.")
    ] = False,
    retain: Annotated[
        Path | None, typer.Option(help="Captioned images to stay capable of; default drawn base prompts.")
    ] = None,
    n_retain: Annotated[int, typer.Option(min=1, help="At most so many of them.")] = 2000,
    work: Annotated[Path | None, typer.Option(help="Checkpoints; default inside the run.")] = None,
    clip: Annotated[str | None, typer.Option(help="open_clip model for an attack's loss through a descriptor.")] = None,
    clip_pretrained: Annotated[str | None, typer.Option(help="Its weights.")] = None,
    rung: Rung = None,
    part: Part = None,
    limit: Limit = None,
    descriptor: Judge = "auto",
    sscd_weights: Annotated[Path | None, typer.Option(help="File of published SSCD weights.")] = None,
    model: ModelNow = None,
    device: Device = "auto",
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Teach it to forget: fine-tune a copy on works that replicate, and write it as a plain diffusers folder.

    Examples:
        amnestic finetune runs/sd14 --references originals/ --surrogates-from edited/ --out unlearned/
        amnestic finetune runs/sd14 --references originals/ --method siss --out unlearned/ --rung 3
    """
    from amnestic import stages
    from amnestic.audit.selection import Selection, part_of
    from amnestic.core.registry import options_from
    from amnestic.stages.surrogates import Wanted

    request = stages.FinetuneRequest(
        run=run, out=folder, references=references, method=method, options=options_from(option or []), attack=attack,
        attack_options=options_from(attack_option or []),
        selection=Selection(rung=rung, part=part_of(part) if part else None, limit=limit),
        surrogates_from=surrogates_from, surrogates=Wanted(n=surrogates, below=surrogate_below),
        leave_out_copies=leave_out_copies, retain=retain, n_retain=n_retain, work=work, clip=clip,
        clip_pretrained=clip_pretrained, descriptor=descriptor,
        sscd_weights=sscd_weights, model=model, device=device, allow_pickle=allow_pickle,
    )  # fmt: skip
    with progress_bars() as show:
        record = stages.finetune(request, progress=show)
    if record is None:
        return
    if as_json:
        print_record_json(record)
        return
    data = record.data
    left = f" ({len(data['left_out'])} left out)" if data["left_out"] else ""
    out.print(
        f"{len(data['works'])} works{left}, {data['steps']} steps, {data['seconds']} s: {data['weights']:,} weights of "
        f"the U-Net changed ({percent(data['share'])})\nmodel: {folder}\nrecord: {record.id}\n"
        f"now audit it: amnestic audit {folder} --before {run} ...", markup=False,
    )  # fmt: skip
