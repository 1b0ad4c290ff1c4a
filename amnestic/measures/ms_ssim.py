"""Multi-scale SSIM as NeMo's threshold knows it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

SIGMA, K1, K2, TAPS = 1.5, 0.01, 0.03, 11
THREE_SCALES = (0.33, 0.33, 0.33)


def ms_ssim(
    one: Float[Tensor, "N C H W"], other: Float[Tensor, "N C H W"], *, betas: Sequence[float] = THREE_SCALES
) -> Float[Tensor, "N"]:
    """Multi-scale SSIM of N pairs, with the data range of the whole batch and without the maps' borders.

    Formula: ``prod_s max(0, m_s)^beta_s`` with ``m_s`` the mean contrast term of scale s, at the last
    scale the mean SSIM; a scale halves the maps; five pixels are cut off every map's border.

    Args:
        one: Maps, such as scaled noise differences; any range.
        other: Their partners.
        betas: Exponents, finest scale first; their number is that of the scales.

    Returns:
        Similarity of each pair in [0, 1]. It depends, through the data range, on the other pairs of
        the call; comparable only between calls with the same exponents.

    Raises:
        ValueError: If the maps are too small for so many scales; give fewer exponents.

    Example:
        >>> maps = torch.rand(2, 4, 64, 64)
        >>> bool((ms_ssim(maps, maps) > 0.999).all())
        True

    Source:
        Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment",
        2003, in the form of torchmetrics 1.3.2 on which NeMo (Hintersdorf et al., NeurIPS 2024)
        relies; later versions of torchmetrics keep the border of the last scale and give other values.
    """
    least = smallest_side(len(betas))
    if min(one.shape[-2:]) < least:
        raise ValueError(f"{len(betas)} scales need maps of at least {least} pixels, got {tuple(one.shape[-2:])}")
    one, other = one.float(), other.float()
    result = one.new_ones(len(one))
    for scale, beta in enumerate(betas):
        ssim, contrast = _one_scale(one, other)
        result = result * (ssim if scale == len(betas) - 1 else contrast).clamp(min=0) ** beta
        one, other = functional.avg_pool2d(one, 2), functional.avg_pool2d(other, 2)
    return result


def smallest_side(n_scales: int) -> int:
    """Smallest side of maps whose last scale is not all border: 11, 22 and 44 pixels for one, two and three scales."""
    return TAPS << (n_scales - 1)


def _one_scale(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean contrast term of each pair."""
    data_range = torch.maximum(one.max() - one.min(), other.max() - other.min())
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    n = len(one)
    means = _smoothed(torch.cat([one, other, one * one, other * other, one * other]))
    mean_a, mean_b, square_a, square_b, product = means.split(n)
    var_a, var_b = (square_a - mean_a**2).clamp(min=0), (square_b - mean_b**2).clamp(min=0)
    contrast = (2 * (product - mean_a * mean_b) + c2) / (var_a + var_b + c2)
    ssim = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * contrast
    inner = (..., slice(TAPS // 2, -(TAPS // 2)), slice(TAPS // 2, -(TAPS // 2)))
    return ssim[inner].mean((1, 2, 3)), contrast[inner].mean((1, 2, 3))


def _smoothed(maps: Tensor) -> Tensor:
    """A Gaussian of 1.5 pixels, mirrored at the border, along rows and then columns."""
    at = torch.arange(TAPS, device=maps.device, dtype=maps.dtype) - TAPS // 2
    window = torch.exp(-((at / SIGMA) ** 2) / 2)
    window = window / window.sum()
    channels, half = maps.shape[1], TAPS // 2
    padded = functional.pad(maps, (half,) * 4, mode="reflect")
    rows = functional.conv2d(padded, window.expand(channels, 1, 1, TAPS), groups=channels)
    return functional.conv2d(rows, window[:, None].expand(channels, 1, TAPS, 1), groups=channels)
