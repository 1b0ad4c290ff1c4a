"""Fine-tuning towards surrogates under the original prompts only: the ablation without adversarial embeddings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.core.finetuning import FineTuning, Lesson, Losses, Part, Trainee
from amnestic.core.registry import register
from amnestic.core.target import Target
from amnestic.mitigations.finetune.losses import WEIGHTINGS, denoising_loss, noised_rows


@register
@dataclass(frozen=True, kw_only=True)
class AdversarialWithoutEmbeddings(FineTuning):
    """Teaches surrogates in place of memorized images, under their prompts, and ordinary pairs as they are.

    Formula: ``L = forget_weight mean |eps(s_t, t, c) - noise|^2 + retain_weight mean |eps(x_t, t, c') - noise|^2``
    with s a surrogate, c the prompt of the image it stands for, x an ordinary image and c' its caption.

    Attributes:
        forget_weight: Of the first term.
        retain_weight: Of the second.
        caption_dropout: Share of ordinary pairs that are shown with the empty prompt, so that guidance keeps working.
        weighting: ``prediction``, ``epsilon``, ``v`` or ``x0``: whose error both losses are.
        t_low: Least timestep of the first term as a share of the schedule, in [0, 1).
        t_high: End of its range, in (t_low, 1].
    """

    needs_surrogates: ClassVar[bool] = True
    forget_weight: float = 1.0
    retain_weight: float = 1.0
    caption_dropout: float = 0.1
    weighting: str = "prediction"
    t_low: float = 0.0
    t_high: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        FineTuning.__post_init__(self)
        if min(self.forget_weight, self.retain_weight) < 0 or not 0 <= self.caption_dropout <= 1:
            raise ValueError("forget_weight and retain_weight must not be negative, caption_dropout in [0, 1]")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"expected {', '.join(WEIGHTINGS)}; got {self.weighting}")
        if not 0 <= self.t_low < self.t_high <= 1:
            raise ValueError(f"expected 0 <= t_low < t_high <= 1, got {self.t_low} and {self.t_high}")

    def losses(
        self, trainee: Trainee, frozen: Target, lesson: Lesson, part: Part, kept: Mapping[str, Tensor]
    ) -> Losses:
        """Denoising losses of surrogates and of ordinary pairs."""
        forget, retain = {}, {}
        if part.forget:
            forget["forget"] = self.forget_weight * self._of_surrogates(trainee, lesson, part, kept)
        if part.retain:
            retain["retain"] = self.retain_weight * self._of_pairs(trainee, lesson, part)
        return Losses(forget=forget, retain=retain)

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
            _one_of(lesson.surrogates[lesson.forget[place].id], rng) for place, rng in zip(places, rngs, strict=True)
        ])  # fmt: skip
        rows = noised_rows(trainee, shown, rngs, device=cond.device, t_low=self.t_low, t_high=self.t_high)
        return denoising_loss(trainee, rows, cond, weighting=self.weighting)

    def _of_pairs(self, trainee: Trainee, lesson: Lesson, part: Part) -> Float[Tensor, "m"]:
        pairs = [lesson.retain[i] for i in self.pairs_of(lesson, part)]
        rngs = [part.rng("retain", row) for row in part.retain]
        captions = [
            "" if float(torch.rand((), generator=rng)) < self.caption_dropout else pair.prompt.prompt
            for pair, rng in zip(pairs, rngs, strict=True)
        ]
        cond = trainee.encode(captions)
        rows = noised_rows(trainee, torch.stack([p.latents for p in pairs]), rngs, device=cond.device)
        return denoising_loss(trainee, rows, cond, weighting=self.weighting)


def _one_of(some: Float[Tensor, "M C H W"], rng: torch.Generator) -> Float[Tensor, "C H W"]:
    chosen: Tensor = some[int(torch.randint(len(some), (), generator=rng))]
    return chosen
