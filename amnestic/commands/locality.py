"""``amnestic locality``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from amnestic.commands.completion import methods_of
from amnestic.commands.options import AllowPickle, Audited, Device, Json, Judge, ModelNow, References, Rung
from amnestic.terminal import out, print_record_json, progress_bars

EMPTY = {"one": 1.0, "zero": 0.0, "leave-out": None}


def locality(
    run: Audited,
    references: References,
    works: Annotated[int, typer.Option(min=1, help="Memorized images, and as many held-out ones.")] = 3,
    starts: Annotated[int, typer.Option(min=2, help="Searches from random starts for each.")] = 100,
    seeds: Annotated[int, typer.Option(min=1, help="Images per found embedding that score.")] = 2,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of pruning and attack; 0 leaves them out.")] = 3,
    round_works: Annotated[int, typer.Option(min=1, help="Works that are pruned for.")] = 10,
    localizer: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose units are compared; repeatable; default wanda-subspace and nemo.",
            autocompletion=methods_of("localizer"),
        ),
    ] = None,
    prune_with: Annotated[
        str | None,
        typer.Option(help="Localizer of the rounds; default the first.", autocompletion=methods_of("localizer")),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="METHOD.KEY=VALUE", help="Of dori or a localizer; repeatable."),
    ] = None,
    masks: Annotated[int, typer.Option(min=2, help="Embeddings of a set that units are located by.")] = 20,
    empty: Annotated[Literal["one", "zero", "leave-out"], typer.Option(help="IoU of two empty masks.")] = "one",
    base: Annotated[int, typer.Option(min=0, help="Ordinary prompts that tell what pruning costs.")] = 20,
    rung: Rung = None,
    controls: Annotated[
        Literal["base", "heldout", "both"], typer.Option(help="What localizers compare with.")
    ] = "base",
    tsne: Annotated[bool, typer.Option("--tsne", help="A map by t-SNE beside the principal plane.")] = False,
    clip: Annotated[str | None, typer.Option(help="open_clip model for the agreement of image and prompt.")] = None,
    clip_pretrained: Annotated[str | None, typer.Option(help="Its weights.")] = None,
    descriptor: Judge = "auto",
    sscd_weights: Annotated[Path | None, typer.Option(help="File of published SSCD weights.")] = None,
    model: ModelNow = None,
    device: Device = "auto",
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Is memorization local? Search from many starts, compare what was found, prune again and again.

    Examples:
        amnestic locality runs/sd14 --references originals/ --works 3 --starts 100
        amnestic locality runs/sd14 --references originals/ --rounds 0 --tsne
    """
    from amnestic.audit.selection import Selection
    from amnestic.stages.studying_locality import METHODS, LocalityRequest
    from amnestic.stages.studying_locality import locality as study

    names = localizer or list(METHODS)
    options = _options(option or [], ["dori", *names])
    request = LocalityRequest(
        run=run, references=references, selection=Selection(rung=rung, controls=controls), works=works, starts=starts,
        n_seeds=seeds, attack=options.pop("dori"), localizers=options, n_masks=masks, empty=EMPTY[empty], rounds=rounds,
        round_works=round_works, prune_with=prune_with or names[0], n_base=base, tsne=tsne, clip=clip,
        clip_pretrained=clip_pretrained, descriptor=descriptor, sscd_weights=sscd_weights, model=model, device=device,
        allow_pickle=allow_pickle,
    )  # fmt: skip
    with progress_bars() as show:
        record = study(request, progress=show)
    if record is None:
        return
    if as_json:
        print_record_json(record)
    else:
        _print(record.data)
        out.print(f"record: {record.id}\nreport: {run / 'locality.html'}", markup=False)


def _options(words: list[str], names: list[str]) -> dict[str, dict[str, object]]:
    """Settings by method, from words such as ``nemo.similarity=ssim``."""
    from amnestic.core.errors import InputError
    from amnestic.core.registry import options_from

    found: dict[str, dict[str, object]] = {name: {} for name in names}
    for word in words:
        name, dot, setting = word.partition(".")
        if not dot or name not in found:
            raise InputError(f"expected a setting of {', '.join(names)} such as {names[-1]}.KEY=VALUE, got {word}")
        found[name] |= options_from([setting])
    return found


def _print(data: Mapping[str, Any]) -> None:
    from amnestic.report.locality_answer import answer

    found = answer(data)
    out.print(found.headline, markup=False)
    for sentence in found.sentences:
        out.print(f"- {sentence}", markup=False)
