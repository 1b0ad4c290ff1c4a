"""The replication audit: generate, embed, score, report."""

import time
from functools import partial
from typing import Any

from amnestic.audit.before_after import side_of
from amnestic.audit.request import AuditRequest
from amnestic.core.records import plain
from amnestic.core.store import Run, write_json
from amnestic.model.target import PipelineTarget
from amnestic.parallel import Team, team
from amnestic.stages.before_after import before_after, earlier_audit, require_comparable
from amnestic.stages.embedding import embed_stage
from amnestic.stages.generating import generate_stage, write_samples
from amnestic.stages.images import images_of
from amnestic.stages.inputs import Inputs, Progress, generation_settings, read_inputs, silent, usable_with
from amnestic.stages.judges import Judges, load_judges
from amnestic.stages.provenance import changed_since, provenance_of
from amnestic.stages.scoring import Before, report_stage, score_stage
from amnestic.stages.sealing import seal_again, seal_run


def audit(request: AuditRequest, *, progress: Progress = silent) -> dict[str, Any] | None:
    """Does the model replicate? Generate, embed, score, report.

    Args:
        request: What is asked.
        progress: Told how far each stage is.

    Returns:
        The summary; `None` in processes other than the main one.

    Raises:
        InputError: If an input cannot be used.
        StoreError: If `request.out` holds a run made with other settings.
    """
    started = time.monotonic()
    members = team(request.device)
    inputs = read_inputs(request)
    target = PipelineTarget.load(
        request.model,
        revision=request.revision,
        variant=request.variant,
        dtype=request.dtype,
        device=members.device,
        allow_pickle=request.allow_pickle,
        config=request.config,
        lora=request.lora,
    )
    begun = members.on_main(lambda: _begin(request, inputs, target, members))
    run = Run.open(request.out)
    generate_stage(run, request, inputs, target, members, progress)
    members.wait()
    generated_s = time.monotonic() - started
    if begun is None:
        return None
    judges, inputs = begun
    write_samples(run, request, inputs)
    images = images_of(run, target)
    sscd, clip, alignment = embed_stage(run, request, inputs, judges, images, progress)
    summary = score_stage(run, request, inputs, target.ident, images, sscd, clip, alignment)
    earlier = twin = None
    if request.before is not None:
        opened = partial(earlier_audit, request=request, inputs=inputs, judges=judges, target=target, progress=progress)
        earlier, twin = opened(request.before), opened(request.twin) if request.twin is not None else None
        summary["before_after"] = before_after(request, judges, sscd, clip, alignment, earlier, run, twin)
    summary["timings"] = {"generate_s": round(generated_s, 1), "total_s": round(time.monotonic() - started, 1)}
    write_json(run.folder / "summary.json", summary)
    before = None
    if earlier is not None:
        before = Before(images=earlier.images, paired=side_of(sscd.embedded, earlier.sscd, None).paired)
    report_stage(run, request, inputs, images, sscd, clip, summary, before=before)
    run.event("done", verdict=summary["verdict"])
    seal_run(run, "references.json", "summary.json", "report.html")
    for other in (earlier, twin):
        if other is not None:
            seal_again(other.run)
    return summary


def _begin(request: AuditRequest, inputs: Inputs, target: PipelineTarget, members: Team) -> tuple[Judges, Inputs]:
    """What only the main process needs, and the run folder once nothing stands in the way."""
    judges = load_judges(request, target, members.device)
    usable = usable_with(judges.sscd, inputs)
    settings = generation_settings(request, inputs, target.ident)
    require_comparable(request, plain(settings))
    run = Run.start(request.out, settings, provenance=partial(provenance_of, request, target, members))
    run.event("start", stage="generate", **changed_since(run, members))
    return judges, usable
