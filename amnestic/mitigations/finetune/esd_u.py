"""ESD-u: erasing by negative guidance in everything but cross-attention."""

from dataclasses import dataclass

from amnestic.core.registry import register
from amnestic.mitigations.finetune.esd import Esd


@register
@dataclass(frozen=True, kw_only=True)
class EsdU(Esd):
    """ESD of which everything but cross-attention learns: for what is drawn under any prompt.

    Formula and settings: see `amnestic.mitigations.finetune.esd.Esd`.

    Cost: of a step, `forget_rows` rows forward and backward, twice as many forward through the model before, and,
    unless `latents` is ``noised``, ``2 k`` forward for each drawing that stops after k steps, k from 0 to T - 1 (``k``
    with ``start_guidance=1``); `retain_rows` rows forward and backward. With the defaults and T = 50 that is 52 forward
    on average, one of them backward.

    Pitfalls: What learns here serves every prompt, and without ordinary pairs (``retain_rows=0``, as published) nothing
    holds the others in place. 1000 steps of one row are published for one prompt, so that N works have a thousand rows
    between them: count in `epochs`. By published account of ESD, whose variant is not told, an embedding search brings
    .98 of the images back.

    Source:
        Gandikota, Materzynska, Fiotto-Kaufman, Bau, "Erasing Concepts from Diffusion Models", ICCV 2023.
    """

    parameters: str = "not-cross-attention"
