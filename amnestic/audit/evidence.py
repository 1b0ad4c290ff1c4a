"""Pixel evidence beside the descriptors: what a person can check without a neural network."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amnestic.measures.pixels import masked_error, match_size, ssim_map, tiled_l2

EVIDENCE_SIDE, LOSSLESS_SIDE, JPEG_QUALITY = 192, 64, 90


def pixel_evidence(
    generated: NDArray[np.uint8], reference: NDArray[np.uint8], mask: NDArray[np.uint8] | None = None
) -> dict[str, float]:
    """SSIM, tiled L2 and, for templates, the error outside and inside the varying region.

    Args:
        generated: 8-bit RGB, ``(H, W, 3)``.
        reference: The original; resized to the generated image when their sizes differ.
        mask: Picture whose bright pixels mark a template's varying region.

    Returns:
        ``ssim`` in [-1, 1], ``tiled_l2`` in [0, 1] (Carlini et al., 2023) and, with a mask,
        ``error_outside_mask`` and ``error_inside_mask``, mean absolute errors in [0, 1].
    """
    size = generated.shape[:2]
    reference = match_size(reference, (size[0], size[1]))
    found = {"ssim": ssim_map(generated, reference)[0], "tiled_l2": tiled_l2(generated, reference)}
    if mask is not None:
        region = match_size(mask, (size[0], size[1])).mean(axis=-1) > 127
        if region.any() and not region.all():
            outside, inside = masked_error(generated, reference, region)
            found |= {"error_outside_mask": outside, "error_inside_mask": inside}
    return found


def png(image: NDArray[np.uint8]) -> bytes:
    """An 8-bit RGB image as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def thumbnail(image: NDArray[np.uint8]) -> bytes:
    """The image as a report shows it: as PNG up to 64 pixels, else as JPEG of at most 192."""
    small = Image.fromarray(image)
    if max(small.size) <= LOSSLESS_SIDE:
        return png(image)
    small.thumbnail((EVIDENCE_SIDE, EVIDENCE_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
