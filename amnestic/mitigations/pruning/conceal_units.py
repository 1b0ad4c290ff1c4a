"""The units that were found are silenced without zeros that tell where they were."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amnestic.core.edits import Change
from amnestic.core.methods import Mitigation
from amnestic.core.registry import register
from amnestic.core.seeds import generator
from amnestic.core.target import Target
from amnestic.core.units import Units


@register
@dataclass(frozen=True, kw_only=True)
class ConcealUnits(Mitigation):
    """Small weights of the same layer, drawn by chance and with a random sign, stand where pruned ones stood.

    Zeroed places tell what was removed and help to bring it back. The smaller `quantile`, the closer the model is to
    a pruned one, and the better the places can be told from others by their size; at 1 they cannot be told at all,
    but noise of full size remains. `amnestic.measures.traces.telling` measures how well they are hidden.

    Cost: no row through the U-Net. All weights of every touched parameter are read and sorted by size, those of the
    units are written.

    Pitfalls: It hides places and removes no more than zeros do. With `WandaSubspace` at ``r=0.1`` on the testbed and
    the default `quantile` it left rates of .19 and .10 at 14 % of the base prompts' CLIP alignment (zeros: .25 and .10
    at 14 %); no zero was left, but the AUC of smallness was still .85. Where all weights of a parameter are chosen
    there is nothing to draw from, and zeros are written.

    Attributes:
        quantile: Replacements are at most as large as this share of the layer's other weights, in (0, 1].
        seed: Decides the draw.

    Source:
        "Roots Beneath the Cut", 2026, on what zeroed positions reveal; the remedy is ours.
    """

    quantile: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        if not 0 < self.quantile <= 1:
            raise ValueError(f"quantile must lie in (0, 1], got {self.quantile}")

    def make(self, target: Target, units: Units) -> Mapping[str, Change]:
        """Small values in place of the chosen weights."""
        return {
            path: replace(change, after=self._small(path, target.parameter(path), change.at).to(change.before.dtype))
            for path, change in target.scaling(units, 0.0).items()
        }

    def _small(self, path: str, parameter: Tensor, at: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Values drawn from the smallest ones that stay; zeros where nothing stays."""
        sizes = parameter.reshape(-1).float().abs().cpu()
        stays = torch.ones(len(sizes), dtype=torch.bool)
        stays[at] = False
        small = sizes[stays & (sizes > 0)].sort().values
        small = small[: max(1, int(self.quantile * len(small)))]
        if not len(small):
            return torch.zeros(len(at))
        rng = generator(self.seed, "conceal-units", path)
        drawn = small[torch.randint(len(small), (len(at),), generator=rng)]
        signs = 1 - 2 * torch.randint(2, (len(at),), generator=rng)
        return drawn * signs
