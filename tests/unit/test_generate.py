"""Drawing with less memory than was hoped for."""

import numpy as np
import torch

from amnestic.audit.generate import generate, plan
from amnestic.core.records import Prompt, Sampling

PROMPTS = [Prompt(id=f"p{i}", prompt=f"prompt {i}") for i in range(7)]


class Small:
    """A model with room for so many images at once."""

    def __init__(self, room):
        self.room, self.asked = room, []

    def sample(self, units, texts, how):
        assert len(units) == len(texts)
        self.asked.append(len(units))
        if len(units) > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return torch.tensor([float(u.prompt_id[1:]) for u in units]).reshape(-1, 1, 1, 1)

    def decode(self, latents):
        return [np.full((1, 1, 3), int(z), dtype=np.uint8) for z in latents]


def drawn_with(room):
    target, told = Small(room), []
    batches = plan(PROMPTS, [0], batch_size=4)
    drawn = list(generate(target, {p.id: p for p in PROMPTS}, batches, Sampling(), told.append))
    assert [tuple(d.unit for d in part) for part in drawn] == batches
    assert [int(d.image[0, 0, 0]) for part in drawn for d in part] == list(range(7))
    return target.asked, told


def test_the_size_that_fitted_is_kept_and_told_once():
    assert drawn_with(4) == ([4, 3], [])
    assert drawn_with(2) == ([4, 2, 2, 2, 1], [2])
    assert drawn_with(1) == ([4, 2, 1, 1, 1, 1, 1, 1, 1], [1])


def test_a_size_that_stops_to_fit_is_told_again():
    target, told = Small(4), []
    batches = plan(PROMPTS[:6], [0], batch_size=2)
    for part in generate(target, {p.id: p for p in PROMPTS}, batches, Sampling(), told.append):
        target.room = 1 if part[0].unit.prompt_id == "p0" else target.room
    assert (target.asked, told) == ([2, 2, 1, 1, 1, 1], [1])
