"""What decides likeness: loaded before anything is drawn, so that a mistake costs no hours."""

from dataclasses import dataclass

import torch

from amnestic.audit.request import AuditRequest
from amnestic.core.errors import InputError
from amnestic.core.protocols import AlignmentEncoder, Encoder
from amnestic.core.records import Descriptor, Threshold
from amnestic.core.target import Target
from amnestic.model.clip import load_clip
from amnestic.model.descriptors import choose_descriptor, published_threshold


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
