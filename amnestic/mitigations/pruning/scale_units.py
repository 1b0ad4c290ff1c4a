"""The units that were found speak more quietly, or louder."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from amnestic.core.edits import Change
from amnestic.core.methods import Mitigation
from amnestic.core.registry import register
from amnestic.core.target import Target
from amnestic.core.units import Units


@register
@dataclass(frozen=True, kw_only=True)
class ScaleUnits(Mitigation):
    """Every weight through which a chosen unit speaks is multiplied by a factor.

    Cost: no row through the U-Net. Of each unit its weights are read and written: one weight for a feed-forward weight,
    a column of the layer that it enters for a feed-forward neuron, a row of its projection, with its bias, for a value
    or key neuron.

    Pitfalls: Quieter is not silent: with NeMo's neurons published SSCD to the original is .83 before, .79 at a factor
    of .75, .62 at .5 (the default here), .20 at .25 and .09 at 0; negative factors gain nothing. Whoever knows the
    places and the factor gets the weights back by a division, up to rounding.

    Attributes:
        factor: Between 0 (silent) and 1 (unchanged) attenuates; negative values invert, as an ablation.

    Source:
        Partial ablation; Hintersdorf et al., "Finding NeMo", NeurIPS 2024, appendix, scale neurons instead of
        silencing them.
    """

    factor: float = 0.5

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        if not math.isfinite(self.factor):
            raise ValueError(f"factor must be a number, got {self.factor}")

    def make(self, target: Target, units: Units) -> Mapping[str, Change]:
        """Scaled values in place of the chosen weights."""
        return target.scaling(units, self.factor)
