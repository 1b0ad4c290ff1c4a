"""DoRI against a slow literal one, and its settings."""

from contextlib import contextmanager

import pytest
import torch
from reference import dori_literal

from amnestic.attacks.dori import Dori
from amnestic.attacks.starts import natural_distance
from amnestic.core.attacks import AttackCase, Goal
from amnestic.core.errors import InputError
from amnestic.core.records import Prompt
from amnestic.core.seeds import generator
from amnestic.model.target import PipelineTarget
from amnestic.testbed.bundled import bundled

LATENT = (24, 16, 16)
ROUNDING = 1e-3
"""Largest difference of an embedding after steps of 0.1; at most 1.2e-4 was measured."""


def prompts(prefix, *texts):
    return tuple(Prompt(id=f"{prefix}{i}", prompt=text) for i, text in enumerate(texts))


GOALS = tuple(
    Goal(prompt=p, original=torch.randn(LATENT, generator=generator(0, "original", p.id)))
    for p in prompts("g", "a red cat on a blue mat", "two dogs")
)
CASE = AttackCase(
    goals=GOALS, natural=prompts("n", "a mat", "a green tree", "two cats"), memorized=prompts("m", "a blue dog")
)


@pytest.fixture(scope="module")
def target(tiny_pipeline):
    return PipelineTarget.load(tiny_pipeline)


def dori(**options):
    return Dori(**{"steps": 3, "draws": 3} | options)


def named_draws(target, goal, *, draws=3, attempt=0, seed=0):
    """The draws that the product names: timesteps, then noise, from one generator per step and goal."""

    def drawn(step):
        rng = generator(seed, "dori", goal.id, f"{attempt}/{step}")
        t = torch.randint(0, target.train_timesteps, (draws,), generator=rng)
        return torch.randn((draws, *LATENT), generator=rng), t

    return drawn


def literal(target, goal, start, *, attempt=0, **options):
    parts = target.pipeline.unet, target.pipeline.scheduler, goal.original
    return dori_literal.attack(*parts, start, named_draws(target, goal, attempt=attempt), steps=3, **options)


def assert_as_literal(found, expected, goal, attempt=0):
    held, losses, lengths = expected
    assert (found.cond[attempt, :, goal] - torch.stack(held)).abs().max() < ROUNDING
    torch.testing.assert_close(found.loss[attempt, 1:, goal], torch.tensor(losses), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.gradient[attempt, 1:, goal], torch.tensor(lengths), rtol=1e-4, atol=1e-9)


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


class TestAgainstLiteral:
    @pytest.mark.parametrize(("weighting", "aim"), [("epsilon", "noise"), ("prediction", "velocity")])
    def test_the_same_embeddings_losses_and_gradients(self, target, weighting, aim):
        found = dori(weighting=weighting)(target, CASE, keep=(1, 2))
        assert found.steps == (0, 1, 2, 3)
        for place, goal in enumerate(GOALS):
            start = target.encode([goal.prompt.prompt])[0]
            assert_as_literal(found, literal(target, goal, start, aim=aim), place)

    def test_free_tokens_and_a_radius(self, target):
        reach = 0.05 * natural_distance(target, CASE.natural)
        free = torch.zeros(32)
        free[1:9] = 1
        found = dori(radius=0.05, free_tokens="1:9")(target, CASE, keep=(1, 2))
        for place, goal in enumerate(GOALS):
            start = target.encode([goal.prompt.prompt])[0]
            assert_as_literal(found, literal(target, goal, start, radius=reach, free=free), place)

    def test_restarts_have_draws_of_their_own(self, target):
        found = dori(restarts=2)(target, CASE, keep=(1, 2))
        assert found.cond.shape[0] == 2
        assert not torch.allclose(found.loss[0, 1:], found.loss[1, 1:])
        for attempt in range(2):
            start = target.encode([GOALS[1].prompt.prompt])[0]
            assert_as_literal(found, literal(target, GOALS[1], start, attempt=attempt), 1, attempt)

    def test_a_literal_search_from_noise(self, target):
        start = torch.randn((32, 32), generator=generator(0, "start", "noise", "g0", "0"))
        assert_as_literal(dori(start="noise")(target, CASE, keep=(1, 2)), literal(target, GOALS[0], start), 0)


class TestSettings:
    @pytest.mark.parametrize("radius", [0.01, 0.1])
    def test_no_embedding_leaves_the_ball_and_a_long_search_reaches_its_rim(self, target, radius):
        found = dori(radius=radius, steps=6)(target, CASE, keep=range(6))
        away = (found.cond - found.cond[:, :1]).flatten(3).norm(dim=3)
        reach = radius * natural_distance(target, CASE.natural)
        assert (away <= reach * (1 + 1e-5)).all()
        assert (away[:, -1] > 0.99 * reach).all()

    @pytest.mark.parametrize(
        ("which", "moved"), [("not-first", range(1, 32)), ("2:5", range(2, 5)), ("-3:", range(29, 32))]
    )
    def test_only_free_tokens_move(self, target, which, moved):
        found = dori(free_tokens=which)(target, CASE)
        still = (found.cond[0, -1] == found.cond[0, 0]).all(dim=2)
        assert [not bool(still[:, i].all()) for i in range(32)] == [i in moved for i in range(32)]

    def test_starts_at_other_prompts(self, target):
        natural = target.encode([p.prompt for p in CASE.natural])
        other = dori(start="other-prompt", steps=1)(target, CASE).cond[0, 0]
        assert all(any(torch.allclose(one, n, atol=1e-5) for n in natural) for one in other)
        memorized = dori(start="other-memorized", steps=1)(target, CASE).cond[0, 0]
        torch.testing.assert_close(memorized, target.encode(["a blue dog"]).expand(2, -1, -1), atol=1e-5, rtol=1e-4)

    def test_a_radius_needs_ordinary_prompts(self, target):
        with pytest.raises(InputError, match="at least two"):
            dori(radius=1.0)(target, AttackCase(goals=GOALS))

    def test_a_start_needs_prompts_of_its_kind(self, target):
        with pytest.raises(InputError, match="use another start"):
            dori(start="other-memorized")(target, AttackCase(goals=GOALS))

    @pytest.mark.parametrize(
        "options",
        [
            {"start": "nowhere"}, {"loss": "guess"}, {"weighting": "w"}, {"steps": 0}, {"draws": 0}, {"restarts": 0},
            {"learning_rate": 0.0}, {"t_low": 0.5, "t_high": 0.5}, {"t_high": 1.5}, {"radius": 0.0},
        ],
    )  # fmt: skip
    def test_settings_without_meaning_are_refused(self, options):
        with pytest.raises(ValueError, match=r"expected|must be"):
            dori(**options)

    def test_a_range_that_names_no_token_is_refused(self, target):
        with pytest.raises(ValueError, match="free_tokens"):
            dori(free_tokens="40:50")(target, CASE)


class TestEarlyStop:
    def test_one_that_came_back_stops_and_costs_no_more(self, target):
        def look(tried, awake):
            assert awake == {0, 1}
            assert tried.cond.shape[0] == 2
            return frozenset({0})

        whole = dori(steps=4)(target, CASE, keep=range(5))
        found = dori(steps=4)(target, CASE, keep=range(5), look_at=(2,), look=look)
        assert found.stopped == ((2, -1),)
        assert found.cost["forward"][0].tolist() == [[0, 0], [3, 3], [6, 6], [6, 9], [6, 12]]
        assert found.cost["backward"].equal(found.cost["forward"])
        assert found.cond[0, 2:, 0].equal(found.cond[0, 2, 0].expand(3, -1, -1))
        assert found.loss[0, 3:, 0].isnan().all()
        assert (found.cond[0, :, 1] - whole.cond[0, :, 1]).abs().max() < ROUNDING
        torch.testing.assert_close(found.loss[0, 1:, 1], whole.loss[0, 1:, 1], rtol=1e-3, atol=1e-7)

    def test_later_tries_leave_out_what_an_earlier_brought_back(self, target):
        found = dori(restarts=2)(target, CASE, look_at=(1,), look=lambda _tried, awake: awake & {0})
        assert found.stopped == ((1, -1), (-2, -1))
        assert found.cost["forward"][1, -1].tolist() == [0, 9]
        assert found.loss[1, 1:, 0].isnan().all()
        assert found.cond[1, -1, 0].equal(found.cond[1, 0, 0])

    def test_when_all_are_back_nothing_more_is_computed(self, target):
        calls = []

        def look(_tried, awake):
            calls.append(awake)
            return awake

        found = dori(steps=5)(target, CASE, look_at=(0, 1, 2), look=look)
        assert calls == [{0, 1}]
        assert found.stopped == ((0, 0),)
        assert not found.cost["forward"].any()
        assert found.cond[0, -1].equal(found.cond[0, 0])


class TestMemory:
    def test_halved_batches_find_what_small_ones_find(self, target):
        with short_of_memory(target, 2) as refused:
            found = dori(batch_size=4)(target, CASE)
        assert refused == [4] * 3
        small = dori(batch_size=2)(target, CASE)
        assert found.cond.equal(small.cond)
        assert found.loss[:, 1:].equal(small.loss[:, 1:])
        assert found.cost["forward"].equal(small.cost["forward"])

    def test_when_not_even_one_row_fits_it_says_so(self, target):
        with short_of_memory(target, 0), pytest.raises(InputError, match="memory runs out even for one"):
            dori()(target, CASE)


class TestHalfPrecision:
    @pytest.mark.parametrize(("dtype", "same"), [("float16", 0.99), ("bfloat16", 0.95)])
    def test_it_steps_where_the_search_in_full_precision_does(self, dtype, same):
        """Adam's first step is the sign of each entry of the gradient: none may be lost to a small exponent."""
        model = bundled().folder / "pipeline"
        ends = []
        for one in ("float32", dtype):
            found = dori(steps=2)(PipelineTarget.load(model, dtype=one), CASE)
            assert found.loss[0, 1:].isfinite().all()
            assert found.cond.dtype == torch.float32
            ends.append((found.cond[0, 1] - found.cond[0, 0]).sign().float().cpu())
        assert (ends[0] == ends[1]).float().mean() > same
