"""The denoising loss by which diffusion models learn, row by row, differentiable in their weights."""

from collections.abc import Sequence
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


def noised_rows(
    target: Target, x0: Float[Tensor, "N C H W"], rngs: Sequence[torch.Generator], *, device: torch.device,
    t_low: float = 0.0, t_high: float = 1.0,
) -> NoisedRows:  # fmt: skip
    """Fresh noise and a uniform timestep for each image, each from its own generator.

    Args:
        target: The model, for its schedule.
        x0: Clean latents.
        rngs: One generator a row, on the CPU.
        device: Where it is computed.
        t_low: Least timestep as a share of the schedule, in [0, 1).
        t_high: End of the range as a share, in (t_low, 1].

    Returns:
        Float32 rows.
    """
    low, high = int(t_low * target.train_timesteps), max(int(t_high * target.train_timesteps), 1)
    t = torch.cat([torch.randint(min(low, high - 1), high, (1,), generator=rng) for rng in rngs]).to(device)
    noise = torch.stack([torch.randn(x0.shape[1:], generator=rng) for rng in rngs]).to(device)
    x0 = x0.float().to(device)
    return NoisedRows(x0=x0, noise=noise, t=t, x=target.noised(x0, noise, t))


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
        rows: Noisy images.
        cond: Conditioning of each row.
        weighting: One of `WEIGHTINGS`.
        towards: What ought to be predicted, if not the noise that was added.

    Returns:
        One loss a row, at least 0.
    """
    wanted = rows.noise if towards is None else towards
    found = target.predict(rows.x, rows.t, cond.to(rows.x.device)).float()
    return (found - wanted.float()).square().mean(dim=(1, 2, 3)) * weight_of(target, rows.t, weighting)


def weight_of(target: Target, t: Int[Tensor, "N"], weighting: str = "prediction") -> Float[Tensor, "N"]:
    """What squared errors of the noise are multiplied by at timesteps; on their device."""
    power = target.signal(t).square().clamp(min=LEAST_SIGNAL).to(t.device)
    kind = OF_PREDICTION[target.prediction_type] if weighting == "prediction" else weighting
    return {"epsilon": torch.ones_like(power), "v": 1 / power, "x0": (1 - power) / power}[kind]


@torch.no_grad()
def predicted_by(target: Target, rows: NoisedRows, prompts: Sequence[str]) -> Float[Tensor, "N C H W"]:
    """What a model that does not learn predicts for noisy images under some prompts; float32.

    Args:
        target: The model; may compute in half precision.
        rows: Noisy images.
        prompts: One a row.

    Returns:
        Predicted noise.
    """
    cond = target.encode(prompts)
    found: Tensor = target.predict(rows.x.to(cond), rows.t.to(cond.device), cond)
    return found.float().to(rows.x.device)
