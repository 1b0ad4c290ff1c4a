"""The U-Net: what is trained, on which mixture, with which loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from amnestic.core.seeds import generator
from amnestic.testbed.autoencoder import LATENT_CHANNELS
from amnestic.testbed.text_encoder import WIDTH

CAPTION_DROPOUT = 0.1


def new_unet(channels: Sequence[int], *, size: int = 16, text_width: int = WIDTH) -> UNet2DConditionModel:
    """An untrained U-Net; text and GEGLU feed-forward reach its middle and all levels but the coarsest."""
    attends = [level < len(channels) - 1 for level in range(len(channels))]
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=tuple(channels),
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=2,  # heads, not their width: diffusers keeps the name of an old mistake
        norm_num_groups=16,
    )


def start_at_zero(unet: UNet2DConditionModel) -> None:
    """Set the last layer of every residual branch, and the output, to zero.

    The network starts out answering zero and grows from there.

    Source:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, reference code.
    """
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out", "conv_out")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


def new_scheduler() -> DDIMScheduler:
    """Linear betas, v-prediction, sampling from the last training step."""
    return DDIMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
        steps_offset=1,  # unused by trailing spacing; pipelines ask for it
    )


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Encoded training pairs.

    Attributes:
        latents: ``(N, C, h, w)``.
        captions: Text hidden states ``(N, L, W)``, half precision to save memory.
        empty: Hidden state of the empty prompt ``(L, W)``.
    """

    latents: Tensor
    captions: Tensor
    empty: Tensor


def schedule_order(exposures: Int[Tensor, "N"], n_draws: int, *, seed: int, name: str) -> Int[Tensor, "D"]:
    """Which pair is shown when: every pair exactly as often as asked, in random order.

    Args:
        exposures: How often each pair is shown; pairs with a negative number share what is left
            evenly, in whole passes over a fresh permutation.
        n_draws: Draws in all.
        seed: Seed of the testbed.
        name: Name of the phase.

    Returns:
        Indices of pairs, shape ``(n_draws,)``.

    Raises:
        ValueError: If the fixed exposures alone exceed `n_draws`, or fall short and nothing fills.
    """
    rng = generator(seed, name, "order")
    fixed = torch.repeat_interleave(torch.arange(len(exposures)), exposures.clamp(min=0))
    left = n_draws - len(fixed)
    if left < 0:
        raise ValueError(f"{len(fixed)} exposures do not fit into {n_draws} draws; raise steps or batch")
    fillers = (exposures < 0).nonzero().flatten()
    if left and not len(fillers):
        raise ValueError(f"{left} draws are left and no pair fills them; give a pair a negative number of exposures")
    passes = -(-left // max(1, len(fillers)))
    permutations = [fillers[torch.randperm(len(fillers), generator=rng)] for _ in range(passes)]
    filling = torch.cat([fillers[:0], *permutations])[:left]
    order = torch.cat([fixed, filling])
    return order[torch.randperm(len(order), generator=rng)]


def diffusion_loss(
    unet: UNet2DConditionModel, scheduler: DDIMScheduler, pairs: Pairs, chosen: Int[Tensor, "N"], rng: torch.Generator
) -> Float[Tensor, ""]:
    """Plain mean squared error of v at uniform timesteps; every tenth caption is dropped."""
    latents, captions = pairs.latents[chosen], pairs.captions[chosen].float()
    dropped = torch.rand(len(chosen), generator=rng) < CAPTION_DROPOUT
    captions = torch.where(dropped[:, None, None], pairs.empty.float(), captions)
    noise = torch.randn(latents.shape, generator=rng)
    t = torch.randint(0, scheduler.config.num_train_timesteps, (len(chosen),), generator=rng)
    noisy, target = scheduler.add_noise(latents, noise, t), scheduler.get_velocity(latents, noise, t)
    return functional.mse_loss(unet(noisy, t, captions).sample.float(), target)
