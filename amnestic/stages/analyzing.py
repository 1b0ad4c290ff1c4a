"""Is the subspace shared? Masks of disjoint sets of works compared, and tried on each other's works."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from amnestic.audit.generate import generate, plan
from amnestic.audit.mask_growth import NORMS, mask_growth, masks_by_rung, step_shares
from amnestic.audit.prompt_sets import disjoint_sets
from amnestic.audit.selection import Selected, works_by_rung
from amnestic.audit.sharing import SharedSubspace, shared_subspace, sharing_table
from amnestic.core.methods import Case, Localizer, Located
from amnestic.core.protocols import Encoder
from amnestic.core.records import Prompt, Sampling, digest, plain
from amnestic.core.store import Record, Run, write_atomically
from amnestic.core.target import Target
from amnestic.measures.intervals import rate
from amnestic.mitigations.pruning.zero_units import ZeroUnits
from amnestic.parallel import team
from amnestic.report.subspace_page import render_subspace
from amnestic.stages.inputs import Progress, silent
from amnestic.stages.judges import judge_of
from amnestic.stages.locating import LocateRequest, case_of, identity, localizer_of, parents_of, selected
from amnestic.stages.models import model_of
from amnestic.stages.scores import described, threshold_of
from amnestic.stages.sealing import seal_run

SIZES = (1, 2, 5, 10, 20, 30, 40, 50, 60)
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class AnalyzeRequest:
    """What is asked beside a localisation.

    Attributes:
        locate: The localisation: run, method, settings, selection of works.
        n_sets: Disjoint sets of works.
        size: Works in each.
        transfer_seeds: Images per work and mask for the transfer matrix; 0 leaves it out.
        seed: Decides the sets and the permutations.
    """

    locate: LocateRequest
    n_sets: int = 6
    size: int = 10
    transfer_seeds: int = 2
    seed: int = 0


def analyze(request: AnalyzeRequest, *, progress: Progress = silent) -> Record | None:
    """Test the claim that memorized works share a subspace; writes a record and ``subspace.html`` into the run.

    Args:
        request: What is asked.
        progress: Told how far it is.

    Returns:
        The record: overlap per layer with permutation tests, transfer matrix, heat map over layers and steps, growth
        of the mask with prompts and rungs. `None` in processes other than the main one.

    Raises:
        InputError: If there are too few works or controls for the sets, or an option cannot be used.
        StoreError: If the audit has not finished.
    """
    return team(request.locate.device).on_main(lambda: _analyze(request, progress))


def _analyze(request: AnalyzeRequest, progress: Progress) -> Record:
    run, how = Run.open(request.locate.run), request.locate
    chosen, method = selected(run, how.selection), localizer_of(run, how)
    asked = [request.n_sets, request.size, request.transfer_seeds, request.seed]
    parents, made_by = (*parents_of(run, how, chosen), digest(asked)), identity(method)
    record = run.load("sharing", made_by, parents)
    if record is None:
        started = time.monotonic()
        data, tensors = _analyzed(run, request, chosen, method, progress)
        data["seconds"] = round(time.monotonic() - started, 1)
        record = Record(stage="sharing", made_by=made_by, parents=parents, data=data, tensors=tensors)
        run.save(record)
    write_atomically(run.folder / "subspace.html", render_subspace(record.data, record.tensors, plain(record.made_by)))
    seal_run(run, "subspace.html")
    return record


def _analyzed(
    run: Run, request: AnalyzeRequest, chosen: Selected, method: Localizer, progress: Progress
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    how = request.locate
    sets = disjoint_sets(chosen.memorized, n_sets=request.n_sets, size=request.size, seed=request.seed)
    others = disjoint_sets(chosen.controls, n_sets=request.n_sets, size=request.size, seed=request.seed)
    target = model_of(run, model=how.model, device=how.device, allow_pickle=how.allow_pickle)
    case = case_of(run, how, target, chosen, method)
    located = _on_each(method, target, case, sets, progress, "locate on memorized sets")
    controls = _on_each(method, target, case, others, progress, "locate on control sets")
    shared = shared_subspace(
        [one.units for one in located], [one.units for one in controls], seed=request.seed, n_prompts=request.size
    )
    data, tensors = _content(shared), {}
    data["sets"] = [[p.work for p in one] for one in sets]
    data["selection"], data["control_kinds"] = plain(how.selection), chosen.control_kinds()
    data["notes"] += [chosen.note] if chosen.note else []
    data["transfer"] = _transfer(run, request, target, located, sets, progress)
    data["growth"] = _growth(method, target, case, request.seed)
    data["rungs"] = _by_rung(run, method, target, case)
    if method.spec().name == NORMS:
        steps = step_shares(located[0], target)
        data["steps"] = {"sites": list(steps.sites), "stages": list(steps.stages)}
        tensors = {"step_shares": steps.shares, "step_united": steps.united}
    return data, tensors


def _content(shared: SharedSubspace) -> dict[str, Any]:
    return {
        "layers": plain(sharing_table(shared)), "matrix": plain(shared.matrix), "convention": shared.convention,
        "notes": list(shared.notes), "whole_test": plain(shared.whole.test),
        "share_memorized": list(shared.share_memorized), "share_controls": list(shared.share_controls),
    }  # fmt: skip


def _on_each(
    method: Localizer, target: Target, case: Case, sets: Sequence[Sequence[Prompt]], progress: Progress, what: str
) -> list[Located]:
    found = []
    for done, one in enumerate(sets):
        progress(what, done, len(sets))
        left = tuple(p for p in case.controls if p.id not in {q.id for q in one})
        found.append(method(target, replace(case, memorized=tuple(one), controls=left)))
    progress(what, len(sets), len(sets))
    return found


def _growth(method: Localizer, target: Target, case: Case, seed: int) -> list[dict[str, Any]]:
    """With more and more works, in an order of chance."""
    n = len(case.memorized)
    mixed = disjoint_sets(case.memorized, n_sets=1, size=n, seed=seed)[0]
    return [dict(row) for row in mask_growth(method, target, replace(case, memorized=mixed),
                                             [s for s in SIZES if s < n] + [n])]  # fmt: skip


def _by_rung(run: Run, method: Localizer, target: Target, case: Case) -> list[dict[str, Any]]:
    """All works of each rung, whether they replicate or not; a run without a ladder has none."""
    rungs = works_by_rung(run.read_table("samples"), run.read_table("matches"))
    return [dict(row) for row in masks_by_rung(method, target, rungs, case)] if len(rungs) > 1 else []


def _transfer(
    run: Run, request: AnalyzeRequest, target: Target, located: Sequence[Located], sets: Sequence[Sequence[Prompt]],
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Memorization rate on the works of set j when the mask of set i is zeroed; the first row is without a mask."""
    if not request.transfer_seeds:
        return {"rates": None, "why": "not asked for"}
    prompts = [p for one in sets for p in one]
    encoder, originals = _judge(run, target, prompts)
    how, threshold = Sampling(**run.manifest()["settings"]["sampling"]), threshold_of(run)
    total = (len(located) + 1) * len(prompts) * request.transfer_seeds
    rows, done = [], 0

    def told(drawn: int) -> None:
        nonlocal done
        done += drawn
        progress("try masks on each other's works", done, total)

    for one in (None, *located):
        with nullcontext(target) if one is None else target.edited(ZeroUnits()(target, one.units)) as model:
            best = _best(model, prompts, request.transfer_seeds, how, encoder, originals, told)
        hits = [[best[p.id] > threshold for p in works] for works in sets]
        rows.append([plain(rate(sum(h), len(h))) for h in hits])
    return {"rates": rows, "seeds": request.transfer_seeds, "threshold": threshold}


def _judge(run: Run, target: Target, prompts: Sequence[Prompt]) -> tuple[Encoder, Mapping[str, Tensor]]:
    """The descriptor that judged the run, and its vectors of the originals."""
    encoder = judge_of(run, target, otherwise="leave out the transfer with --transfer-seeds 0")
    _, vectors, place = described(run)
    return encoder, {p.id: vectors[place[p.image]] for p in prompts}


def _best(
    target: Target, prompts: Sequence[Prompt], n_seeds: int, how: Sampling, encoder: Encoder,
    originals: Mapping[str, Tensor], told: Callable[[int], None],
) -> dict[str, float]:  # fmt: skip
    """Highest similarity of each prompt's images with its original."""
    best = dict.fromkeys((p.id for p in prompts), -1.0)
    batches = plan(prompts, range(n_seeds), batch_size=BATCH)
    for drawn in generate(target, {p.id: p for p in prompts}, batches, how):
        for one, vector in zip(drawn, encoder([d.image for d in drawn]), strict=True):
            name = one.unit.prompt_id
            best[name] = max(best[name], float(vector @ originals[name]))
        told(len(drawn))
    return best
