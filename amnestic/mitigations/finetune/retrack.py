"""Redirecting noisy originals to their nearest neighbours (Shi et al., AISTATS 2026)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.core.denoising import weight_of
from amnestic.core.finetuning import Lesson, Losses, Part, Trainee
from amnestic.core.registry import register
from amnestic.core.target import Target
from amnestic.mitigations.finetune.errors import Weighted, levels
from amnestic.mitigations.finetune.neighbours import nearest, redirected


@register
@dataclass(frozen=True, kw_only=True)
class ReTrack(Weighted):
    """Where a model would go to an image to forget, it learns to go to images near it instead.

    Formula: ``lam sum_k w_k |eps(x_t, t, c) - v_k|^2 + (1 - lam) l_ordinary`` with ``x_t`` a noised original, c its
    prompt, ``v_k = (x_t - sqrt(a_t) n_k) / sqrt(1 - a_t)`` the direction to its k-th nearest neighbour and
    ``w = softmax(-|v_k|^2 / 2)``. Nothing is pushed away, so the loss has a lower end. Squared errors are means over a
    latent, where the authors sum; AdamW does not notice.

    Cost per step: `forget_rows` + `retain_rows` rows forward and backward. Published for Stable Diffusion: 10
    neighbours, lam 0.5, 30 steps of 16 rows, AdamW at 1e-5, one prompt at a time; both neighbours and kept images are
    drawings of the same prompt that are no copies. Here neighbours are the surrogates, kept images ordinary pairs.

    Pitfalls: Rows with little noise have targets of length ``|x_t - sqrt(a_t) n_k| / sqrt(1 - a_t)``, which grow
    without bound as the noise goes, and there the original lies open anyway; no setting leaves them out
    (`GuardedRetrack` has one). Fewer surrogates than `neighbours` are all used, unlike as they may be. Rows stand under
    the image's own prompt alone; other conditionings are not trained.

    Attributes:
        steps: Steps of the optimiser.
        forget_rows: Rows per step about images to forget.
        retain_rows: Rows per step about ordinary pairs.
        neighbours: How many; all there are where there are fewer.
        lam: Of images to forget, in [0, 1]; the rest is for ordinary pairs.
        with_pairs: Whether ordinary images may be neighbours as well. What is drawn may then copy one of them.

    Source:
        Shi, Jin, Zhang, Gu, "ReTrack: Data Unlearning in Diffusion Models through Redirecting the Denoising
        Trajectory", AISTATS 2026, arXiv 2509.13007.
    """

    needs_surrogates: ClassVar[bool] = True
    steps: int = 30
    forget_rows: int = 16
    retain_rows: int = 16
    neighbours: int = 10
    lam: float = 0.5
    with_pairs: bool = False

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        Weighted.__post_init__(self)
        if self.neighbours < 1 or not 0 <= self.lam <= 1:
            raise ValueError(f"expected neighbours of at least 1 and lam in [0, 1], got {self.neighbours}, {self.lam}")

    def stale(self, step: int, lesson: Lesson) -> tuple[int, ...]:
        """Neighbours are chosen once."""
        return tuple(range(len(lesson.forget))) if step == 0 else ()

    def refresh(
        self, step: int, trainee: Trainee, frozen: Target, lesson: Lesson, places: Sequence[int],
        kept: Mapping[str, Tensor],
    ) -> Mapping[str, Tensor]:  # fmt: skip
        """Neighbours of each goal, nearest first."""
        return {f"neighbours:{lesson.forget[i].id}": self._nearest(lesson, i) for i in places}

    def losses(
        self, trainee: Trainee, frozen: Target, lesson: Lesson, part: Part, kept: Mapping[str, Tensor]
    ) -> Losses:
        """Distance to the directions of neighbours, and the denoising loss of ordinary pairs."""
        forget = {"forget": self.lam * self._of_goals(trainee, lesson, part, kept)} if part.forget else {}
        return Losses(forget=forget, retain=self.ordinary(trainee, lesson, part, 1 - self.lam))

    def _of_goals(self, trainee: Trainee, lesson: Lesson, part: Part, kept: Mapping[str, Tensor]) -> Float[Tensor, "n"]:
        rows, cond = self.originals(trainee, lesson, part)
        said = trainee.predict(rows.x, rows.t, cond).float()
        signal, rest = levels(trainee, rows.t)
        found = []
        for i, place in enumerate(self.goals_of(lesson, part)):
            images = kept.get(f"neighbours:{lesson.forget[place].id}")
            images = self._nearest(lesson, place) if images is None else images
            directions, weights = redirected(rows.x[i], images.to(rows.x), signal[i], rest[i])
            found.append((weights * (said[i] - directions).square().mean(dim=(1, 2, 3))).sum())
        return torch.stack(found) * weight_of(trainee, rows.t, self.weighting)

    def _nearest(self, lesson: Lesson, place: int) -> Float[Tensor, "K C H W"]:
        goal = lesson.forget[place]
        others = lesson.surrogates[goal.id].float().cpu()
        if self.with_pairs and lesson.retain:
            others = torch.cat([others, torch.stack([p.latents.float().cpu() for p in lesson.retain])])
        return others[nearest(goal.original, others, self.neighbours)].clone()
