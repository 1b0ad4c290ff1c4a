"""Where do the works that replicate live? From an audit to a record of units."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from amnestic.audit.mask_growth import NORMS, step_shares
from amnestic.audit.selection import Selected, Selection, select
from amnestic.core.errors import InputError
from amnestic.core.methods import Case, Localizer, Located
from amnestic.core.records import MethodSpec, Sampling, Unit, digest, plain
from amnestic.core.registry import build
from amnestic.core.store import Record, Run
from amnestic.core.units import Units, units_from
from amnestic.measures.pixels import match_size
from amnestic.model.target import PipelineTarget
from amnestic.parallel import team
from amnestic.sources.references import read_references
from amnestic.stages.images import images_of
from amnestic.stages.inputs import Progress, silent
from amnestic.stages.models import model_of
from amnestic.stages.scores import scored, threshold_of
from amnestic.stages.sealing import seal_run


@dataclass(frozen=True, kw_only=True)
class LocateRequest:
    """Everything a person asks of `locate`.

    Attributes:
        run: Folder of a finished audit.
        method: Name of a localizer.
        options: Its settings that differ from the default.
        selection: Which of the works that replicate, and which controls.
        like: Record whose number of units per layer ``random-units`` imitates, or empty.
        n_seeds: Starting noises per prompt.
        references: Folder of originals, for methods that need them.
        model: Where the model lies now, if not where the audit found it.
        device, allow_pickle: How the model is loaded.
    """

    run: Path
    method: str = "wanda-subspace"
    options: Mapping[str, Any] = field(default_factory=dict)
    selection: Selection = field(default_factory=Selection)
    like: str = ""
    n_seeds: int = 1
    references: Path | None = None
    model: str | None = None
    device: str = "auto"
    allow_pickle: bool = False


def locate(request: LocateRequest, *, progress: Progress = silent) -> Record | None:
    """Locate the works that replicate, or read the record of it.

    Args:
        request: What is asked.
        progress: Told how far it is.

    Returns:
        The record of the units; ``data["outcome"]`` may be ``found nothing``. `None` in processes other than the main
        one.

    Raises:
        InputError: If an option cannot be used, or the model is not the audited one.
        StoreError: If the audit has not finished.
    """
    return team(request.device).on_main(lambda: _locate(request, progress))


def _locate(request: LocateRequest, progress: Progress) -> Record:
    run = Run.open(request.run)
    chosen = selected(run, request.selection)
    method = localizer_of(run, request)
    made_by = identity(method)
    parents = parents_of(run, request, chosen)
    record = run.load("locate", made_by, parents)
    if record is not None:
        seal_run(run)
        return record
    progress(f"locate with {request.method}", 0, 1)
    started = time.monotonic()
    if chosen.memorized:
        target = model_of(run, model=request.model, device=request.device, allow_pickle=request.allow_pickle)
        located = method(target, case_of(run, request, target, chosen, method))
        data, tensors = _content(located)
        data["steps"] = _steps(located, target)
    else:  # nothing to locate is an outcome; without the model there are no sites to list
        data, tensors = {"outcome": "found nothing", "sites": [], "passes": 0, "notes": {}, "share": 0.0}, {}
    told = {
        "memorized": [p.id for p in chosen.memorized], "works": [p.work for p in chosen.memorized],
        "other_works": [p.work for p in chosen.others], "controls": [p.id for p in chosen.controls],
        "control_kinds": chosen.control_kinds(), "controls_note": chosen.note,
        "selection": plain(request.selection), "n_seeds": request.n_seeds,
        "model": run.manifest()["settings"]["model"]["digest"], "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    record = Record(stage="locate", made_by=made_by, parents=parents, data=data | told, tensors=tensors)
    run.save(record)
    run.event("located", record=record.id, outcome=data["outcome"])
    seal_run(run)
    progress(f"locate with {request.method}", 1, 1)
    return record


def identity(method: Localizer) -> MethodSpec:
    """Name and settings of a localizer without those that do not change what it finds."""
    settings = {k: v for k, v in plain(method.spec().parameters).items() if k != "batch_size"}
    return MethodSpec(name=method.spec().name, parameters=settings)


def parents_of(run: Run, request: LocateRequest, chosen: Selected) -> tuple[str, ...]:
    """What a localisation is computed from: the scores it chose works by, what it chose, and originals it looks at."""
    prompts = [[p.id for p in some] for some in (chosen.memorized, chosen.others, chosen.controls)]
    references = ""
    if request.references is not None:
        references = read_references(request.references, extra=_named(chosen)).digest
    asked = digest(prompts, plain(request.selection), request.n_seeds)
    return (run.manifest()["digest"], scored(run).id, asked, references)


def selected(run: Run, how: Selection) -> Selected:
    """The prompts of a finished audit that a localizer is given."""
    return select(run.read_table("samples"), run.read_table("matches"), threshold_of(run), how)


def units_of(record: Record) -> Units:
    """The units of a locate record."""
    masks = {k.removeprefix("mask."): v for k, v in record.tensors.items() if k.startswith("mask.")}
    return units_from(record.data["sites"], masks, model=record.data["model"])


def located_of(record: Record) -> Located:
    """What the localizer returned, from its record."""
    tensors = {k.removeprefix("found."): v for k, v in record.tensors.items() if k.startswith("found.")}
    return Located(
        units=units_of(record), made_by=record.made_by, passes=record.data["passes"], notes=record.data["notes"],
        tensors=tensors,
    )  # fmt: skip


def case_of(run: Run, request: LocateRequest, target: PipelineTarget, chosen: Selected, method: Localizer) -> Case:
    """What the localizer is given: the sampling of the audit, and originals if it needs them."""
    originals = _originals(run, request, target, chosen) if method.needs_originals else {}
    return Case(
        memorized=chosen.memorized, controls=chosen.controls, seeds=tuple(range(request.n_seeds)),
        sampling=Sampling(**run.manifest()["settings"]["sampling"]), originals=originals,
    )  # fmt: skip


def localizer_of(run: Run, request: LocateRequest) -> Localizer:
    """The localizer that is asked for."""
    options = dict(request.options)
    if request.like:
        options |= _like(run, request)
    method = build("localizer", request.method, options)
    if not isinstance(method, Localizer):
        raise InputError(f"expected a localizer, got {request.method}")
    if method.needs_originals and request.references is None:
        raise InputError(f"{request.method} looks at the originals; give their folder with --references")
    return method


def _like(run: Run, request: LocateRequest) -> dict[str, Any]:
    """Settings with which random-units chooses as many units of every layer as a record did."""
    if request.method != "random-units":
        raise InputError(f"--like is for random-units, got it with {request.method}; leave it out")
    found = units_of(run.record(request.like))
    if not len(found):
        raise InputError(f"{request.like} found nothing, so there is no size to imitate; give another record")
    return {"where": found.sites[0].kind, "counts": found.counts()}


def _content(located: Located) -> tuple[dict[str, Any], dict[str, Tensor]]:
    units, counts = located.units, located.units.counts()
    data = {
        "outcome": located.outcome, "units": len(units), "share": units.share, "passes": located.passes,
        "notes": plain(located.notes), "sites": [plain(site) for site in units.sites], "counts": counts,
    }  # fmt: skip
    tensors = {f"mask.{name}": mask for name, mask in units.packed().items()}
    return data, tensors | {f"found.{name}": tensor for name, tensor in located.tensors.items()}


def _steps(located: Located, target: PipelineTarget) -> dict[str, Any] | None:
    """Share of weights that each denoising step chooses in each layer, from a method that keeps norms per step."""
    if located.made_by.name != NORMS:
        return None
    found = step_shares(located, target)
    return {"sites": list(found.sites), "stages": list(found.stages), "shares": found.shares.tolist()}


def _originals(run: Run, request: LocateRequest, target: PipelineTarget, chosen: Selected) -> dict[str, Tensor]:
    """Latents of originals; of a control without one, those of its own first image in the run."""
    if request.references is None:  # localizer_of has seen to it
        return {}
    references = read_references(request.references, extra=_named(chosen))
    known, drawn = {r.id: r for r in references.usable()}, images_of(run, target)
    pictures = {
        p.id: references.load(known[p.image]) for p in (*chosen.memorized, *chosen.controls) if p.image in known
    }
    pictures |= {p.id: drawn(Unit(p.id, 0)) for p in chosen.controls if p.id not in pictures}
    side = (target.image_size, target.image_size)
    fitting = {name: match_size(picture, side) for name, picture in pictures.items()}
    return {name: target.latents_of([picture])[0] for name, picture in fitting.items()}


def _named(chosen: Selected) -> list[str]:
    """Originals that the prompt list names."""
    return [p.image for p in (*chosen.memorized, *chosen.controls) if p.image]
