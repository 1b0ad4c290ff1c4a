"""ESD-x: erasing by negative guidance in cross-attention."""

from dataclasses import dataclass

from amnestic.core.registry import register
from amnestic.mitigations.finetune.esd import Esd


@register
@dataclass(frozen=True, kw_only=True)
class EsdX(Esd):
    """ESD of which cross-attention learns: for what a prompt names, such as a style.

    Formula, cost and settings: see `amnestic.mitigations.finetune.esd.Esd`.

    Source:
        Gandikota, Materzynska, Fiotto-Kaufman, Bau, "Erasing Concepts from Diffusion Models", ICCV 2023.
    """

    parameters: str = "cross-attention"
