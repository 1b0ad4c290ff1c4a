import numpy as np
import pytest
import torch
from reference.ms_ssim_literal import ms_ssim as literal

from amnestic.core.seeds import generator
from amnestic.measures.ms_ssim import ms_ssim, smallest_side


def pair(side, *, noise=0.3, n=5):
    one = torch.rand(n, 4, side, side, generator=generator(0, "one"))
    return one, one + noise * torch.rand(one.shape, generator=generator(0, "other"))


@pytest.mark.parametrize(("side", "betas"), [(64, (0.33,) * 3), (44, (0.33,) * 3), (32, (0.5, 0.5)), (24, (1.0,))])
def test_equals_the_literal_form(side, betas):
    one, other = pair(side)
    np.testing.assert_allclose(ms_ssim(one, other, betas=betas).numpy(), literal(one, other, betas=betas), atol=5e-6)


def test_likeness_falls_with_noise():
    scores = [float(ms_ssim(*pair(64, noise=noise)).mean()) for noise in (0.0, 0.1, 0.5, 2.0)]
    assert scores[0] == pytest.approx(1, abs=1e-4)
    assert scores == sorted(scores, reverse=True)


def test_the_range_is_that_of_the_whole_batch():
    one, other = pair(64, n=2)
    wide = torch.cat([one[:1], one[1:] * 40])
    assert abs(float(ms_ssim(wide, other)[0] - ms_ssim(one[:1], other[:1])[0])) > 0.01


def scaled(maps):
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low)


def test_scaled_maps_have_scores_of_their_own_at_one_scale_only():
    one, other = pair(64)
    wide = 5 * torch.linspace(0, 1, 64).expand(1, 4, 64, 64)
    one, other = (scaled(torch.cat([maps[:1] + wide, maps[1:]])) for maps in (one, other))
    for betas, same in (((1.0,), True), ((0.5, 0.5), False)):
        apart = torch.cat([ms_ssim(one[i : i + 1], other[i : i + 1], betas=betas) for i in range(len(one))])
        away = (apart - ms_ssim(one, other, betas=betas)).abs().max()
        assert away < 1e-6 if same else away > 1e-4


@pytest.mark.parametrize(("n_scales", "side"), [(1, 11), (2, 22), (3, 44)])
def test_smaller_maps_are_refused(n_scales, side):
    assert smallest_side(n_scales) == side
    betas = (0.5,) * n_scales
    assert ms_ssim(*pair(side, n=2), betas=betas).isfinite().all()
    with pytest.raises(ValueError, match=f"at least {side} pixels"):
        ms_ssim(*pair(side - 1), betas=betas)
