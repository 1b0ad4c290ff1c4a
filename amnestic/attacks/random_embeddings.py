"""Chance with the budget of an attack: embeddings drawn around the start, the best of them kept."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amnestic.attacks.evaluation import compared
from amnestic.attacks.losses import draw_rows
from amnestic.attacks.starts import STARTS, free_tokens, natural_distance, starting_points
from amnestic.core.attacks import Attack, AttackCase, Goal, Search, Tried
from amnestic.core.denoising import WEIGHTINGS
from amnestic.core.registry import register
from amnestic.core.seeds import generator
from amnestic.core.target import Target

UNITS = ("deviation", "natural")
AROUND = ("start", "best")


@register
@dataclass(frozen=True, kw_only=True)
class RandomEmbeddings(Attack):
    """The negative control of searches by gradient: what as many passes find by chance.

    Formula: ``y <- argmin over {y, c_1, ..., c_K} of mean_d w_t |eps(x_t, t, .) - noise|^2``, on draws that are fresh
    in every step and common to all; ``c_k = start + s z_k`` with ``z_k ~ N(0, I)`` on the free tokens.

    Cost: N works x restarts x steps x (candidates + 1) x draws rows forward. With the defaults a step has 16, as many
    passes as one of `Dori` with 8 draws, 8 forward and 8 backward. Other ways to spend the same: 3 candidates with 4
    draws, 7 with 2. Judging is apart.

    Pitfalls: Fair only with the tries, steps, start, timesteps and weighting of the search it stands beside, and with
    no more passes than that. At ``scale=1`` a candidate moves by as much as the starting point's own numbers vary;
    where none of them is better the start is held, and the outcome is the start's. ``around=best`` with a smaller scale
    lets it walk away.

    Attributes:
        candidates: New embeddings per step; what is held is computed beside them.
        draws: Noises and timesteps per step and image.
        scale: How far candidates lie from what they are drawn around.
        unit: Of the scale: ``deviation`` (standard deviation of the starting point's numbers; the distance varies) or
            ``natural`` (median distance of ordinary prompts; all candidates lie at this distance).
        around: ``start``, or ``best``: what is held, so that the search may walk away.
        start: ``prompt``, ``noise``, ``other-prompt`` or ``other-memorized``.
        restarts: Searches per image, each with its own draws.
        weighting: ``prediction``, ``epsilon``, ``v`` or ``x0``; see `denoising_loss`.
        t_low: Least timestep as a share of the schedule, in [0, 1).
        t_high: End of the range, in (t_low, 1].
        free_tokens: ``all``, ``not-first`` or a range such as ``1:9``.
        batch_size: Most rows computed at once; does not change the result beyond rounding.
        seed: Seed of all draws.

    Source:
        Random search with equal budget, Bergstra & Bengio, "Random Search for Hyper-Parameter Optimization", JMLR
        2012; as a check that a gradient is worth anything, Carlini et al., "On Evaluating Adversarial Robustness",
        arXiv 1902.06705, 2019.
    """

    searches: ClassVar[str] = "embedding"
    uses_gradient: ClassVar[bool] = False
    candidates: int = 1
    draws: int = 8
    scale: float = 1.0
    unit: str = "deviation"
    around: str = "start"
    start: str = "prompt"
    restarts: int = 1
    weighting: str = "epsilon"
    t_low: float = 0.0
    t_high: float = 1.0
    free_tokens: str = "all"
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        words = ((self.unit, UNITS), (self.around, AROUND), (self.start, STARTS), (self.weighting, WEIGHTINGS))
        for value, known in words:
            if value not in known:
                raise ValueError(f"expected {', '.join(known)}; got {value}")
        if min(self.steps, self.candidates, self.draws, self.restarts, self.batch_size) < 1 or self.scale <= 0:
            raise ValueError("steps, candidates, draws, restarts, batch_size and scale must be positive")
        if not 0 <= self.t_low < self.t_high <= 1:
            raise ValueError(f"expected 0 <= t_low < t_high <= 1, got {self.t_low} and {self.t_high}")

    @property
    def tries(self) -> int:
        """One search per restart."""
        return self.restarts

    def search(self, target: Target, case: AttackCase, attempt: int) -> Search:
        """Draws, compares and keeps; a goal that is left alone neither moves nor costs a row."""
        start = starting_points(target, case, self.start, seed=self.seed, attempt=attempt)
        free = free_tokens(start.shape[1], self.free_tokens)
        reach = self.scale * natural_distance(target, case.natural) if self.unit == "natural" else None
        best, precision = start.clone(), target.encode([""]).dtype
        unknown = torch.full((len(start),), torch.nan)
        asleep = yield Tried(cond=start, loss=unknown, gradient=unknown)
        for step in range(self.steps):
            awake = [i for i in range(len(start)) if i not in asleep]
            name, centre = f"{attempt}/{step}", start if self.around == "start" else best
            tried = torch.stack(
                [torch.cat([best[i : i + 1], self._drawn(case.goals[i], centre[i], free, reach, name)]) for i in awake]
            )
            loss, best = unknown.clone(), best.clone()
            worth = self._worth(target, case, tried.to(precision), awake, name)
            loss[awake], chosen = worth.min(dim=1)
            best[awake] = tried[torch.arange(len(awake)), chosen.to(tried.device)]
            asleep = yield Tried(cond=best, loss=loss, gradient=unknown)

    def _drawn(
        self, goal: Goal, centre: Float[Tensor, "L W"], free: Bool[Tensor, "L"], reach: float | None, name: str
    ) -> Float[Tensor, "K L W"]:
        rng = generator(self.seed, "random-embeddings", "candidates", goal.id, name)
        away = torch.randn((self.candidates, *centre.shape), generator=rng) * free[:, None]
        if reach is None:
            scale = torch.full((self.candidates, 1, 1), self.scale * float(centre.std()))
        else:
            scale = reach / away.flatten(1).norm(dim=1)[:, None, None]
        return centre + (scale * away).to(centre.device)

    def _worth(
        self, target: Target, case: AttackCase, tried: Float[Tensor, "A K L W"], awake: list[int], name: str
    ) -> Float[Tensor, "A K"]:
        rows = [
            draw_rows(
                target, case.goals[i].original, self.draws, names=("random-embeddings", case.goals[i].id, name),
                seed=self.seed, t_low=self.t_low, t_high=self.t_high,
            )
            for i in awake
        ]  # fmt: skip
        return compared(target, tried, rows, weighting=self.weighting, batch_size=self.batch_size)
