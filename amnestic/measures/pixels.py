"""Pixel evidence beside descriptors: where and how far two pictures of one size differ."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from skimage.metrics import structural_similarity

from amnestic.core.errors import InputError

Picture = UInt8[np.ndarray, "H W 3"]
_structural_similarity: Callable[..., tuple[float, Float[np.ndarray, "H W 3"]]] = structural_similarity


def ssim_map(one: Picture, other: Picture) -> tuple[float, Float[np.ndarray, "H W"]]:
    """Structural similarity of two pictures, as one number and place by place.

    Formula: SSIM with a uniform window of 7 pixels (the largest odd size that fits a smaller picture), per channel,
    averaged over channels; the number is the mean of the map without a border of half a window.

    Args:
        one: Picture, uint8 RGB, at least 3 pixels wide and high.
        other: Picture of the same size.

    Returns:
        Mean in [-1, 1] and map in [-1, 1]; 1 means equal. Comparable only at one picture size.

    Raises:
        InputError: If a picture is not uint8 RGB, sizes differ (use `match_size`) or a side is below 3 pixels.

    Example:
        >>> import numpy as np
        >>> value, places = ssim_map(np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9, 3), np.uint8))
        >>> value, places.shape
        (1.0, (8, 9))

    Source:
        Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004.
    """
    _require_pictures(one, other)
    side = min(7, *one.shape[:2])
    if side < 3:
        raise InputError(f"pictures must be at least 3 pixels wide and high, got {one.shape[:2]}; give larger ones")
    window = side if side % 2 else side - 1
    value, places = _structural_similarity(one, other, channel_axis=-1, full=True, data_range=255, win_size=window)
    return float(value), places.mean(axis=-1)


def tiled_l2(one: Picture, other: Picture, *, tiles: int = 4) -> float:
    """Distance of two pictures in the patch where they differ most; small only when all of it agrees.

    Formula: ``max over patches of sqrt(mean((a - b)^2))``, values in [0, 1], ``tiles * tiles`` patches that do not
    overlap. Where a side is no multiple of `tiles`, patches differ by one pixel and each is normalised by its own size.

    Args:
        one: Picture, uint8 RGB, at least `tiles` pixels wide and high.
        other: Picture of the same size.
        tiles: Patches along each side; 4 gives the 16 patches of the paper, 1 the plain normalised distance.

    Returns:
        Distance in [0, 1]; 0 means equal. Comparable only for one `tiles`.

    Raises:
        InputError: If a picture is not uint8 RGB, sizes differ (use `match_size`) or tiles do not fit.

    Example:
        >>> import numpy as np
        >>> white_corner = np.zeros((8, 8, 3), np.uint8)
        >>> white_corner[:2, :2] = 255
        >>> tiled_l2(white_corner, np.zeros((8, 8, 3), np.uint8))
        1.0

    Source:
        Carlini et al., "Extracting Training Data from Diffusion Models", 2023.
    """
    _require_pictures(one, other)
    if not 1 <= tiles <= min(one.shape[:2]):
        raise InputError(f"tiles must be within 1 and the shorter side of {one.shape[:2]}, got {tiles}")
    squares = ((one.astype(np.float64) - other.astype(np.float64)) / 255) ** 2
    bands = np.array_split(squares, tiles, axis=0)
    return max(math.sqrt(float(patch.mean())) for band in bands for patch in np.array_split(band, tiles, axis=1))


def masked_error(one: Picture, other: Picture, mask: Bool[np.ndarray, "H W"]) -> tuple[float, float]:
    """How far two pictures differ in the fixed frame of a template and in its varying region.

    Formula: ``mean(|a - b|)``, values in [0, 1], over all channels of pixels where the mask is false, then true.

    Args:
        one: Picture, uint8 RGB.
        other: Picture of the same size.
        mask: True in the varying region.

    Returns:
        Error outside the mask (the frame) and inside it (the varying region), in [0, 1]; NaN for an empty part.

    Raises:
        InputError: If a picture is not uint8 RGB, sizes differ (use `match_size`) or the mask does not fit.

    Example:
        >>> import numpy as np
        >>> black, mask = np.zeros((2, 2, 3), np.uint8), np.array([[True, False], [False, False]])
        >>> changed = black.copy()
        >>> changed[0, 0] = 255
        >>> masked_error(black, changed, mask)
        (0.0, 1.0)
    """
    _require_pictures(one, other)
    if mask.dtype != np.bool_ or mask.shape != one.shape[:2]:
        raise InputError(
            f"the mask must be boolean of shape {one.shape[:2]}, got {mask.dtype} of shape {mask.shape}; "
            "threshold and resize it first"
        )
    error = np.abs(one.astype(np.float64) - other.astype(np.float64)) / 255
    outside, inside = error[~mask], error[mask]
    return (float(outside.mean()) if outside.size else math.nan, float(inside.mean()) if inside.size else math.nan)


def match_size(image: Picture, size: tuple[int, int]) -> Picture:
    """The same picture at another size, so that it can be compared pixel by pixel.

    Formula: Lanczos resampling; the whole picture is stretched, nothing is cropped.

    Args:
        image: Picture, uint8 RGB.
        size: Height and width in pixels.

    Returns:
        A new picture, uint8 RGB, of that size.

    Raises:
        InputError: If the picture is not uint8 RGB or a side is below 1 pixel.

    Example:
        >>> import numpy as np
        >>> match_size(np.zeros((8, 8, 3), np.uint8), (4, 6)).shape
        (4, 6, 3)
    """
    _require_picture(image)
    height, width = size
    if height < 1 or width < 1:
        raise InputError(f"height and width must be at least 1 pixel, got {size}")
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _require_picture(image: Picture) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"a picture must be uint8 of shape (height, width, 3), got {image.dtype} of shape {image.shape}; "
            "convert it to RGB first"
        )


def _require_pictures(one: Picture, other: Picture) -> None:
    _require_picture(one)
    _require_picture(other)
    if one.shape != other.shape:
        raise InputError(
            f"pictures must have one size, got {one.shape[:2]} and {other.shape[:2]}; use match_size first"
        )
