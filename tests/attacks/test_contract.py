"""What every registered attack must keep to."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from amnestic.core.attacks import AttackCase, Goal
from amnestic.core.errors import InputError, NotFinite
from amnestic.core.records import Prompt, Sampling, plain
from amnestic.core.registry import build, methods
from amnestic.core.seeds import generator
from amnestic.model.target import PipelineTarget

NAMES = sorted(methods("attack"))
LATENT, STEPS = (24, 16, 16), 2
SMALL = {
    "dori": {"draws": 2}, "random-embeddings": {"draws": 2}, "random-tokens": {"draws": 2, "n_tokens": 3},
    "hard-prompt": {"draws": 2, "n_tokens": 3}, "gcg-prompt": {"draws": 2, "n_tokens": 3, "candidates": 4},
    "null-text": {"iterations": 2},
}  # fmt: skip
ROWS = {
    "auto-dori": (8, 8), "dori": (2, 2), "random-embeddings": (4, 0), "random-tokens": (4, 0), "hard-prompt": (2, 2),
    "null-text": (6, 0),
}  # fmt: skip
"""Rows forward and backward that a step costs for each goal; what `gcg-prompt` costs depends on what can be typed."""
ROUNDING = 2e-3
"""Largest difference of an embedding after steps of 0.1, in batches of other sizes; at most 1.7e-4 was measured."""


def prompts(prefix, *texts):
    return tuple(Prompt(id=f"{prefix}{i}", prompt=text) for i, text in enumerate(texts))


GOALS = tuple(
    Goal(prompt=p, original=torch.randn(LATENT, generator=generator(0, "original", p.id)))
    for p in prompts("g", "a red cat on a blue mat", "two dogs", "a tree")
)
CASE = AttackCase(
    goals=GOALS, natural=prompts("n", "a mat", "a green tree", "two cats"), memorized=prompts("m", "a blue dog"),
    sampling=Sampling(num_inference_steps=3, guidance_scale=2.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def target(tiny_pipeline):
    return PipelineTarget.load(tiny_pipeline)


def attack(name, **options):
    return build("attack", name, {"steps": STEPS} | SMALL.get(name, {}) | options)


def uses_gradient(name):
    return methods("attack")[name].uses_gradient


def parts(target):
    return target.pipeline.unet, target.pipeline.text_encoder, target.pipeline.vae


def hooks_of(target):
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for part in parts(target) for m in part.modules()
    )  # fmt: skip


def assert_close(one, other, places=slice(None), *, of=slice(None)):
    """Equal up to rounding: inputs, losses and lengths of gradients of some goals of one with some of another."""
    assert (one.cond[:, :, of] - other.cond[:, :, places]).abs().max() < ROUNDING
    for key in ("loss", "gradient"):
        a, b = getattr(one, key)[:, :, of], getattr(other, key)[:, :, places]
        torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-6, equal_nan=True)
    assert (one.start is None) == (other.start is None)
    if one.start is not None:
        torch.testing.assert_close(one.start[:, :, of], other.start[:, :, places], rtol=1e-4, atol=1e-4)
    assert (one.texts is None) == (other.texts is None)
    for a, b in zip(one.texts or (), other.texts or (), strict=True):
        assert [t[of] for t in a] == [t[places] for t in b]


@contextmanager
def changed(part, change):
    """A module with other weights, which it loses again."""
    before = {k: v.clone() for k, v in part.state_dict().items()}
    with torch.no_grad():
        change(part)
    try:
        yield
    finally:
        part.load_state_dict(before)


@contextmanager
def short_of_memory(target, room):
    """The U-Net's last layer has room for so many rows."""
    refused = []

    def fail(_module, inputs):
        if len(inputs[0]) > room:
            refused.append(len(inputs[0]))
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = target.pipeline.unet.conv_out.register_forward_pre_hook(fail)
    try:
        yield refused
    finally:
        handle.remove()


def deaf(unet):
    """Cross-attention says nothing, so that no conditioning is heard."""
    for name, module in unet.named_modules():
        if name.endswith("attn2.to_out.0"):
            module.weight.zero_()
            module.bias.zero_()


@pytest.mark.parametrize("name", NAMES)
class TestEveryAttack:
    def test_builds_with_defaults_and_again_from_its_spec(self, name):
        spec = json.loads(json.dumps(plain(build("attack", name).spec())))
        assert spec["name"] == name
        assert build("attack", name, spec["parameters"]) == build("attack", name)

    def test_says_what_it_is(self, name):
        method = methods("attack")[name]
        assert "Source:" in (method.__doc__ or "")
        assert method.searches in {"embedding", "prompt", "noise"}

    def test_leaves_no_trace(self, target, name):
        before = [{k: v.clone() for k, v in part.state_dict().items()} for part in parts(target)]
        hooks, state = hooks_of(target), torch.get_rng_state()
        attack(name)(target, CASE)
        for part, values in zip(parts(target), before, strict=True):
            assert all(torch.equal(v, values[k]) for k, v in part.state_dict().items())
            assert all(p.grad is None for p in part.parameters())
            assert not part.training
        assert hooks_of(target) == hooks
        assert torch.equal(torch.get_rng_state(), state)

    def test_leaves_no_hook_after_an_error(self, target, name):
        hooks = hooks_of(target)

        def fail(_module, _inputs):
            raise RuntimeError("a layer failed")

        for module in (target.pipeline.unet.conv_out, target.pipeline.text_encoder.final_layer_norm):
            handle = module.register_forward_pre_hook(fail)
            try:
                with pytest.raises(RuntimeError, match="a layer failed"):
                    attack(name)(target, CASE)
            finally:
                handle.remove()
        assert hooks_of(target) == hooks

    def test_says_the_same_twice_and_is_finite(self, target, name):
        one, other = (attack(name)(target, CASE, keep=(1,)) for _ in range(2))
        assert one.cond.equal(other.cond)
        assert torch.equal(one.loss.nan_to_num(-1), other.loss.nan_to_num(-1))
        assert (one.texts, one.stopped, one.flags) == (other.texts, other.stopped, other.flags)
        assert one.start is None or one.start.equal(other.start)
        assert one.cond.isfinite().all()
        assert one.loss[:, 1:].isfinite().all()
        assert one.loss[:, 0].isnan().all()
        assert one.gradient[:, 1:].isfinite().all() == uses_gradient(name)
        assert one.start is None or one.start.isfinite().all()

    def test_keeps_to_its_budget(self, target, name):
        method = attack(name)
        found = method(target, CASE, keep=(1, 99))
        tries, n = method.tries, len(GOALS)
        assert found.steps == (0, 1, STEPS)
        assert found.cond.shape[:3] == (tries, 3, n)
        assert found.loss.shape == found.gradient.shape == (tries, STEPS + 1, n)
        assert found.stopped == ((-1,) * n,) * tries
        forward, backward = (found.cost[kind] for kind in ("forward", "backward"))
        assert not forward[:, 0].any()
        assert (backward <= forward).all()
        if name in ROWS:
            steps = torch.tensor(found.steps)[None, :, None].expand_as(forward)
            assert torch.equal(forward, steps * float(ROWS[name][0]))
            assert torch.equal(backward, steps * float(ROWS[name][1]))

    def test_step_0_is_the_start_whatever_the_budget(self, target, name):
        short, long = attack(name, steps=1)(target, CASE), attack(name)(target, CASE)
        assert short.cond[:, 0].equal(long.cond[:, 0])
        noise = methods("attack")[name].searches == "noise"
        start = target.encode([""] * 3 if noise else [g.prompt.prompt for g in GOALS])
        torch.testing.assert_close(long.cond[0, 0], start, atol=1e-5, rtol=1e-5)
        moved = long.start if noise else long.cond
        assert noise or name.startswith("random") or not torch.allclose(moved[:, 0], moved[:, -1])
        assert not noise or not torch.allclose(moved[:, 0], moved[:, -1])

    def test_a_longer_search_begins_like_a_shorter_one(self, target, name):
        short, long = attack(name, steps=1)(target, CASE), attack(name)(target, CASE, keep=(1,))
        assert short.cond[:, 1].equal(long.cond[:, 1])

    def test_the_size_of_a_batch_does_not_matter(self, target, name):
        one = attack(name, batch_size=1)(target, CASE, keep=(1,))
        other = attack(name, batch_size=64)(target, CASE, keep=(1,))
        assert_close(one, other)
        assert all(torch.equal(one.cost[kind], other.cost[kind]) for kind in one.cost)

    def test_goals_alone_or_together(self, target, name):
        together = attack(name)(target, CASE, keep=(1,))
        for place, goal in enumerate(GOALS):
            alone = attack(name)(target, replace(CASE, goals=(goal,)), keep=(1,))
            assert_close(alone, together, slice(place, place + 1))

    def test_a_goal_left_alone_neither_moves_nor_costs(self, target, name):
        whole = attack(name, steps=3)(target, CASE, keep=range(4))
        found = attack(name, steps=3)(target, CASE, keep=range(4), look_at=(1,), look=lambda _, awake: awake & {1})
        assert found.stopped[0] == (-1, 1, -1)
        assert all(row == (-1, -2, -1) for row in found.stopped[1:])
        assert found.cond[0, 1:, 1].equal(found.cond[0, 1, 1].expand(3, -1, -1))
        assert found.start is None or found.start[0, 1:, 1].equal(found.start[0, 1, 1].expand(3, *LATENT))
        assert found.texts is None or len({texts[1] for texts in found.texts[0][1:]}) == 1
        assert found.loss[0, 2:, 1].isnan().all()
        rest = [0, 2]
        assert (found.cond[0, :, rest] - whole.cond[0, :, rest]).abs().max() < ROUNDING
        for kind in found.cost:
            assert found.cost[kind][0, 1:, 1].unique().numel() == 1
            if name in ROWS:
                assert torch.equal(found.cost[kind][0, :, rest], whole.cost[kind][0, :, rest])

    def test_memory_that_runs_out_changes_nothing(self, target, name):
        with short_of_memory(target, 1) as refused:
            found = attack(name, batch_size=2)(target, CASE, keep=(1,))
        assert refused
        assert_close(found, attack(name, batch_size=1)(target, CASE, keep=(1,)))

    def test_a_model_that_ignores_its_conditioning_is_flagged(self, target, name):
        assert attack(name)(target, CASE).flags == ()
        with changed(target.pipeline.unet, deaf):
            found = attack(name)(target, CASE)
        if uses_gradient(name):
            assert len(found.flags) == 1
            assert found.flags[0].startswith(f"zero gradient: in {len(GOALS) * found.loss.shape[0]} searches")
        else:
            assert found.flags == ()

    def test_numbers_that_are_none_are_an_error(self, target, name):
        unet = target.pipeline.unet
        with (
            changed(unet, lambda unet: unet.conv_out.weight.fill_(float("nan"))),
            pytest.raises(NotFinite, match="use --dtype float32"),
        ):
            attack(name)(target, CASE)

    def test_without_a_goal_it_says_so(self, target, name):
        with pytest.raises(InputError, match="at least one known image"):
            attack(name)(target, replace(CASE, goals=()))

    def test_latents_of_another_shape_are_refused(self, target, name):
        wrong = replace(GOALS[0], original=torch.zeros(24, 8, 8))
        with pytest.raises(InputError, match=r"expected latents of shape \(24, 16, 16\) for the original of g0"):
            attack(name)(target, replace(CASE, goals=(wrong,)))


@pytest.mark.parametrize("name", [n for n in NAMES if methods("attack")[n].searches == "prompt"])
class TestEveryPromptSearch:
    @pytest.mark.parametrize("place", ["append", "prepend", "replace"])
    def test_what_is_held_is_what_a_user_would_get(self, target, name, place):
        found = attack(name, place=place)(target, CASE, keep=(1,))
        for texts, cond in zip(found.texts[0], found.cond[0], strict=True):
            torch.testing.assert_close(target.encode(texts), cond, atol=1e-5, rtol=1e-5)
        assert found.texts[0][0] == tuple(g.prompt.prompt for g in GOALS)

    def test_more_tokens_than_are_read_are_refused(self, target, name):
        with pytest.raises(InputError, match="n_tokens must be at most 30"):
            attack(name, n_tokens=31)(target, CASE)
        attack(name, n_tokens=30, steps=1)(target, CASE)


@pytest.mark.parametrize("name", ["random-embeddings", "random-tokens", "hard-prompt"])
def test_a_step_costs_as_many_passes_as_one_of_dori(target, name):
    case = replace(CASE, goals=GOALS[:1])
    passes = [
        sum(float(found.cost[kind][0, -1, 0]) for kind in found.cost)
        for found in (build("attack", n, {"steps": 1})(target, case) for n in ("dori", name))
    ]
    assert passes == [16, 16]


class TestByChance:
    """The control that a search by gradient is measured against."""

    @pytest.mark.parametrize("name", NAMES)
    def test_it_is_there_for_searches_by_gradient_alone(self, name):
        chance = attack(name).by_chance()
        assert (chance is not None) == uses_gradient(name)
        if chance is not None:
            assert not chance.uses_gradient
            assert chance.by_chance() is None
            assert (chance.searches, chance.tries, chance.steps) == (attack(name).searches, attack(name).tries, STEPS)

    @pytest.mark.parametrize("name", [n for n in NAMES if uses_gradient(n)])
    def test_it_spends_as_many_passes(self, target, name):
        method = attack(name)
        cost, chance = (one(target, CASE).cost for one in (method, method.by_chance()))
        spent = cost["forward"][:, -1] + cost["backward"][:, -1]
        assert (chance["forward"][:, -1] >= spent).all()
        assert not chance["backward"].any()

    @pytest.mark.parametrize("name", ["hard-prompt", "gcg-prompt"])
    def test_it_begins_where_the_search_does(self, name):
        assert attack(name, start="empty").by_chance().start == "empty"
