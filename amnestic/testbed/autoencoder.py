"""The autoencoder: diffusers' `AutoencoderTiny`, 2x down, with latents kept centred."""

import torch
from diffusers import AutoencoderTiny
from jaxtyping import Float, UInt8
from torch import Tensor

LATENT_CHANNELS = 8


def new_autoencoder(*, width: int = 32, latent_channels: int = LATENT_CHANNELS) -> AutoencoderTiny:
    """An untrained autoencoder for 64-pixel images: 32x32 latents."""
    widths = (width, width)
    return AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(0, 4),
        num_decoder_blocks=(4, 1),
        latent_channels=latent_channels,
    )


def to_float(images: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
    """8-bit images as floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def autoencoder_loss(vae: AutoencoderTiny, images: UInt8[Tensor, "N 3 H W"], rng: torch.Generator) -> Float[Tensor, ""]:
    """Reconstruction of colours and of edges, with latents of mean 0 and deviation 1 per channel.

    A little noise on the latents makes the decoder forgiving about what a diffusion model gets
    slightly wrong. Centred latents matter: sampling starts from N(0, I).
    """
    target = to_float(images)
    latents = vae.encode(target).latents.float()
    noise = torch.randn(latents.shape, generator=rng)
    out = vae.decode(latents + 0.05 * noise).sample.float()
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    centred = mean.square().mean() + (deviation - 1).square().mean()
    loss: Tensor = _l1(out, target) + _l1(_edges(out), _edges(target)) + 0.2 * centred
    return loss


def _l1(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs().mean()


def _edges(images: Tensor) -> Tensor:
    across, down = images.diff(dim=-1), images.diff(dim=-2)
    return torch.cat([across.flatten(1), down.flatten(1)], dim=1)


@torch.no_grad()
def encode_all(vae: AutoencoderTiny, images: UInt8[Tensor, "N 3 H W"], *, batch: int = 128) -> Tensor:
    """Latents of all images, float32, in chunks."""
    vae.eval()
    return torch.cat([vae.encode(to_float(chunk)).latents for chunk in images.split(batch)])
