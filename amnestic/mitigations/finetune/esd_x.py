"""ESD-x: erasing by negative guidance in cross-attention."""

from dataclasses import dataclass

from amnestic.core.registry import register
from amnestic.mitigations.finetune.esd import Esd


@register
@dataclass(frozen=True, kw_only=True)
class EsdX(Esd):
    """ESD of which cross-attention learns: for what a prompt names, such as a style.

    Formula and settings: see `amnestic.mitigations.finetune.esd.Esd`.

    Cost: of a step, `forget_rows` rows forward and backward, twice as many forward through the model before, and,
    unless `latents` is ``noised``, ``2 k`` forward for each drawing that stops after k steps, k from 0 to T - 1 (``k``
    with ``start_guidance=1``); `retain_rows` rows forward and backward. With the defaults and T = 50 that is 52 forward
    on average, one of them backward.

    Pitfalls: 1000 steps of one row are published for one prompt, so that N works have a thousand rows between them:
    count in `epochs`. Nothing is shown but the prompts that are to go, unless `retain_rows` is raised. By published
    account of ESD, whose variant is not told, an embedding search brings .98 of the images back.

    Source:
        Gandikota, Materzynska, Fiotto-Kaufman, Bau, "Erasing Concepts from Diffusion Models", ICCV 2023.
    """

    parameters: str = "cross-attention"
