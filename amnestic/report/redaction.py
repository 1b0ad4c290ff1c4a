"""Pictures that a report may show without copying a work: colour patches, hashes, and where two pictures agree."""

import base64
import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from scipy.fft import dctn

from amnestic.measures.pixels import match_size, ssim_map

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
CELLS = 8
"""Cells along a side: all that is left of a blurred picture, and how coarse an overlay is."""
SIDE = 48
"""Pixels along a side of a blurred picture, interpolated between its cells."""
ORIGINAL_SIDE, QUALITY = 160, 85
MOST_PIXELS = 64_000_000
AGREES = 0.5
"""Mean SSIM of a cell from which it counts as agreeing."""
_TINT = np.array([224, 112, 16], dtype=np.float64)


def opened_picture(content: bytes | None) -> NDArray[np.uint8] | None:
    """A picture from its bytes, or `None` for anything else.

    Args:
        content: Bytes of a PNG, JPEG, WebP, BMP, TIFF or GIF; hostile until shown otherwise.

    Returns:
        8-bit RGB, ``(H, W, 3)``, upright, transparency on white; at most 64 million pixels.

    Example:
        >>> opened_picture(b"<svg/>") is None
        True
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content or b""), formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    return None
                upright = ImageOps.exif_transpose(image).convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        return np.array(Image.alpha_composite(white, upright).convert("RGB"), dtype=np.uint8)
    except Exception:  # a damaged file may raise anything inside Pillow's parsers
        return None


def blurred(image: NDArray[np.uint8]) -> bytes:
    """A picture of which no more is left than the mean colours of 8 times 8 cells, smoothed.

    Args:
        image: 8-bit RGB, ``(H, W, 3)``.

    Returns:
        A JPEG of 48 pixels a side. No pixel of the picture is in it.

    Example:
        >>> import numpy as np
        >>> Image.open(io.BytesIO(blurred(np.zeros((512, 768, 3), np.uint8)))).size
        (48, 48)
    """
    return _jpeg(_smooth(image))


def perceptual_hash(image: NDArray[np.uint8]) -> str:
    """64 bits that stay nearly the same for pictures that look alike; their distance is the number of other bits.

    Formula: luminance at 32 by 32 pixels, its DCT-II, the 8 by 8 lowest frequencies; a bit is set where the
    coefficient lies above the median of all but the first, which is the mean.

    Args:
        image: 8-bit RGB, ``(H, W, 3)``.

    Returns:
        16 hexadecimal digits. The picture cannot be rebuilt from them.

    Example:
        >>> import numpy as np
        >>> ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3))
        >>> perceptual_hash(ramp) == perceptual_hash(ramp[::2, ::2]), len(perceptual_hash(ramp))
        (True, 16)

    Source:
        Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010 (DCT hash).
    """
    small = Image.fromarray(image).convert("L").resize((32, 32), Image.Resampling.BOX)
    low = dctn(np.asarray(small, dtype=np.float64), norm="ortho")[:8, :8].round(6)
    bits = low > np.median(low.ravel()[1:])
    return f"{int(''.join('1' if bit else '0' for bit in bits.ravel()), 2):016x}"


def agreement(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Where two pictures agree, coarsely.

    Formula: the SSIM map at the smaller of both sizes, at most 128 pixels a side; its mean in each of 8 by 8 cells.

    Args:
        one: 8-bit RGB, ``(H, W, 3)``.
        other: Likewise, of any size.

    Returns:
        ``(8, 8)``, SSIM in [-1, 1]; 1 where both are equal.

    Example:
        >>> import numpy as np
        >>> grey = np.full((64, 64, 3), 90, np.uint8)
        >>> float(agreement(grey, grey).min())
        1.0
    """
    size = tuple(max(CELLS, min(128, a, b)) for a, b in zip(one.shape[:2], other.shape[:2], strict=True))
    places = ssim_map(match_size(one, (size[0], size[1])), match_size(other, (size[0], size[1])))[1]
    bands = np.array_split(places, CELLS, axis=0)
    return np.array([[patch.mean() for patch in np.array_split(band, CELLS, axis=1)] for band in bands])


def overlaid(image: NDArray[np.uint8], cells: NDArray[np.float64]) -> bytes:
    """A blurred picture without its colours, with the cells in orange that agree with another picture.

    Args:
        image: 8-bit RGB, ``(H, W, 3)``.
        cells: Of `agreement`.

    Returns:
        A JPEG of twice 48 pixels a side; the stronger the orange, the higher the SSIM; below 0.5 there is none.
    """
    grey = Image.fromarray(_smooth(image)).convert("L").resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC)
    base = 90 + 0.55 * np.repeat(np.asarray(grey, dtype=np.float64)[..., None], 3, axis=-1)
    strength = np.where(cells >= AGREES, 0.25 + 0.45 * (cells - AGREES) / (1 - AGREES), 0.0).clip(0, 0.7)
    wide = np.kron(strength, np.ones((2 * SIDE // CELLS,) * 2))
    wide[:: 2 * SIDE // CELLS] *= 0.6
    wide[:, :: 2 * SIDE // CELLS] *= 0.6
    mixed = base * (1 - wide[..., None]) + _TINT * wide[..., None]
    return _jpeg(mixed.round().clip(0, 255).astype(np.uint8))


def reduced(image: NDArray[np.uint8]) -> bytes:
    """The picture itself, at most 160 pixels a side; only for a report that was asked to show originals."""
    small = Image.fromarray(image)
    small.thumbnail((ORIGINAL_SIDE, ORIGINAL_SIDE), Image.Resampling.LANCZOS)
    return _jpeg(np.asarray(small))


def data_uri(jpeg: bytes) -> str:
    """A JPEG as an address that holds it."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _smooth(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    means = [_means(image[..., channel]) for channel in range(3)]
    cells = Image.fromarray(np.stack(means, axis=-1).round().astype(np.uint8))
    wide = cells.resize((SIDE, SIDE), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(SIDE / CELLS / 2))
    return np.asarray(wide, dtype=np.uint8)


def _means(channel: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means of cells, not rounded on the way, so that nothing but them decides what is seen."""
    return np.asarray(Image.fromarray(channel.astype(np.float32)).resize((CELLS, CELLS), Image.Resampling.BOX))


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
