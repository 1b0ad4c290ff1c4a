"""Prune, attack, prune what the attack still used: does the image ever stop coming back, and at what cost?"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.audit.generate import generate, plan
from amnestic.audit.weight_agreement import located_by, united
from amnestic.core.edits import Edit
from amnestic.core.methods import Localizer
from amnestic.core.records import MethodSpec, Prompt, digest, plain
from amnestic.core.store import Record
from amnestic.core.units import Units, units_from
from amnestic.measures.aggregate import median_mad
from amnestic.measures.intervals import rate
from amnestic.measures.similarity import same_seed
from amnestic.mitigations.pruning.zero_units import ZeroUnits
from amnestic.model.target import PipelineTarget
from amnestic.stages.inputs import Progress
from amnestic.stages.locality_study import Ends, Study, ends_of
from amnestic.stages.locating import identity
from amnestic.stages.originals import goals_of

BATCH = 16
ENDS = {
    "rounds": "all rounds were made",
    "nothing back": "the attack brought no work back, so there was nothing more to locate",
    "nothing new": "no unit was found that had not been pruned",
}


def prune_rounds(study: Study, *, progress: Progress) -> dict[str, Any]:
    """The unpruned model, then one row per round of pruning.

    Round 1 prunes what the works' own prompts locate; every later one adds what the embeddings locate, in the pruned
    model, that the attack on it found and that bring their work back. All units found so far are zeroed in the
    unpruned model. Every model is attacked afresh: what one attack found is never judged on a later model.

    Args:
        study: Works, attack and localizer.
        progress: Told how far it is.

    Returns:
        ``rows`` with rates, share of weights and utility, ``method``, ``works``, ``ended`` (why there are no more).
    """
    method, works = study.localizers[study.request.prune_with], study.memorized[: study.request.round_works]
    rows, units, why = list[dict[str, Any]](), None, "rounds"
    plainly = _drawn(study, study.target)
    for number in range(study.request.rounds + 1):
        edit = None if units is None else ZeroUnits()(study.target, units)
        with nullcontext(study.target) if edit is None else study.target.edited(edit) as now:
            ends = _attacked(study, now, number, works, progress, "works")
            rows.append(_row(study, number, now, units, edit, ends, plainly, progress))
            if number == study.request.rounds:
                break
            found = _found(study, method, now, works, ends if number else None, progress)
        if found is None:
            why = "nothing back"
            break
        before = 0 if units is None else len(units)
        units = united([u for u in (units, found) if u is not None], model=study.target.ident.digest)
        if len(units) == before:
            why = "nothing new"
            break
    return {
        "rows": rows, "method": plain(method.spec()), "works": [p.work or p.id for p in works], "ended": ENDS[why],
        "n_base": len(_base(study)), "attack": plain(study.attack.spec()),
    }  # fmt: skip


def _attacked(
    study: Study, now: PipelineTarget, number: int, prompts: Sequence[Prompt], progress: Progress, what: str
) -> Ends | None:
    """What a fresh attack on this round's model finds; draws of other rounds are not repeated."""
    if not prompts:
        return None
    fresh = replace(study.attack, start="prompt", seed=study.attack.seed + number)
    record = study.bench.arm(
        now, fresh, goals_of(now, prompts, study.pictures), progress=progress, name=f"round {number}: attack {what}"
    )
    return None if record is None else ends_of(record)


def _row(
    study: Study, number: int, now: PipelineTarget, units: Units | None, edit: Edit | None, ends: Ends | None,
    plainly: Record, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    threshold, n = study.bench.threshold, sum(p.numel() for p in now.pipeline.unet.parameters())
    control = _attacked(study, now, number, study.heldout_in_rounds, progress, "held-out works")
    drawn = plainly if edit is None else _drawn(study, now)
    rates = {"plain": None, "attacked": None, "heldout_plain": None, "heldout_attacked": None}
    for prefix, one in (("", ends), ("heldout_", control)):
        if one is not None:
            hits = (one.before > threshold).any(dim=1), one.came(threshold)
            rates |= {
                f"{prefix}{name}": plain(rate(int(h.sum()), len(h)))
                for name, h in zip(("plain", "attacked"), hits, strict=True)
            }
    return {
        "round": number, "units": 0 if units is None else len(units), "share": 0.0 if edit is None else len(edit) / n,
        **rates, **_utility(plainly, drawn), "model": now.ident.digest,
    }  # fmt: skip


def _found(
    study: Study, method: Localizer, now: PipelineTarget, works: Sequence[Prompt], ends: Ends | None,
    progress: Progress,
) -> Units | None:  # fmt: skip
    """Units located by the prompts, or by the embeddings that bring works back; `None` when there are none."""
    if ends is None:
        conds = {}
        asked = digest([[p.id, p.prompt] for p in works])
    else:
        came = ends.came(study.bench.threshold)
        conds = {f"found-{p.id}": one for p, one, back in zip(works, ends.found, came, strict=True) if back}
        if not conds:
            return None
        asked = digest(sorted(conds), [float(one.double().sum()) for one in conds.values()])
    parents = (now.ident.digest, asked, digest([[p.id, p.prompt] for p in study.controls]))
    record = study.bench.run.load("locality-units", identity(method), parents)
    if record is None:
        progress(f"{method.spec().name} for the next round", 0, 1)
        case = study.case
        if ends is None:
            located = method(now, replace(case, memorized=tuple(works)))
        else:
            located = located_by(method, now, conds, case)
        data = {"sites": [plain(site) for site in located.units.sites], "passes": located.passes}
        record = Record(
            stage="locality-units", made_by=identity(method), parents=parents, data=data,
            tensors=located.units.packed(),
        )  # fmt: skip
        study.bench.run.save(record)
    return units_from(record.data["sites"], record.tensors, model=now.ident.digest)


def _base(study: Study) -> tuple[Prompt, ...]:
    return study.natural[: study.request.n_base]


def _drawn(study: Study, target: PipelineTarget) -> Record:
    """Descriptors of a model's images of ordinary prompts, and their agreement with the prompts if asked for."""
    prompts, seeds, run = _base(study), range(study.request.n_seeds), study.bench.run
    clip = study.clip
    made_by = MethodSpec(name="utility", parameters={"clip": clip.descriptor.id if clip else ""})
    asked = digest([[p.id, p.prompt] for p in prompts], list(seeds), plain(study.bench.sampling))
    parents = (target.ident.digest, study.bench.encoder.descriptor.id, asked)
    record = run.load("locality-utility", made_by, parents)
    if record is not None:
        return record
    vectors, aligned = list[Tensor](), list[Tensor]()
    texts = clip.read([p.prompt for p in prompts]) if clip and prompts else None
    place = {p.id: i for i, p in enumerate(prompts)}
    batches = plan(prompts, seeds, batch_size=BATCH)
    for drawn in generate(target, {p.id: p for p in prompts}, batches, study.bench.sampling):
        images = [d.image for d in drawn]
        vectors.append(study.bench.encoder(images))
        if clip is not None and texts is not None:
            aligned.append((clip(images) * texts[[place[d.unit.prompt_id] for d in drawn]]).sum(dim=1))
    tensors = {"vectors": _by_prompt(vectors, len(prompts))}
    if aligned:
        tensors["alignment"] = _by_prompt(aligned, len(prompts))
    record = Record(stage="locality-utility", made_by=made_by, parents=parents, data={}, tensors=tensors)
    run.save(record)
    return record


def _by_prompt(parts: Sequence[Tensor], n: int) -> Float[Tensor, "P S ..."]:
    rows = torch.cat(list(parts)) if parts else torch.empty(0, 1)
    return rows.reshape(n, len(rows) // n, *rows.shape[1:]) if n else rows.reshape(0, 0, 1)


def _utility(before: Record, now: Record) -> dict[str, Any]:
    """Likeness of ordinary prompts' images to those of the unpruned model, and agreement with the prompts."""
    found: dict[str, Any] = {"likeness": None, "alignment": None}
    if len(now.tensors["vectors"]):
        found["likeness"] = _told(same_seed(before.tensors["vectors"], now.tensors["vectors"]))
    if "alignment" in now.tensors:
        found["alignment"] = _told(now.tensors["alignment"].median(dim=1).values)
    return found


def _told(values: Float[Tensor, "P"]) -> dict[str, Any]:
    middle, deviation = median_mad(values)
    return {"median": middle, "mad": deviation, "n": len(values)}
