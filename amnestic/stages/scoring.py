"""Turns similarities into rates with intervals, and rates into a report."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from amnestic.audit.evidence import pixel_evidence, thumbnail
from amnestic.audit.matches import match_rows
from amnestic.audit.request import AuditRequest
from amnestic.audit.summary import Judged, flags_of, not_measured, null_and_groups, summarize
from amnestic.core.records import MethodSpec, Prompt, TargetId, Unit, digest, plain
from amnestic.core.seeds import seed_for
from amnestic.core.store import Record, Run, write_atomically, write_json
from amnestic.report.html import render
from amnestic.report.page import Evidence, Page
from amnestic.sources.images import open_image
from amnestic.stages.inputs import Inputs


def score_stage(
    run: Run, request: AuditRequest, inputs: Inputs, target: TargetId, sscd: Judged, clip: Judged | None,
    alignment: Tensor | None,
) -> dict[str, Any]:  # fmt: skip
    """Rates with intervals and controls; `matches.parquet` and the score record."""
    names = [r.id for r in inputs.references.usable()]
    rows = match_rows(sscd, clip, alignment, names, lambda prompt, seed: _pixels(run, inputs, prompt, seed))
    run.write_table("matches", rows)
    counts = inputs.references.counts()
    reasons = [{"id": r.id, "reason": r.reason} for r in inputs.references.references if r.status != "ok"]
    summary = summarize(
        sscd, clip, alignment,
        target=target, sampling=request.sampling, references={"counts": counts, "problems": reasons},
        limit=request.max_leak_rate, rng=np.random.default_rng(seed_for(0, "bootstrap")),
    )  # fmt: skip
    made_by = MethodSpec(name="replication", parameters={"threshold": plain(sscd.threshold)})
    parents = (run.manifest()["digest"], inputs.references.digest, digest(sscd.descriptor.id))
    run.save(Record(stage="score", made_by=made_by, parents=parents, data=summary,
                    tensors={"paired": sscd.similarities.paired, "nearest": sscd.similarities.nearest}))  # fmt: skip
    write_json(run.folder / "references.json", inputs.references.manifest())
    return summary


def _pixels(run: Run, inputs: Inputs, prompt: Prompt, seed: int) -> dict[str, float]:
    by_id = {r.id: r for r in inputs.references.usable()}
    reference = inputs.references.load(by_id[inputs.original_of(prompt)])
    mask = open_image(inputs.references.folder / prompt.mask) if prompt.mask else None
    return pixel_evidence(open_image(run.image_file(Unit(prompt.id, seed))), reference, mask)


def report_stage(
    run: Run, request: AuditRequest, inputs: Inputs, sscd: Judged, clip: Judged | None, summary: dict[str, Any]
) -> Path:
    """`report.html`: one file that explains itself."""
    page = Page(
        title=f"Replication audit of {Path(request.model).name}",
        summary=summary,
        evidence=tuple(evidence_of(run, inputs, sscd)),
        scores=null_and_groups(sscd),
        not_measured=tuple(not_measured(sscd, clip, summary["references"])),
        flags=tuple(flags_of(sscd, summary)),
        reproduce=(request.command(),),
        provenance=run.manifest()["provenance"],
    )
    path = run.folder / "report.html"
    write_atomically(path, render(page))
    return path


def evidence_of(run: Run, inputs: Inputs, sscd: Judged) -> list[Evidence]:
    """Every audited work beside what the model made of its caption."""
    matches = {(r["prompt_id"], r["seed"]): r for r in run.read_table("matches")}
    by_id, found = {r.id: r for r in inputs.references.usable()}, []
    value = sscd.threshold.value if sscd.threshold else float("inf")
    for p, prompt in enumerate(inputs.prompts):
        if sscd.embedded.original[p] < 0:
            continue
        scores = sscd.similarities.paired[p].tolist()
        best = int(np.argmax(scores))
        pixel = matches[prompt.id, sscd.embedded.seeds[best]]
        names = ("ssim", "tiled_l2", "error_outside_mask", "error_inside_mask")
        found.append(
            Evidence(
                work=sscd.embedded.work_of(p), label=prompt.label, rung=prompt.rung, prompt=prompt.prompt,
                reference=thumbnail(inputs.references.load(by_id[inputs.original_of(prompt)])),
                generations=tuple(
                    (seed, score, thumbnail(open_image(run.image_file(Unit(prompt.id, seed)))))
                    for seed, score in zip(sscd.embedded.seeds, scores, strict=True)
                ),
                best_score=scores[best], replicated=scores[best] > value,
                pixel={name: pixel[name] for name in names if pixel[name] is not None},
            )
        )  # fmt: skip
    return found
