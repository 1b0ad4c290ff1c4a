"""Nearest other images of an image, and where noisy latents would go if the image did not exist."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def nearest(image: Float[Tensor, "C H W"], others: Float[Tensor, "M C H W"], k: int) -> Int[Tensor, "K"]:
    """Places of the k images closest to one in latent space, closest first.

    Args:
        image: Latents of one image.
        others: Latents of M images.
        k: How many; all of them where there are fewer.

    Returns:
        At most k places, on the CPU.

    Example:
        >>> nearest(torch.zeros(1, 1, 1), torch.tensor([3.0, -1.0, 2.0]).reshape(3, 1, 1, 1), 2).tolist()
        [1, 2]
    """
    flat = others.detach().float().cpu().flatten(1)
    away = torch.stack([(row - image.detach().float().cpu().flatten()).square().sum() for row in flat])
    return away.topk(min(k, len(flat)), largest=False).indices


def redirected(
    x: Float[Tensor, "C H W"], images: Float[Tensor, "K C H W"], signal: Float[Tensor, "1 1 1"],
    rest: Float[Tensor, "1 1 1"],
) -> tuple[Float[Tensor, "K C H W"], Float[Tensor, "K"]]:  # fmt: skip
    """Directions from noisy latents to some images, and how probable each image is as their origin.

    Formula: ``v_k = (x_t - sqrt(a_t) n_k) / sqrt(1 - a_t)`` and ``w = softmax_k(-|v_k|^2 / 2)``. ``sum_k w_k v_k`` is
    what a perfect model predicts that has learned these images and nothing else.

    Args:
        x: Noisy latents of one row.
        images: K clean latents on the same device.
        signal: ``sqrt(a_t)``.
        rest: ``sqrt(1 - a_t)``.

    Returns:
        Directions in units of noise, and weights that sum to one.

    Source:
        Shi, Jin, Zhang, Gu, "ReTrack", AISTATS 2026, arXiv 2509.13007.
    """
    directions = (x - signal * images) / rest
    weights = torch.softmax(-0.5 * directions.flatten(1).square().sum(dim=1), dim=0)
    return directions, weights
