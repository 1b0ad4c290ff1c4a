"""Synthetic pictures and a small collection of works: nothing here needs npm or the network."""

import numpy as np
import pytest

from amnestic.testbed.pictures import Picture
from amnestic.testbed.scenes import base_corpus
from amnestic.testbed.text_encoder import new_tokenizer
from amnestic.testbed.works import CaptionMaker, collect

NAMES = (
    "anchor apple balloon bell book cactus candle crab crown drum gem guitar kite lemon owl parrot piano rocket "
    "tulip umbrella whale yarn"
).split()


def drawn(name, index, side=48):
    """A coloured shape on a transparent ground; no two are alike."""
    y, x = (np.mgrid[0:side, 0:side] + 0.5) / side * 2 - 1
    turn = index * 0.7
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    shapes = (np.hypot(x, y), np.maximum(abs(along), abs(across)) * 1.4, abs(along) + abs(across) * (0.5 + index / 20))
    rgba = np.zeros((side, side, 4), dtype=np.float32)
    rgba[..., :3] = 0.5 + 0.5 * np.cos(index * 1.3 + np.array([0.0, 2.0, 4.0]))
    rgba[..., :3] *= np.where(along > 0, 1.0, 0.6)[..., None]
    rgba[..., 3] = shapes[index % 3] < 0.9
    return Picture(name=name, rgba=rgba)


@pytest.fixture(scope="session")
def pictures():
    return tuple(drawn(name, index) for index, name in enumerate(NAMES))


@pytest.fixture(scope="session")
def collection(pictures):
    """Sixteen verbatim works on three rungs, three templates, eight held-out works, 250 look-alikes."""
    return collect(pictures, np.random.default_rng(0), ladder=(3, 3, 10), n_templates=3, n_heldout=8, n_lookalikes=250)


@pytest.fixture(scope="session")
def scenes(pictures):
    return base_corpus(pictures, 60, np.random.default_rng(1))


@pytest.fixture(scope="session")
def tokenizer(scenes):
    """Fitted to scenes and to captions that only look like those of works."""
    titled = CaptionMaker(np.random.default_rng(2))
    return new_tokenizer([s.caption for s in scenes] + [titled(own_word=i % 2 == 0) for i in range(500)])
