"""Measures what a testbed promises."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amnestic.audit.evidence import png
from amnestic.audit.request import AuditRequest
from amnestic.core.records import Unit
from amnestic.core.store import Run, write_atomically
from amnestic.model.clip import load_clip
from amnestic.model.target import PipelineTarget
from amnestic.sources.images import open_image
from amnestic.stages.auditing import audit
from amnestic.stages.embedding import embed_stage, embeddings
from amnestic.stages.images import images_of
from amnestic.stages.inputs import Inputs, Progress, generation_settings, read_inputs, silent, usable_with
from amnestic.stages.judges import load_judges
from amnestic.stages.scoring import score_stage
from amnestic.stages.sealing import seal_run
from amnestic.testbed.agreement import agreement
from amnestic.testbed.bundled import open_testbed
from amnestic.testbed.contract import caption_auc, contract, contract_of_descriptor, contract_of_plain_call
from amnestic.testbed.plain_call import PlainCall

TRAINED = ("VM", "TM")

Scored = tuple[dict[str, Any], list[dict[str, Any]]]
"""Summary and rows of matches."""


def verify_testbed(folder: Path, out: Path, *, progress: Progress = silent) -> dict[str, Any]:
    """Measure what a testbed promises, at the manifest's settings: its model, its twin and its descriptor.

    The model is drawn from twice: as an audit does, and by diffusers' own call.

    Args:
        folder: The testbed.
        out: Folder of the runs; issue the command again to continue.
        progress: Told how far each stage is.

    Returns:
        Descriptor, protocol id and the contract table.
    """
    testbed = open_testbed(folder)
    request = AuditRequest(
        model=str(folder / "pipeline"), prompts=testbed.prompts, references=folder, out=out / "pipeline",
        sampling=testbed.sampling, clip=f"local-dir:{folder / 'descriptors' / 'clip-mini'}",
        bundled=folder / "descriptors" / "sscd-mini",
        shortcut=("amnestic", "testbed", "verify", str(folder), "--out", str(out)),
    )  # fmt: skip
    bundled, ours = _audited(replace(request, descriptor="sscd-mini", clip=None), progress)
    summary, matches = _audited(request, progress)  # last, so that the run's report is the judge's
    twin = None
    if (folder / "twin" / "model_index.json").exists():
        _, twin = _audited(replace(request, model=str(folder / "twin"), out=out / "twin"), progress)
    if not summary:  # the main process measures the rest
        return {}
    table = contract(summary, matches, twin, auc_of_captions=_caption_auc(request))
    table += contract_of_plain_call(*_drawn_plainly(replace(request, clip=None, out=out / "plain-call"), progress))
    for works, labels in (("trained works", TRAINED), ("trained and held-out works", (*TRAINED, "heldout"))):
        found = _agreement(bundled, _of(labels, ours), summary, _of(labels, matches))
        table += contract_of_descriptor(found, of=works)
    return {"descriptor": summary["descriptor"]["id"], "protocol": summary["protocol"]["id"], "contract": table}


def _audited(request: AuditRequest, progress: Progress) -> Scored:
    """Summary and matches; both empty in processes other than the main one."""
    summary = audit(request, progress=progress)
    return (summary, Run.open(request.out).read_table("matches")) if summary else ({}, [])


def _agreement(
    bundled: dict[str, Any], ours: list[dict[str, Any]], judge: dict[str, Any], theirs: list[dict[str, Any]]
) -> dict[str, float]:
    """The bundled descriptor's scores of the audited images beside the judge's."""
    return agreement(
        _paired(ours), _paired(theirs), list({row["prompt_id"]: row["work"] for row in ours}.values()),
        bundled_threshold=bundled["threshold"]["value"], judge_threshold=judge["threshold"]["value"],
    )  # fmt: skip


def _of(labels: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of prompts that carry one of the labels and have an original."""
    return [row for row in rows if row["label"] in labels and row["sscd_paired"] is not None]


def _paired(rows: Sequence[dict[str, Any]]) -> Tensor:
    """Paired similarities, a row per prompt and a column per seed."""
    n_prompts = len({row["prompt_id"] for row in rows})
    return torch.tensor([row["sscd_paired"] for row in rows]).reshape(n_prompts, -1)


def _drawn_plainly(request: AuditRequest, progress: Progress) -> Scored:
    """Scores of images that diffusers' own call draws at the same settings."""
    inputs, target = read_inputs(request), PipelineTarget.load(request.model)
    judges = load_judges(request, target, torch.device("cpu"))
    inputs = usable_with(judges.sscd, inputs)
    how = generation_settings(request, inputs, target.ident) | {"drawn by": "StableDiffusionPipeline.__call__"}
    run = Run.start(request.out, how)
    _draw_plainly(run, request, inputs, progress)
    images = images_of(run, target)
    sscd, _, _ = embed_stage(run, request, inputs, judges, images, progress)
    summary = score_stage(run, request, inputs, target.ident, images, sscd, None, None)
    seal_run(run, "references.json")
    return summary, run.read_table("matches")


def _draw_plainly(run: Run, request: AuditRequest, inputs: Inputs, progress: Progress) -> None:
    text = {prompt.id: prompt.prompt for prompt in inputs.prompts}
    units = [Unit(prompt.id, seed) for prompt in inputs.prompts for seed in range(request.n_seeds)]
    missing, draw = run.missing(units), PlainCall(Path(request.model), request.sampling)
    for start in range(0, len(missing), request.batch_size):
        batch = missing[start : start + request.batch_size]
        progress("draw with diffusers' own call", len(units) - len(missing) + start, len(units))
        for unit, image in zip(batch, draw([text[u.prompt_id] for u in batch], [u.seed for u in batch]), strict=True):
            write_atomically(run.image_file(unit), png(image))


def _caption_auc(request: AuditRequest) -> float:
    """AUC of base images with their own captions against the captions of the next prompts."""
    inputs, run = read_inputs(request), Run.open(request.out)
    judge = load_clip(str(request.clip))
    generated, _ = embeddings(run, request, inputs, judge, lambda unit: open_image(run.image_file(unit)), silent)
    rows = [i for i, p in enumerate(inputs.prompts) if p.label == "base"]
    return caption_auc(generated[rows], judge.read([inputs.prompts[i].prompt for i in rows]))
