"""`sscd-mini`: the bundled copy descriptor, trained by the recipe of SSCD on pictures of 64 pixels.

Two copies of every picture are made as a copyist would make them; the network learns to bring the
two together and to keep everything else apart (Pizzi et al., "A Self-Supervised Descriptor for
Image Copy Detection", CVPR 2022).
"""

import math
from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from amnestic.model.sscd import SscdConfig, SscdNetwork, normalised, save_sscd

TEMPERATURE = 0.05
ENTROPY_WEIGHT = 30.0
BLOCK = 8
GREY = (0.299, 0.587, 0.114)

Images = Float[Tensor, "N 3 H W"]


@torch.no_grad()
def augment(images: UInt8[Tensor, "N 3 H W"], rng: torch.Generator) -> Float[Tensor, "N 3 H W"]:
    """One copy of every picture, each changed in its own way.

    In this order: a patch of another picture of the batch laid over it, crop with resize, turn and
    flip, brightness, contrast and saturation, blur, JPEG-like quantisation, noise. Every change
    happens to a share of the pictures only.

    Args:
        images: (N, 3, H, W), RGB, uint8; H and W multiples of 8.
        rng: Decides everything.

    Returns:
        (N, 3, H, W), float32 in [0, 1]; carries no gradient.

    Raises:
        ValueError: If H or W is no multiple of 8; crop the pictures first.

    Source:
        After the augmentations of Pizzi et al., CVPR 2022, for small pictures.
    """
    if images.shape[-2] % BLOCK or images.shape[-1] % BLOCK:
        raise ValueError(f"expected sides that are multiples of {BLOCK}, got {tuple(images.shape[-2:])}; crop first")
    with torch.autocast(images.device.type, enabled=False):
        copies = _overlaid(images.float() / 255, rng)
        copies = _moved(copies, rng)
        copies = _recoloured(copies, rng).clamp_(0, 1)
        copies = _quantised(_blurred(copies, rng), rng)
        strength = _uniform(len(copies), 0, 0.06, rng) * _sometimes(len(copies), 0.3, rng)
        noise = torch.randn(copies.shape, generator=rng)
        return torch.addcmul(copies, noise, strength[:, None, None, None]).clamp_(0, 1)


def copy_loss(descriptors: Float[Tensor, "2N D"]) -> Float[Tensor, ""]:
    r"""InfoNCE between two copies of each picture, plus the entropy regulariser.

    Formula: ``mean_i -log(exp(s_ip / t) / sum_{k != i} exp(s_ik / t)) - 30 mean_i log min_j |z_i - z_j|``
    with ``s = z z^T``, ``t = 0.05``, ``p`` the other copy of ``i``, and ``j`` over copies of other pictures.

    Args:
        descriptors: (2N, D), unit length; rows i and N + i are copies of the same picture, N >= 2.

    Returns:
        Scalar, lower is better; comparable only between batches of the same size.

    Raises:
        ValueError: If there are fewer than two pictures; a larger batch is needed.

    Example:
        >>> near, far = torch.eye(2).repeat(2, 1), torch.eye(2)[[0, 1, 1, 0]]
        >>> bool(copy_loss(near) < copy_loss(far))
        True

    Source:
        Pizzi et al., CVPR 2022, equations 1 to 3; Chen et al. (SimCLR), ICML 2020; Sablayrolles et
        al. (KoLeo), ICLR 2019.
    """
    n = len(descriptors) // 2
    if n < 2:
        raise ValueError(f"expected copies of at least two pictures, got {n}; raise the batch size")
    similarity = descriptors @ descriptors.T
    picture = torch.arange(n, device=descriptors.device).repeat(2)
    itself = torch.eye(2 * n, dtype=torch.bool, device=descriptors.device)
    logits = (similarity / TEMPERATURE).masked_fill(itself, -torch.inf)
    contrast = functional.cross_entropy(logits, torch.arange(2 * n, device=descriptors.device).roll(n))
    closest = similarity.masked_fill(picture[:, None] == picture, -torch.inf).amax(dim=1)
    log_distance = (2 - 2 * closest).clamp(min=1e-6).log() / 2
    return contrast - ENTROPY_WEIGHT * log_distance.mean()


def sscd_loss(network: SscdNetwork, images: UInt8[Tensor, "N 3 H W"], rng: torch.Generator) -> Float[Tensor, ""]:
    """`copy_loss` of the network on two copies of every picture.

    Args:
        network: From pictures that went through `amnestic.model.sscd.normalised` to unit vectors.
        images: (N, 3, H, W), RGB, uint8, N >= 2 different pictures.
        rng: Decides the copies.

    Returns:
        Scalar.

    Raises:
        ValueError: If there are fewer than two pictures, or their sides are no multiples of 8.

    Source:
        Pizzi et al., CVPR 2022.
    """
    copies = augment(torch.cat([images, images]), rng)
    descriptors = network(normalised(copies)).float()
    with torch.autocast(images.device.type, enabled=False):
        return copy_loss(functional.normalize(descriptors, dim=1))


def export_sscd(network: SscdNetwork, folder: Path, threshold: float | None) -> Path:
    """Write the descriptor in half precision, as `amnestic.model.sscd.load_sscd` reads it.

    Args:
        network: A trained `amnestic.model.sscd.small_network`; not changed.
        folder: Gets ``model.safetensors`` and ``config.json``.
        threshold: Similarity above which a pair counts as a copy, in [-1, 1], if calibrated.

    Returns:
        The folder.
    """
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    base_width, width = shapes["backbone.conv1.weight"][0], shapes["backbone.fc.weight"][0]
    config = SscdConfig(threshold=threshold, base_width=base_width, width=width)
    return save_sscd(deepcopy(network).half(), folder, config)


def _uniform(n: int, low: float, high: float, rng: torch.Generator) -> Float[Tensor, "N"]:
    return torch.empty(n).uniform_(low, high, generator=rng)


def _sometimes(n: int, share: float, rng: torch.Generator) -> Float[Tensor, "N"]:
    """One for about `share` of the pictures, zero for the others."""
    return (torch.rand(n, generator=rng) < share).float()


def _overlaid(images: Images, rng: torch.Generator) -> Images:
    """A rectangle of another picture, 0.2 to 0.45 of the side, laid over three in ten pictures."""
    n, _, height, width = images.shape
    chosen = _sometimes(n, 0.3, rng).nonzero().flatten()
    if n < 2 or not len(chosen):
        return images
    others = (chosen + torch.randint(1, n, (len(chosen),), generator=rng)) % n
    opacity = _uniform(len(chosen), 0.6, 1.0, rng)
    inside = [_span(side, len(chosen), rng) for side in (height, width)]
    mask = (inside[0][:, :, None] & inside[1][:, None, :]) * opacity[:, None, None]
    return images.index_put((chosen,), torch.lerp(images[chosen], images[others], mask[:, None]))


def _span(side: int, n: int, rng: torch.Generator) -> Tensor:
    """Which of `side` pixels lie in a random interval, boolean (n, side)."""
    long = _uniform(n, 0.2, 0.45, rng) * side
    start = _uniform(n, 0, 1, rng) * (side - long)
    at = torch.arange(side)
    return (at >= start[:, None]) & (at < (start + long)[:, None])


def _moved(images: Images, rng: torch.Generator) -> Images:
    """Crop to 0.7 to 1 of the sides, turn by up to 12 degrees (four in ten), mirror (three in ten)."""
    n = len(images)
    sides = _uniform(n, 0.7, 1.0, rng)[:, None] * torch.exp(_uniform(2 * n, -0.08, 0.08, rng).view(n, 2))
    sides = sides.clamp(max=1)
    shift = _uniform(2 * n, -1, 1, rng).view(n, 2) * (1 - sides)
    angle = _uniform(n, -1, 1, rng) * math.radians(12) * _sometimes(n, 0.4, rng)
    mirror = 1 - 2 * _sometimes(n, 0.3, rng)
    cos, sin = angle.cos(), angle.sin()
    across = torch.stack([sides[:, 0] * mirror * cos, -sides[:, 0] * mirror * sin, shift[:, 0]], dim=1)
    down = torch.stack([sides[:, 1] * sin, sides[:, 1] * cos, shift[:, 1]], dim=1)
    grid = functional.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _recoloured(images: Images, rng: torch.Generator) -> Images:
    """Brightness, contrast, saturation and hue of eight in ten pictures, and no colour at all for two in ten.

    Brightness and contrast by up to 60 %, saturation by up to 80 %, hue by up to 54 degrees: so strong that shapes
    tell more than colours. All of it is one affine map of the three channels.
    """
    n, on = len(images), _sometimes(len(images), 0.8, rng)
    bright, contrast = (1 + _uniform(n, -0.6, 0.6, rng) * on for _ in range(2))
    saturation = (1 + _uniform(n, -0.8, 0.8, rng) * on) * (1 - _sometimes(n, 0.2, rng))
    turn = _hue_turns(_uniform(n, -1, 1, rng) * on * math.radians(54))
    grey = torch.tensor(GREY)
    mix = saturation[:, None, None] * turn + (1 - saturation)[:, None, None] * grey.expand(3, 3)
    middle = images.mean(dim=(2, 3)) @ grey
    offset = (bright * (1 - contrast) * middle)[:, None, None].expand(n, 3, 1)
    gain = (bright * contrast)[:, None, None] * mix
    return torch.baddbmm(offset, gain, images.flatten(2)).view_as(images)


def _hue_turns(angles: Float[Tensor, "N"]) -> Float[Tensor, "N 3 3"]:
    """Rotations of the three channels about the grey axis, which keep every grey (Rodrigues' formula)."""
    axis = torch.ones(3) / math.sqrt(3)
    cross = torch.linalg.cross(torch.eye(3), axis.expand(3, 3))
    cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
    turns: Tensor = cos * torch.eye(3) + (1 - cos) * torch.outer(axis, axis) + sin * cross
    return turns


def _blurred(images: Images, rng: torch.Generator) -> Images:
    """A Gaussian of 0.5 to 1.4 pixels on three in ten pictures, rows then columns."""
    chosen = _sometimes(len(images), 0.3, rng).nonzero().flatten()
    if not len(chosen):
        return images
    sigma = _uniform(len(chosen), 0.5, 1.4, rng)[:, None]
    taps = torch.exp(-(torch.arange(-3, 4) ** 2) / (2 * sigma**2))
    kernel = (taps / taps.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)[:, None, None]
    planes = images[chosen].flatten(0, 1)[None]
    planes = functional.conv2d(functional.pad(planes, (3, 3, 0, 0), mode="replicate"), kernel, groups=len(kernel))
    upright = kernel.transpose(2, 3)
    planes = functional.conv2d(functional.pad(planes, (0, 0, 3, 3), mode="replicate"), upright, groups=len(kernel))
    return images.index_put((chosen,), planes.view(-1, 3, *images.shape[2:]))


def _quantised(images: Images, rng: torch.Generator) -> Images:
    """Cosine coefficients of 8x8 blocks rounded, coarser at high frequencies, for four in ten pictures."""
    chosen = _sometimes(len(images), 0.4, rng).nonzero().flatten()
    if not len(chosen):
        return images
    basis, part = _cosines(), images[chosen]
    n, channels, height, width = part.shape
    frequency = torch.arange(BLOCK)
    coarse = (1 + frequency[:, None] + frequency).repeat(1, width // BLOCK)
    step = _uniform(n, 0.01, 0.06, rng)[:, None, None, None] * coarse
    blocks = (part.reshape(-1, BLOCK) @ basis.T).view(n, channels * height // BLOCK, BLOCK, width)
    rounded = torch.round((basis @ blocks) / step) * step
    restored = (basis.T @ rounded).reshape(-1, BLOCK) @ basis
    return images.index_put((chosen,), restored.view_as(part).clamp_(0, 1))


def _cosines() -> Float[Tensor, "8 8"]:
    """The orthonormal discrete cosine transform of eight values; rows are frequencies."""
    at = torch.arange(BLOCK, dtype=torch.float32)
    basis = torch.cos((at + 0.5) * at[:, None] * math.pi / BLOCK) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis
