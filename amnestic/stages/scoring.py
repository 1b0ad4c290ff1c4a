"""Turns similarities into rates with intervals, and rates into a report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from amnestic.audit.evidence import pixel_evidence, thumbnail
from amnestic.audit.matches import NO_PIXELS, match_rows
from amnestic.audit.request import AuditRequest
from amnestic.audit.summary import Judged, flags_of, not_measured, null_and_groups, summarize
from amnestic.core.names import name_for_others
from amnestic.core.records import MethodSpec, Prompt, TargetId, Unit, digest, plain
from amnestic.core.seeds import seed_for
from amnestic.core.store import Record, Run, write_atomically, write_json
from amnestic.report.html import render
from amnestic.report.page import Evidence, Page
from amnestic.report.redaction import blurred
from amnestic.report.subspace_figures import step_heatmap_figure
from amnestic.sources.masks import open_mask
from amnestic.sources.prompts import prompts_digest
from amnestic.stages.images import Images
from amnestic.stages.inputs import Inputs

Seen = Callable[[NDArray[np.uint8]], bytes]
"""What a report shows of a picture."""

MOST_CARDS, MOST_MISSES = 200, 3
"""How many prompts a report shows in pictures, and how many images of one that stayed below the threshold."""


@dataclass(frozen=True, kw_only=True)
class Before:
    """Images of the model before an edit, for the same prompts and seeds.

    Attributes:
        images: Opens them.
        paired: Their similarity with the prompt's own original, ``(P, S)``; NaN without one.
    """

    images: Images
    paired: Tensor


def score_stage(
    run: Run, request: AuditRequest, inputs: Inputs, target: TargetId, images: Images, sscd: Judged,
    clip: Judged | None, alignment: Tensor | None,
) -> dict[str, Any]:  # fmt: skip
    """Rates with intervals and controls; `matches.parquet` and the score record."""
    names = [r.id for r in inputs.references.usable()]
    rows = match_rows(sscd, clip, alignment, names, lambda prompt, seed: _pixels(images, inputs, prompt, seed))
    run.write_table("matches", rows)
    counts = inputs.references.counts()
    reasons = [{"id": r.id, "reason": r.reason} for r in inputs.references.references if r.status != "ok"]
    summary = summarize(
        sscd, clip, alignment,
        target=replace(target, name=name_for_others(target.name)), sampling=request.sampling,
        references={"counts": counts, "problems": reasons}, limit=request.max_leak_rate,
        rng=np.random.default_rng(seed_for(0, "bootstrap")),
    )  # fmt: skip
    made_by = MethodSpec(name="replication", parameters={"threshold": plain(sscd.threshold)})
    known = prompts_digest(inputs.prompts)  # with originals, labels, works, rungs and masks, unlike the run's identity
    parents = (run.manifest()["digest"], inputs.references.digest, digest(sscd.descriptor.id), known)
    run.save(Record(stage="score", made_by=made_by, parents=parents, data=summary,
                    tensors={"paired": sscd.similarities.paired, "nearest": sscd.similarities.nearest}))  # fmt: skip
    write_json(run.folder / "references.json", inputs.references.manifest())
    return summary


def _pixels(images: Images, inputs: Inputs, prompt: Prompt, seed: int) -> dict[str, float]:
    by_id = {r.id: r for r in inputs.references.usable()}
    reference = inputs.references.load(by_id[inputs.original_of(prompt)])
    mask = open_mask(inputs.references.folder, prompt.mask) if prompt.mask else None
    return pixel_evidence(images(Unit(prompt.id, seed)), reference, mask)


def report_stage(
    run: Run, request: AuditRequest, inputs: Inputs, images: Images, sscd: Judged, clip: Judged | None,
    summary: dict[str, Any], *, before: Before | None = None,
) -> Path:  # fmt: skip
    """`report.html`: one file that explains itself."""
    seen = thumbnail if request.show_originals else blurred
    evidence, unshown = evidence_of(run, inputs, images, sscd, before, seen)
    page = Page(
        title=f"Replication audit of {summary['model']['name']}",
        summary=summary,
        evidence=evidence,
        unshown=unshown,
        blurred=not request.show_originals,
        scores=null_and_groups(sscd),
        not_measured=tuple(not_measured(sscd, clip, summary["references"])),
        flags=tuple(flags_of(sscd, summary)),
        figures=_figures(summary),
        reproduce=(request.command(),),
        provenance=run.manifest()["provenance"],
    )
    path = run.folder / "report.html"
    write_atomically(path, render(page))
    return path


def evidence_of(
    run: Run, inputs: Inputs, images: Images, sscd: Judged, before: Before | None, seen: Seen
) -> tuple[tuple[Evidence, ...], tuple[int, int]]:
    """Originals beside what the model made of their captions, the highest scores first.

    Of an edited model the highest of before and after. A report must stay a file that opens, so at most `MOST_CARDS`
    are shown; beside them the number of prompts above and below the threshold that are left out.
    """
    matches = {(r["prompt_id"], r["seed"]): r for r in run.read_table("matches")}
    by_id = {r.id: r for r in inputs.references.usable()}
    value = sscd.threshold.value if sscd.threshold else float("inf")
    best = sscd.similarities.paired.amax(1).tolist()
    once = before.paired.amax(1).tolist() if before else best
    rows = [p for p, row in enumerate(sscd.embedded.original) if row >= 0]
    rows.sort(key=lambda p: -max(best[p], once[p]))
    found = []
    for p in rows[:MOST_CARDS]:
        prompt, scores, replicated = inputs.prompts[p], sscd.similarities.paired[p].tolist(), best[p] > value
        seeds = np.argsort([-score for score in scores], kind="stable").tolist()
        pixel = matches[prompt.id, sscd.embedded.seeds[seeds[0]]]
        shown = seeds if replicated else seeds[:MOST_MISSES]
        found.append(
            Evidence(
                work=sscd.embedded.work_of(p), label=prompt.label, rung=prompt.rung, prompt=prompt.prompt,
                reference=seen(inputs.references.load(by_id[inputs.original_of(prompt)])),
                generations=tuple(
                    (seed, scores[s], seen(images(Unit(prompt.id, seed))))
                    for s, seed in enumerate(sscd.embedded.seeds) if s in shown
                ),
                before=_drawn_before(before, p, prompt.id, sorted(shown), sscd, seen),
                best_score=best[p], replicated=replicated,
                pixel={name: pixel[name] for name in NO_PIXELS if pixel[name] is not None},
            )
        )  # fmt: skip
    hidden = [best[p] > value for p in rows[MOST_CARDS:]]
    return tuple(found), (sum(hidden), len(hidden) - sum(hidden))


def _drawn_before(
    before: Before | None, row: int, prompt_id: str, columns: list[int], sscd: Judged, seen: Seen
) -> tuple[tuple[int, float, bytes], ...]:
    if before is None:
        return ()
    seeds = sscd.embedded.seeds
    return tuple(
        (seeds[s], float(before.paired[row, s]), seen(before.images(Unit(prompt_id, seeds[s])))) for s in columns
    )  # fmt: skip


def _figures(summary: Mapping[str, Any]) -> dict[str, str]:
    """Where and when an edit's weights were chosen, if its localizer says so."""
    steps = ((summary.get("before_after") or {}).get("edit") or {}).get("steps")
    if not steps:
        return {}
    caption = "Share of the weights of each layer that each denoising step chose; the edit unites them."
    return {caption: step_heatmap_figure(steps["sites"], steps["stages"], steps["shares"])}
