"""The autoencoder: diffusers' `AutoencoderTiny`, 4x down, with a linear encoder that is computed, not trained."""

import torch
from diffusers import AutoencoderTiny
from jaxtyping import Float, UInt8
from torch import Tensor

LATENT_CHANNELS = 24
PATCH = 4
PATCH_VALUES = 3 * PATCH**2
TEMPER = 0.5
MOST_NOISE = 0.2


def new_autoencoder(*, width: int = 32, latent_channels: int = LATENT_CHANNELS) -> AutoencoderTiny:
    """An untrained autoencoder for 64-pixel images: 16x16 latents; `fit_encoder` comes next."""
    return AutoencoderTiny(
        encoder_block_out_channels=(PATCH_VALUES,) * 3,
        decoder_block_out_channels=(width,) * 3,
        num_encoder_blocks=(0, 0, 0),
        num_decoder_blocks=(3, 2, 1),
        latent_channels=latent_channels,
    )


@torch.no_grad()
def fit_encoder(vae: AutoencoderTiny, images: UInt8[Tensor, "N 3 H W"]) -> None:
    r"""Make the encoder the principal components of 4x4 patches, with a tempered spectrum.

    Formula: ``z_i = (p - mean) . v_i / s_i^(1/2)`` for a patch ``p`` of 48 values, with ``v_i`` its
    i-th principal direction and ``s_i`` the deviation along it, so that latent ``i`` has deviation
    ``s_i^(1/2)``. Colours and shapes stand out of the noise before details do, as in pixels; fully
    whitened latents hide both behind details, and unwhitened ones leave grain in the details.

    Args:
        vae: From `new_autoencoder`; its encoder is replaced, fixed from here on, and linear.
        images: (N, 3, H, W), RGB, uint8; H and W multiples of 4; N large enough for 48 directions.

    Source:
        Principal components after Hotelling, 1933; natural spectra and tempering: measured, see
        ``docs/adr/0006-latents-of-principal-components.md``.
    """
    first, once, twice, out = vae.encoder.layers
    for layer in vae.encoder.layers:
        layer.weight.zero_()
        layer.weight.requires_grad_(False)
    for layer in (first, out):
        layer.bias.zero_()
        layer.bias.requires_grad_(False)
    first.weight[range(3), range(3), 1, 1] = 1.0
    _gather_fours(once.weight, 3)
    _gather_fours(twice.weight, 12)
    patches = torch.cat([vae.encoder.layers[:3]((to_float(i) + 1) / 2) for i in images.split(256)])
    values = patches.movedim(1, -1).reshape(-1, PATCH_VALUES).double()
    mean = values.mean(0)
    variances, directions = torch.linalg.eigh((values - mean).T @ (values - mean) / len(values))
    kept = directions.flip(1)[:, : out.out_channels] * 2  # patches are in [0, 1], images in [-1, 1]
    deviations = 2 * variances.flip(0)[: out.out_channels].clamp(min=1e-12).sqrt()
    scaled = kept * deviations ** (TEMPER - 1)
    out.weight[:, :, 1, 1] = scaled.T.float()
    out.bias.copy_(-(mean @ scaled).float())


def _gather_fours(weight: Float[Tensor, "48 48 3 3"], channels: int) -> None:
    """Each of the first `channels` maps becomes four: the four values of every 2x2 square."""
    for channel in range(channels):
        for down in range(2):
            for across in range(2):
                weight[4 * channel + 2 * down + across, channel, 1 + down, 1 + across] = 1.0


def to_float(images: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
    """8-bit images as floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def autoencoder_loss(vae: AutoencoderTiny, images: UInt8[Tensor, "N 3 H W"], rng: torch.Generator) -> Float[Tensor, ""]:
    """Reconstruction of colours and of edges by the decoder, from latents with a little noise.

    The noise, of another strength for every image, makes the decoder forgiving about what a
    diffusion model gets slightly wrong.
    """
    target = to_float(images)
    with torch.no_grad():
        latents = vae.encode(target).latents.float()
    strength = MOST_NOISE * torch.rand((len(images), 1, 1, 1), generator=rng)
    out = vae.decode(latents + strength * torch.randn(latents.shape, generator=rng)).sample.float()
    return _l1(out, target) + _l1(_edges(out), _edges(target))


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
