"""The denoising loss by which diffusion models learn, row by row, differentiable in their weights and conditioning."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amnestic.core.target import Target

WEIGHTINGS = ("prediction", "epsilon", "v", "x0")
OF_PREDICTION = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
LEAST_SIGNAL = 1e-8


@dataclass(frozen=True, kw_only=True)
class NoisedRows:
    """Images with noise, on the device that computes.

    Attributes:
        x0: Clean latents.
        noise: What was added.
        t: Timesteps.
        x: Noisy latents.
    """

    x0: Float[Tensor, "N C H W"]
    noise: Float[Tensor, "N C H W"]
    t: Int[Tensor, "N"]
    x: Float[Tensor, "N C H W"]


def denoising_loss(
    target: Target, rows: NoisedRows, cond: Float[Tensor, "N L W"], *, weighting: str = "prediction",
    towards: Float[Tensor, "N C H W"] | None = None,
) -> Float[Tensor, "N"]:  # fmt: skip
    """Squared error of the predicted noise.

    Formula: ``w_t mean (eps(x_t, t, cond) - noise)^2`` with ``w_t`` of 1 (``epsilon``), ``1 / a_t`` (``v``) or
    ``(1 - a_t) / a_t`` (``x0``): the error of the prediction of that name. ``prediction``: of what the model was
    trained to predict.

    Args:
        target: The model.
        rows: N noisy images.
        cond: Conditioning of each row.
        weighting: One of `WEIGHTINGS`.
        towards: What ought to be predicted, if not the noise that was added.

    Returns:
        One loss a row, at least 0; weightings are not comparable with one another.
    """
    wanted = rows.noise if towards is None else towards
    found = target.predict(rows.x, rows.t, cond.to(rows.x.device)).float()
    return (found - wanted.float()).square().mean(dim=(1, 2, 3)) * weight_of(target, rows.t, weighting)


def weight_of(target: Target, t: Int[Tensor, "N"], weighting: str = "prediction") -> Float[Tensor, "N"]:
    """What squared errors of the noise are multiplied by at timesteps; on their device."""
    power = target.signal(t).square().clamp(min=LEAST_SIGNAL).to(t.device)
    kind = OF_PREDICTION[target.prediction_type] if weighting == "prediction" else weighting
    return {"epsilon": torch.ones_like(power), "v": 1 / power, "x0": (1 - power) / power}[kind]


def timestep_range(target: Target, t_low: float, t_high: float) -> tuple[int, int]:
    """First timestep and end of a range of the schedule that is given as shares; never empty."""
    high = max(int(t_high * target.train_timesteps), 1)
    return min(int(t_low * target.train_timesteps), high - 1), high
