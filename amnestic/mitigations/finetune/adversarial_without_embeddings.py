"""Fine-tuning towards surrogates under the original prompts only: the ablation without adversarial embeddings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.core.denoising import denoising_loss
from amnestic.core.finetuning import Lesson, Losses, Part, Trainee
from amnestic.core.registry import register
from amnestic.core.target import Target
from amnestic.mitigations.finetune.errors import Weighted, one_of
from amnestic.mitigations.finetune.losses import noised_rows


@register
@dataclass(frozen=True, kw_only=True)
class AdversarialWithoutEmbeddings(Weighted):
    """Teaches surrogates in place of memorized images, under their prompts, and ordinary pairs as they are.

    Formula: ``L = forget_weight mean |eps(s_t, t, c) - noise|^2 + retain_weight mean |eps(x_t, t, c') - noise|^2``
    with s a surrogate, c the prompt of the image it stands for, x an ordinary image and c' its caption.

    Cost: ``steps (forget_rows + retain_rows)`` rows forward and backward. Surrogates are drawn before, once.

    Pitfalls: It teaches the prompt, not the image, and a plain audit cannot tell it from a removal: of 24 works of the
    testbed (100 steps of 24 + 48 rows) none came out under its prompt and base prompts kept their CLIP alignment, but
    50 steps of `Dori` brought .875 back.

    Attributes:
        forget_weight: Of the first term.
        retain_weight: Of the second.
        caption_dropout: Share of ordinary pairs that are shown with the empty prompt, so that guidance keeps working.
        t_low: Least timestep of the first term as a share of the schedule, in [0, 1).
        t_high: End of its range, in (t_low, 1].

    Source:
        The ablation of `adversarial`: the same lessons without its searches; ours.
    """

    needs_surrogates: ClassVar[bool] = True
    forget_weight: float = 1.0
    retain_weight: float = 1.0
    caption_dropout: float = 0.1
    t_low: float = 0.0
    t_high: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        Weighted.__post_init__(self)
        if min(self.forget_weight, self.retain_weight) < 0:
            raise ValueError("forget_weight and retain_weight must not be negative")
        if not 0 <= self.t_low < self.t_high <= 1:
            raise ValueError(f"expected 0 <= t_low < t_high <= 1, got {self.t_low} and {self.t_high}")

    def losses(
        self, trainee: Trainee, frozen: Target, lesson: Lesson, part: Part, kept: Mapping[str, Tensor]
    ) -> Losses:
        """Denoising losses of surrogates and of ordinary pairs."""
        forget = {}
        if part.forget:
            forget["forget"] = self.forget_weight * self._of_surrogates(trainee, lesson, part, kept)
        return Losses(forget=forget, retain=self.ordinary(trainee, lesson, part, self.retain_weight))

    def conditions(
        self, trainee: Target, lesson: Lesson, part: Part, places: Sequence[int], kept: Mapping[str, Tensor]
    ) -> Float[Tensor, "n L W"]:
        """Conditioning of each forget row: the goal's own prompt."""
        return trainee.encode([lesson.forget[i].prompt.prompt for i in places])

    def _of_surrogates(
        self, trainee: Trainee, lesson: Lesson, part: Part, kept: Mapping[str, Tensor]
    ) -> Float[Tensor, "n"]:
        places = self.goals_of(lesson, part)
        cond = self.conditions(trainee, lesson, part, places, kept)
        rngs = [part.rng("forget", row) for row in part.forget]
        shown = torch.stack([
            one_of(lesson.surrogates[lesson.forget[place].id], rng) for place, rng in zip(places, rngs, strict=True)
        ])  # fmt: skip
        rows = noised_rows(trainee, shown, rngs, device=cond.device, t_low=self.t_low, t_high=self.t_high)
        return denoising_loss(trainee, rows, cond, weighting=self.weighting)
