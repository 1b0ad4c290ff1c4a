"""Memory that runs out midway: what was added to a sum before it did counts once, or not at all."""

from contextlib import contextmanager

import pytest
import torch

from amnestic.audit.early_steps import sum_early_steps
from amnestic.core.errors import InputError
from amnestic.core.methods import Case
from amnestic.core.records import Prompt, Sampling
from amnestic.core.registry import build
from amnestic.core.seeds import generator
from amnestic.model.target import PipelineTarget

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"
METHODS = {
    "wanda-subspace": {"r": 0.1, "tau": 2, "contrast": "controls"},
    "activation-contrast": {"share": 0.1, "tau": 2},
    "gradient-attribution": {"share": 0.1, "n_timesteps": 2},
}


def prompts(prefix, *texts):
    return tuple(Prompt(id=f"{prefix}{i}", prompt=text) for i, text in enumerate(texts))


MEMORIZED = prompts("m", "a red cat on a blue mat", "two dogs", "a green tree", "a cat under a tree", "two mats")
CONTROLS = prompts("c", "a mat", "a red dog under a tree", "two cats", "a blue tree")
CASE = Case(
    memorized=MEMORIZED, controls=CONTROLS, sampling=Sampling(num_inference_steps=3, guidance_scale=2.0), seeds=(0, 1),
    originals={p.id: torch.randn(24, 16, 16, generator=generator(0, p.id)) for p in (*MEMORIZED, *CONTROLS)},
)  # fmt: skip


@pytest.fixture(scope="module")
def target(tiny_pipeline):
    return PipelineTarget.load(tiny_pipeline)


@contextmanager
def short_of_memory(target, room, *, calls=0, before=1000):
    """The U-Net's last layer has room for so many rows, in the first calls for as many as were said; others ran."""
    seen, refused = [], []

    def fail(_module, inputs):
        seen.append(len(inputs[0]))
        if seen[-1] > (room if len(seen) > calls else before):
            refused.append(seen[-1])
            raise RuntimeError(FULL)

    handle = target.pipeline.unet.conv_out.register_forward_pre_hook(fail)
    try:
        yield refused
    finally:
        handle.remove()


def located(target, name, batch_size):
    return build("localizer", name, METHODS[name] | {"batch_size": batch_size})(target, CASE)


def assert_same(one, other):
    assert set(one.tensors) == set(other.tensors)
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    assert all(torch.equal(mask, other.units.masks[name]) for name, mask in one.units.masks.items())
    assert one.passes == other.passes


def rows_of(name, prompts):
    """Rows of the U-Net for so many prompts: guidance doubles them where images are drawn."""
    return prompts if name == "gradient-attribution" else 2 * prompts


def sets_of(name):
    """Memorized prompts and controls are drawn one after the other; gradients are taken of all in one list."""
    return 1 if name == "gradient-attribution" else 2


@pytest.mark.parametrize("name", METHODS)
class TestLocalizers:
    def test_smaller_batches_find_what_small_ones_find(self, target, name):
        """Bit for bit what a batch of two finds from the start; the size that fitted is kept."""
        with short_of_memory(target, rows_of(name, 2)) as refused:
            found = located(target, name, 4)
        assert refused == [rows_of(name, 4)] * sets_of(name)
        assert_same(found, located(target, name, 2))

    @pytest.mark.parametrize("calls", [1, 2])
    def test_what_was_added_before_it_ran_out_does_not_count(self, target, name, calls):
        """Memory lasts for some calls and then for one prompt at a time, in a batch or between two."""
        with short_of_memory(target, rows_of(name, 1), calls=calls) as refused:
            found = located(target, name, 5)
        assert refused
        whole = located(target, name, 5)
        for key, tensor in whole.tensors.items():
            torch.testing.assert_close(found.tensors[key], tensor, atol=1e-6, rtol=2e-4)

    def test_when_not_even_one_fits_it_says_so_and_leaves_nothing(self, target, name):
        with short_of_memory(target, 0), pytest.raises(InputError, match="memory runs out even for one"):
            located(target, name, 4)
        left = [m for m in target.pipeline.unet.modules() if m._forward_hooks or m._forward_pre_hooks]
        assert not left

    def test_other_errors_are_passed_on(self, target, name, monkeypatch):
        def fail(*_, **__):
            raise RuntimeError("shapes disagree")

        monkeypatch.setattr(target.pipeline.unet, "forward", fail)
        with pytest.raises(RuntimeError, match="shapes disagree"):
            located(target, name, 4)


@pytest.mark.parametrize(
    ("name", "calls"),
    [(name, calls) for name in METHODS for calls in ((2,) if name == "gradient-attribution" else (2, 3))],
)
def test_a_batch_begins_anew_when_a_later_piece_of_it_does_not_fit(target, name, calls):
    """Four do not fit, then two do for some calls, then one: bit for bit what a batch of one finds."""
    with short_of_memory(target, rows_of(name, 1), calls=calls, before=rows_of(name, 2)) as refused:
        found = located(target, name, 4)
    assert refused == [rows_of(name, 4), rows_of(name, 2)] * sets_of(name)
    assert_same(found, located(target, name, 1))


class TestSums:
    def counted(self, target, batch_size):
        """How many rows of prompts each layer saw at each step."""
        sites = target.sites("ffn")
        zeros = {site.name: torch.zeros(2, dtype=torch.long) for site in sites}

        def add(seen, sums):
            sums[seen.site.name][seen.step] += len(seen.conditional)

        texts = [p.prompt for p in MEMORIZED]
        found = sum_early_steps(target, sites, texts, CASE, zeros, add, tau=2, name="count", batch_size=batch_size)
        assert all(not total.any() for total in zeros.values())
        assert set(found) == set(zeros)
        return {tuple(total.tolist()) for total in found.values()}

    @pytest.mark.parametrize("batch_size", [1, 3, 5, 16])
    def test_every_text_and_seed_counts_once(self, target, batch_size):
        assert self.counted(target, batch_size) == {(10, 10)}

    @pytest.mark.parametrize(("room", "calls"), [(2, 0), (2, 1), (4, 0), (4, 1), (2, 5), (4, 5)])
    def test_and_once_only_when_memory_runs_out(self, target, room, calls):
        with short_of_memory(target, room, calls=calls) as refused:
            assert self.counted(target, 3) == {(10, 10)}
        assert refused
