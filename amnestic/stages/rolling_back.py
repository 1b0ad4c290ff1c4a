"""Takes one edit out of a chain of edits: the model that the others make."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amnestic.core.edit_file import FINETUNED, HEADER, load_edit, read_header, save_edit
from amnestic.core.edits import Edit
from amnestic.core.errors import InputError
from amnestic.core.methods import Mitigation
from amnestic.core.records import SCHEMA, digest
from amnestic.core.registry import build
from amnestic.core.store import Run
from amnestic.model.target import PipelineTarget
from amnestic.parallel import team
from amnestic.stages.inputs import Progress, silent
from amnestic.stages.locating import units_of
from amnestic.stages.pruning import edit_path, require_free, traces_of, write_model
from amnestic.stages.sealing import seal_again


@dataclass(frozen=True, kw_only=True)
class RollBackRequest:
    """Everything a person asks of `roll_back`.

    Attributes:
        model: Folder of the model after the newest edit.
        take_back: Folder of the model that the edit made which is taken back, or the name of that edit.
        runs: Audits that keep the edits from that one on, in any order.
        out: Folder of the model without it; must not exist, be empty, or hold this very model.
        device, allow_pickle: How the model is loaded.
    """

    model: Path
    take_back: str
    runs: tuple[Path, ...]
    out: Path
    device: str = "auto"
    allow_pickle: bool = False


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """An edit, what belongs to it, and the run that keeps it."""

    name: str
    edit: Edit
    about: Mapping[str, Any]
    run: Run


def roll_back(request: RollBackRequest, *, progress: Progress = silent) -> dict[str, Any] | None:
    """Take edit k of n back while those made after it stay in force.

    Formula: ``M = e'_n(... e'_(k+1)(M_(k-1)))`` with ``M_(k-1)`` the model before edit k, bit for bit. ``e'_j`` is
    edit j as it was made where it finds the weights as it found them then; otherwise edit k or an edit that had to be
    made anew changed them, and its mitigation is asked again, on this model, at the units of its own record.

    What later requests located stays what they located, though they looked at a model that edit k had changed. Edits
    that are made again are kept in the runs of those they replace, under names of their own.

    Args:
        request: What is asked.
        progress: Told how far it is.

    Returns:
        Digest of the model, the edit that was taken back, and of those after it which stayed as they were and which
        were made anew; `None` in processes other than the main one.

    Raises:
        InputError: If the model was fine-tuned after that edit, an edit is kept in none of the runs, or weights changed
            since.
        StoreError: If `out` holds another model, or an edit is damaged.
    """
    return team(request.device).on_main(lambda: _roll_back(request, progress))


def _roll_back(request: RollBackRequest, progress: Progress) -> dict[str, Any]:
    header = read_header(request.model)
    if header is None:
        raise InputError(f"expected {HEADER} in {request.model}, found none; give a folder that amnestic prune wrote")
    kept = _kept(request.runs)
    chain = _chain(request, header, kept)
    progress("take back an edit", 0, len(chain) + 1)
    target = PipelineTarget.load(
        str(request.model), dtype=header["dtype"], device=team(request.device).device,
        allow_pickle=request.allow_pickle,
    )  # fmt: skip
    if target.ident.digest != header["result"]:
        raise InputError(f"{request.model} was changed after it was pruned, so no edit of it can be taken back")
    with ExitStack() as applied:
        now = target
        for one in chain:
            now = applied.enter_context(now.edited(one.edit.inverse()))
        if now.ident.digest != chain[-1].edit.model:
            raise InputError(f"taking back {chain[-1].name} gives another model than it was made for; make it again")
        newest = next((k for k in kept.values() if k.about["result"] == now.ident.digest), None)
        anew = dict[str, bool]()
        for done, one in enumerate(reversed(chain[:-1])):
            progress("take back an edit", done + 1, len(chain) + 1)
            edit, same = _again(now, one)
            anew[one.name] = not same
            now = applied.enter_context(now.edited(edit))
            newest = _keep(now, one, edit, chain[-1].name)
        _write(now, request.out, newest)
    for run in {one.run.folder: one.run for one in chain[:-1]}.values():
        seal_again(run)
    progress("take back an edit", len(chain) + 1, len(chain) + 1)
    return {
        "model": now.ident.digest, "taken_back": chain[-1].name,
        "kept": [n for n, new in anew.items() if not new], "made_anew": [n for n, new in anew.items() if new],
    }  # fmt: skip


def _kept(runs: Sequence[Path]) -> dict[str, _Kept]:
    """All edits of some runs by name."""
    found = {}
    for folder in runs:
        run = Run.open(folder)
        for file in sorted((run.folder / "edits").glob("*.safetensors")):
            edit, about = load_edit(file)
            found[file.stem] = _Kept(name=file.stem, edit=edit, about=about, run=run)
    return found


def _chain(request: RollBackRequest, header: Mapping[str, Any], kept: Mapping[str, _Kept]) -> list[_Kept]:
    """From the newest edit back to the one that is to be taken back."""
    wanted = _wanted(request.take_back)
    if header.get("kind") == FINETUNED:
        raise InputError(
            f"{request.model} was fine-tuned, which changes weights everywhere and cannot be put on top of others; "
            "take the edit back in the model before, and fine-tune again"
        )
    name, chain = header["edit"], list[_Kept]()
    while True:
        if name not in kept:
            raise InputError(
                f"none of the runs {', '.join(str(r) for r in request.runs)} keeps {name}, which made {request.model}; "
                f"give all audits from which edits were made since {wanted}"
            )
        chain.append(kept[name])
        if name == wanted:
            return chain
        before, known = chain[-1].edit.model, {k.name for k in chain}
        name = next((k.name for k in kept.values() if k.about["result"] == before and k.name not in known), "")
        if not name:
            made = ", ".join(k.name for k in reversed(chain))
            raise InputError(
                f"{wanted} is not among the edits {made} that lead to {request.model}; the model before them was "
                "fine-tuned or is the first one, or an audit is missing in runs"
            )


def _wanted(take_back: str) -> str:
    """Name of the edit that is to be taken back."""
    folder = Path(take_back)
    if not folder.is_dir():
        return take_back
    header = read_header(folder)
    if header is None or header.get("kind") == FINETUNED:
        what = "nothing" if header is None else "a fine-tuning"
        raise InputError(f"expected a model that an edit made, {folder} says {what}; give a folder of amnestic prune")
    return str(header["edit"])


def _again(now: PipelineTarget, kept: _Kept) -> tuple[Edit, bool]:
    """The edit on another model than it was made for, and whether it is the very same."""
    try:
        now.require_fit(kept.edit)
    except InputError:
        record = kept.run.record(kept.edit.parents[0])
        method = build("mitigation", kept.edit.made_by.name, dict(kept.edit.made_by.parameters))
        if not isinstance(method, Mitigation):
            raise
        units = replace(units_of(record), model=now.ident.digest)
        return method(now, units, parents=kept.edit.parents), False
    return replace(kept.edit, model=now.ident.digest), True


def _keep(after: PipelineTarget, kept: _Kept, edit: Edit, taken_back: str) -> _Kept:
    """Keep an edit that was put on another model beside the one it replaces."""
    name = f"edit-{digest('rolled back', kept.name, edit.model)[:12]}"
    total = sum(p.numel() for p in after.pipeline.unet.parameters())
    about = dict(kept.about) | {
        "edit": name, "result": after.ident.digest, "weights": len(edit), "share": len(edit) / total,
        "traces": traces_of(after, edit), "instead_of": kept.name, "without": taken_back,
    }  # fmt: skip
    file = edit_path(kept.run, name)
    save_edit(file, edit, about)
    kept.run.written.add(file.relative_to(kept.run.folder).as_posix())
    kept.run.event("rolled back", edit=name, instead_of=kept.name, without=taken_back)
    return _Kept(name=name, edit=edit, about=about, run=kept.run)


def _write(now: PipelineTarget, out: Path, newest: _Kept | None) -> None:
    """Write the model, unless it lies there already."""
    if (out / "model_index.json").is_file():
        there = PipelineTarget.load(str(out), dtype=now.ident.dtype, device=now.device)
        if there.ident.digest == now.ident.digest:
            return
    require_free(out)
    write_model(now, out, None if newest is None else {
        "schema": SCHEMA, "edit": newest.name, "model": newest.edit.model, "result": now.ident.digest,
        "dtype": now.ident.dtype, "method": newest.edit.made_by.name, "weights": len(newest.edit),
    })  # fmt: skip
