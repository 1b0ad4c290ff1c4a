"""Chance with the budget of an attack: prompts of random words, the best of them kept."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from amnestic.attacks.evaluation import compared, encoded
from amnestic.attacks.prompt_search import PromptSearch, Slots, drawn, now_holding
from amnestic.core.attacks import AttackCase, Search
from amnestic.core.registry import register
from amnestic.core.target import Target, Vocabulary

AROUND = ("start", "best")


@register
@dataclass(frozen=True, kw_only=True)
class RandomTokens(PromptSearch):
    """The negative control of searches over prompts: what as many passes find by chance.

    Formula: ``p <- argmin over {p, c_1, ..., c_K} of mean_d w_t |eps(x_t, t, encode(.)) - noise|^2``, on draws that
    are fresh in every step and common to all; c_k is the prompt with random ordinary words in its places.

    Every candidate is a text, read as a user's would be.

    Cost: N works x restarts x steps x (candidates + 1) x draws rows forward. With the defaults a step has 16, as many
    passes as one of `Dori` or `HardPrompt` with 8 draws, 8 forward and 8 backward. Judging is apart.

    Pitfalls: Fair only with the passes of what it stands beside: `GcgPrompt` with its defaults wants ``candidates=33``
    and, since it changes one word at a time, ``around=best``. With ``start=prompt`` the image's own words stay, so what
    comes out may be theirs.

    Attributes:
        candidates: New prompts per step; what is held is computed beside them.
        around: ``start`` (all places are drawn anew) or ``best`` (one place of the best words so far is).

    Source:
        `GcgPrompt` without its gradient: Zou, Wang, Carlini, Nasr, Kolter, Fredrikson, "Universal and Transferable
        Adversarial Attacks on Aligned Language Models", arXiv 2307.15043, 2023.
    """

    uses_gradient: ClassVar[bool] = False
    candidates: int = 1
    around: str = "start"

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        super().__post_init__()
        if self.around not in AROUND:
            raise ValueError(f"expected {', '.join(AROUND)}; got {self.around}")
        if self.candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {self.candidates}")

    def search(self, target: Target, case: AttackCase, attempt: int) -> Search:
        """Draws, compares and keeps; a goal that is left alone neither moves nor costs a row."""
        held, known = self.begin(target, case, attempt), target.vocabulary()
        texts = list(held.texts or ())
        slots = self.slots(target, known, texts, case, attempt)
        words = slots.chosen
        asleep = yield held
        for step in range(self.steps):
            awake = [i for i in range(len(texts)) if i not in asleep]
            tried = [self._drawn(known, case, slots, words, i, f"{attempt}/{step}") for i in awake]
            said = [self._texts(target, slots, i, new) for i, new in zip(awake, tried, strict=True)]
            every = [text for i, some in zip(awake, said, strict=True) for text in (texts[i], *some)]
            cond = encoded(target, every, batch_size=self.batch_size).unflatten(0, (len(awake), -1))
            worth = compared(
                target, cond, self.rows(target, case, awake, f"{attempt}/{step}"), weighting=self.weighting,
                batch_size=self.batch_size,
            )  # fmt: skip
            loss, best = worth.min(dim=1)
            for row, (place, which) in enumerate(zip(awake, best.tolist(), strict=True)):
                if which:
                    words[place], texts[place] = tried[row][which - 1], said[row][which - 1]
            now = [texts[i] for i in awake]
            held = now_holding(target, held, awake, now, loss=loss, batch_size=self.batch_size)
            asleep = yield held

    def _drawn(
        self, known: Vocabulary, case: AttackCase, slots: Slots, words: Int[Tensor, "N M"], place: int, step: str
    ) -> Int[Tensor, "K M"]:
        rng, shape = self.rng("candidates", case.goals[place].id, step), (self.candidates, self.n_tokens)
        if self.around == "start":
            return drawn(known, shape, rng)
        at = torch.randint(self.n_tokens, (self.candidates, 1), generator=rng)
        return words[place].expand(shape).scatter(1, at, drawn(known, (self.candidates, 1), rng))

    def _texts(self, target: Target, slots: Slots, place: int, new: Int[Tensor, "K M"]) -> tuple[str, ...]:
        rows, at = (value[place].expand(len(new), -1) for value in (slots.ids, slots.at))
        return target.texts_of(rows.scatter(1, at, new))
