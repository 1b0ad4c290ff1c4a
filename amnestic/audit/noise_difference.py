"""How much a prompt's first noise prediction looks the same from every starting noise (NeMo's score)."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amnestic.core.errors import NotFinite
from amnestic.core.records import Sampling
from amnestic.core.target import Target
from amnestic.core.units import Site
from amnestic.measures.ms_ssim import ms_ssim

Silenced = Mapping[Site, Bool[Tensor, "U"]]
"""Neurons that are multiplied by zero; sites that are left out stay as they are."""


class NoiseDifferences:
    """Scaled differences of predicted and starting noise, with and without silenced neurons.

    Attributes:
        rows: U-Net rows computed so far.
    """

    def __init__(
        self, target: Target, how: Sampling, *, n_seeds: int, seed: int, t_index: int, betas: Sequence[float],
        most_rows: int = 64,
    ) -> None:  # fmt: skip
        """Draw the starting noises; `most_rows` bounds a batch and does not change the result beyond rounding."""
        shape = target.noise_shape()
        self._x = torch.randn((n_seeds, *shape), generator=torch.Generator().manual_seed(seed))
        self._t = int(target.timesteps(how)[t_index])
        self._target, self._betas, self._most = target, betas, most_rows
        self.rows = 0

    def plain(self, cond: Float[Tensor, "1 L W"]) -> Float[Tensor, "N C H W"]:
        """Differences of one prompt with nothing silenced."""
        return self._differences(cond, self._x, {})

    def kept(self, plain: Float[Tensor, "N C H W"], threshold: float) -> list[int]:
        """Starting noises whose difference resembles that of another one; none: not memorized."""
        one, other = torch.triu_indices(len(plain), len(plain), offset=1)
        scores = ms_ssim(plain[one], plain[other], betas=self._betas)
        best = [float(scores[(one == i) | (other == i)].max()) for i in range(len(plain))]
        return [i for i, score in enumerate(best) if score > threshold]

    def likeness(self, plain: Float[Tensor, "N C H W"]) -> float:
        """Largest similarity of two starting noises' differences: NeMo's memorization score of a prompt."""
        one, other = torch.triu_indices(len(plain), len(plain), offset=1)
        return float(ms_ssim(plain[one], plain[other], betas=self._betas).max())

    def scores(
        self,
        cond: Float[Tensor, "1 L W"],
        plain: Float[Tensor, "N C H W"],
        kept: Sequence[int],
        tried: Sequence[Silenced],
    ) -> list[float]:
        """For each choice of neurons: how much the difference still resembles the plain one.

        Args:
            cond: Conditioning of one prompt.
            plain: Its differences with nothing silenced.
            kept: Starting noises that count.
            tried: Choices of neurons; each has rows of its own in one batch.

        Returns:
            Largest similarity over the kept noises, one number per choice.
        """
        found: list[float] = []
        together = max(1, self._most // len(kept))
        for start in range(0, len(tried), together):
            chunk = tried[start : start + together]
            x = self._x[list(kept)].repeat(len(chunk), 1, 1, 1)
            deltas = self._differences(cond, x, _factors(chunk, len(kept))).split(len(kept))
            found += [float(ms_ssim(plain[list(kept)], d, betas=self._betas).max()) for d in deltas]
        return found

    @torch.no_grad()
    def _differences(self, cond: Tensor, x: Tensor, factors: Mapping[Site, Tensor]) -> Tensor:
        self.rows += len(x)
        x = x.to(cond.device, cond.dtype)
        t = torch.full((len(x),), self._t, device=cond.device)
        with self._target.masked(factors):
            delta = (self._target.predict(x, t, cond.expand(len(x), -1, -1)) - x).float()
        low, high = delta.amin((2, 3), keepdim=True), delta.amax((2, 3), keepdim=True)
        if not bool((high > low).all()):
            raise NotFinite(
                f"{self._target.ident.name} predicts a flat or non-finite channel, which has no scaled form; "
                "use --dtype float32, or check its weights"
            )
        return (delta - low) / (high - low)


def _factors(tried: Sequence[Silenced], n_rows: int) -> dict[Site, Float[Tensor, "N U"]]:
    """One factor per row and neuron: 0 where silenced."""
    sites = {site for choice in tried for site in choice}
    return {
        site: torch.cat(
            [(~c[site]).float().expand(n_rows, -1) if site in c else torch.ones(n_rows, *site.shape) for c in tried]
        )
        for site in sites
    }
