"""Gradient ascent on the denoising loss of images to forget."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.core.denoising import NoisedRows, denoising_loss, weight_of
from amnestic.core.finetuning import Lesson, Losses, Part, Trainee
from amnestic.core.registry import register
from amnestic.core.target import Target
from amnestic.mitigations.finetune.errors import Weighted, said


@register
@dataclass(frozen=True, kw_only=True)
class NegativeGradient(Weighted):
    """Makes a model worse at images to forget, while it trains on ordinary pairs.

    Formula: ``- forget_weight min(l, bound l_before) + retain_weight l_ordinary`` with l the denoising loss of a noised
    original under its prompt, and ``l_before`` that of the model before on the same row. Without `bound` the loss has
    no lower end, and the model falls apart when trained for long.

    Cost per step: `forget_rows` + `retain_rows` rows forward and backward; with `bound`, `forget_rows` rows forward
    through the model before as well. Published: no bound, no ordinary pairs (``retain_rows=0``), 35 steps of 16 rows.

    Pitfalls: Without `bound`, the default, only `steps` and `learning_rate` limit the harm, and a falling loss says
    nothing about what is left of the model: look at the base prompts, or set a bound. Errors rise under the images' own
    prompts alone; other conditionings are not trained.

    Attributes:
        steps: Steps of the optimiser.
        forget_rows: Rows per step about images to forget.
        retain_rows: Rows per step about ordinary pairs.
        forget_weight: Of the images to forget.
        retain_weight: Of ordinary pairs.
        bound: Rows whose loss has risen to this multiple of what it was pull no further; above 1, or `None`.

    Source:
        Baseline "NegGrad" of Alberti et al., "Data Unlearning in Diffusion Models", ICLR 2025; the bound is ours.
    """

    steps: int = 35
    forget_rows: int = 16
    retain_rows: int = 16
    forget_weight: float = 1.0
    retain_weight: float = 1.0
    bound: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        Weighted.__post_init__(self)
        if min(self.forget_weight, self.retain_weight) < 0:
            raise ValueError("forget_weight and retain_weight must not be negative")
        if self.bound is not None and self.bound <= 1:
            raise ValueError(f"bound is a multiple of the loss before, expected more than 1, got {self.bound}")

    def losses(
        self, trainee: Trainee, frozen: Target, lesson: Lesson, part: Part, kept: Mapping[str, Tensor]
    ) -> Losses:
        """Minus the denoising loss of originals, plus that of ordinary pairs."""
        forget = {}
        if part.forget:
            rows, cond = self.originals(trainee, lesson, part)
            loss = denoising_loss(trainee, rows, cond, weighting=self.weighting)
            if self.bound is not None:
                loss = torch.minimum(loss, self.bound * self._before(frozen, rows, cond))
            forget["forget"] = -self.forget_weight * loss
        return Losses(forget=forget, retain=self.ordinary(trainee, lesson, part, self.retain_weight))

    def _before(self, frozen: Target, rows: NoisedRows, cond: Float[Tensor, "n L W"]) -> Float[Tensor, "n"]:
        error = (said(frozen, rows.x, rows.t, cond) - rows.noise).square().mean(dim=(1, 2, 3))
        return error * weight_of(frozen, rows.t, self.weighting)
