import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline

from amnestic.core.seeds import generator, seeded_init
from amnestic.testbed.autoencoder import LATENT_CHANNELS, autoencoder_loss, encode_all, new_autoencoder, to_float


@pytest.fixture(scope="module")
def vae():
    with seeded_init(0, "vae"):
        return new_autoencoder(width=8).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (5, 3, 64, 64), generator=generator(0, "images")).byte()


def test_bytes_become_floats_from_minus_one_to_one():
    out = to_float(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1))
    torch.testing.assert_close(out.flatten(), torch.tensor([-1.0, -0.6, 1.0]))


def test_latents_are_half_as_wide_and_decode_to_the_size_that_came(vae, images):
    latents = encode_all(vae, images)
    assert latents.shape == (5, LATENT_CHANNELS, 32, 32)
    assert latents.dtype == torch.float32
    assert not latents.requires_grad
    with torch.no_grad():
        assert vae.decode(latents).sample.shape == (5, 3, 64, 64)


def test_latents_do_not_depend_on_batches(vae, images):
    torch.testing.assert_close(encode_all(vae, images, batch=2), encode_all(vae, images), atol=1e-5, rtol=1e-4)


def test_latents_need_no_scaling(vae):
    assert vae.config.scaling_factor == 1.0
    assert (vae.config.get("shift_factor") or 0.0) == 0.0


def test_the_loss_is_finite_repeatable_and_reaches_every_weight(vae, images):
    losses = [autoencoder_loss(vae, images[:2], generator(s, "loss")) for s in (0, 0, 1)]
    losses[0].backward()
    assert losses[0].isfinite()
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())
    vae.zero_grad()


def test_a_few_steps_lower_the_loss(images):
    with seeded_init(1, "vae"):
        vae = new_autoencoder(width=8)
    flat = images[:4, :, :1, :1].expand(4, 3, 32, 32)
    optimiser, losses = torch.optim.AdamW(vae.parameters(), lr=3e-3), []
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
    assert pipeline.vae_scale_factor == 2
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 64
    alone = AutoencoderTiny.from_pretrained(tiny_pipeline, subfolder="vae", local_files_only=True)
    assert torch.equal(encode_all(pipeline.vae, images[:1]), encode_all(alone, images[:1]))
