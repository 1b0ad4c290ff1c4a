"""Concept ablation, as set for memorized images (Kumari et al., ICCV 2023)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.core.denoising import denoising_loss
from amnestic.core.errors import InputError
from amnestic.core.finetuning import Lesson, Losses, Part, Trainee
from amnestic.core.registry import register
from amnestic.core.target import Target
from amnestic.mitigations.finetune.errors import Weighted, drawn_index, one_of, said
from amnestic.mitigations.finetune.losses import noised_rows

KINDS = ("model-based", "noise-based")
ANCHORS = ("nearest", "drawn", "empty")
TEACHERS = ("trainee", "frozen")


@register
@dataclass(frozen=True, kw_only=True)
class ConceptAblation(Weighted):
    """Teaches a model to predict under a prompt what it predicts under an anchor prompt, on images that are no copies.

    Formula, model-based: ``|eps(s_t, t, c) - eps(s_t, t, c_anchor)|^2`` without gradient through the latter;
    noise-based: ``|eps(s_t, t, c) - noise|^2``, with s a surrogate of the image and c its prompt; plus
    `prior_loss_weight` times the denoising loss of ordinary pairs.

    Cost per step: `forget_rows` + `retain_rows` rows forward and backward; model-based, `forget_rows` forward as well.

    Published for memorized images: model-based, all weights, 400 steps of 8 rows, learning rate 5e-7 times the batch of
    8. Anchors there are paraphrases of the prompt by a language model and their drawings without copies, and the prior
    is learned on the same; here surrogates stand for the drawings, an ordinary prompt for the paraphrase and ordinary
    pairs for the prior.

    Pitfalls: The model learns under the image's own prompt alone: by published account an embedding search brings .97
    of the images back. ``nearest`` picks one anchor among the ordinary prompts that are given; few of them, or none of
    a like meaning, make it a strange one. With ``teacher=trainee`` the aim moves along with what is learned; ``frozen``
    holds it.

    Attributes:
        steps: Steps of the optimiser.
        learning_rate: Of AdamW, for a batch of `forget_rows`.
        loss_type_reverse: ``model-based`` or ``noise-based``.
        prior_loss_weight: Of ordinary pairs.
        anchor: ``nearest`` (the ordinary prompt whose conditioning has the largest cosine), ``drawn`` (any ordinary
            prompt, anew for each row) or ``empty``.
        teacher: Who predicts under the anchor: ``trainee`` (the model as it is now: published) or ``frozen``.

    Source:
        Kumari, Zhang, Wang, Shechtman, Zhang, Zhu, "Ablating Concepts in Text-to-Image Diffusion Models", ICCV 2023.
    """

    needs_surrogates: ClassVar[bool] = True
    steps: int = 400
    learning_rate: float = 4e-6
    loss_type_reverse: str = "model-based"
    prior_loss_weight: float = 1.0
    anchor: str = "nearest"
    teacher: str = "trainee"

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        Weighted.__post_init__(self)
        known = ((self.loss_type_reverse, KINDS), (self.anchor, ANCHORS), (self.teacher, TEACHERS))
        for value, allowed in known:
            if value not in allowed:
                raise ValueError(f"expected {', '.join(allowed)}; got {value}")
        if self.prior_loss_weight < 0:
            raise ValueError(f"prior_loss_weight must not be negative, got {self.prior_loss_weight}")

    def require_fit(self, target: Target, lesson: Lesson) -> None:
        """Refuse a lesson without ordinary prompts where they are anchors."""
        super().require_fit(target, lesson)
        if self.loss_type_reverse == "model-based" and self.anchor != "empty" and not lesson.natural:
            raise InputError(f"anchor={self.anchor} needs ordinary prompts, got none; give some, or anchor=empty")

    def stale(self, step: int, lesson: Lesson) -> tuple[int, ...]:
        """Anchors are chosen once."""
        chosen = step == 0 and self.loss_type_reverse == "model-based" and self.anchor == "nearest"
        return tuple(range(len(lesson.forget))) if chosen else ()

    def refresh(
        self, step: int, trainee: Trainee, frozen: Target, lesson: Lesson, places: Sequence[int],
        kept: Mapping[str, Tensor],
    ) -> Mapping[str, Tensor]:  # fmt: skip
        """Place of the nearest ordinary prompt of each goal."""
        return {f"anchor:{lesson.forget[i].id}": _nearest(frozen, lesson, i) for i in places}

    def losses(
        self, trainee: Trainee, frozen: Target, lesson: Lesson, part: Part, kept: Mapping[str, Tensor]
    ) -> Losses:
        """Distance to the prediction under the anchor, and the denoising loss of ordinary pairs."""
        forget = {"forget": self._of_goals(trainee, frozen, lesson, part, kept)} if part.forget else {}
        return Losses(forget=forget, retain=self.ordinary(trainee, lesson, part, self.prior_loss_weight))

    def _of_goals(
        self, trainee: Trainee, frozen: Target, lesson: Lesson, part: Part, kept: Mapping[str, Tensor]
    ) -> Float[Tensor, "n"]:
        places = self.goals_of(lesson, part)
        cond = trainee.encode([lesson.forget[i].prompt.prompt for i in places])
        rngs = [part.rng("forget", row) for row in part.forget]
        shown = [one_of(lesson.surrogates[lesson.forget[i].id], rng) for i, rng in zip(places, rngs, strict=True)]
        rows, aim = noised_rows(trainee, torch.stack(shown), rngs, device=cond.device), None
        if self.loss_type_reverse == "model-based":
            anchors = [
                self._anchor(frozen, lesson, place, part.rng("anchor", row), kept)
                for place, row in zip(places, part.forget, strict=True)
            ]
            aim = said(trainee if self.teacher == "trainee" else frozen, rows.x, rows.t, frozen.encode(anchors))
        return denoising_loss(trainee, rows, cond, weighting=self.weighting, towards=aim)

    def _anchor(
        self, frozen: Target, lesson: Lesson, place: int, rng: torch.Generator, kept: Mapping[str, Tensor]
    ) -> str:
        if self.anchor == "empty":
            return ""
        if self.anchor == "drawn":
            return lesson.natural[drawn_index(len(lesson.natural), rng)].prompt
        chosen = kept.get(f"anchor:{lesson.forget[place].id}")
        return lesson.natural[int(_nearest(frozen, lesson, place) if chosen is None else chosen)].prompt


def _nearest(target: Target, lesson: Lesson, place: int) -> Tensor:
    """Place of the ordinary prompt whose conditioning is most like that of a goal's prompt."""
    own = target.encode([lesson.forget[place].prompt.prompt]).float().flatten(1)
    others = torch.cat([target.encode([p.prompt]).float().flatten(1) for p in lesson.natural])
    return torch.nn.functional.cosine_similarity(own, others).argmax().cpu()
