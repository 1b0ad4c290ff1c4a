from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amnestic.core.seeds import generator, seeded_init
from amnestic.testbed.autoencoder import LATENT_CHANNELS
from amnestic.testbed.diffusion import (
    CAPTION_DROPOUT,
    Pairs,
    diffusion_loss,
    new_scheduler,
    new_unet,
    schedule_order,
    start_at_zero,
)

CHANNELS = (16, 16, 32, 32)


def pairs(n, size=4, width=8, length=3):
    rng = generator(0, "pairs")
    return Pairs(
        latents=torch.randn(n, LATENT_CHANNELS, size, size, generator=rng),
        captions=torch.randn(n, length, width, generator=rng).half(),
        empty=torch.zeros(length, width),
    )


@settings(max_examples=60, deadline=None)
@given(
    fixed=st.lists(st.integers(0, 20), max_size=6),
    n_fillers=st.integers(1, 7),
    left=st.integers(0, 40),
    seed=st.integers(0, 99),
)
def test_every_pair_is_shown_as_often_as_asked_and_the_rest_evenly(fixed, n_fillers, left, seed):
    exposures = torch.tensor([-1] * n_fillers + fixed)
    order = schedule_order(exposures, sum(fixed) + left, seed=seed, name="works")
    shown = order.bincount(minlength=len(exposures)).tolist()
    assert len(order) == sum(fixed) + left
    assert shown[n_fillers:] == fixed
    assert max(shown[:n_fillers]) - min(shown[:n_fillers]) <= 1


def test_exposures_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="11 exposures do not fit into 10 draws"):
        schedule_order(torch.tensor([-1, 5, 6]), 10, seed=0, name="works")


def test_draws_that_nothing_fills_are_refused():
    with pytest.raises(ValueError, match="3 draws are left"):
        schedule_order(torch.tensor([5, 2]), 10, seed=0, name="works")
    assert sorted(schedule_order(torch.tensor([2, 1]), 3, seed=0, name="works").tolist()) == [0, 0, 1]


def test_seed_and_phase_decide_the_order():
    exposures = torch.tensor([-1] * 20 + [10, 10])
    orders = [schedule_order(exposures, 100, seed=s, name=n) for s, n in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[3])


def test_works_are_spread_over_the_whole_phase():
    order = schedule_order(torch.tensor([-1] * 50 + [200]), 2000, seed=0, name="works")
    at = (order == 50).nonzero().flatten().float() / 2000
    assert 0.45 < at.mean() < 0.55
    assert at.min() < 0.05
    assert at.max() > 0.95


def test_the_last_step_has_almost_no_signal():
    scheduler = new_scheduler()
    assert scheduler.alphas_cumprod[-1] < 1e-4
    assert scheduler.alphas_cumprod[0] > 0.999
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[0] == 999
    assert scheduler.config.prediction_type == "v_prediction"


def test_a_network_that_answers_v_has_no_loss():
    data, scheduler, chosen = pairs(64), new_scheduler(), torch.arange(64)

    def oracle(noisy, t, captions):
        kept = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1).double()
        noise = (noisy.double() - kept.sqrt() * data.latents[chosen]) / (1 - kept).sqrt()
        return SimpleNamespace(sample=kept.sqrt() * noise - (1 - kept).sqrt() * data.latents[chosen])

    assert diffusion_loss(oracle, scheduler, data, chosen, generator(0, "v")) < 1e-6


def test_a_network_that_answers_zero_has_the_loss_of_v():
    data, chosen = pairs(512), torch.arange(512)
    nothing = lambda noisy, t, captions: SimpleNamespace(sample=torch.zeros_like(noisy))  # noqa: E731
    # v of unit-variance latents has unit variance, whatever the timestep.
    assert diffusion_loss(nothing, new_scheduler(), data, chosen, generator(0, "v")) == pytest.approx(1, abs=0.05)


def test_every_tenth_caption_is_dropped_and_the_others_arrive_unchanged():
    data, seen = pairs(4000, size=1), []

    def watch(noisy, t, captions):
        seen.append(captions)
        assert t.min() >= 0
        assert t.max() <= 999
        assert t.max() - t.min() > 900
        return SimpleNamespace(sample=noisy)

    diffusion_loss(watch, new_scheduler(), data, torch.arange(4000), generator(0, "v"))
    dropped = (seen[0] == 0).flatten(1).all(dim=1)
    assert dropped.float().mean() == pytest.approx(CAPTION_DROPOUT, abs=0.02)
    assert torch.equal(seen[0][~dropped], data.captions.float()[~dropped])


def test_the_loss_is_finite_repeatable_and_reaches_every_weight():
    data, scheduler, chosen = pairs(4, size=16, width=16), new_scheduler(), torch.tensor([0, 3])
    with seeded_init(0, "unet"):
        unet = new_unet(CHANNELS, text_width=16)
    with torch.no_grad():
        again = diffusion_loss(unet, scheduler, data, chosen, generator(0, "v"))
    loss = diffusion_loss(unet, scheduler, data, chosen, generator(0, "v"))
    loss.backward()
    assert loss.isfinite()
    assert loss.item() == pytest.approx(again.item(), rel=1e-5)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in unet.parameters())


def test_the_network_reads_captions_everywhere_but_on_its_coarsest_level():
    unet = new_unet(CHANNELS, text_width=16)
    attending = {n.split(".attentions")[0] for n, _ in unet.named_modules() if n.endswith("attn2")}
    assert attending == {
        f"{way}_blocks.{level}" for way, first in (("down", 0), ("up", 1)) for level in range(first, first + 3)
    } | {"mid_block"}
    gates = [m for m in unet.modules() if type(m).__name__ == "GEGLU"]
    assert len(gates) == 3 + 1 + 6


def test_a_network_that_starts_at_zero_answers_zero_and_learns():
    with seeded_init(0, "unet"):
        unet = new_unet(CHANNELS, text_width=16)
    data, scheduler, chosen = pairs(8, size=16, width=16), new_scheduler(), torch.arange(8)
    start_at_zero(unet)
    with torch.no_grad():
        assert not unet(data.latents, torch.tensor(500), data.captions.float()).sample.any()
    optimiser, losses = torch.optim.AdamW(unet.parameters(), lr=2e-3), []
    for _ in range(12):
        loss = diffusion_loss(unet, scheduler, data, chosen, generator(0, "v"))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
