"""The units that were found say nothing any more."""

from collections.abc import Mapping
from dataclasses import dataclass

from amnestic.core.edits import Change
from amnestic.core.methods import Mitigation
from amnestic.core.registry import register
from amnestic.core.target import Target
from amnestic.core.units import Units


@register
@dataclass(frozen=True, kw_only=True)
class ZeroUnits(Mitigation):
    """Every weight through which a chosen unit speaks becomes 0.

    Zeros can be seen in the weights, and with them what was removed: see ``conceal-units``.

    Cost: no row through the U-Net. Of each unit its weights are read and written: one weight for a feed-forward weight,
    a column of the layer that it enters for a feed-forward neuron, a row of its projection, with its bias, for a value
    or key neuron.

    Pitfalls: All places can be pointed at afterwards: on the testbed 100 % of them held 0, and their AUC of smallness
    was 1. Silence under the prompt is no removal: of 24 works pruned with the units of `Nemo` none came out, and 21
    came back after 50 steps of `Dori`.

    Source:
        Magnitude pruning as used by Chavhan et al., arXiv 2406.18566, 2024, for weights, and by Hintersdorf et
        al., "Finding NeMo", NeurIPS 2024, for neurons.
    """

    def make(self, target: Target, units: Units) -> Mapping[str, Change]:
        """Zeros in place of the chosen weights."""
        return target.scaling(units, 0.0)
