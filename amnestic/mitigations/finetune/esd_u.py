"""ESD-u: erasing by negative guidance in everything but cross-attention."""

from dataclasses import dataclass

from amnestic.core.registry import register
from amnestic.mitigations.finetune.esd import Esd


@register
@dataclass(frozen=True, kw_only=True)
class EsdU(Esd):
    """ESD of which everything but cross-attention learns: for what is drawn under any prompt.

    Formula, cost and settings: see `amnestic.mitigations.finetune.esd.Esd`.

    Source:
        Gandikota, Materzynska, Fiotto-Kaufman, Bau, "Erasing Concepts from Diffusion Models", ICCV 2023.
    """

    parameters: str = "not-cross-attention"
