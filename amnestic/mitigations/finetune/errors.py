"""What several losses share: noised originals, directions from noisy latents to clean ones, what a model says."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amnestic.core.denoising import WEIGHTINGS, NoisedRows, denoising_loss
from amnestic.core.finetuning import FineTuning, Lesson, Part, Trainee
from amnestic.core.target import Target
from amnestic.mitigations.finetune.losses import noised_rows


@dataclass(frozen=True, kw_only=True)
class Weighted(FineTuning):
    """Fine-tuning whose losses are squared errors of the predicted noise.

    Attributes:
        weighting: ``prediction``, ``epsilon``, ``v`` or ``x0``: whose error the losses are.
        caption_dropout: Share of ordinary pairs that are shown with the empty prompt, so that guidance keeps working.
    """

    weighting: str = "prediction"
    caption_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        FineTuning.__post_init__(self)
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"expected {', '.join(WEIGHTINGS)}; got {self.weighting}")
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"expected caption_dropout in [0, 1], got {self.caption_dropout}")

    def ordinary(
        self, trainee: Trainee, lesson: Lesson, part: Part, factor: float = 1.0, teacher: Target | None = None
    ) -> Mapping[str, Float[Tensor, "m"]]:
        """The term ``retain``: denoising loss of ordinary pairs times a factor; no term when the part has no pairs.

        With a teacher, the prediction of that model takes the place of the noise: the same mean, far less scatter.
        """
        if not part.retain:
            return {}
        pairs = [lesson.retain[i] for i in self.pairs_of(lesson, part)]
        rngs = [part.rng("retain", row) for row in part.retain]
        captions = [
            "" if float(torch.rand((), generator=rng)) < self.caption_dropout else pair.prompt.prompt
            for pair, rng in zip(pairs, rngs, strict=True)
        ]
        cond = trainee.encode(captions)
        rows = noised_rows(trainee, torch.stack([p.latents for p in pairs]), rngs, device=cond.device)
        aim = None if teacher is None else said(teacher, rows.x, rows.t, teacher.encode(captions)).to(rows.x.device)
        return {"retain": factor * denoising_loss(trainee, rows, cond, weighting=self.weighting, towards=aim)}

    def originals(self, trainee: Trainee, lesson: Lesson, part: Part) -> tuple[NoisedRows, Float[Tensor, "n L W"]]:
        """The images to forget of a part, noised at uniform timesteps, and the conditioning of their prompts."""
        goals = [lesson.forget[i] for i in self.goals_of(lesson, part)]
        cond = trainee.encode([g.prompt.prompt for g in goals])
        rngs = [part.rng("forget", row) for row in part.forget]
        return noised_rows(trainee, torch.stack([g.original for g in goals]), rngs, device=cond.device), cond


def levels(target: Target, t: Int[Tensor, "N"]) -> tuple[Float[Tensor, "N 1 1 1"], Float[Tensor, "N 1 1 1"]]:
    """``sqrt(a_t)`` and ``sqrt(1 - a_t)``: what clean latents and noise are multiplied by; on the device of `t`."""
    signal = target.signal(t).to(t.device).reshape(-1, 1, 1, 1)
    return signal, (1 - signal.square()).clamp(min=1e-12).sqrt()


def direction(
    target: Target, x: Float[Tensor, "N C H W"], t: Int[Tensor, "N"], x0: Float[Tensor, "N C H W"]
) -> Float[Tensor, "N C H W"]:
    """The noise that noisy latents would hold if they were made of other clean ones.

    Formula: ``(x_t - sqrt(a_t) x0) / sqrt(1 - a_t)``.

    Args:
        target: The model, for its schedule.
        x: Noisy latents.
        t: Their timesteps.
        x0: Clean latents to which a model that predicts the result would go.

    Returns:
        Noise in units of the latent; standard normal only if `x` was made of `x0`.
    """
    signal, rest = levels(target, t)
    return (x - signal * x0) / rest


def said(
    model: Target, x: Float[Tensor, "N C H W"], t: Int[Tensor, "N"], cond: Float[Tensor, "N L W"]
) -> Float[Tensor, "N C H W"]:
    """Noise that a model predicts, without gradient; computed in its own precision, told in float32."""
    with torch.no_grad():
        return model.predict(x.to(cond.dtype), t, cond).detach().float()


def drawn_index(n: int, rng: torch.Generator) -> int:
    """A uniform place among n."""
    return int(torch.randint(n, (), generator=rng))


def one_of(some: Float[Tensor, "M C H W"], rng: torch.Generator) -> Float[Tensor, "C H W"]:
    """A uniform one of some images."""
    chosen: Tensor = some[drawn_index(len(some), rng)]
    return chosen
