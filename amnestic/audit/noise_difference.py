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
        apart: Whether a noise has the same score whatever other noises are asked with it: with one scale every
            scaled difference has a range of exactly 1; pooled ones share that of the call.
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
        self.apart = len(betas) == 1

    def plain(self, cond: Float[Tensor, "1 L W"]) -> Float[Tensor, "N C H W"]:
        """Differences of one prompt with nothing silenced."""
        return self._plain(cond)[0]

    def kept(self, plain: Float[Tensor, "N C H W"], threshold: float) -> list[int]:
        """Starting noises whose difference resembles that of another one; none: not memorized."""
        one, other = torch.triu_indices(len(plain), len(plain), offset=1)
        scores = ms_ssim(plain[one], plain[other], betas=self._betas)
        best = [float(scores[(one == i) | (other == i)].max()) for i in range(len(plain))]
        return [i for i, score in enumerate(best) if score > threshold]

    def likeness(self, cond: Float[Tensor, "P L W"]) -> Float[Tensor, "P"]:
        """Largest similarity of two starting noises' differences: NeMo's memorization score of each prompt."""
        one, other = torch.triu_indices(len(self._x), len(self._x), offset=1)
        together = max(1, self._most // len(self._x))
        plains = (plain for some in cond.split(together) for plain in self._plain(some))
        return torch.stack([ms_ssim(plain[one], plain[other], betas=self._betas).max() for plain in plains]).cpu()

    def scores(
        self,
        cond: Float[Tensor, "1 L W"],
        plain: Float[Tensor, "N C H W"],
        asked: Sequence[int],
        tried: Sequence[Silenced],
    ) -> Float[Tensor, "M K"]:
        """For each choice of neurons: how much each noise's difference still resembles the plain one.

        Args:
            cond: Conditioning of one prompt.
            plain: Its differences with nothing silenced.
            asked: K starting noises.
            tried: M choices of neurons; each has rows of its own in one batch.

        Returns:
            Similarities in [0, 1] on the CPU; unless noises stand `apart`, comparable only where the same
            noises were asked together.
        """
        there, found = plain[list(asked)], []
        together = max(1, self._most // len(asked))
        for start in range(0, len(tried), together):
            chunk = tried[start : start + together]
            x = self._x[list(asked)].repeat(len(chunk), 1, 1, 1)
            deltas = self._differences(cond.expand(len(x), -1, -1), x, _factors(chunk, len(asked)))
            if self.apart:
                found.append(ms_ssim(there.repeat(len(chunk), 1, 1, 1), deltas, betas=self._betas))
            else:
                found += [ms_ssim(there, one, betas=self._betas) for one in deltas.split(len(asked))]
        return torch.cat(found).reshape(len(tried), len(asked)).cpu()

    def _plain(self, cond: Tensor) -> Tensor:
        x = self._x.repeat(len(cond), 1, 1, 1)
        rows = self._differences(cond.repeat_interleave(len(self._x), 0), x, {})
        return rows.reshape(len(cond), *self._x.shape)

    @torch.no_grad()
    def _differences(self, cond: Tensor, x: Tensor, factors: Mapping[Site, Tensor]) -> Tensor:
        self.rows += len(x)
        x = x.to(cond.device, cond.dtype)
        t = torch.full((len(x),), self._t, device=cond.device)
        with self._target.masked(factors):
            delta = (self._target.predict(x, t, cond) - x).float()
        low, high = delta.amin((2, 3), keepdim=True), delta.amax((2, 3), keepdim=True)
        if not bool((high > low).all()):
            raise NotFinite(
                f"{self._target.ident.name} predicts a flat or non-finite channel, which has no scaled form; "
                "use --dtype float32, or check its weights"
            )
        return (delta - low) / (high - low)


class Witnesses:
    """The starting noises that count for one prompt; those that showed its image before are asked first.

    The score of a choice is the largest over all noises, so one that shows the image settles it. Where
    scores of single noises cannot be had (see `NoiseDifferences.apart`), all are asked at once.

    Attributes:
        asked: How many are asked first.
    """

    def __init__(
        self, noises: NoiseDifferences, cond: Float[Tensor, "1 L W"], plain: Float[Tensor, "N C H W"],
        kept: Sequence[int],
    ) -> None:  # fmt: skip
        """Of one prompt, as `NoiseDifferences` says; `kept` are the noises that count, at least one."""
        self._noises, self._cond, self._plain = noises, cond, plain
        self._order, self._shown = list(kept), kept[0]
        self.asked = 1 if noises.apart else len(kept)

    def first(self, choices: Sequence[Silenced]) -> list[float]:
        """For each choice the largest similarity over the noises that are asked first; one batch."""
        found: list[float] = self._scores(self._order[: self.asked], choices).amax(1).tolist()
        return found

    def others(self, choice: Silenced) -> float:
        """Largest similarity over all other noises; 0 where none is left."""
        if self.asked == len(self._order):
            return 0.0
        (scores,) = self._scores(self._order[self.asked :], [choice])
        self._shown = self._order[self.asked + int(scores.argmax())]
        return float(scores.max())

    def turn(self, *, beside: bool = False) -> None:
        """From now on the noise that was most similar among the others is asked first, or beside the first ones."""
        self._order.remove(self._shown)
        self._order.insert(0, self._shown)
        self.asked += beside

    def _scores(self, asked: Sequence[int], choices: Sequence[Silenced]) -> Tensor:
        return self._noises.scores(self._cond, self._plain, asked, choices)


def _factors(tried: Sequence[Silenced], n_rows: int) -> dict[Site, Float[Tensor, "N U"]]:
    """One factor per row and neuron: 0 where silenced."""
    sites = {site for choice in tried for site in choice}
    return {
        site: torch.cat(
            [(~c[site]).float().expand(n_rows, -1) if site in c else torch.ones(n_rows, *site.shape) for c in tried]
        )
        for site in sites
    }
