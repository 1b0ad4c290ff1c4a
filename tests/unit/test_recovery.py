"""Rates, means and steps of recovery, areas and excess over controls, against slow literal versions and by hand."""

import math
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amnestic.measures.excess import areas, exceeds, excess_mean, excess_rate
from amnestic.measures.intervals import rate
from amnestic.measures.radius import radius_sweep
from amnestic.measures.recovery import (
    best_scores,
    first_steps,
    hidden_table,
    horizon,
    mean_over_works,
    median_step,
    recovery_curve,
    so_far,
)

FAST = settings(max_examples=40, deadline=None, database=None)
STEPS = (0, 5, 20)
NAN = math.nan
SCORES = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6)
SEEDS = st.integers(0, 10_000)


def drawn(seed, n=4, k=3, c=3, s=2):
    return torch.rand((n, k, c, s), generator=torch.Generator().manual_seed(seed))


def literal_first(scores, stopped, steps, threshold):
    """Every image of every try that was made, one after the other."""
    found = []
    for n in range(len(scores)):
        step = None
        for c in reversed(range(len(steps))):
            for k in range(scores.shape[1]):
                for s in range(scores.shape[3]):
                    if stopped[k][n] != -2 and scores[n, k, c, s] > threshold:
                        step = steps[c]
        found.append(step)
    return tuple(found)


def literal_area(values, positions, until):
    """Midpoints of many thin strips."""
    thin = (np.arange(20_000) + 0.5) / 20_000 * until
    return float(np.interp(thin, positions, values).mean())


class TestBestScores:
    def test_the_worst_case_over_tries_and_seeds(self):
        scores = torch.tensor([[[[0.1, 0.5], [0.2, 0.2]], [[0.4, 0.4], [0.9, 0.0]]]])
        assert best_scores(scores, steps=(0, 9)).tolist() == [pytest.approx([0.5, 0.9])]
        median = best_scores(scores, steps=(0, 9), over_seeds="median")
        assert median.tolist() == [pytest.approx([0.4, 0.45])]

    def test_tries_that_were_not_made_say_nothing_even_with_a_score(self):
        scores = torch.tensor([[[[0.1]], [[0.9]]], [[[0.1]], [[NAN]]]])
        found = best_scores(scores, steps=(0,), stopped=torch.tensor([[-1, -1], [-2, -2]]))
        assert found.flatten().tolist() == pytest.approx([0.1, 0.1])

    def test_what_was_not_scored_after_a_stop_is_what_it_was_stopped_with(self):
        scores = torch.tensor([[[[0.1], [0.8], [NAN]]]])
        for stop in (1, 5):
            found = best_scores(scores, steps=STEPS, stopped=torch.tensor([[stop]]))
            assert found.tolist() == [pytest.approx([0.1, 0.8, 0.8])]
        with pytest.raises(ValueError, match="score of every try"):
            best_scores(scores, steps=STEPS, stopped=torch.tensor([[6]]))

    @pytest.mark.parametrize(
        ("scores", "stopped", "message"),
        [
            (torch.full((1, 1, 3, 1), NAN), None, "score of every try"),
            (torch.zeros(1, 1, 3, 1), torch.tensor([[-2]]), "no try at all"),
            (torch.zeros(1, 1, 2, 1), None, "3 kept steps"),
            (torch.zeros(0, 1, 3, 1), None, "3 kept steps"),
            (torch.zeros(2, 1, 3, 1), torch.tensor([[-1]]), "1 x 2"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, scores, stopped, message):
        with pytest.raises(ValueError, match=message):
            best_scores(scores, steps=STEPS, stopped=stopped)

    def test_steps_must_ascend(self):
        with pytest.raises(ValueError, match="ascending"):
            best_scores(torch.zeros(1, 1, 3, 1), steps=(0, 5, 5))

    @FAST
    @given(SEEDS, st.floats(0.1, 0.95), st.lists(st.sampled_from([-1, -2]), min_size=8, max_size=8))
    def test_first_steps_equal_the_literal_ones(self, seed, threshold, made):
        scores = drawn(seed)
        stopped = [[-1] * 4, made[:4], made[4:]]
        best = best_scores(scores, steps=STEPS, stopped=torch.tensor(stopped))
        assert first_steps(best, STEPS, threshold) == literal_first(scores, stopped, STEPS, threshold)

    @FAST
    @given(SEEDS)
    def test_more_tries_never_find_less(self, seed):
        scores = drawn(seed)
        few, many = best_scores(scores[:, :2], steps=STEPS), best_scores(scores, steps=STEPS)
        assert bool((many >= few).all())


class TestCurve:
    def test_ever_and_now_by_hand(self):
        best = torch.tensor([[0.1, 0.8, 0.3], [0.1, 0.2, 0.75], [0.9, 0.1, 0.1], [0.0, 0.7, 0.0]])
        points = recovery_curve(best, STEPS, 0.7, seed=0)
        assert [p.ever.estimate for p in points] == [0.25, 0.5, 0.75]
        assert [p.now.estimate for p in points] == [0.25, 0.25, 0.25]
        assert points[0].ever == rate(1, 4)
        assert points[2].mean.estimate == pytest.approx((0.8 + 0.75 + 0.9 + 0.7) / 4)
        assert points[2].mean_now.estimate == pytest.approx((0.3 + 0.75 + 0.1) / 4)
        assert [p.step for p in points] == list(STEPS)

    @FAST
    @given(SEEDS, st.floats(0.1, 0.9))
    def test_what_is_back_stays_back_and_is_what_is_no_longer_hidden(self, seed, threshold):
        best = best_scores(drawn(seed, n=7), steps=STEPS)
        points = recovery_curve(best, STEPS, threshold, seed=0)
        ever = [p.ever.estimate for p in points]
        assert ever == sorted(ever)
        assert all(p.ever.estimate >= p.now.estimate and p.mean.estimate >= p.mean_now.estimate for p in points)
        rows = hidden_table(first_steps(best, STEPS, threshold), STEPS)
        assert [r.hidden.estimate for r in rows] == pytest.approx([1 - e for e in ever])
        survival = np.cumprod([1 - r.found / r.at_risk if r.at_risk else 0.0 for r in rows])
        assert [r.hidden.estimate for r in rows] == pytest.approx(survival.tolist())
        assert bool((so_far(best) >= best).all())

    def test_a_mean_has_an_interval_that_covers_it_and_shrinks(self):
        few, many = (torch.rand(n, generator=torch.Generator().manual_seed(1)) for n in (8, 200))
        wide, narrow = mean_over_works(few, seed=0), mean_over_works(many, seed=0)
        assert wide.lower < wide.estimate < wide.upper
        assert narrow.upper - narrow.lower < (wide.upper - wide.lower) / 2
        assert mean_over_works(few.flip(0), seed=0) == wide
        with pytest.raises(ValueError, match="at least one work"):
            mean_over_works(torch.zeros(0), seed=0)

    def test_the_hidden_table_by_hand(self):
        rows = hidden_table((5, None, 0, 5, 20), STEPS)
        assert [(r.step, r.since, r.at_risk, r.found) for r in rows] == [(0, None, 5, 1), (5, 0, 4, 2), (20, 5, 2, 1)]
        assert [r.hidden.estimate for r in rows] == [0.8, 0.4, 0.2]

    @pytest.mark.parametrize(
        ("first", "median"),
        [((1, 2, 3), 2), ((1, 2, 3, 4), 2), ((1, 2, None, None), 2), ((1, None, None), None), ((), None)],
    )
    def test_the_median_counts_works_that_never_came_back(self, first, median):
        assert median_step(first) == median


class TestHorizon:
    @pytest.mark.parametrize(
        ("k", "step", "is_last"), [((0, 1, 1), 20, True), ((0, 1, 2), 5, False), ((2, 2, 2), None, False),
                                   ((0, 2, 0), 0, False)]
    )  # fmt: skip
    def test_is_the_last_step_before_the_control_gets_loud(self, k, step, is_last):
        found = horizon([rate(one, 20) for one in k], STEPS)
        assert (found.step, found.is_last) == (step, is_last)

    def test_by_its_bound_it_needs_59_quiet_works(self):
        assert horizon([rate(0, 58)] * 3, STEPS, by="upper_one_sided").step is None
        assert horizon([rate(0, 59)] * 3, STEPS, by="upper_one_sided").step == 20
        assert horizon([rate(1, 10)], (0,), level=0.1).step == 0
        assert horizon([rate(0, 0)], (0,)).step is None
        with pytest.raises(ValueError, match="within"):
            horizon([rate(0, 1)], (0,), level=1.0)


class TestAreas:
    def test_by_hand(self):
        values = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
        assert areas(values, STEPS).tolist() == pytest.approx([(2.5 + 15) / 20, 7.5 / 20, 1.0])
        assert areas(values, STEPS, until=5).tolist() == pytest.approx([0.5, 0.0, 1.0])
        assert areas(values, STEPS, until=10)[1].item() == pytest.approx(0.5 * 5 / 3 / 10)

    @FAST
    @given(SEEDS, st.floats(0.05, 1))
    def test_equal_thin_strips_and_stay_within_their_values(self, seed, share):
        positions = (0.0, 3.0, 4.0, 11.0)
        values = drawn(seed, n=3, k=1, c=4, s=1)[:, 0, :, 0]
        found = areas(values, positions, until=share * 11)
        expected = [literal_area(row, positions, share * 11) for row in values.numpy()]
        assert found.tolist() == pytest.approx(expected, abs=1e-4)
        assert bool((found <= values.amax(1) + 1e-9).all())

    def test_the_area_between_curves_is_the_mean_of_those_of_works(self):
        best = best_scores(drawn(5, n=9), steps=STEPS)
        hits = (so_far(best) > 0.8).double()
        curve = [p.ever.estimate for p in recovery_curve(best, STEPS, 0.8, seed=0)]
        assert areas(hits, STEPS).mean().item() == pytest.approx(np.trapezoid(curve, STEPS) / 20)
        most = excess_mean(areas(torch.ones(4, 3), STEPS), areas(torch.zeros(5, 3), STEPS), paired=False, seed=0)
        assert most.estimate == 1.0

    def test_passes_that_stand_still_add_nothing(self):
        assert areas(torch.tensor([[0.0, 1.0, 1.0]]), (0, 8, 8)).tolist() == [0.5]

    @pytest.mark.parametrize("until", [0, 21, -1])
    def test_a_budget_that_was_not_spent_is_refused(self, until):
        with pytest.raises(ValueError, match="search further"):
            areas(torch.zeros(1, 3), STEPS, until=until)
        with pytest.raises(ValueError, match="ascending position"):
            areas(torch.zeros(1, 3), (0, 5, 4))


class TestExcess:
    def test_pairs_take_out_what_works_differ_in(self):
        base = torch.linspace(0, 1, 30)
        other = base - 0.1 + 0.01 * torch.randn(30, generator=torch.Generator().manual_seed(0))
        paired, independent = (excess_mean(base, other, paired=p, seed=0) for p in (True, False))
        assert paired.estimate == pytest.approx(independent.estimate)
        assert paired.upper - paired.lower < 0.02 < 0.2 < independent.upper - independent.lower
        assert paired.lower_one_sided > 0 > independent.lower_one_sided

    def test_the_interval_is_that_of_the_normal_theory_for_many_works(self):
        rng = np.random.default_rng(0)
        ours, theirs = rng.normal(1, 1, 400), rng.normal(0, 2, 300)
        found = excess_mean(torch.tensor(ours), torch.tensor(theirs), paired=False, seed=0, n_resamples=8000)
        half = 1.96 * math.sqrt(ours.var(ddof=1) / 400 + theirs.var(ddof=1) / 300)
        gap = ours.mean() - theirs.mean()
        assert (found.lower, found.upper) == (pytest.approx(gap - half, abs=0.02), pytest.approx(gap + half, abs=0.02))
        assert (found.n_target, found.n_control) == (400, 300)

    def test_the_order_of_works_does_not_matter(self):
        one, other = drawn(0, n=9)[:, 0, 0, 0], drawn(1, n=9)[:, 0, 0, 0]
        turned = excess_mean(one.flip(0), other.flip(0), paired=True, seed=0)
        assert turned.lower == excess_mean(one, other, paired=True, seed=0).lower

    def test_one_work_has_no_interval(self):
        found = excess_mean(torch.tensor([0.9]), torch.tensor([0.1, 0.3]), paired=False, seed=0)
        assert (found.estimate, found.lower, found.upper_one_sided) == (pytest.approx(0.7), None, None)

    def test_rates_of_0_and_1_are_not_certain(self):
        ones, zeros = torch.ones(20) > 0, torch.zeros(20) > 0
        found = excess_rate(ones, zeros, paired=True, seed=0)
        low, high = rate(20, 20), rate(0, 20)
        assert found.lower == pytest.approx(1 - math.hypot(1 - low.lower, high.upper))
        assert (found.estimate, found.upper) == (1.0, 1.0)
        assert "Newcombe" in found.method
        none = excess_rate(zeros, zeros, paired=False, seed=0)
        assert none.lower < none.lower_one_sided < 0 < none.upper_one_sided < none.upper

    def test_joined_wilson_intervals_by_hand(self):
        z2 = 1.959963984540054**2
        of_ten, of_twenty = z2 / (10 + z2), z2 / (20 + z2)  # upper ends of Wilson's interval without any hit
        full = excess_rate(torch.ones(10) > 0, torch.zeros(10) > 0, paired=False, seed=0)
        assert (full.lower, full.upper) == (pytest.approx(1 - math.sqrt(2) * of_ten), 1.0)
        empty = excess_rate(torch.zeros(10) > 0, torch.zeros(20) > 0, paired=False, seed=0)
        assert (empty.lower, empty.upper) == (pytest.approx(-of_twenty), pytest.approx(of_ten))

    def test_other_rates_are_resampled(self):
        ours, theirs = torch.arange(40) < 30, torch.arange(40) < 10
        found = excess_rate(ours, theirs, paired=False, seed=0)
        assert found == excess_mean(ours.double(), theirs.double(), paired=False, seed=0)
        assert (found.lower, found.upper) == (pytest.approx(0.31, abs=0.03), pytest.approx(0.69, abs=0.03))

    @FAST
    @given(SCORES, SCORES, SEEDS)
    def test_no_end_is_on_the_wrong_side(self, one, other, seed):
        found = excess_mean(torch.tensor(one), torch.tensor(other), paired=False, seed=seed, n_resamples=50)
        if found.lower is not None:
            assert found.lower <= found.lower_one_sided <= found.estimate <= found.upper_one_sided <= found.upper

    @pytest.mark.parametrize(
        ("one", "other", "paired", "message"),
        [
            (torch.zeros(0), torch.zeros(2), False, "one value per work"),
            (torch.zeros(2, 1), torch.zeros(2), False, "one value per work"),
            (torch.zeros(3), torch.zeros(2), True, "same works"),
            (torch.tensor([NAN]), torch.zeros(2), False, "finite"),
        ],
    )
    def test_what_cannot_be_compared_is_refused(self, one, other, paired, message):
        for compare in (excess_mean, exceeds):
            with pytest.raises(ValueError, match=message):
                compare(one, other, paired=paired, seed=0)
        with pytest.raises(ValueError, match="booleans"):
            excess_rate(torch.zeros(2), torch.zeros(2), paired=False, seed=0)


class TestExceeds:
    @FAST
    @given(SCORES, SCORES)
    def test_equals_all_relabellings(self, one, other):
        whole, n = np.float32(one + other).astype(float), len(one)
        gaps = [
            whole[list(places)].mean() - np.delete(whole, list(places)).mean()
            for places in combinations(range(len(whole)), n)
        ]
        found = exceeds(torch.tensor(one), torch.tensor(other), paired=False, seed=0)
        assert found.exact
        assert found.n_permutations == len(gaps)
        assert found.p_value == pytest.approx(sum(g >= gaps[0] - 1e-10 for g in gaps) / len(gaps))

    @FAST
    @given(SCORES)
    def test_pairs_equal_all_exchanges(self, one):
        other = [0.5] * len(one)
        gaps = np.float32(one).astype(float) - 0.5
        every = [(gaps * signs).mean() for signs in product((1, -1), repeat=len(one))]
        found = exceeds(torch.tensor(one), torch.tensor(other), paired=True, seed=0)
        assert found.n_permutations == 2 ** len(one)
        assert found.p_value == pytest.approx(sum(g >= gaps.mean() - 1e-10 for g in every) / len(every))

    def test_many_works_are_relabelled_at_random_and_never_give_zero(self):
        one, other = torch.full((30,), 0.9), torch.full((30,), 0.1)
        found = exceeds(one, other, paired=False, seed=0, n_permutations=99)
        assert (found.p_value, found.exact) == (0.01, False)
        assert exceeds(one, other, paired=False, seed=0, n_permutations=99) == found
        with pytest.raises(ValueError, match="20000 is usual"):
            exceeds(one, other, paired=False, seed=0, n_permutations=0)

    def test_holds_its_level_where_there_is_nothing(self):
        values = [drawn(s, n=20)[:, 0, 0, 0] for s in range(200)]
        p = [exceeds(v[:10], v[10:], paired=False, seed=0, n_permutations=199).p_value for v in values]
        assert sum(one <= 0.05 for one in p) <= 18  # binomial(200, 0.05) is above 18 in 1 of 100 cases


class TestRadius:
    def test_the_smallest_ball_that_holds_the_work(self):
        scores = {
            2.0: torch.tensor([[0.9, 0.1], [0.2, 0.3], [0.1, 0.1]]),
            0.5: torch.tensor([[0.1, 0.1], [0.8, 0.1], [0.1, 0.0]]),
            1.0: torch.tensor([[0.1, 0.75], [0.3, 0.3], [0.1, 0.2]]),
        }  # fmt: skip
        found = radius_sweep(scores, 0.7, seed=0)
        assert found.smallest == (1.0, 0.5, None)
        assert [p.radius for p in found.points] == [0.5, 1.0, 2.0]
        assert [p.ever.estimate for p in found.points] == pytest.approx([1 / 3, 2 / 3, 2 / 3])
        assert [p.now.estimate for p in found.points] == pytest.approx([1 / 3, 1 / 3, 1 / 3])
        assert found.points[2].mean.estimate == pytest.approx((0.9 + 0.8 + 0.2) / 3)

    def test_tries_that_were_not_made_say_nothing(self):
        found = radius_sweep({1.0: torch.tensor([[0.9, NAN], [NAN, 0.2]])}, 0.7, seed=0)
        assert found.smallest == (1.0, None)
        assert found.points[0].mean.estimate == pytest.approx(0.55)

    def test_tries_and_seeds_are_further_axes(self):
        assert radius_sweep({1.0: drawn(0)}, 0.7, seed=0) == radius_sweep({1.0: drawn(0).flatten(1)}, 0.7, seed=0)

    @pytest.mark.parametrize(
        ("scores", "message"),
        [
            ({}, "at least one radius"),
            ({-1.0: torch.zeros(1, 1)}, "none of them negative"),
            ({1.0: torch.zeros(1, 1), 2.0: torch.zeros(1, 2)}, "as many works"),
            ({1.0: torch.tensor([[NAN]])}, "got NaN"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, scores, message):
        with pytest.raises(ValueError, match=message):
            radius_sweep(scores, 0.7, seed=0)
