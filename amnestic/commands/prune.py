"""``amnestic prune` and ``amnestic restore``."""

from pathlib import Path
from typing import Annotated

import typer

from amnestic.commands.completion import methods_of, records_of
from amnestic.commands.options import AllowPickle, Audited, Device, Edited, Json, ModelNow, Options
from amnestic.core.amounts import percent
from amnestic.core.errors import InputError
from amnestic.terminal import out, print_json, progress_bars


def prune(
    run: Audited,
    folder: Edited,
    located: Annotated[
        str, typer.Option(help="Record of the units; default the only one.", autocompletion=records_of("locate"))
    ] = "",
    method: Annotated[
        str | None,
        typer.Option(
            help="See: amnestic list mitigation; default zero-units.", autocompletion=methods_of("mitigation")
        ),
    ] = None,
    option: Options = None,
    conceal: Annotated[bool, typer.Option("--conceal", help="Leave no zeros that tell where it was cut.")] = False,
    model: ModelNow = None,
    device: Device = "auto",
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Cut it out: write the edited model as a plain diffusers folder; the run keeps the edit.

    Examples:
        amnestic prune runs/sd14 --out edited/
        amnestic prune runs/sd14 --out edited/ --method scale-units -o factor=0.5
        amnestic prune runs/sd14 --out edited/ --conceal
    """
    from amnestic import stages
    from amnestic.core.registry import options_from

    if conceal and method not in (None, "conceal-units"):
        raise InputError(f"--conceal is short for --method conceal-units, got --method {method} too; give one of them")
    chosen = "conceal-units" if conceal else method or "zero-units"
    request = stages.PruneRequest(
        run=run, out=folder, located=located, method=chosen, options=options_from(option or []), model=model,
        device=device, allow_pickle=allow_pickle,
    )  # fmt: skip
    with progress_bars() as show:
        about = stages.prune(request, progress=show)
    if about is None:
        return
    if as_json:
        print_json(about)
        return
    out.print(
        f"{about['weights']:,} weights of the U-Net changed ({percent(about['share'])})\nmodel: {folder}\n"
        f"now audit it: amnestic audit {folder} --before {run} ...", markup=False,
    )  # fmt: skip


def restore(
    edited: Annotated[Path, typer.Argument(help="Folder that amnestic prune wrote.")],
    run: Annotated[Path, typer.Option("--run", help="The run it was pruned from; it keeps the edit.")],
    folder: Edited,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Take an edit back: the weights of the model before, bit for bit.

    Examples:
        amnestic restore edited/ --run runs/sd14 --out restored/
    """
    from amnestic import stages

    told = stages.restore(edited, run, folder, device=device)
    if told is None:
        return
    if as_json:
        print_json(told)
        return
    out.print(f"{told['weights']:,} weights set back\nmodel: {folder} ({told['model'][:12]})", markup=False)
