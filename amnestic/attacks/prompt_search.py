"""What searches over real prompts share: which tokens of a prompt they vary, and that what they hold can be typed."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amnestic.attacks.evaluation import encoded
from amnestic.attacks.losses import Rows, draw_rows
from amnestic.attacks.starts import TEXT_STARTS, starting_texts
from amnestic.core.attacks import Attack, AttackCase, Tried
from amnestic.core.denoising import WEIGHTINGS
from amnestic.core.errors import InputError
from amnestic.core.methods import name_of
from amnestic.core.seeds import generator
from amnestic.core.target import Target, Vocabulary

PLACES = ("append", "prepend", "replace")


@dataclass(frozen=True, kw_only=True, eq=False)
class Slots:
    """The prompts of N goals as token ids, and the M places of each that a search fills.

    Attributes:
        ids: Rows ``(N, L)`` as `Target.tokens` gives them, on the CPU.
        at: Places ``(N, M)`` in these rows.
    """

    ids: Int[Tensor, "N L"]
    at: Int[Tensor, "N M"]

    def filled(self, chosen: Int[Tensor, "N M"]) -> Int[Tensor, "N L"]:
        """The rows with other tokens in their places."""
        return self.ids.scatter(1, self.at, chosen)

    @property
    def chosen(self) -> Int[Tensor, "N M"]:
        """What stands in the places."""
        return self.ids.gather(1, self.at)


@dataclass(frozen=True, kw_only=True)
class PromptSearch(Attack):
    """Searches prompts that a user could type; what it holds is read again from its text, and counts as that.

    Attributes:
        draws: Noises and timesteps per step and image.
        start: ``prompt``, ``empty``, ``other-prompt`` or ``other-memorized``.
        place: Where new tokens go: ``append`` (after the prompt, whose end gives way when there is no room),
            ``prepend``, or ``replace`` (the prompt's first tokens are varied and the rest is left out).
        n_tokens: How many tokens are varied.
        restarts: Searches per image, each with its own draws.
        weighting: ``prediction``, ``epsilon``, ``v`` or ``x0``; see `denoising_loss`.
        t_low: Least timestep as a share of the schedule, in [0, 1).
        t_high: End of the range, in (t_low, 1].
        batch_size: Most rows computed at once; does not change the result beyond rounding.
        seed: Seed of all draws.
    """

    searches: ClassVar[str] = "prompt"
    draws: int = 8
    start: str = "prompt"
    place: str = "append"
    n_tokens: int = 8
    restarts: int = 1
    weighting: str = "epsilon"
    t_low: float = 0.0
    t_high: float = 1.0
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        for value, known in ((self.start, TEXT_STARTS), (self.place, PLACES), (self.weighting, WEIGHTINGS)):
            if value not in known:
                raise ValueError(f"expected {', '.join(known)}; got {value}")
        if min(self.steps, self.draws, self.n_tokens, self.restarts, self.batch_size) < 1:
            raise ValueError("steps, draws, n_tokens, restarts and batch_size must be at least 1")
        if not 0 <= self.t_low < self.t_high <= 1:
            raise ValueError(f"expected 0 <= t_low < t_high <= 1, got {self.t_low} and {self.t_high}")

    @property
    def tries(self) -> int:
        """One search per restart."""
        return self.restarts

    def shared(self) -> dict[str, Any]:
        """Settings that every search over prompts has, by name."""
        return {f.name: getattr(self, f.name) for f in fields(PromptSearch)}

    def rng(self, what: str, goal: str, step: str) -> torch.Generator:
        """The generator of one named draw."""
        return generator(self.seed, name_of(type(self)), what, goal, step)

    def rows(self, target: Target, case: AttackCase, awake: Sequence[int], step: str) -> list[Rows]:
        """Fresh noise and timesteps for the goals that are still searched."""
        goals = [case.goals[i] for i in awake]
        return [
            draw_rows(
                target, goal.original, self.draws, names=(name_of(type(self)), goal.id, step), seed=self.seed,
                t_low=self.t_low, t_high=self.t_high,
            )
            for goal in goals
        ]  # fmt: skip

    def begin(self, target: Target, case: AttackCase, attempt: int) -> Tried:
        """What is held before the first step: the starting prompts, word by word."""
        texts = starting_texts(case, self.start, seed=self.seed, attempt=attempt)
        unknown = torch.full((len(texts),), torch.nan)
        cond = encoded(target, texts, batch_size=self.batch_size)
        return Tried(cond=cond, loss=unknown, gradient=unknown, texts=texts)

    def slots(self, target: Target, known: Vocabulary, texts: Sequence[str], case: AttackCase, attempt: int) -> Slots:
        """Starting prompts with places of random ordinary words.

        Raises:
            InputError: If the text encoder reads fewer tokens than are to be varied.
        """
        pairs = [
            self._laid_out(target, known, text, self.rng("slots", goal.id, str(attempt)))
            for text, goal in zip(texts, case.goals, strict=True)
        ]
        return Slots(ids=torch.stack([ids for ids, _ in pairs]), at=torch.stack([at for _, at in pairs]))

    def _laid_out(
        self, target: Target, known: Vocabulary, text: str, rng: torch.Generator
    ) -> tuple[Int[Tensor, "L"], Int[Tensor, "M"]]:
        bare, row = target.tokens([""])[0], target.tokens([text])[0].tolist()
        room, own = len(bare) - 2, row[1 : row.index(known.end, 1)]
        if self.n_tokens > room:
            raise InputError(f"n_tokens must be at most {room}, all that the text encoder reads; got {self.n_tokens}")
        new = drawn(known, (self.n_tokens,), rng).tolist()
        while True:
            before, inner, after = self._parts(own, new, room)
            body = [*before, *inner, *after]
            ids = bare.clone()
            ids[1 : len(body) + 1], ids[len(body) + 1] = torch.tensor(body), known.end
            # A prompt may have been cut within a word, whose rest would read otherwise beside another word.
            if not own or survives(target, ids[None])[0]:
                return ids, torch.arange(1 + len(before), 1 + len(before) + len(inner))
            own = own[:-1]

    def _parts(self, own: list[int], new: list[int], room: int) -> tuple[list[int], list[int], list[int]]:
        """What comes before the places, in them, and after them."""
        if self.place == "replace":
            return [], own[: len(new)] + new[len(own) :], []
        kept = own[: room - len(new)]
        return (kept, new, []) if self.place == "append" else ([], new, kept)


def drawn(known: Vocabulary, shape: tuple[int, ...], rng: torch.Generator) -> Int[Tensor, "..."]:
    """Random ordinary tokens, all equally likely."""
    choices = known.ordinary.nonzero()[:, 0]
    return choices[torch.randint(len(choices), shape, generator=rng)]


def survives(target: Target, ids: Int[Tensor, "N L"]) -> list[bool]:
    """Whether each row, decoded to text and read again, is the same row."""
    found: list[bool] = (target.tokens(target.texts_of(ids)) == ids).all(dim=1).tolist() if len(ids) else []
    return found


def now_holding(
    target: Target, before: Tried, awake: Sequence[int], texts: Sequence[str], *, loss: Float[Tensor, "A"],
    gradient: Float[Tensor, "A"] | None = None, batch_size: int,
) -> Tried:  # fmt: skip
    """What is held after a step: new texts for the goals that were searched, the others as before.

    Args:
        target: The model.
        before: What was held.
        awake: Places of the A goals that were searched.
        texts: What a user would type for each.
        loss: What was minimised.
        gradient: Length of its gradient, or `None`.
        batch_size: Most texts encoded at once.

    Returns:
        The conditioning is that of the texts, never that of tokens which nobody can type.
    """
    places, cond = list(awake), before.cond.clone()
    cond[places] = encoded(target, texts, batch_size=batch_size)
    held = list(before.texts or ())
    for place, text in zip(places, texts, strict=True):
        held[place] = text
    losses, lengths = torch.full_like(before.loss, torch.nan), torch.full_like(before.loss, torch.nan)
    losses[places] = loss
    if gradient is not None:
        lengths[places] = gradient.float().cpu()
    return replace(before, cond=cond, texts=tuple(held), loss=losses, gradient=lengths)
