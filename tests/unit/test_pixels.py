import doctest
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amnestic.core.errors import InputError
from amnestic.measures import pixels
from amnestic.measures.pixels import masked_error, match_size, ssim_map, tiled_l2

FAST = settings(max_examples=30, deadline=None, database=None)
SIDES = st.integers(3, 12)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def borders(side, tiles):
    """The first ``side % tiles`` patches are one pixel longer."""
    short, longer = divmod(side, tiles)
    ends = [0]
    for i in range(tiles):
        ends.append(ends[-1] + short + (i < longer))
    return list(pairwise(ends))


def tiled_by_loops(one, other, tiles):
    worst = 0.0
    for top, bottom in borders(one.shape[0], tiles):
        for left, right in borders(one.shape[1], tiles):
            squares = [
                ((int(one[y, x, c]) - int(other[y, x, c])) / 255) ** 2
                for y in range(top, bottom)
                for x in range(left, right)
                for c in range(3)
            ]
            worst = max(worst, math.sqrt(sum(squares) / len(squares)))
    return worst


def ssim_by_loops(one, other, window):
    """Wang et al. 2004 with a uniform window and sample covariances, away from the border."""
    half, c1, c2 = window // 2, (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for y in range(half, one.shape[0] - half):
        for x in range(half, one.shape[1] - half):
            for c in range(3):
                a = one[y - half : y + half + 1, x - half : x + half + 1, c].astype(float).ravel()
                b = other[y - half : y + half + 1, x - half : x + half + 1, c].astype(float).ravel()
                cov = np.cov(a, b)
                values.append(
                    (2 * a.mean() * b.mean() + c1) * (2 * cov[0, 1] + c2)
                    / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (cov[0, 0] + cov[1, 1] + c2))
                )  # fmt: skip
    return sum(values) / len(values)


def test_examples_in_docstrings():
    assert doctest.testmod(pixels).failed == 0


@pytest.mark.parametrize(("height", "width", "window"), [(9, 8, 7), (6, 10, 5), (4, 4, 3), (3, 8, 3)])
def test_ssim_equals_loops_also_for_small_pictures(height, width, window):
    one, other = noise(height, width), noise(height, width, 1)
    value, places = ssim_map(one, other)
    assert value == pytest.approx(ssim_by_loops(one, other, window), abs=1e-9)
    half = window // 2
    assert places[half : height - half, half : width - half].mean() == pytest.approx(value)
    assert places.shape == (height, width)


@FAST
@given(SIDES, SIDES, st.integers(0, 99))
def test_ssim_is_one_for_equal_and_symmetric(height, width, seed):
    one, other = noise(height, width, seed), noise(height, width, seed + 1)
    assert ssim_map(one, one)[0] == pytest.approx(1)
    assert ssim_map(one, other)[0] == pytest.approx(ssim_map(other, one)[0])
    assert ssim_map(one, other)[1].min() >= -1 - 1e-9
    assert ssim_map(one, other)[1].max() <= 1 + 1e-9


def test_ssim_map_shows_where():
    one = noise(32, 32)
    other = one.copy()
    other[:8, :8] = 255 - other[:8, :8]
    _, places = ssim_map(one, other)
    assert places[2:6, 2:6].max() < 0.5
    assert places[16:, 16:].min() == pytest.approx(1)


@FAST
@given(SIDES, SIDES, st.integers(0, 99), st.data())
def test_tiled_equals_loops_for_every_size(height, width, seed, data):
    tiles = data.draw(st.integers(1, min(height, width)))
    one, other = noise(height, width, seed), noise(height, width, seed + 1)
    value = tiled_l2(one, other, tiles=tiles)
    assert value == pytest.approx(tiled_by_loops(one, other, tiles))
    assert value == tiled_l2(other, one, tiles=tiles)
    assert value >= tiled_l2(one, other, tiles=1) - 1e-12
    assert 0 <= value <= 1
    assert tiled_l2(one, one, tiles=tiles) == 0


def test_tiled_sees_one_changed_patch_that_the_plain_distance_hides():
    one = np.zeros((64, 64, 3), np.uint8)
    other = one.copy()
    other[:16, 48:] = 255
    assert tiled_l2(one, other) == 1.0
    assert tiled_l2(one, other, tiles=1) == 0.25


@FAST
@given(SIDES, SIDES, st.integers(0, 99))
def test_masked_error_equals_loops(height, width, seed):
    one, other = noise(height, width, seed), noise(height, width, seed + 1)
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    parts = {False: [], True: []}
    for y in range(height):
        for x in range(width):
            parts[bool(mask[y, x])] += [abs(int(one[y, x, c]) - int(other[y, x, c])) / 255 for c in range(3)]
    for found, part in zip(masked_error(one, other, mask), (parts[False], parts[True]), strict=True):
        assert found == pytest.approx(sum(part) / len(part) if part else math.nan, nan_ok=True)


def test_masked_error_of_an_empty_part_is_nan():
    one, other = noise(4, 5), noise(4, 5, 1)
    assert math.isnan(masked_error(one, other, np.zeros((4, 5), bool))[1])
    assert math.isnan(masked_error(one, other, np.ones((4, 5), bool))[0])


def test_match_size_is_height_and_width_and_keeps_flat_colour():
    flat = np.full((20, 30, 3), (10, 200, 90), np.uint8)
    resized = match_size(flat, (7, 45))
    assert resized.shape == (7, 45, 3)
    assert resized.dtype == np.uint8
    assert (resized == (10, 200, 90)).all()


def test_match_size_to_its_own_size_is_a_copy():
    image = noise(6, 7)
    same = match_size(image, (6, 7))
    assert np.array_equal(same, image)
    same[:] = 0
    assert image.any()


def test_match_size_averages_when_shrinking():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert abs(match_size(stripes, (8, 8)).astype(float) - 127.5).max() < 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ssim_map(noise(4, 4), noise(4, 5)), "match_size"),
        (lambda: ssim_map(noise(2, 9), noise(2, 9)), "at least 3 pixels"),
        (lambda: tiled_l2(noise(4, 4).astype(float), noise(4, 4)), "uint8"),
        (lambda: tiled_l2(noise(4, 4)[..., 0], noise(4, 4)[..., 0]), "uint8"),
        (lambda: tiled_l2(noise(3, 9), noise(3, 9)), "tiles"),
        (lambda: tiled_l2(noise(4, 4), noise(4, 4), tiles=0), "tiles"),
        (lambda: masked_error(noise(4, 4), noise(4, 4), np.zeros((4, 4), np.uint8)), "boolean"),
        (lambda: masked_error(noise(4, 4), noise(4, 4), np.zeros((4, 5), bool)), "boolean"),
        (lambda: match_size(noise(4, 4), (0, 4)), "at least 1 pixel"),
        (lambda: match_size(np.zeros((4, 4, 4), np.uint8), (4, 4)), "uint8"),
    ],
)
def test_refusals_say_what_to_do(call, message):
    with pytest.raises(InputError, match=message):
        call()
