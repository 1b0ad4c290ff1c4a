"""The standard test of a removal: a fixed ensemble of embedding searches without a setting to tune."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from amnestic.attacks.dori import Dori
from amnestic.attacks.random_embeddings import RandomEmbeddings
from amnestic.core.attacks import Attack, AttackCase, Search
from amnestic.core.registry import register
from amnestic.core.target import Target


@register
@dataclass(frozen=True, kw_only=True)
class AutoDori(Attack):
    """Four searches that differ in where they begin and in what they minimise; the worst of them counts.

    In the spirit of AutoAttack (Croce and Hein, ICML 2020): there is nothing to set but a budget, 50 steps a member, so
    that nobody who defends a model can choose a weak attack. A control is attacked four times as well, which corrects
    for taking the worst.

    Cost: N works x 4 x steps x 8 rows forward and backward, 1,600 a work with 50 steps; a work that an earlier member
    brought back is left out of the later ones where the search may stop early. Judging is apart, for each member.

    Pitfalls: The worst of four is at least as bad as each member, for works and controls alike: compare it with itself
    alone, and within one version. That the noisier half by epsilon is a member was decided on 8 works and two models of
    the testbed. The last member needs the prompt of another memorized work and is refused without.

    Attributes:
        version: Which ensemble; its members stay as they are, so that outcomes of one version compare. In version 1 the
            search over the noisier half of the timesteps minimised the error of what the model predicts; in 2 that of
            epsilon, which found more on edited models.
        batch_size: Most rows computed at once; does not change the result beyond rounding.

    Source:
        Members are variants of Kowalczuk et al., "Finding DoRI", ICML 2026.
    """

    searches: ClassVar[str] = "embedding"
    ENSEMBLES: ClassVar[Mapping[int, tuple[Mapping[str, Any], ...]]] = {
        1: (
            {"start": "prompt", "loss": "denoising"},
            {"start": "noise", "loss": "denoising"},
            {"start": "prompt", "loss": "denoising", "t_low": 0.5, "weighting": "prediction"},
            {"start": "other-memorized", "loss": "denoising"},
        ),
        2: (
            {"start": "prompt", "loss": "denoising"},
            {"start": "noise", "loss": "denoising"},
            {"start": "prompt", "loss": "denoising", "t_low": 0.5},
            {"start": "other-memorized", "loss": "denoising"},
        ),
    }
    version: int = 2
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Refuse an ensemble that there is not."""
        if self.version not in self.ENSEMBLES:
            raise ValueError(f"expected version {', '.join(map(str, self.ENSEMBLES))}; got {self.version}")

    @property
    def tries(self) -> int:
        """One per member."""
        return len(self.ENSEMBLES[self.version])

    def by_chance(self) -> RandomEmbeddings:
        """Random embeddings around the prompt, as many times."""
        return RandomEmbeddings(steps=self.steps, restarts=self.tries)

    def search(self, target: Target, case: AttackCase, attempt: int) -> Search:
        """The member's own search, in draws of its own."""
        member = Dori(
            steps=self.steps, batch_size=self.batch_size, seed=attempt, **self.ENSEMBLES[self.version][attempt]
        )
        return member.search(target, case, 0)
