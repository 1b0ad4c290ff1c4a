"""How active the values of cross-attention are on a text; no image is needed for that."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.core.errors import InputError, NotFinite
from amnestic.core.target import Target
from amnestic.core.units import Site

Activity = dict[Site, Float[Tensor, "P U"]]


@dataclass(frozen=True, kw_only=True)
class Usual:
    """Mean and deviation of activity over ordinary prompts, ``(U,)`` by site."""

    mean: dict[Site, Tensor]
    deviation: dict[Site, Tensor]

    def z(self, site: Site, activity: Float[Tensor, "U"]) -> Float[Tensor, "U"]:
        """How unusual an activity is, in deviations, without sign; a neuron that never varies counts as usual."""
        away = (activity - self.mean[site]).abs()
        return torch.where(
            self.deviation[site] > 0, away / self.deviation[site].clamp(min=1e-12), torch.zeros_like(away)
        )


@torch.no_grad()
def activity(target: Target, sites: Sequence[Site], texts: Sequence[str], *, batch_size: int = 64) -> Activity:
    """Mean absolute value of each value neuron over the tokens of a text, padding included.

    Args:
        target: The model.
        sites: ``value`` or ``key`` sites.
        texts: P texts.
        batch_size: Texts encoded at once.

    Returns:
        Float32 on the CPU, ``(P, U)`` by site.

    Raises:
        NotFinite: If a layer says NaN or infinity; use float32.
    """
    parts: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for start in range(0, len(texts), batch_size):
        cond = target.encode(texts[start : start + batch_size])
        for site in sites:
            parts[site].append(target.through(site, cond).float().abs().mean(dim=1).cpu())
    found = {site: torch.cat(rows) for site, rows in parts.items()}
    for site, rows in found.items():
        if not bool(rows.isfinite().all()):
            raise NotFinite(f"{site.name} says NaN or infinity on {target.ident.name}; use --dtype float32")
    return found


def usual(target: Target, sites: Sequence[Site], texts: Sequence[str]) -> Usual:
    """Mean and unbiased standard deviation of activity over ordinary prompts.

    Raises:
        InputError: If there are fewer than two prompts.
    """
    if len(texts) < 2:
        raise InputError(
            f"expected at least two non-memorized prompts to know what is usual, got {len(texts)}; add some"
        )
    found = activity(target, sites, texts)
    return Usual(mean={s: a.mean(0) for s, a in found.items()}, deviation={s: a.std(0) for s, a in found.items()})
