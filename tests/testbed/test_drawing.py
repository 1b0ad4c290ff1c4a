import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amnestic.testbed.drawing import (
    COLOURS,
    PATTERNS,
    SIDE,
    Placed,
    border,
    colour,
    paste,
    pattern,
    plain,
    split,
    to_bytes,
)
from amnestic.testbed.pictures import Picture


def square(rgb, alpha=1.0, side=8):
    return Picture(name="square", rgba=np.broadcast_to(np.float32([*rgb, alpha]), (side, side, 4)))


@pytest.mark.parametrize("name", COLOURS)
def test_colours_survive_the_way_to_bytes(name):
    canvas = to_bytes(plain(colour(name)))
    assert canvas.shape == (SIDE, SIDE, 3)
    assert (canvas == COLOURS[name]).all()


def test_colours_can_be_told_apart():
    table = np.array(list(COLOURS.values()), dtype=float)
    apart = np.linalg.norm(table[:, None] - table[None], axis=-1) + np.eye(len(table)) * 999
    assert apart.min() > 40


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(PATTERNS), seed=st.integers(0, 2**32))
def test_a_pattern_mixes_its_two_colours_and_shows_both(kind, seed):
    first, second = colour("navy"), colour("white")
    image = pattern(kind, first, second, np.random.default_rng(seed))
    mix = ((image - first)[..., :2] / (second - first)[:2]).astype(float)  # their blue is the same
    assert image.shape == (SIDE, SIDE, 3)
    assert mix.min() > -1e-5
    assert mix.max() < 1 + 1e-5
    np.testing.assert_allclose(mix[..., 0], mix[..., 1], atol=1e-5)
    assert (mix[..., 0] < 0.1).mean() > 0.01
    assert (mix[..., 0] > 0.9).mean() > 0.01


@pytest.mark.parametrize("kind", PATTERNS)
def test_the_generator_decides_a_pattern(kind):
    images = [pattern(kind, colour("red"), colour("white"), np.random.default_rng(s)) for s in (3, 3, 4)]
    assert (images[0] == images[1]).all()
    assert (images[0] != images[2]).any()


def test_an_opaque_picture_covers_exactly_its_square():
    canvas = plain(colour("blue"))
    out = paste(canvas, [Placed(picture=square((1, 0, 0)), x=20, y=30, size=10)])
    covered = (out != canvas).any(axis=-1)
    assert covered[25:35, 15:25].all()
    assert covered.sum() == 100
    np.testing.assert_allclose(out[30, 20], (1, 0, 0), atol=1e-6)
    assert (canvas == colour("blue")).all()


def test_alpha_mixes_and_the_last_picture_lies_on_top():
    canvas = plain(np.float32([0, 0, 0]))
    half = paste(canvas, [Placed(picture=square((1, 1, 1), 0.5), x=32, y=32, size=10)])
    np.testing.assert_allclose(half[32, 32], 0.5, atol=1 / 255)
    places = [Placed(picture=square(rgb), x=32, y=32, size=10) for rgb in ((1, 0, 0), (0, 1, 0))]
    np.testing.assert_allclose(paste(canvas, places)[32, 32], (0, 1, 0), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(x=st.floats(-100, 160), y=st.floats(-100, 160), size=st.floats(1, 90), angle=st.sampled_from([0.0, 17.0, -33.0]))
def test_pictures_may_stick_out_anywhere(x, y, size, angle):
    out = paste(plain(colour("grey")), [Placed(picture=square((1, 0, 1)), x=x, y=y, size=size, angle=angle)])
    assert out.shape == (SIDE, SIDE, 3)
    assert out.min() >= 0
    assert out.max() <= 1


def test_a_split_keeps_each_side_of_a_line():
    black, white = plain(np.float32([0, 0, 0])), plain(np.float32([1, 1, 1]))
    out = split(black, white, np.random.default_rng(0))[..., 0]
    assert 0.2 < out.mean() < 0.8
    assert ((out > 0) & (out < 1)).mean() < 0.05


def test_a_border_has_its_width_and_leaves_the_rest():
    canvas = plain(colour("green"))
    out = border(canvas, colour("white"), 3)
    assert (out[3:-3, 3:-3] == canvas[3:-3, 3:-3]).all()
    assert (out != canvas).any(axis=-1).sum() == SIDE**2 - (SIDE - 6) ** 2
    assert (border(canvas, colour("white"), 0) == canvas).all()


@given(st.lists(st.floats(-2, 3), min_size=3, max_size=3))
def test_bytes_are_rounded_and_clipped(values):
    image = np.array(values, dtype=np.float32).reshape(1, 1, 3)
    back = to_bytes(image).astype(np.float32) / 255
    assert np.abs(back - np.clip(image, 0, 1)).max() <= 0.5 / 255 + 1e-6
