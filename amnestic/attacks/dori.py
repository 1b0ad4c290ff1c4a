"""A short search in text-embedding space that brings memorized images back (Kowalczuk et al., ICML 2026)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.attacks.losses import (
    LOSSES,
    Rows,
    descriptor_loss,
    draw_rows,
    joined,
    known_image_loss,
    lossless_scale,
    one_step_loss,
)
from amnestic.attacks.random_embeddings import RandomEmbeddings
from amnestic.attacks.starts import STARTS, free_tokens, natural_distance, starting_points, within
from amnestic.core.attacks import Attack, AttackCase, Search, Tried
from amnestic.core.denoising import WEIGHTINGS
from amnestic.core.registry import register
from amnestic.core.target import Target
from amnestic.parallel import shrinking_batches


@register
@dataclass(frozen=True, kw_only=True)
class Dori(Attack):
    """Moves the conditioning of a known image down the model's own denoising loss on it.

    Formula: ``y <- Adam(y, grad_y mean_d w_t |eps(x_t, t, y) - noise|^2)`` with fresh noise and timesteps in every
    step; the model stays as it is.

    Published: 50 steps, Adam at 0.1, 8 draws a step, all tokens free, starting at the image's own prompt.

    Cost: N works x restarts x steps x draws rows forward and backward, 400 a work with the defaults, less where a work
    comes back early; with ``loss=descriptor`` decoder and descriptor compute every row as well. Judging is apart.

    Pitfalls: Its default range of timesteps is not the strongest: of 8 works that `Adversarial` had removed on the
    testbed it brought back none, and 4 with ``t_low=0.5``, without one held-out work. The loss of v gave held-out works
    of the unedited model rates up to .5, that of epsilon 0; and many steps carry anything in: by published account 150
    raise images that are not memorized from an SSCD of .17 to .65.

    Attributes:
        learning_rate: Of Adam.
        draws: Noises and timesteps per step and image.
        start: ``prompt``, ``noise``, ``other-prompt`` or ``other-memorized``.
        restarts: Searches per image, each with its own draws; the best of them counts, for controls as well.
        loss: ``denoising`` (published), ``one-step`` (the image predicted from pure noise) or ``descriptor`` (a
            differentiable descriptor of the predicted image).
        weighting: ``epsilon`` (published, on a model of epsilon), ``v``, ``x0``, or ``prediction``: of what the model
            was trained to predict. A loss of v weighs noisy timesteps more, and brings images in that were never
            learned.
        t_low: Least timestep as a share of the schedule, in [0, 1).
        t_high: End of the range, in (t_low, 1].
        radius: Largest distance from the starting point in median distances of ordinary prompts; `None`: none.
        free_tokens: ``all``, ``not-first`` or a range such as ``1:9``.
        batch_size: Most rows computed at once; does not change the result beyond rounding.
        seed: Seed of all draws.

    Source:
        Kowalczuk, Hintersdorf, Struppek, Kersting, Dziedzic, Boenisch, "Finding DoRI", ICML 2026, arXiv 2507.16880.
    """

    searches: ClassVar[str] = "embedding"
    learning_rate: float = 0.1
    draws: int = 8
    start: str = "prompt"
    restarts: int = 1
    loss: str = "denoising"
    weighting: str = "epsilon"
    t_low: float = 0.0
    t_high: float = 1.0
    radius: float | None = None
    free_tokens: str = "all"
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        for value, known in ((self.start, STARTS), (self.loss, LOSSES), (self.weighting, WEIGHTINGS)):
            if value not in known:
                raise ValueError(f"expected {', '.join(known)}; got {value}")
        if min(self.steps, self.draws, self.restarts, self.batch_size) < 1 or self.learning_rate <= 0:
            raise ValueError("steps, draws, restarts, batch_size and learning_rate must be positive")
        if not 0 <= self.t_low < self.t_high <= 1:
            raise ValueError(f"expected 0 <= t_low < t_high <= 1, got {self.t_low} and {self.t_high}")
        if self.radius is not None and self.radius <= 0:
            raise ValueError(f"radius must be positive, got {self.radius}")

    @property
    def tries(self) -> int:
        """One search per restart."""
        return self.restarts

    def by_chance(self) -> RandomEmbeddings:
        """Random embeddings around the same start, over the same timesteps."""
        shared = ("steps", "draws", "start", "restarts", "weighting", "t_low", "t_high", "free_tokens")
        return RandomEmbeddings(**{name: getattr(self, name) for name in shared})

    def search(self, target: Target, case: AttackCase, attempt: int) -> Search:
        """Adam on all goals at once; a goal that is left alone neither moves nor costs a row."""
        centre = starting_points(target, case, self.start, seed=self.seed, attempt=attempt)
        reach = None if self.radius is None else self.radius * natural_distance(target, case.natural)
        free = free_tokens(centre.shape[1], self.free_tokens).to(centre.device)[None, :, None]
        point = centre.clone().requires_grad_()
        optimizer = torch.optim.Adam([point], lr=self.learning_rate)
        unknown, precision = torch.full((len(case.goals),), torch.nan), target.encode([""]).dtype
        asleep = yield Tried(cond=centre.clone(), loss=unknown, gradient=unknown)
        for step in range(self.steps):
            awake = [i for i in range(len(case.goals)) if i not in asleep]
            loss, gradient = self._slope(target, case, point.detach(), awake, f"{attempt}/{step}", precision)
            point.grad = gradient * free
            before = point.detach().clone()
            optimizer.step()
            with torch.no_grad():
                moved = within(point, centre, reach) if reach is not None else point
                point.copy_(torch.where(_mask(awake, point), moved, before))
            asleep = yield Tried(cond=point.detach().clone(), loss=loss, gradient=point.grad.flatten(1).norm(dim=1))

    def _slope(
        self, target: Target, case: AttackCase, point: Float[Tensor, "N L W"], awake: list[int], name: str,
        precision: torch.dtype,
    ) -> tuple[Float[Tensor, "N"], Float[Tensor, "N L W"]]:  # fmt: skip
        """Mean loss of every awake goal and its gradient, in batches that memory can hold."""
        rows = joined([
            draw_rows(
                target, case.goals[i].original, self.draws, names=("dori", case.goals[i].id, name), seed=self.seed,
                t_low=self.t_low, t_high=self.t_high,
            )
            for i in awake
        ])  # fmt: skip
        owner = torch.tensor(awake).repeat_interleave(self.draws)
        loss, gradient = torch.full((len(point),), torch.nan), torch.zeros_like(point)
        loss[awake] = 0.0
        done, scale = 0, lossless_scale(rows.x0, self.draws)

        def go_on(size: int) -> None:
            nonlocal done
            while done < len(owner):
                part = slice(done, done + size)
                held = point[owner[part].to(point.device)].requires_grad_()
                some = Rows(x0=rows.x0[part], noise=rows.noise[part], t=rows.t[part])
                with torch.enable_grad():
                    values = self._losses(target, case, some, held.to(precision)) / self.draws
                    (slope,) = torch.autograd.grad(values.sum() * scale, held)
                gradient.index_add_(0, owner[part].to(point.device), slope / scale)
                loss.index_add_(0, owner[part], values.detach().float().cpu())
                done += size

        shrinking_batches(go_on, start=self.batch_size)
        return loss, gradient

    def _losses(self, target: Target, case: AttackCase, rows: Rows, cond: Float[Tensor, "N L W"]) -> Float[Tensor, "N"]:
        if self.loss == "one-step":
            return one_step_loss(target, rows, cond)
        if self.loss == "descriptor":
            return descriptor_loss(target, rows, cond, describe=case.describe)
        return known_image_loss(target, rows, cond, weighting=self.weighting)


def _mask(awake: list[int], like: Tensor) -> Tensor:
    mask = torch.zeros(len(like), dtype=torch.bool, device=like.device)
    mask[awake] = True
    return mask[:, None, None]
