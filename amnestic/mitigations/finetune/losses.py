"""Noised rows of a fine-tuning step."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.core.denoising import NoisedRows, timestep_range
from amnestic.core.target import Target


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
    low, high = timestep_range(target, t_low, t_high)
    t = torch.cat([torch.randint(low, high, (1,), generator=rng) for rng in rngs]).to(device)
    noise = torch.stack([torch.randn(x0.shape[1:], generator=rng) for rng in rngs]).to(device)
    x0 = x0.float().to(device)
    return NoisedRows(x0=x0, noise=noise, t=t, x=target.noised(x0, noise, t))
