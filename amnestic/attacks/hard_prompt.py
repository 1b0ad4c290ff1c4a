"""Prompts of real words by a gradient that passes through their projection (PEZ, Wen et al., NeurIPS 2023)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from amnestic.attacks.evaluation import token_slopes
from amnestic.attacks.prompt_search import PromptSearch, Slots, now_holding
from amnestic.attacks.random_tokens import RandomTokens
from amnestic.core.attacks import AttackCase, Search
from amnestic.core.registry import register
from amnestic.core.target import Target, Vocabulary


@register
@dataclass(frozen=True, kw_only=True)
class HardPrompt(PromptSearch):
    """Moves soft token embeddings by the slope at the nearest real tokens.

    Formula: ``P <- AdamW(P, grad_P' mean_d w_t |eps(x_t, t, encode(P')) - noise|^2)`` with ``P' = proj(P)``: each
    embedding becomes that of the ordinary token with the largest cosine to it, and the gradient passes straight
    through.

    Published: AdamW at 0.1 with decay 0.1, 16 tokens of random start and nothing else (``start=empty``), 3000 steps,
    and CLIP similarity as loss; the loss here is that of `Dori`, so that the two differ in what they may say alone.
    The published search returns its best prompt; losses of fresh draws cannot be compared, so the last one is held.
    The loss told for a step is that of the prompt before it.

    Cost: N works x restarts x steps x draws rows forward and backward, 400 a work with the defaults; the text encoder
    computes forward and backward as well. Judging is apart.

    Pitfalls: With ``start=prompt`` the image's own words stay, so what comes out may be theirs; ``start=empty`` tests
    the words that were found. A prompt changes only when another word becomes nearest, and the last one is held, not
    the best.

    Attributes:
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.

    Source:
        Wen, Jain, Kirchenbauer, Goldblum, Geiping, Goldstein, "Hard Prompts Made Easy: Gradient-Based Discrete
        Optimization for Prompt Tuning and Discovery", NeurIPS 2023, arXiv 2302.03668.
    """

    learning_rate: float = 0.1
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        super().__post_init__()
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError("learning_rate must be positive and weight_decay at least 0")

    def by_chance(self) -> RandomTokens:
        """Random words in the same places."""
        return RandomTokens(**self.shared(), candidates=1)

    def search(self, target: Target, case: AttackCase, attempt: int) -> Search:
        """AdamW on all goals at once; a goal that is left alone neither moves nor costs a row."""
        held, known = self.begin(target, case, attempt), target.vocabulary()
        slots = self.slots(target, known, held.texts or (), case, attempt)
        words = slots.chosen
        soft = known.embeddings[words.to(known.embeddings.device)].float().requires_grad_()
        optimizer = torch.optim.AdamW([soft], lr=self.learning_rate, weight_decay=self.weight_decay)
        asleep = yield held
        for step in range(self.steps):
            awake = [i for i in range(len(words)) if i not in asleep]
            loss, slope = self._slope(target, known, case, slots, words, awake, f"{attempt}/{step}")
            soft.grad = torch.zeros_like(soft)
            soft.grad[awake] = slope
            before = soft.detach().clone()
            optimizer.step()
            with torch.no_grad():
                before[awake] = soft[awake]
                soft.copy_(before)
            words[awake] = nearest(known, soft.detach()[awake])
            texts = target.texts_of(slots.filled(words)[awake])
            held = now_holding(
                target, held, awake, texts, loss=loss, gradient=slope.flatten(1).norm(dim=1),
                batch_size=self.batch_size,
            )  # fmt: skip
            asleep = yield held

    def _slope(
        self, target: Target, known: Vocabulary, case: AttackCase, slots: Slots, words: Int[Tensor, "N M"],
        awake: list[int], step: str,
    ) -> tuple[Float[Tensor, "A"], Float[Tensor, "A M E"]]:  # fmt: skip
        """Loss at the projected prompts and its slope in their varied tokens."""
        ids = slots.filled(words)[awake]
        loss, slope = token_slopes(
            target, ids, known.embeddings[ids.to(known.embeddings.device)], self.rows(target, case, awake, step),
            weighting=self.weighting, batch_size=self.batch_size,
        )  # fmt: skip
        at = slots.at[awake].to(slope.device)
        return loss, slope.gather(1, at[:, :, None].expand(-1, -1, slope.shape[2]))


def nearest(known: Vocabulary, soft: Float[Tensor, "A M E"]) -> Int[Tensor, "A M"]:
    """The ordinary token with the largest cosine to each embedding, on the CPU."""
    choices = known.ordinary.nonzero()[:, 0]
    words = functional.normalize(known.embeddings[choices.to(known.embeddings.device)].float(), dim=1)
    # Going goal by goal keeps the table of cosines as small as one prompt needs it.
    return torch.stack([choices[(one @ words.T).argmax(dim=1).cpu()] for one in functional.normalize(soft, dim=2)])
