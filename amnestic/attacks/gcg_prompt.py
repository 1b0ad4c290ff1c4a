"""Prompts of real words, one exchanged at a time where the slope says so (GCG, Zou et al., 2023)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amnestic.attacks.evaluation import compared, encoded, token_slopes
from amnestic.attacks.losses import Rows
from amnestic.attacks.prompt_search import PromptSearch, Slots, now_holding, survives
from amnestic.attacks.random_tokens import RandomTokens
from amnestic.core.attacks import AttackCase, Search
from amnestic.core.registry import register
from amnestic.core.target import Target, Vocabulary


@register
@dataclass(frozen=True, kw_only=True)
class GcgPrompt(PromptSearch):
    """Greedy coordinate gradient: of many prompts that differ in one word, the one with the least loss.

    Formula: ``g_iv = <dL/de_i, E_v>``, the slope of the loss in the one-hot choice of word v at place i; candidates
    exchange one random place's word for one of the `top_k` with the least g; ``p <- argmin over {p, candidates} of L``,
    L the loss of `Dori` on draws that are fresh in every step and common to all.

    Published, on language models: 20 tokens, 512 candidates, top_k 256, 500 steps; there the best candidate is taken
    even if it is worse than what is held. The loss told for a step is that of the prompt that came out of it.

    Cost: N works x restarts x steps x draws rows forward and backward, and at most `candidates` times as many forward:
    400 and 12,800 a work with the defaults. Candidates that read otherwise when they are typed are dropped, as
    published, and cost nothing; nor do those that were drawn twice. Judging is apart.

    Pitfalls: With ``start=prompt`` the image's own words stay, so what comes out may be theirs. The best of many on few
    draws is chosen by luck as well; more `draws` help.

    Attributes:
        candidates: Prompts tried per step.
        top_k: Words per place that candidates are drawn from.

    Source:
        Zou, Wang, Carlini, Nasr, Kolter, Fredrikson, "Universal and Transferable Adversarial Attacks on Aligned
        Language Models", arXiv 2307.15043, 2023.
    """

    candidates: int = 32
    top_k: int = 256

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        super().__post_init__()
        if min(self.candidates, self.top_k) < 1:
            raise ValueError("candidates and top_k must be at least 1")

    def by_chance(self) -> RandomTokens:
        """One random word at a time, with the passes of the gradient in one more candidate."""
        return RandomTokens(**self.shared(), candidates=self.candidates + 1, around="best")

    def search(self, target: Target, case: AttackCase, attempt: int) -> Search:
        """Goal by goal, since candidates fill the batches; a goal that is left alone costs no row."""
        held, known = self.begin(target, case, attempt), target.vocabulary()
        slots = self.slots(target, known, held.texts or (), case, attempt)
        asleep = yield held
        for step in range(self.steps):
            awake, name = [i for i in range(len(case.goals)) if i not in asleep], f"{attempt}/{step}"
            rows = self.rows(target, case, awake, name)
            stepped = [
                self._step(target, known, slots, i, row, self.rng("candidates", case.goals[i].id, name))
                for i, row in zip(awake, rows, strict=True)
            ]
            for place, (ids, _, _) in zip(awake, stepped, strict=True):
                slots.ids[place] = ids
            held = now_holding(
                target, held, awake, target.texts_of(slots.ids[awake]), loss=torch.stack([s[1] for s in stepped]),
                gradient=torch.stack([s[2] for s in stepped]), batch_size=self.batch_size,
            )  # fmt: skip
            asleep = yield held

    def _step(
        self, target: Target, known: Vocabulary, slots: Slots, place: int, rows: Rows, rng: torch.Generator
    ) -> tuple[Int[Tensor, "L"], Float[Tensor, ""], Float[Tensor, ""]]:
        """The prompt after one step, its loss, and the length of the slope before it."""
        ids, at = slots.ids[place], slots.at[place]
        loss, slope = token_slopes(
            target, ids[None], known.embeddings[ids.to(known.embeddings.device)][None], [rows],
            weighting=self.weighting, batch_size=self.batch_size,
        )  # fmt: skip
        slope = slope[0, at.to(slope.device)]
        tried = self._exchanged(ids, at, best_words(known, slope, self.top_k), rng)
        tried = tried[torch.tensor(survives(target, tried), dtype=torch.bool)]
        if len(tried):
            cond = encoded(target, target.texts_of(tried), batch_size=self.batch_size)
            worth = compared(target, cond[None], [rows], weighting=self.weighting, batch_size=self.batch_size)
            loss = torch.cat([loss, worth[0]])
        least, which = loss.min(dim=0)
        return (tried[which - 1] if which else ids), least, slope.norm().cpu()

    def _exchanged(
        self, ids: Int[Tensor, "L"], at: Int[Tensor, "M"], words: Int[Tensor, "M K"], rng: torch.Generator
    ) -> Int[Tensor, "C L"]:
        """Candidates, each with one other word in one place; each of them once."""
        where = torch.randint(len(at), (self.candidates,), generator=rng)
        which = torch.randint(words.shape[1], (self.candidates,), generator=rng)
        tried = ids.repeat(self.candidates, 1)
        tried[torch.arange(self.candidates), at[where]] = words[where, which]
        other = (tried != ids).any(dim=1)
        return torch.unique(tried[other], dim=0) if other.any() else tried[other]


def best_words(known: Vocabulary, slope: Float[Tensor, "M E"], top_k: int) -> Int[Tensor, "M K"]:
    """Ordinary words with the least slope in each place, on the CPU; all of them when there are fewer than `top_k`."""
    choices = known.ordinary.nonzero()[:, 0]
    steep = slope @ known.embeddings[choices.to(known.embeddings.device)].float().T
    return choices[steep.topk(min(top_k, len(choices)), dim=1, largest=False).indices.cpu()]
