"""Describes images and references once, from their record when there is one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from amnestic.audit.replication import Embedded, calibrated, compare
from amnestic.audit.request import AuditRequest
from amnestic.audit.summary import Judged
from amnestic.core.protocols import Encoder
from amnestic.core.records import Descriptor, MethodSpec, Threshold, Unit, plain
from amnestic.core.store import Record, Run
from amnestic.model.clip import ClipEncoder, load_clip
from amnestic.model.descriptors import choose_descriptor, published_threshold
from amnestic.model.target import PipelineTarget
from amnestic.sources.images import open_image
from amnestic.sources.references import cluster_works
from amnestic.stages.inputs import Inputs, Progress


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
    generated, references = embeddings(run, request, inputs, encoder, progress)
    own = published_threshold(encoder.descriptor, bundled=request.bundled or request.sscd_weights)
    works = _works(inputs, references, own.value)
    embedded = _embedded(request, inputs, generated, references, works)
    sscd = Judged(descriptor=encoder.descriptor, threshold=threshold, embedded=embedded, similarities=compare(embedded))
    if request.clip is None:
        return sscd, None, None
    judge = load_clip(request.clip, request.clip_pretrained, device=device)
    generated, references = embeddings(run, request, inputs, judge, progress)
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


def embeddings(
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
