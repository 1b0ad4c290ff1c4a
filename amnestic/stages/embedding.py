"""Describes images and references once, from their record when there is one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amnestic.audit.replication import Embedded, calibrated, compare
from amnestic.audit.request import AuditRequest
from amnestic.audit.summary import Judged
from amnestic.core.protocols import AlignmentEncoder, Encoder
from amnestic.core.records import MethodSpec, Unit, plain
from amnestic.core.store import Record, Run
from amnestic.sources.work_clusters import cluster_works
from amnestic.stages.images import Images
from amnestic.stages.inputs import Inputs, Progress
from amnestic.stages.judges import Judges

MOST_PICTURES, MOST_PIXELS = 64, 2**24
"""What is held at once while pictures are embedded; a single larger one is held alone."""


def embed_stage(
    run: Run, request: AuditRequest, inputs: Inputs, judges: Judges, images: Images, progress: Progress
) -> tuple[Judged, Judged | None, Tensor | None]:
    """Descriptors of images and references, under SSCD and, if asked for, CLIP."""
    encoder, judge = judges.sscd, judges.clip
    generated, references = embeddings(run, request, inputs, encoder, images, progress)
    names = [r.id for r in inputs.references.usable()]
    works = cluster_works(references, names, threshold=judges.same_work, declared=inputs.declared())
    embedded = _embedded(request, inputs, generated, references, works)
    sscd = Judged(
        descriptor=encoder.descriptor, threshold=judges.threshold, embedded=embedded, similarities=compare(embedded)
    )
    if judge is None:
        return sscd, None, None
    generated, references = embeddings(run, request, inputs, judge, images, progress)
    again = _embedded(request, inputs, generated, references, works)
    similarities = compare(again)
    clip = Judged(
        descriptor=judge.descriptor,
        threshold=calibrated(similarities, false_positive_rate=0.01),
        embedded=again,
        similarities=similarities,
    )
    return sscd, clip, alignment_of(judge, inputs, generated)


def embeddings(
    run: Run, request: AuditRequest, inputs: Inputs, encoder: Encoder, images: Images, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Descriptors of all images and references, from their record when there is one."""
    made_by = MethodSpec(name=encoder.descriptor.name, parameters={"descriptor": encoder.descriptor.id})
    parents = (run.manifest()["digest"], inputs.references.digest)
    record = run.load("embed", made_by, parents)
    if record is None:
        units = [Unit(p.id, s) for p in inputs.prompts for s in range(request.n_seeds)]
        generated = _encode_in_chunks(encoder, units, images, encoder.descriptor.name, progress)
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
    encoder: Encoder, items: Sequence[Any], load: Callable[[Any], NDArray[np.uint8]], name: str, progress: Progress
) -> Tensor:
    parts, done = [], 0
    for pictures in _chunks(map(load, items)):
        parts.append(encoder(pictures).cpu())
        done += len(pictures)
        progress(f"embed with {name}", done, len(items))
    return torch.cat(parts)


def _chunks(pictures: Iterator[NDArray[np.uint8]]) -> Iterator[list[NDArray[np.uint8]]]:
    """Pictures in order, as many at once as the limits allow and at least one."""
    held: list[NDArray[np.uint8]] = []
    pixels = 0
    for picture in pictures:
        size = picture.shape[0] * picture.shape[1]
        if held and (len(held) == MOST_PICTURES or pixels + size > MOST_PIXELS):
            yield held
            held, pixels = [], 0
        held.append(picture)
        pixels += size
    if held:
        yield held


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


def alignment_of(judge: AlignmentEncoder, inputs: Inputs, generated: Tensor) -> Tensor:
    """Cosine of every image, ``(P, S, D)``, with its prompt under CLIP: ``(P, S)``."""
    read = judge.read([p.prompt for p in inputs.prompts]).cpu()
    return (generated * read[:, None]).sum(-1)
