"""The similarity that NeMo compares noise differences with: an oracle for tests, not for use.

Source: Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment", 2003, in the
form that torchmetrics 1.3.2 gives it and NeMo (Hintersdorf et al., NeurIPS 2024) relies on; section 2.1 of the
method specification: three scales with exponent 0.33, Gaussian window of sigma 1.5, k1 0.01, k2 0.03, negative
terms set to 0, data range of the whole batch anew at each scale, and the border of 5 pixels cut off *every*
scale's map, the last scale's included (which later versions of torchmetrics do not).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from torch import Tensor

BETAS = (0.33, 0.33, 0.33)


def gaussian_window(sigma: float = 1.5) -> NDArray[np.float64]:
    """The window of ``int(3.5 sigma + 0.5) * 2 + 1`` taps (11 for 1.5), sum 1."""
    radius = int(3.5 * sigma + 0.5)
    window = np.array([np.exp(-((x / sigma) ** 2) / 2) for x in range(-radius, radius + 1)])
    return np.asarray(window / window.sum())


def _smoothed(maps: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    window = gaussian_window(sigma)
    rows = correlate1d(maps, window, axis=-2, mode="mirror")
    return np.asarray(correlate1d(rows, window, axis=-1, mode="mirror"))


def _halved(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    height, width = maps.shape[-2] // 2 * 2, maps.shape[-1] // 2 * 2
    cut = maps[..., :height, :width]
    return (cut[..., ::2, ::2] + cut[..., 1::2, ::2] + cut[..., ::2, 1::2] + cut[..., 1::2, 1::2]) / 4


def ssim_and_contrast(
    a: NDArray[np.float64], b: NDArray[np.float64], *, sigma: float, k1: float, k2: float, crop: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One scale: mean SSIM and mean contrast of each pair ``(N,)``; the range is that of the whole batch."""
    data_range = max(a.max() - a.min(), b.max() - b.min())
    c1, c2 = (k1 * data_range) ** 2, (k2 * data_range) ** 2
    mean_a, mean_b = _smoothed(a, sigma), _smoothed(b, sigma)
    var_a = np.maximum(_smoothed(a * a, sigma) - mean_a**2, 0)
    var_b = np.maximum(_smoothed(b * b, sigma) - mean_b**2, 0)
    cov = _smoothed(a * b, sigma) - mean_a * mean_b
    contrast = (2 * cov + c2) / (var_a + var_b + c2)
    ssim = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * contrast
    pad = int(3.5 * sigma + 0.5)
    inner = (..., slice(pad, -pad), slice(pad, -pad))
    return (ssim[inner] if crop else ssim).mean(axis=(1, 2, 3)), contrast[inner].mean(axis=(1, 2, 3))


def ms_ssim(
    a: Tensor,
    b: Tensor,
    *,
    betas: Sequence[float] = BETAS,
    sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
    kernel_size: int = 11,
    crop: bool = True,
) -> NDArray[np.float64]:
    """Multi-scale SSIM of N pairs, computed in float64.

    Args:
        a: ``(N, C, H, W)``.
        b: The same shape; pair i is ``a[i]``, ``b[i]``.
        betas: Exponent of each scale, finest first: contrast for all but the last, SSIM for the last.
        sigma: Of the Gaussian window in latent pixels.
        k1: Constant of the luminance term.
        k2: Constant of the contrast term.
        kernel_size: Enters the size check alone.
        crop: Leave the border out of the last scale's SSIM map, as torchmetrics 1.3.2 does; false gives
            what torchmetrics 1.6 and later return.

    Returns:
        N values in [0, 1]. A pair's value depends on the other pairs through the data range.

    Raises:
        ValueError: If the maps are too small for that many scales.
    """
    side, divisor = min(a.shape[-2:]), max(1, len(betas) - 1) ** 2
    if side < 2 ** len(betas) or side // divisor <= kernel_size - 1:
        raise ValueError(f"{len(betas)} scales need maps above {(kernel_size - 1) * divisor} pixels, got {side}")
    left, right = a.double().cpu().numpy(), b.double().cpu().numpy()
    result = np.ones(len(left))
    for scale, beta in enumerate(betas):
        ssim, contrast = ssim_and_contrast(left, right, sigma=sigma, k1=k1, k2=k2, crop=crop)
        term = ssim if scale == len(betas) - 1 else contrast
        result = result * np.maximum(term, 0) ** beta
        left, right = _halved(left), _halved(right)
    return result
