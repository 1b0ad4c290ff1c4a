"""What decides likeness: loaded before anything is drawn, so that a mistake costs no hours."""

from dataclasses import dataclass
from pathlib import Path

import torch

from amnestic.audit.request import AuditRequest, descriptor_beside
from amnestic.core.errors import InputError
from amnestic.core.names import bundled_folder
from amnestic.core.protocols import AlignmentEncoder, Encoder
from amnestic.core.records import Descriptor, Threshold
from amnestic.core.store import Run
from amnestic.core.target import Target
from amnestic.model.clip import load_clip
from amnestic.model.descriptors import choose_descriptor, published_threshold
from amnestic.stages.scores import scored


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The encoders of an audit.

    Attributes:
        sscd: The copy descriptor; decides.
        threshold: A pair is a copy above it.
        same_work: Two originals are one work above it, however strict `threshold` was asked to be.
        clip: Judges beside it, or `None`.
    """

    sscd: Encoder
    threshold: Threshold
    same_work: float
    clip: AlignmentEncoder | None


def load_judges(request: AuditRequest, target: Target, device: torch.device) -> Judges:
    """The encoders and thresholds that were asked for.

    Args:
        request: Which ones.
        target: The model, for the size of its images.
        device: Where they compute.

    Raises:
        InputError: If one cannot be loaded or has no threshold; the sentence says what to do.
    """
    how = request.sampling
    sscd = choose_descriptor(
        request.descriptor,
        image_size=(how.height or target.image_size, how.width or target.image_size),
        weights=request.sscd_weights,
        preprocessing=request.preprocessing,
        bundled=request.bundled,
        allow_torchscript=request.allow_torchscript,
        device=device,
    )
    threshold, same_work = _thresholds(request, sscd.descriptor)
    clip = load_clip(request.clip, request.clip_pretrained, device=device) if request.clip is not None else None
    return Judges(sscd=sscd, threshold=threshold, same_work=same_work, clip=clip)


def judge_of(
    run: Run, target: Target, *, descriptor: str = "auto", sscd_weights: Path | None = None,
    device: torch.device | str = "cpu", otherwise: str = "audit again with this one",
) -> Encoder:  # fmt: skip
    """The very descriptor that judged a finished audit.

    Args:
        run: The audit.
        target: The model, for the size of its images.
        descriptor: What the audit was told, if it cannot be found by itself.
        sscd_weights: Its weights, likewise.
        device: Where it computes.
        otherwise: What else may be done when it is not at hand.

    Raises:
        InputError: If another one would be used; scores of two are never compared.
    """
    name, size = scored(run).data["descriptor"]["id"], (target.image_size, target.image_size)
    audited = run.manifest()["settings"]["model"]["name"]
    beside = descriptor_beside(audited) or descriptor_beside(str(bundled_folder() / "pipeline"))
    encoder = choose_descriptor(descriptor, image_size=size, weights=sscd_weights, bundled=beside, device=device)
    if encoder.descriptor.id != name:
        raise InputError(
            f"the run was judged by {name}, here is only {encoder.descriptor.id}, and scores of two are never "
            f"compared; install it, or {otherwise}"
        )
    return encoder


def _thresholds(request: AuditRequest, descriptor: Descriptor) -> tuple[Threshold, float]:
    """The threshold that decides and that of one work: the descriptor's own for both, unless one is given.

    Works stay the same whatever threshold is tried, so that rates at two thresholds share their denominator.
    """
    given = None
    if request.threshold is not None:
        given = Threshold(value=request.threshold, provenance="given with --threshold")
    try:
        own = published_threshold(descriptor, bundled=request.sscd_weights or request.bundled)
    except InputError:
        if given is None:
            raise
        return given, given.value
    return given or own, own.value
