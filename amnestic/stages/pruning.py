"""Cuts out what was located, into a model folder that loads anywhere, and puts it back."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from amnestic.core.edit_file import FINETUNED, HEADER, load_edit, read_header, save_edit
from amnestic.core.edits import Edit
from amnestic.core.errors import InputError, StoreError
from amnestic.core.methods import Mitigation
from amnestic.core.records import SCHEMA, digest, plain
from amnestic.core.registry import build
from amnestic.core.store import Record, Run, write_json
from amnestic.measures.traces import telling
from amnestic.model.target import PipelineTarget
from amnestic.parallel import team
from amnestic.stages.inputs import Progress, silent
from amnestic.stages.locating import units_of
from amnestic.stages.models import model_of
from amnestic.stages.scores import scored
from amnestic.stages.sealing import seal_run


@dataclass(frozen=True, kw_only=True)
class PruneRequest:
    """Everything a person asks of `prune`.

    Attributes:
        run: Folder of an audit in which something was located.
        out: Folder of the edited model; must not exist, be empty, or hold this very edit.
        located: Record of the units; empty for the only one there is.
        method: Name of a mitigation.
        options: Its settings that differ from the default.
        model: Where the model lies now, if not where the audit found it.
        device, allow_pickle: How the model is loaded.
    """

    run: Path
    out: Path
    located: str = ""
    method: str = "zero-units"
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    device: str = "auto"
    allow_pickle: bool = False


def prune(request: PruneRequest, *, progress: Progress = silent) -> dict[str, Any] | None:
    """Edit the model at the located units and write it as a plain diffusers folder.

    The edit itself, which can bring back what was cut, is kept in the run (``edits/``); the folder only names it.

    Args:
        request: What is asked.
        progress: Told how far it is.

    Returns:
        What belongs to the edit, as in its file; `None` in processes other than the main one.

    Raises:
        InputError: If an option cannot be used, nothing was located, or the model is not the audited one.
        StoreError: If `request.out` holds something else than this edit.
    """
    return team(request.device).on_main(lambda: prune_here(request, progress))


def prune_here(request: PruneRequest, progress: Progress) -> dict[str, Any]:
    """What `prune` lets the main process do."""
    run = Run.open(request.run)
    record = _located(run, request.located)
    if record.data["outcome"] != "found":
        raise InputError(
            f"{record.id} found nothing, so there is nothing to prune; locate with another method or setting"
        )
    method = build("mitigation", request.method, dict(request.options))
    if not isinstance(method, Mitigation):
        raise InputError(f"expected a mitigation, got {request.method}")
    name = f"edit-{digest(plain(method.spec()), record.id, record.data['model'])[:12]}"
    header = read_header(request.out)
    if header is not None and header["edit"] == name and edit_path(run, name).is_file():
        seal_run(run)
        return load_edit(edit_path(run, name))[1]
    require_free(request.out)
    target = model_of(run, model=request.model, device=request.device, allow_pickle=request.allow_pickle)
    edit = method(target, units_of(record), parents=(record.id,))
    progress("write the edited model", 0, 1)
    with target.edited(edit) as after:
        about = about_edit(target, edit, record, run) | {
            "edit": name, "result": after.ident.digest, "traces": traces_of(after, edit),
        }  # fmt: skip
        save_edit(edit_path(run, name), edit, about)
        write_model(after, request.out, _header(edit, about))
    run.event("pruned", edit=name, record=record.id, method=edit.made_by.name, weights=len(edit))
    seal_run(run, edit_path(run, name).relative_to(run.folder).as_posix())
    progress("write the edited model", 1, 1)
    return about


def restore(edited: Path, folder: Path, out: Path, *, device: str = "auto") -> dict[str, Any] | None:
    """Take the edit of a model back: the weights are those of the model before, bit for bit.

    Args:
        edited: Folder that `prune` wrote.
        folder: The run it was pruned from, which holds the edit.
        out: Folder of the restored model, in the precision in which it was edited.
        device: Where to compute.

    Returns:
        Digest of the model, and how many weights were set back; `None` in processes other than the main one.

    Raises:
        InputError: If the folder names no edit, the run does not hold it, or the weights changed since.
        StoreError: If the edit is damaged or `out` holds something.
    """
    return team(device).on_main(lambda: _restore(edited, folder, out, device))


def _restore(edited: Path, folder: Path, out: Path, device: str) -> dict[str, Any]:
    header, run = read_header(edited), Run.open(folder)
    if header is None:
        raise InputError(f"expected {HEADER} in {edited}, found none; give a folder that amnestic prune wrote")
    if header.get("kind") == FINETUNED:
        raise InputError(f"{edited} was fine-tuned: there is no edit to take back; use the model {folder} audited")
    if not edit_path(run, header["edit"]).is_file():
        raise InputError(f"{folder} holds no {header['edit']}; give the run that {edited} was pruned from")
    edit, _ = load_edit(edit_path(run, header["edit"]))
    require_free(out)
    target = PipelineTarget.load(edited, dtype=header["dtype"], device=team(device).device)
    if target.ident.digest != header["result"]:
        raise InputError(f"{edited} was changed after it was pruned, so taking the edit back gives another model")
    with target.edited(edit.inverse()) as before:
        write_model(before, out, None)
    return {"model": edit.model, "weights": len(edit)}


def edit_path(run: Run, name: str) -> Path:
    """Where a run keeps an edit of this name."""
    return run.folder / "edits" / f"{name}.safetensors"


def _header(edit: Edit, about: Mapping[str, Any]) -> dict[str, Any]:
    """What the folder says of itself: nothing that helps to find the places."""
    return {
        "schema": SCHEMA, "edit": about["edit"], "model": edit.model, "result": about["result"],
        "dtype": about["dtype"], "method": edit.made_by.name, "weights": about["weights"],
    }  # fmt: skip


def about_edit(target: PipelineTarget, edit: Edit, record: Record, run: Run) -> dict[str, Any]:
    """What belongs to an edit: where it comes from, how large it is, and how well it can be seen."""
    total = sum(p.numel() for p in target.pipeline.unet.parameters())
    summary = scored(run).data
    return {
        "steps": record.data.get("steps"),
        "located": record.id, "located_by": plain(record.made_by), "works": record.data["works"],
        "other_works": record.data["other_works"], "prompts": record.data["memorized"],
        "audit": {"run": run.folder.name, "protocol": summary["protocol"]["id"]}, "dtype": target.ident.dtype,
        "weights": len(edit), "share": len(edit) / total,
        "sites": [
            {"name": s["name"], "stage": s["stage"], "kind": s["kind"], "chosen": record.data["counts"][s["name"]],
             "size": prod(s["shape"])}
            for s in record.data["sites"]
        ],
    }  # fmt: skip


def traces_of(target: PipelineTarget, edit: Edit) -> dict[str, Any]:
    """How well the edited places can be told, over all parameters, weighted by their number."""
    found = [(telling(target.parameter(p), c.at), p) for p, c in edit.changes.items()
             if len(c.at) < target.parameter(p).numel()]  # fmt: skip
    n = sum(t.n for t, _ in found)
    if not n:
        return {"exact_zeros": None, "auc_of_smallness": None}
    return {
        name: sum(getattr(t, name) * t.n for t, _ in found) / n for name in ("exact_zeros", "auc_of_smallness")
    }  # fmt: skip


def require_free(folder: Path) -> None:
    """Refuse to write a model where something lies.

    Raises:
        StoreError: If the folder exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder} is not empty; give another --out, or delete it to write the model again")


def _located(run: Run, name: str) -> Record:
    names = run.records("locate")
    if not names:
        raise InputError(f"nothing was located in {run.folder} yet; run amnestic locate {run.folder} first")
    if not name and len(names) > 1:
        told = ", ".join(f"{n} ({run.record(n).made_by.name})" for n in names)
        raise InputError(f"expected one record of units in {run.folder}, found {told}; choose with --located")
    if name and name not in names:
        raise InputError(f"expected a record of units in {run.folder}, got {name}; there are {', '.join(names)}")
    return run.record(name or names[0])


def write_model(target: PipelineTarget, out: Path, header: Mapping[str, Any] | None) -> None:
    """Write a model folder, which appears under its name only when it is whole.

    Args:
        target: The model.
        out: The folder; not there, or empty.
        header: What it says of itself, or `None`.
    """
    out = out.resolve()
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    target.save(partial)
    if header is not None:
        write_json(partial / HEADER, header)
    if out.exists():
        out.rmdir()  # empty, as was made sure of before
    partial.replace(out)
