"""From pictures to latents and back, through the autoencoder of a pipeline."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from amnestic.core.errors import NotFinite


@torch.no_grad()
def latents_of(vae: Any, images: Sequence[NDArray[np.uint8]]) -> Float[Tensor, "N C h w"]:  # noqa: ANN401
    """Latents of pictures, scaled as the U-Net sees them: the mean of what the autoencoder makes of them.

    Args:
        vae: The autoencoder.
        images: N pictures, 8-bit RGB ``(H, W, 3)``, of one size that the autoencoder takes.

    Returns:
        Latents on the device.
    """
    rows = torch.stack([torch.from_numpy(np.ascontiguousarray(i)).permute(2, 0, 1) for i in images])
    found = vae.encode((rows.float() / 127.5 - 1).to(vae.device, vae.dtype))
    latents: Tensor = found.latents if hasattr(found, "latents") else found.latent_dist.mode()
    scaled: Tensor = latents * vae.config.scaling_factor
    return scaled


def pixels(vae: Any, latents: Float[Tensor, "N C H W"]) -> Float[Tensor, "N 3 h w"]:  # noqa: ANN401
    """Pictures of latents, clamped to [0, 1], differentiable in the latents.

    Args:
        vae: The autoencoder.
        latents: As the U-Net sees them.

    Returns:
        Float32 pictures; `decode` gives 8-bit ones.
    """
    out: Tensor = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
    return (out.float() / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def decode(
    pipeline: StableDiffusionPipeline, latents: Float[Tensor, "N C H W"], *, name: str
) -> list[NDArray[np.uint8]]:
    """Images of latents, 8-bit RGB, each of shape ``(H, W, 3)``.

    Args:
        pipeline: Whose autoencoder and image processor.
        latents: As the U-Net sees them.
        name: Of the model, for the error.

    Returns:
        N images.

    Raises:
        NotFinite: If the decoder's output holds NaN or infinity; use float32.
    """
    vae = pipeline.vae
    latents = latents.to(vae.device, vae.dtype)
    out = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
    if not bool(torch.isfinite(out).all()):
        raise NotFinite(f"the autoencoder of {name} produced NaN; use --dtype float32")
    images = pipeline.image_processor.postprocess(out.detach(), output_type="np")
    return list((images * 255).round().astype(np.uint8))
