"""Sharing work, waiting for each other, and making do with less memory."""

from datetime import timedelta

import accelerate
import pytest

from amnestic.core.errors import InputError
from amnestic.parallel import shrinking_batches, team

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


def test_processes_wait_longer_for_each_other_than_any_share_takes(monkeypatch):
    asked = {}

    class State(accelerate.PartialState):
        def __init__(self, **options):
            asked.update(options)
            super().__init__(**options)

    monkeypatch.setattr(accelerate, "PartialState", State)
    assert team("cpu").size == 1
    assert asked["timeout"] >= timedelta(days=7)


def needing(room, tried):
    def work(size):
        tried.append(size)
        if size > room:
            raise RuntimeError(FULL)
        return size

    return work


@pytest.mark.parametrize(("room", "tried"), [(9, [9]), (8, [9, 4]), (1, [9, 4, 2, 1])])
def test_batches_are_halved_until_they_fit(room, tried):
    seen = []
    assert shrinking_batches(needing(room, seen), start=9) == tried[-1]
    assert seen == tried


def test_when_one_image_does_not_fit_the_remedy_is_named():
    with pytest.raises(InputError, match=r"one image at a time; give a smaller --height and --width, or --dtype"):
        shrinking_batches(needing(0, []), start=4)


def test_other_errors_are_not_taken_for_missing_memory():
    def broken(_size):
        raise RuntimeError("shapes disagree")

    with pytest.raises(RuntimeError, match="shapes disagree"):
        shrinking_batches(broken, start=4)
