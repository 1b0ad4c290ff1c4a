"""How far a model is from drawing a known image, row by row, differentiable in the conditioning."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amnestic.core.denoising import LEAST_SIGNAL, NoisedRows, denoising_loss, timestep_range
from amnestic.core.errors import InputError
from amnestic.core.seeds import generator
from amnestic.core.target import Target

LOSSES = ("denoising", "one-step", "descriptor")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Known images, noise and timesteps of N rows, on the CPU."""

    x0: Float[Tensor, "N C H W"]
    noise: Float[Tensor, "N C H W"]
    t: Int[Tensor, "N"]


def draw_rows(
    target: Target, x0: Float[Tensor, "C H W"], draws: int, *, names: tuple[str, ...], seed: int,
    t_low: float = 0.0, t_high: float = 1.0,
) -> Rows:  # fmt: skip
    """Fresh noise and uniform timesteps for one known image.

    Args:
        target: The model, for its schedule.
        x0: Latents of the image.
        draws: How many.
        names: What the draw is for; the same names give the same draws, whatever shares a batch with them.
        seed: Root seed.
        t_low: Least timestep as a share of the schedule, in [0, 1).
        t_high: End of the range as a share, in (t_low, 1].

    Returns:
        `draws` rows.
    """
    rng = generator(seed, *names)
    t = torch.randint(*timestep_range(target, t_low, t_high), (draws,), generator=rng)
    noise = torch.randn((draws, *x0.shape), generator=rng)
    return Rows(x0=x0.detach().float().cpu().expand(draws, *x0.shape), noise=noise, t=t)


def joined(parts: list[Rows]) -> Rows:
    """Rows one after the other."""
    return Rows(
        x0=torch.cat([p.x0 for p in parts]), noise=torch.cat([p.noise for p in parts]),
        t=torch.cat([p.t for p in parts]),
    )  # fmt: skip


def known_image_loss(
    target: Target, rows: Rows, cond: Float[Tensor, "N L W"], *, weighting: str = "prediction"
) -> Float[Tensor, "N"]:
    """Squared error of the predicted noise of noised known images: `denoising_loss` in the conditioning's precision.

    Args:
        target: The model.
        rows: N known images, noise, timesteps.
        cond: Conditioning of each row.
        weighting: One of `WEIGHTINGS`.

    Returns:
        One loss a row, at least 0; weightings are not comparable with one another.
    """
    x0, noise, t = (v.to(cond.device) for v in (rows.x0, rows.noise, rows.t))
    x = target.noised(x0.to(cond.dtype), noise.to(cond.dtype), t)
    return denoising_loss(target, NoisedRows(x0=x0, noise=noise, t=t, x=x), cond, weighting=weighting)


def one_step_loss(target: Target, rows: Rows, cond: Float[Tensor, "N L W"]) -> Float[Tensor, "N"]:
    """Squared error of the image that a model predicts from nothing but noise, at the first step of sampling.

    Formula: ``mean (x0_hat - x0)^2``, ``x0_hat = (noise - sqrt(1 - a_T) eps(noise, T, cond)) / sqrt(a_T)`` at the last
    training timestep T. The known image is only in the loss, never in the input.

    Args:
        target: The model.
        rows: N known images and noise; their timesteps are not used.
        cond: Conditioning of each row.

    Returns:
        One loss a row, at least 0.
    """
    t = torch.full_like(rows.t, target.train_timesteps - 1)
    found = predicted_x0(target, rows.noise, t, cond)
    return (found - rows.x0.to(found.device)).square().mean(dim=(1, 2, 3))


def descriptor_loss(
    target: Target, rows: Rows, cond: Float[Tensor, "N L W"], *, describe: Callable[[Tensor], Tensor] | None
) -> Float[Tensor, "N"]:
    """How unlike a descriptor finds the predicted image and the known one.

    Formula: ``1 - <f(x0_hat), f(x0)>`` with f a descriptor of decoded pictures, ``x0_hat`` from the noised image.

    Args:
        target: The model.
        rows: N known images, noise, timesteps.
        cond: Conditioning of each row.
        describe: Pictures ``(N, 3, H, W)`` in [0, 1] to unit vectors.

    Returns:
        One loss a row, in [0, 2].

    Raises:
        InputError: If no differentiable descriptor is at hand.
    """
    if describe is None:
        raise InputError("loss descriptor needs a differentiable descriptor, got none; give --clip, or another loss")
    device = cond.device
    x0, noise, t = rows.x0.to(device, cond.dtype), rows.noise.to(device, cond.dtype), rows.t.to(device)
    found = predicted_x0(target, target.noised(x0, noise, t), t, cond)
    with torch.no_grad():
        wanted = describe(target.pixels(x0))
    return 1 - (describe(target.pixels(found)) * wanted).sum(dim=1)


def predicted_x0(
    target: Target, x: Float[Tensor, "N C H W"], t: Int[Tensor, "N"], cond: Float[Tensor, "N L W"]
) -> Float[Tensor, "N C H W"]:
    """The clean latents that a model sees in noisy ones: ``(x - sqrt(1 - a_t) eps) / sqrt(a_t)``, float32."""
    x, signal = x.to(cond.device), target.signal(t).to(cond.device).clamp(min=LEAST_SIGNAL).reshape(-1, 1, 1, 1)
    eps = target.predict(x.to(cond.dtype), t.to(cond.device), cond).float()
    found: Tensor = (x.float() - (1 - signal.square()).clamp(min=0).sqrt() * eps) / signal
    return found


def lossless_scale(x0: Float[Tensor, "N C H W"], draws: int) -> float:
    """A power of two by which a mean loss is multiplied so that half precision does not round its gradient to zero.

    Formula: the power of two nearest to ``C H W draws``, since a mean over so many values shrinks each one's share.

    Example:
        >>> lossless_scale(torch.zeros(1, 4, 64, 64), 8)
        131072.0
    """
    return float(2 ** round(math.log2(x0[0].numel() * draws)))
