"""Subtracted importance sampled scores (Alberti et al., ICLR 2025)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.core.denoising import weight_of
from amnestic.core.finetuning import Lesson, Losses, Part, Trainee
from amnestic.core.registry import register
from amnestic.core.target import Target
from amnestic.mitigations.finetune.errors import Weighted, direction, one_of

TIMES = ("full", "last")


@register
@dataclass(frozen=True, kw_only=True)
class Siss(Weighted):
    """One prediction serves two losses: towards an image to keep, away from the one to forget, with importance weights.

    Formula: ``x_t`` is made of the original a with probability `lam`, else of a kept image x, with the same noise.
    ``w_x |e - eps_x|^2 - s w_a |e - eps_a|^2`` with e the prediction at ``x_t`` under the prompt, ``eps_x`` and
    ``eps_a`` the directions to x and a, ``w_x = 1 / ((1 - lam) + lam p_a / p_x)``, ``w_a = 1 / ((1 - lam) p_x / p_a +
    lam)``, and ``p_x``, ``p_a`` the densities of ``x_t`` given x and a. s makes the length of the second term's
    gradient `forget_norm`. Squared errors are summed over a latent, not averaged, so that the length means what it
    means in the paper.

    Cost per step: `forget_rows` rows forward, and backward twice. Published for Stable Diffusion: lam 0.5, length 750,
    35 steps of 16 rows, AdamW at 1e-5, gradients shortened to 1, one prompt at a time; kept images are drawings of the
    same prompt that are no copies: the surrogates. Ordinary pairs are not used; `retain_rows` above 0 adds them.

    Pitfalls: A length of 750 belongs to the U-Net and the latents of Stable Diffusion; on other models give
    `forget_share`. With ``timesteps=last`` both weights are close to 1, so that the mixture corrects little. On a model
    of v the default weighting multiplies squared errors by ``1 / a_t``, most at that very timestep;
    ``weighting=epsilon`` is the formula above. By published account an embedding search brings .39 of the images back.

    Attributes:
        steps: Steps of the optimiser.
        forget_rows: Rows per step about images to forget.
        retain_rows: Rows per step about ordinary pairs.
        lam: Share of rows made of originals, in [0, 1].
        forget_norm: Length of the gradient of the images to forget.
        forget_share: That length as a share of the other term's instead, for models of other sizes; the authors
            recommend a tenth of the untamed one.
        timesteps: ``last``: the last one only, as the authors' script for Stable Diffusion draws, so that both weights
            are close to 1; or ``full``: all of them, as the paper's text says and ReTrack compares with.
        retain_weight: Of ordinary pairs.

    Source:
        Alberti, Hasanaliyev, Shah, Ermon, "Data Unlearning in Diffusion Models", ICLR 2025.
    """

    needs_surrogates: ClassVar[bool] = True
    balances: ClassVar[bool] = True
    steps: int = 35
    forget_rows: int = 16
    retain_rows: int = 0
    lam: float = 0.5
    forget_norm: float = 750.0
    forget_share: float | None = None
    timesteps: str = "last"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        Weighted.__post_init__(self)
        if self.timesteps not in TIMES:
            raise ValueError(f"expected {', '.join(TIMES)}; got {self.timesteps}")
        if not 0 <= self.lam <= 1:
            raise ValueError(f"expected lam in [0, 1], got {self.lam}")
        if min(self.forget_norm, self.forget_share or 0.0, self.retain_weight) < 0:
            raise ValueError("forget_norm, forget_share and retain_weight must not be negative")

    def losses(
        self, trainee: Trainee, frozen: Target, lesson: Lesson, part: Part, kept: Mapping[str, Tensor]
    ) -> Losses:
        """Weighted squared errors of both terms, one of them negative."""
        size = 1
        for side in trainee.noise_shape():
            size *= side
        forget = self._terms(trainee, lesson, part) if part.forget else {}
        return Losses(forget=forget, retain=self.ordinary(trainee, lesson, part, self.retain_weight * size))

    def balance(self, norms: Mapping[str, float]) -> Mapping[str, float]:
        """The forget term's gradient is brought to its length; others stay as they are."""
        length = norms.get("forget", 0.0)
        wanted = self.forget_norm if self.forget_share is None else self.forget_share * norms.get("remember", 0.0)
        return {name: wanted / length if name == "forget" and length > 0 else 1.0 for name in norms}

    def _terms(self, trainee: Trainee, lesson: Lesson, part: Part) -> dict[str, Float[Tensor, "n"]]:
        goals = [lesson.forget[i] for i in self.goals_of(lesson, part)]
        cond = trainee.encode([g.prompt.prompt for g in goals])
        device = cond.device
        rngs = [part.rng("forget", row) for row in part.forget]
        keep = torch.stack([one_of(lesson.surrogates[g.id], r) for g, r in zip(goals, rngs, strict=True)])
        lose = torch.stack([g.original for g in goals])
        keep, lose = keep.float().to(device), lose.float().to(device)
        last = trainee.train_timesteps
        low = last - 1 if self.timesteps == "last" else 0
        t = torch.cat([torch.randint(low, last, (1,), generator=r) for r in rngs]).to(device)
        noise = torch.stack([torch.randn(lose.shape[1:], generator=r) for r in rngs]).to(device)
        from_lose = torch.tensor([float(torch.rand((), generator=r)) < self.lam for r in rngs], device=device)
        x = trainee.noised(torch.where(from_lose.reshape(-1, 1, 1, 1), lose, keep), noise, t)
        to_keep, to_lose = direction(trainee, x, t, keep), direction(trainee, x, t, lose)
        w_keep, w_lose = importance(to_keep, to_lose, self.lam)
        said = trainee.predict(x, t, cond).float()
        weight = weight_of(trainee, t, self.weighting)
        return {
            "remember": weight * w_keep * _summed(said - to_keep), "forget": -weight * w_lose * _summed(said - to_lose)
        }  # fmt: skip


def importance(
    to_keep: Float[Tensor, "N C H W"], to_lose: Float[Tensor, "N C H W"], lam: float
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """Weights under which draws from a mixture of two Gaussians stand for draws from each.

    Formula: ``w_x = 1 / ((1 - lam) + lam p_a / p_x)`` and ``w_a = 1 / ((1 - lam) p_x / p_a + lam)`` with ``p`` in
    proportion to ``exp(-|direction|^2 / 2)``; computed in logarithms, as densities of latents overflow.

    Args:
        to_keep: Directions from noisy latents to kept images, in units of noise.
        to_lose: Directions to images to forget.
        lam: Share of the mixture that is made of images to forget.

    Returns:
        Both weights, in ``[0, 1 / (1 - lam)]`` and ``[0, 1 / lam]``.

    Example:
        >>> same = torch.zeros(1, 1, 1, 1)
        >>> importance(same, same, 0.5)
        (tensor([1.]), tensor([1.]))
    """
    ratio = 0.5 * ((to_keep - to_lose) * (to_keep + to_lose)).sum(dim=(1, 2, 3))  # of p_a to p_x, in logarithms
    keep, lose = torch.tensor([1 - lam, lam], device=ratio.device, dtype=ratio.dtype).log()
    return (-torch.logaddexp(keep, lose + ratio)).exp(), (-torch.logaddexp(keep - ratio, lose)).exp()


def _summed(some: Float[Tensor, "N C H W"]) -> Float[Tensor, "N"]:
    return some.square().sum(dim=(1, 2, 3))
