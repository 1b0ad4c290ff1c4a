"""Measures what a testbed promises."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from amnestic.audit.request import AuditRequest
from amnestic.core.store import Run
from amnestic.model.clip import load_clip
from amnestic.stages.audit import audit
from amnestic.stages.embedding import embeddings
from amnestic.stages.inputs import Progress, read_inputs, silent
from amnestic.testbed.bundled import open_testbed
from amnestic.testbed.contract import caption_auc, contract


def verify_testbed(folder: Path, out: Path, *, progress: Progress = silent) -> dict[str, Any]:
    """Measure what a testbed promises: audit its model and its twin at the manifest's settings.

    Args:
        folder: The testbed.
        out: Folder of the two runs; issue the command again to continue.
        progress: Told how far each stage is.

    Returns:
        Descriptor, protocol id and the contract table.
    """
    testbed = open_testbed(folder)
    request = AuditRequest(
        model=str(folder / "pipeline"), prompts=testbed.prompts, references=folder, out=out / "pipeline",
        sampling=testbed.sampling, clip=f"local-dir:{folder / 'descriptors' / 'clip-mini'}",
        bundled=folder / "descriptors" / "sscd-mini",
    )  # fmt: skip
    summary = audit(request, progress=progress)
    if summary is None:
        return {}
    twin = None
    if (folder / "twin" / "model_index.json").exists():
        audit(replace(request, model=str(folder / "twin"), out=out / "twin"), progress=progress)
        twin = Run.open(out / "twin").read_table("matches")
    matches = Run.open(request.out).read_table("matches")
    table = contract(summary, matches, twin, auc_of_captions=_caption_auc(request))
    return {"descriptor": summary["descriptor"]["id"], "protocol": summary["protocol"]["id"], "contract": table}


def _caption_auc(request: AuditRequest) -> float:
    """AUC of base images with their own captions against the captions of the next prompts."""
    inputs, run = read_inputs(request), Run.open(request.out)
    judge = load_clip(str(request.clip))
    generated, _ = embeddings(run, request, inputs, judge, silent)
    rows = [i for i, p in enumerate(inputs.prompts) if p.label == "base"]
    return caption_auc(generated[rows], judge.read([inputs.prompts[i].prompt for i in rows]))
