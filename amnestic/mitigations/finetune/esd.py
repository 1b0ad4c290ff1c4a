"""Erasing a prompt by negative guidance (Gandikota et al., ICCV 2023); `esd_x` and `esd_u` say which weights learn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amnestic.core.denoising import NoisedRows, denoising_loss
from amnestic.core.finetuning import Lesson, Losses, Part, Trainee
from amnestic.core.target import Target
from amnestic.mitigations.finetune.errors import Weighted, levels, said

LATENTS = ("trainee", "frozen", "noised")


@dataclass(frozen=True, kw_only=True)
class Esd(Weighted):
    """Teaches a model to move away from what it drew for a prompt.

    Formula: ``|eps(x_t, t, c) - (eps*_0 - negative_guidance (eps*_c - eps*_0))|^2`` with ``eps*`` the model before,
    c the prompt of an image to forget and 0 the empty prompt. The latents ``x_t`` are drawings of the prompt, stopped
    at a random step of the lesson's sampling (by deterministic DDIM steps, whatever its scheduler).

    Cost per step and row: 2 forward through the model before, 1 forward and backward; and, unless `latents` is
    ``noised``, ``2 k`` forward for a drawing stopped after k steps, 49 on average at 50 steps.

    Published: negative guidance 1, guidance 3 while drawing, Adam at 1e-5 without decay, 1000 steps of one row for one
    prompt, no ordinary pairs; `retain_rows` above 0 adds their denoising loss.

    Attributes:
        steps: Steps of the optimiser.
        forget_rows: Rows per step about images to forget.
        retain_rows: Rows per step about ordinary pairs.
        weight_decay: Of the optimiser; 0 as published.
        max_grad_norm: Longer gradients are shortened to it; 0, never, as published.
        negative_guidance: How far beyond the empty prompt.
        start_guidance: Guidance while drawing.
        latents: Who draws: ``trainee`` (the model as it is now: the paper), ``frozen`` (the model before: the later
            release), or ``noised``: nobody, the original is noised, which costs nothing and is much the same for a
            prompt whose drawings are the original.
        retain_weight: Of ordinary pairs.

    Source:
        Gandikota, Materzynska, Fiotto-Kaufman, Bau, "Erasing Concepts from Diffusion Models", ICCV 2023.
    """

    steps: int = 1000
    forget_rows: int = 1
    retain_rows: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 0.0
    negative_guidance: float = 1.0
    start_guidance: float = 3.0
    latents: str = "trainee"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        Weighted.__post_init__(self)
        if self.latents not in LATENTS:
            raise ValueError(f"expected {', '.join(LATENTS)}; got {self.latents}")
        if min(self.negative_guidance, self.retain_weight) < 0:
            raise ValueError("negative_guidance and retain_weight must not be negative")

    def losses(
        self, trainee: Trainee, frozen: Target, lesson: Lesson, part: Part, kept: Mapping[str, Tensor]
    ) -> Losses:
        """Distance to what negative guidance would predict."""
        forget = {}
        if part.forget:
            rows, cond = self._rows(trainee, frozen, lesson, part)
            aim = self.aim(frozen, rows.x, rows.t, cond)
            forget["forget"] = denoising_loss(trainee, rows, cond, weighting=self.weighting, towards=aim)
        return Losses(forget=forget, retain=self.ordinary(trainee, lesson, part, self.retain_weight))

    def aim(
        self, frozen: Target, x: Float[Tensor, "n C H W"], t: Int[Tensor, "n"], cond: Float[Tensor, "n L W"]
    ) -> Float[Tensor, "n C H W"]:
        """What is to be predicted: the model before, guided away from the prompt."""
        empty = frozen.encode([""]).expand_as(cond)
        without = said(frozen, x, t, empty)
        return without - self.negative_guidance * (said(frozen, x, t, cond) - without)

    def _rows(
        self, trainee: Trainee, frozen: Target, lesson: Lesson, part: Part
    ) -> tuple[NoisedRows, Float[Tensor, "n L W"]]:
        if self.latents == "noised":
            return self.originals(trainee, lesson, part)
        cond = trainee.encode([lesson.forget[i].prompt.prompt for i in self.goals_of(lesson, part)])
        drawer = trainee if self.latents == "trainee" else frozen
        times = drawer.timesteps(lesson.sampling).long().to(cond.device)
        stops = [int(torch.randint(len(times), (), generator=part.rng("stop", row))) for row in part.forget]
        shape = trainee.noise_shape()
        start = torch.stack([torch.randn(shape, generator=part.rng("start", row)) for row in part.forget])
        x = partly_drawn(drawer, start.to(cond.device), cond, times, stops, guidance=self.start_guidance)
        return NoisedRows(x0=x, noise=start.to(cond.device), t=times[stops], x=x), cond  # x0 and noise are not used


def partly_drawn(
    model: Target, x: Float[Tensor, "N C H W"], cond: Float[Tensor, "N L W"], times: Int[Tensor, "T"],
    stops: Sequence[int], *, guidance: float,
) -> Float[Tensor, "N C H W"]:  # fmt: skip
    """Drawings that are stopped on the way, each at its own step; by deterministic DDIM steps.

    Args:
        model: Who draws.
        x: Starting noise.
        cond: Conditioning of each row.
        times: Timesteps of the whole drawing, in order.
        stops: After how many steps each row stops, from 0 (starting noise) to T - 1.
        guidance: Classifier-free guidance; 1 switches it off and halves the cost.

    Returns:
        Latents as the model meets them at ``times[stops]``, float32.
    """
    x, empty = x.clone().float(), model.encode([""])
    for step in range(max(stops)):
        awake = [i for i, stop in enumerate(stops) if stop > step]
        now, then = (times[s].expand(len(awake)) for s in (step, step + 1))
        eps = said(model, x[awake], now, cond[awake])
        if guidance != 1:
            without = said(model, x[awake], now, empty.expand_as(cond[awake]))
            eps = without + guidance * (eps - without)
        (signal, rest), (next_signal, next_rest) = levels(model, now), levels(model, then)
        x[awake] = next_signal * (x[awake] - rest * eps) / signal.clamp(min=1e-4) + next_rest * eps
    return x
