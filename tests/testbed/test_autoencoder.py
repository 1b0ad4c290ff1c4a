import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline

from amnestic.core.seeds import generator, seeded_init
from amnestic.testbed.autoencoder import (
    LATENT_CHANNELS,
    TEMPER,
    autoencoder_loss,
    encode_all,
    fit_encoder,
    new_autoencoder,
    to_float,
)


def fitted(images, **sizes):
    with seeded_init(0, "vae"):
        vae = new_autoencoder(width=8, **sizes).eval()
    fit_encoder(vae, images)
    return vae


@pytest.fixture(scope="module")
def vae(images):
    return fitted(images)


@pytest.fixture(scope="module")
def images():
    """Noise that is smooth, stretched differently in each colour, and not centred."""
    noise = torch.randn(5, 3, 16, 16, generator=generator(0, "images"))
    smooth = torch.nn.functional.interpolate(noise, 64, mode="bicubic") * torch.tensor([50, 30, 20]).view(3, 1, 1)
    return (smooth + torch.tensor([90, 120, 150]).view(3, 1, 1)).clamp(0, 255).byte()


def test_bytes_become_floats_from_minus_one_to_one():
    out = to_float(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1))
    torch.testing.assert_close(out.flatten(), torch.tensor([-1.0, -0.6, 1.0]))


def test_latents_are_a_quarter_as_wide_and_decode_to_the_size_that_came(vae, images):
    latents = encode_all(vae, images)
    assert latents.shape == (5, LATENT_CHANNELS, 16, 16)
    assert latents.dtype == torch.float32
    assert not latents.requires_grad
    with torch.no_grad():
        assert vae.decode(latents).sample.shape == (5, 3, 64, 64)


def test_latents_do_not_depend_on_batches(vae, images):
    torch.testing.assert_close(encode_all(vae, images, batch=2), encode_all(vae, images), atol=1e-5, rtol=1e-4)


def test_latents_need_no_scaling(vae):
    assert vae.config.scaling_factor == 1.0
    assert (vae.config.get("shift_factor") or 0.0) == 0.0


def test_the_loss_is_finite_repeatable_and_reaches_every_weight_of_the_decoder(vae, images):
    losses = [autoencoder_loss(vae, images[:2], generator(s, "loss")) for s in (0, 0, 1)]
    losses[0].backward()
    assert losses[0].isfinite()
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.decoder.parameters())
    assert all(p.grad is None for p in vae.encoder.parameters())
    vae.zero_grad()


def test_a_few_steps_lower_the_loss(images):
    with seeded_init(1, "vae"):
        vae = new_autoencoder(width=8)
    fit_encoder(vae, images)
    flat = images[:4, :, :1, :1].expand(4, 3, 32, 32)
    optimiser, losses = torch.optim.AdamW(vae.decoder.parameters(), lr=3e-3), []
    for step in range(20):
        loss = autoencoder_loss(vae, flat, generator(step, "loss"))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_a_pipeline_loads_it_and_knows_the_factor(tiny_pipeline, images):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline, local_files_only=True)
    assert isinstance(pipeline.vae, AutoencoderTiny)
    assert pipeline.vae_scale_factor == 4
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 64
    alone = AutoencoderTiny.from_pretrained(tiny_pipeline, subfolder="vae", local_files_only=True)
    assert torch.equal(encode_all(pipeline.vae, images[:1]), encode_all(alone, images[:1]))


def test_latents_are_principal_components_of_patches_with_a_tempered_spectrum(vae, images):
    """Against a literal computation: patches by hand, numpy's singular value decomposition."""
    pixels = to_float(images).numpy().astype(np.float64)
    patches = np.stack(
        [
            pixels[n, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].ravel()
            for n in range(5)
            for i in range(16)
            for j in range(16)
        ]
    )
    centred = patches - patches.mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    deviations = singular / np.sqrt(len(patches))
    expected = np.abs(centred @ directions[:LATENT_CHANNELS].T) * deviations[:LATENT_CHANNELS] ** (TEMPER - 1)
    got = encode_all(vae, images).permute(0, 2, 3, 1).reshape(-1, LATENT_CHANNELS).abs().numpy()
    np.testing.assert_allclose(got, expected, atol=2e-3)
    np.testing.assert_allclose(got.std(0) ** 2 + got.mean(0) ** 2, deviations[:LATENT_CHANNELS], rtol=2e-2)


def test_with_all_components_nothing_is_lost(images):
    vae = fitted(images, latent_channels=48)
    latents = encode_all(vae, images).permute(0, 2, 3, 1).reshape(-1, 48)
    patches = torch.nn.functional.unfold(to_float(images), 4, stride=4).movedim(1, -1).reshape(-1, 48)
    solved = torch.linalg.lstsq(torch.cat([latents, torch.ones(len(latents), 1)], 1).double(), patches.double())
    again = torch.cat([latents, torch.ones(len(latents), 1)], 1).double() @ solved.solution
    assert (again - patches).abs().max() < 1e-2
