"""Thumbnails: small pictures stay as they are, others are small files."""

import io

import numpy as np
import pytest
from PIL import Image

from amnestic.audit.evidence import thumbnail


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_small_pictures_are_not_changed():
    image = noise(64, 48)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(thumbnail(image)))), image)


@pytest.mark.parametrize(("size", "shown"), [((65, 10), (65, 10)), ((512, 512), (192, 192)), ((512, 256), (192, 96))])
def test_larger_ones_are_jpegs_of_at_most_192(size, shown):
    content = thumbnail(noise(*size))
    with Image.open(io.BytesIO(content)) as opened:
        assert (opened.format, opened.size) == ("JPEG", shown[::-1])
    assert len(content) < 40_000
