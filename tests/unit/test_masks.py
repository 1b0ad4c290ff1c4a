"""Masks obey the rules for originals."""

import numpy as np
import pytest
from PIL import Image

from amnestic.sources.images import ImageProblem
from amnestic.sources.masks import open_mask


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "originals").mkdir()
    for place in ("outside.png", "originals/mask.png"):
        Image.new("L", (8, 4), 255).save(tmp_path / place)
    (tmp_path / "originals" / "away.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "originals" / "near.png").symlink_to("mask.png")
    (tmp_path / "originals" / "text.png").write_text("no picture")
    return tmp_path / "originals"


@pytest.mark.parametrize("name", ["mask.png", "near.png", "./mask.png"])
def test_a_mask_is_read(folder, name):
    assert np.array_equal(open_mask(folder, name), np.full((4, 8, 3), 255))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.png", "no such file"),
        ("text.png", "not an image"),
        ("away.png", "a link that leads out of the reference folder"),
        ("../outside.png", "must stay inside the reference folder"),
    ],
)
def test_what_is_no_mask_says_why(folder, name, reason):
    with pytest.raises(ImageProblem) as problem:
        open_mask(folder, name)
    assert problem.value.reason.startswith(reason)
