"""The same number of units of every layer, chosen by chance: the negative control of every localizer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from amnestic.core.errors import InputError
from amnestic.core.methods import Case, Finding, Localizer
from amnestic.core.names import did_you_mean
from amnestic.core.registry import register
from amnestic.core.seeds import generator
from amnestic.core.target import Target
from amnestic.core.units import KINDS, Site


@register
@dataclass(frozen=True, kw_only=True)
class RandomUnits(Localizer):
    """As many units of every site as another method found, or a share of them, without looking at a prompt.

    What it lowers, any cut of that size lowers; only what goes beyond it speaks for a method.

    Cost: no row through the U-Net; a random order of every site's units.

    Pitfalls: It speaks for cuts of the same size in the same layers, so imitate a record with ``--like``; the defaults
    imitate none. Large cuts by chance lower a rate, too: as many weights of the testbed as `WandaSubspace` took left
    .97 at ``r=0.1`` and .72 at ``r=0.3``. One draw is one sample; other seeds tell how much it varies.

    Attributes:
        where: Kind of the sites, one of ``ffn``, ``ffn-weight``, ``value``, ``key``.
        counts: Units by site name, such as those of another method's finding; sites left out get none.
        share: Share of every site's units, in [0, 1], where no `counts` are given.
        seed: Decides the choice; another seed, another choice.

    Source:
        Uniform draw without replacement; no paper.
    """

    kind: ClassVar[str] = "any"
    where: str = "ffn-weight"
    counts: Mapping[str, int] = field(default_factory=dict)
    share: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        if self.where not in KINDS:
            raise ValueError(f"expected where to be one of {', '.join(KINDS)}, got {self.where}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {self.share}")

    def searched(self, target: Target) -> tuple[Site, ...]:
        """Sites of the kind that was asked for."""
        return target.sites(self.where)

    def locate(self, target: Target, case: Case) -> Finding:
        """A draw per site, from a generator of its own."""
        sites = self.searched(target)
        names = [site.name for site in sites]
        for name in self.counts:
            if name not in names:
                raise InputError(f"counts name {name}, which is no {self.where} site{did_you_mean(name, names)}")
        masks = {site.name: self._drawn(site) for site in sites}
        return Finding(masks=masks, passes=0)

    def _drawn(self, site: Site) -> Bool[Tensor, "..."]:
        n = self.counts.get(site.name, 0) if self.counts else round(self.share * site.size)
        if not 0 <= n <= site.size:
            raise InputError(f"expected between 0 and {site.size} units of {site.name}, got {n}; correct counts")
        mask = torch.zeros(site.size, dtype=torch.bool)
        mask[torch.randperm(site.size, generator=generator(self.seed, "random-units", site.name))[:n]] = True
        return mask.view(site.shape)
