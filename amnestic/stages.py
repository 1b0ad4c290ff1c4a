"""What a command does, stage by stage: read what is there, call one method, write one record.

Stages are the only code that joins rooms and, with `core.store`, the only one that touches the
disk. No stage calls another; `audit` lists them in order.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from amnestic.audit.evidence import pixel_evidence, png, thumbnail
from amnestic.audit.generate import Drawn, generate, plan
from amnestic.audit.matches import match_rows
from amnestic.audit.replication import Embedded, calibrated, compare
from amnestic.audit.request import AuditRequest
from amnestic.audit.summary import Judged, flags_of, not_measured, null_and_groups, summarize
from amnestic.core.errors import InputError
from amnestic.core.protocols import Encoder
from amnestic.core.records import Descriptor, MethodSpec, Prompt, TargetId, Threshold, Unit, digest, plain
from amnestic.core.seeds import seed_for
from amnestic.core.store import Record, Run, write_atomically, write_json
from amnestic.model.clip import ClipEncoder, load_clip
from amnestic.model.descriptors import choose_descriptor, published_threshold
from amnestic.model.target import PipelineTarget
from amnestic.parallel import Team, team
from amnestic.report.html import render
from amnestic.report.page import Evidence, Page
from amnestic.sources.images import open_image
from amnestic.sources.prompts import prompts_digest, read_prompts
from amnestic.sources.references import ReferenceSet, cluster_works, read_references, reference_id
from amnestic.testbed.bundled import open_testbed
from amnestic.testbed.contract import caption_auc, contract

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress for nobody."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What an audit reads before it computes anything."""

    prompts: tuple[Prompt, ...]
    references: ReferenceSet

    def original_of(self, prompt: Prompt) -> str:
        """Reference id of a prompt's original, or an empty string."""
        return reference_id(prompt.image) if prompt.image else ""


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
    )
    if members.is_main:
        run = Run.start(request.out, generation_settings(request, inputs, target.ident))
        run.event("start", stage="generate")
    members.wait()
    run = Run.open(request.out)
    generate_stage(run, request, inputs, target, members, progress)
    members.wait()
    generated_s = time.monotonic() - started
    if not members.is_main:
        return None
    write_samples(run, request, inputs)
    sscd, clip, alignment = embed_stage(run, request, inputs, target, members.device, progress)
    summary = score_stage(run, request, inputs, target.ident, sscd, clip, alignment)
    summary["timings"] = {"generate_s": round(generated_s, 1), "total_s": round(time.monotonic() - started, 1)}
    write_json(run.folder / "summary.json", summary)
    report_stage(run, request, inputs, sscd, clip, summary)
    run.event("done", verdict=summary["verdict"])
    return summary


def read_inputs(request: AuditRequest) -> Inputs:
    """Prompts and references; paths of originals count from the reference folder or the prompt list's."""
    listed = read_prompts(request.prompts)
    if request.n_seeds < 1:
        raise InputError(f"expected at least 1 seed, got {request.n_seeds}")
    named = [p.image for p in listed if p.image]
    root, walk = request.references, None
    beside = request.prompts.resolve().parent
    inside = request.references.exists() and request.references.resolve().is_relative_to(beside)
    if named and inside and not any((root / n).exists() for n in named) and any((beside / n).exists() for n in named):
        root, walk = beside, request.references.resolve().relative_to(beside).as_posix()
    masks = [p.mask for p in listed if p.mask]
    references = read_references(root, extra=named, leave_out=masks, only=walk)
    if not references.usable():
        raise InputError(f"none of the references in {request.references} can be read; see the reasons with --debug")
    return Inputs(prompts=listed[: request.limit_prompts], references=references)


def generation_settings(request: AuditRequest, inputs: Inputs, target: TargetId) -> dict[str, Any]:
    """What decides the images, and nothing else."""
    return {
        "stage": "audit",
        "model": plain(target),
        "prompts": prompts_digest(inputs.prompts),
        "n_prompts": len(inputs.prompts),
        "seeds": list(range(request.n_seeds)),
        "sampling": plain(request.sampling),
    }


def generate_stage(
    run: Run, request: AuditRequest, inputs: Inputs, target: PipelineTarget, members: Team, progress: Progress
) -> None:
    """Draw what is missing; whole batches, so that a resumed run is the same bit for bit."""
    by_id = {p.id: p for p in inputs.prompts}
    batches = plan(inputs.prompts, range(request.n_seeds), batch_size=request.batch_size)
    mine = [b for b in members.share(batches) if run.missing(b)]
    total = sum(len(b) for b in members.share(batches))
    done = total - sum(len(b) for b in mine)
    progress("generate", done, total)
    for drawn in generate(target, by_id, mine, request.sampling):
        for one in drawn:
            _keep(run, one, latents=request.keep_latents)
        done += len(drawn)
        progress("generate", done, total)


def _keep(run: Run, drawn: Drawn, *, latents: bool) -> None:
    file = run.image_file(drawn.unit)
    if latents:
        write_atomically(file.with_suffix(".safetensors"), tensor_bytes({"latent": drawn.latent.contiguous()}))
    if not file.exists():
        write_atomically(file, png(drawn.image))


def write_samples(run: Run, request: AuditRequest, inputs: Inputs) -> None:
    """`samples.parquet`: a row per prompt and seed."""
    rows = []
    for prompt in inputs.prompts:
        for seed in range(request.n_seeds):
            file = run.image_file(Unit(prompt.id, seed))
            rows.append(
                {
                    "prompt_id": prompt.id, "seed": seed, "prompt": prompt.prompt, "label": prompt.label,
                    "rung": prompt.rung, "image": file.relative_to(run.folder).as_posix(),
                    "sha256": sha256(file.read_bytes()).hexdigest(),
                }
            )  # fmt: skip
    run.write_table("samples", rows)


def embed_stage(
    run: Run, request: AuditRequest, inputs: Inputs, target: PipelineTarget, device: torch.device, progress: Progress
) -> tuple[Judged, Judged | None, Tensor | None]:
    """Descriptors of images and references, under SSCD and, if asked for, CLIP."""
    encoder = choose_descriptor(
        request.descriptor,
        image_size=target.image_size,
        weights=request.sscd_weights,
        preprocessing=request.preprocessing,
        bundled=request.bundled,
        allow_torchscript=request.allow_torchscript,
        device=device,
    )
    threshold = _threshold(request, encoder.descriptor)
    generated, references = _embeddings(run, request, inputs, encoder, progress)
    own = published_threshold(encoder.descriptor, bundled=request.bundled or request.sscd_weights)
    works = _works(inputs, references, own.value)
    embedded = _embedded(request, inputs, generated, references, works)
    sscd = Judged(descriptor=encoder.descriptor, threshold=threshold, embedded=embedded, similarities=compare(embedded))
    if request.clip is None:
        return sscd, None, None
    judge = load_clip(request.clip, request.clip_pretrained, device=device)
    generated, references = _embeddings(run, request, inputs, judge, progress)
    again = _embedded(request, inputs, generated, references, works)
    similarities = compare(again)
    clip = Judged(
        descriptor=judge.descriptor,
        threshold=calibrated(similarities, false_positive_rate=0.01),
        embedded=again,
        similarities=similarities,
    )
    return sscd, clip, _alignment(judge, inputs, generated)


def _threshold(request: AuditRequest, descriptor: Descriptor) -> Threshold:
    if request.threshold is not None:
        return Threshold(value=request.threshold, provenance="given with --threshold")
    return published_threshold(descriptor, bundled=request.bundled or request.sscd_weights)


def _embeddings(
    run: Run, request: AuditRequest, inputs: Inputs, encoder: Encoder, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Descriptors of all images and references, from their record when there is one."""
    made_by = MethodSpec(name=encoder.descriptor.name, parameters={"descriptor": encoder.descriptor.id})
    parents = (run.manifest()["digest"], inputs.references.digest)
    record = run.load("embed", made_by, parents)
    if record is None:
        files = [run.image_file(Unit(p.id, s)) for p in inputs.prompts for s in range(request.n_seeds)]
        generated = _encode_in_chunks(encoder, files, open_image, encoder.descriptor.name, progress)
        usable = inputs.references.usable()
        references = _encode_in_chunks(encoder, usable, inputs.references.load, encoder.descriptor.name, progress)
        record = Record(
            stage="embed", made_by=made_by, parents=parents,
            data={"descriptor": plain(encoder.descriptor), "references": [r.id for r in usable]},
            tensors={"generated": generated, "references": references},
        )  # fmt: skip
        run.save(record)
    width = record.tensors["generated"].shape[-1]
    return record.tensors["generated"].reshape(len(inputs.prompts), request.n_seeds, width), record.tensors[
        "references"
    ]


def _encode_in_chunks(
    encoder: Encoder, items: Sequence[Any], load: Callable[[Any], Any], name: str, progress: Progress, chunk: int = 64
) -> Tensor:
    parts = []
    for start in range(0, len(items), chunk):
        parts.append(encoder([load(item) for item in items[start : start + chunk]]).cpu())
        progress(f"embed with {name}", min(start + chunk, len(items)), len(items))
    return torch.cat(parts)


def _works(inputs: Inputs, references: Tensor, threshold: float) -> dict[str, str]:
    """Which work each usable reference shows: as the prompt list declares, else found by likeness.

    References that the list declares to be different works stay different, however alike they look.
    """
    usable = [r.id for r in inputs.references.usable()]
    declared = {inputs.original_of(p): p.work for p in inputs.prompts if p.image and p.work}
    open_rows = [index for index, name in enumerate(usable) if name not in declared]
    found = {name: declared[name] for name in usable if name in declared}
    if open_rows:
        names = [usable[index] for index in open_rows]
        found |= cluster_works(references[open_rows], names, threshold=threshold, declared={})
    return found


def _embedded(
    request: AuditRequest, inputs: Inputs, generated: Tensor, references: Tensor, works: Mapping[str, str]
) -> Embedded:
    usable = [r.id for r in inputs.references.usable()]
    row = {name: index for index, name in enumerate(usable)}
    return Embedded(
        prompts=inputs.prompts,
        seeds=tuple(range(request.n_seeds)),
        generated=generated,
        references=references,
        original=tuple(row.get(inputs.original_of(p), -1) for p in inputs.prompts),
        works=tuple(works[name] for name in usable),
    )


def _alignment(judge: ClipEncoder, inputs: Inputs, generated: Tensor) -> Tensor:
    read = judge.read([p.prompt for p in inputs.prompts]).cpu()
    return (generated * read[:, None]).sum(-1)


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
    generated, _ = _embeddings(run, request, inputs, judge, silent)
    rows = [i for i, p in enumerate(inputs.prompts) if p.label == "base"]
    return caption_auc(generated[rows], judge.read([inputs.prompts[i].prompt for i in rows]))
