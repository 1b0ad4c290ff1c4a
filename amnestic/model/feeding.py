"""How pictures of any sizes reach an encoder: checked, resized by rule, in batches of one size."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from amnestic.core.errors import InputError, NotFinite
from amnestic.core.names import did_you_mean

Picture = NDArray[np.uint8]
Size = tuple[int, int]

PREPROCESSINGS = ("short-288", "square-320", "native")
MOST_PIXELS = 4096 * 4096


def check_preprocessing(name: str) -> str:
    """The name, when it is one of `PREPROCESSINGS`.

    Raises:
        InputError: If it is not.
    """
    if name not in PREPROCESSINGS:
        hint = did_you_mean(name, PREPROCESSINGS)
        raise InputError(f"expected a preprocessing out of {', '.join(PREPROCESSINGS)}, got {name!r}{hint}")
    return name


def fed_size(height: int, width: int, *, preprocessing: str, native: Size | None = None) -> Size:
    """The size at which a picture is fed.

    Formula: ``short-288``: the short side becomes 288, the long side ``floor(288 * long / short)``;
    ``square-320``: 320 by 320 whatever the aspect; ``native``: `native`. No crop.

    Args:
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.
        preprocessing: One of `PREPROCESSINGS`.
        native: Height and width of the model's pictures, at which ``native`` feeds every picture, so that an
            original is fed like its copy; `None` leaves each at its own size.

    Returns:
        Height and width in pixels; similarities are comparable within one preprocessing only.

    Raises:
        InputError: If the name is unknown, or the result would exceed 4096 x 4096 pixels.

    Example:
        >>> fed_size(512, 768, preprocessing="short-288")
        (288, 432)
        >>> fed_size(512, 768, preprocessing="square-320")
        (320, 320)
        >>> fed_size(512, 768, preprocessing="native", native=(64, 64))
        (64, 64)

    Source:
        Pizzi et al., CVPR 2022, inference instructions.
    """
    sizes = {"native": native or (height, width), "square-320": (320, 320)}
    if check_preprocessing(preprocessing) == "short-288":
        short, long = min(height, width), int(288 * max(height, width) / min(height, width))
        sizes["short-288"] = (long, 288) if height > short else (288, long)
    size = sizes[preprocessing]
    if size[0] * size[1] > MOST_PIXELS:
        raise InputError(
            f"a picture of {width} x {height} pixels would be fed as {size[1]} x {size[0]} by {preprocessing}, "
            "more than 4096 x 4096 pixels; crop it, or use square-320"
        )
    return size


def refusal(size_of: Callable[[int, int], Size], height: int, width: int) -> str:
    """Why a picture of this size cannot be fed, or an empty string.

    Args:
        size_of: From a picture's height and width to the size at which it is fed.
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.

    Returns:
        The sentence with which it would be refused.

    Example:
        >>> from functools import partial
        >>> refusal(partial(fed_size, preprocessing="short-288"), 1, 300)[:46]
        'a picture of 300 x 1 pixels would be fed as 86'
        >>> refusal(partial(fed_size, preprocessing="square-320"), 1, 300)
        ''
    """
    try:
        size_of(height, width)
    except InputError as error:
        return str(error)
    return ""


def encode_by_size(
    images: Sequence[Picture],
    *,
    batch: int,
    width: int,
    size_of: Callable[[int, int], Size],
    encode: Callable[[Sequence[Picture], Size], Tensor],
) -> Float[Tensor, "N D"]:
    """Run an encoder over pictures of any sizes, one fed size at a time.

    Args:
        images: N pictures, each (H, W, 3), RGB, uint8.
        batch: Most pictures in one run.
        width: Descriptor width D.
        size_of: From a picture's height and width to the size at which it is fed.
        encode: From pictures and their common fed size to one row each.

    Returns:
        Unit rows in the order of the pictures, float32 on the CPU; (0, D) without pictures.

    Raises:
        InputError: If a picture is not (H, W, 3) uint8, or the batch is smaller than 1.
        NotFinite: If the encoder returned a row without a direction.
    """
    if batch < 1:
        raise InputError(f"expected a batch of at least 1, got {batch}")
    groups: dict[Size, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        groups[size_of(*_checked_size(image, index))].append(index)
    rows = torch.zeros(len(images), width)
    for size, members in groups.items():
        for start in range(0, len(members), batch):
            part = members[start : start + batch]
            rows[part] = encode([images[i] for i in part], size).to("cpu", torch.float32)
    return unit_rows(rows)


def unit_rows(rows: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """Rows divided by their Euclidean length.

    Raises:
        NotFinite: If a row holds NaN or infinity, or is zero and so has no direction.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """
    lengths = torch.linalg.vector_norm(rows, dim=1)
    if not bool(torch.isfinite(lengths).all()) or bool((lengths == 0).any()):
        raise NotFinite(
            "expected descriptors with a direction, the encoder gave NaN, infinity or zeros; "
            "its weights are damaged, load them again"
        )
    return functional.normalize(rows, dim=1)


def _checked_size(image: Picture, index: int) -> Size:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(
            f"expected picture {index} as (height, width, 3) RGB uint8, got shape {image.shape} of {image.dtype}; "
            "convert it to 8-bit RGB"
        )
    return image.shape[0], image.shape[1]
