"""Feed-forward neurons whose mean activity differs most between memorized and other prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.audit.early_steps import Sums, sum_early_steps
from amnestic.core.errors import InputError
from amnestic.core.methods import Case, Finding, Localizer
from amnestic.core.registry import register
from amnestic.core.tape import Passing
from amnestic.core.target import Target
from amnestic.core.units import Site
from amnestic.measures.subspace import top_per_row


@register
@dataclass(frozen=True, kw_only=True)
class ActivationContrast(Localizer):
    """The neurons of every layer whose mean activity rises most from non-memorized to memorized prompts.

    Formula: the largest ``mean |a_u| over memorized - mean |a_u| over controls``, means over prompts, seeds,
    tokens and the first `tau` steps, rows of the prompts only; never a neuron whose activity falls.

    Cost: ``(m + c) s tau g`` rows forward for m memorized prompts, c controls and s starting noises, with g = 2 under
    guidance and 1 without.

    Pitfalls: Where memorized prompts and controls differ in kind as well, what the kind needs rises too. On the testbed
    a tenth of the neurons left a rate of .56 on the works they were located with and .65 on the others, at 1.3 % of the
    base prompts' CLIP alignment. `tau` counts steps: 10 are a fifth of 50 and half of 20.

    Attributes:
        share: Share of every layer's neurons that is taken at most, in (0, 1].
        tau: First denoising steps that count, at least 1.
        batch_size: Prompts drawn at once, fewer when memory runs out; does not change the result beyond rounding.

    Source:
        Difference of means; the plainest rival of Chavhan et al., arXiv 2406.18566, 2024.
    """

    kind: ClassVar[str] = "ffn"
    share: float = 0.05
    tau: int = 10
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        if not 0 < self.share <= 1 or self.tau < 1:
            raise ValueError(f"share must lie in (0, 1] and tau be at least 1, got {self.share} and {self.tau}")

    def locate(self, target: Target, case: Case) -> Finding:
        """Means over both sets; only the first `tau` steps are drawn."""
        if not case.controls:
            raise InputError("expected non-memorized prompts to contrast with, got none; add controls to the case")
        tau, sites = min(self.tau, case.sampling.num_inference_steps), target.sites(self.kind)
        memorized, others = ([p.prompt for p in part] for part in (case.memorized, case.controls))
        ours = self._means(target, sites, memorized, case, tau)
        theirs = self._means(target, sites, others, case, tau)
        masks, rises = {}, {}
        for site in sites:
            rise = ours[site.name] - theirs[site.name]
            masks[site.name] = top_per_row(rise[None], int(self.share * site.size))[0] & (rise > 0)
            rises[f"rise.{site.name}"] = rise
        guided = 1 + (case.sampling.guidance_scale > 1)
        rows = (len(memorized) + len(others)) * len(case.seeds) * tau * guided
        return Finding(masks=masks, passes=rows, notes={"tau": tau}, tensors=rises)

    def _means(
        self, target: Target, sites: Sequence[Site], texts: Sequence[str], case: Case, tau: int
    ) -> dict[str, Float[Tensor, "U"]]:
        """Mean absolute activity of every neuron; all prompts share their starting noise."""
        zeros = {site.name: torch.zeros(site.shape) for site in sites}
        zeros |= {f"tokens.{name}": torch.zeros((), dtype=torch.long) for name in zeros}

        def add(seen: Passing, sums: Sums) -> None:
            rows = seen.conditional.flatten(end_dim=-2)
            sums[seen.site.name] += rows.float().abs().sum(dim=0).cpu()
            sums[f"tokens.{seen.site.name}"] += len(rows)

        sums = sum_early_steps(
            target, sites, texts, case, zeros, add, tau=tau, name="activation-contrast", batch_size=self.batch_size
        )  # fmt: skip
        return {site.name: sums[site.name] / int(sums[f"tokens.{site.name}"]) for site in sites}
