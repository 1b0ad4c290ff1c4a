"""Changes of rates over the same works: exact bounds, and what could have been seen."""

from itertools import product
from math import comb

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from amnestic.measures.discordant import minimum_detectable_change, power_of_mcnemar, rate_change
from amnestic.measures.paired import mcnemar

FAST = settings(max_examples=60, deadline=None, database=None)
COUNTS = st.tuples(*[st.integers(0, 25)] * 4).filter(lambda c: sum(c) > 0)


def hits(both, neither, down, up):
    before = [True] * both + [False] * neither + [True] * down + [False] * up
    after = [True] * both + [False] * neither + [False] * down + [True] * up
    return torch.tensor(before), torch.tensor(after)


def ends(found):
    return found.lower, found.upper, found.lower_one_sided, found.upper_one_sided


def trinomial(n, down, up, p_down, p_up):
    rest = n - down - up
    return comb(n, down) * comb(n - down, up) * p_down**down * p_up**up * (1 - p_down - p_up) ** rest


def literal_power(n, p_down, p_up):
    """Over every outcome: does the exact test say that the rate rose?"""
    splits = [(d, u) for d, u in product(range(n + 1), repeat=2) if d + u <= n]
    said = [(d, u) for d, u in splits if u > d and binomtest(u, d + u).pvalue < 0.05]
    return sum(trinomial(n, d, u, p_down, p_up) for d, u in said)


def test_bounds_by_scipy():
    found = rate_change(*hits(10, 20, 2, 16))
    direction = binomtest(16, 18, alternative="greater").proportion_ci(0.975, method="exact").low
    differ = binomtest(18, 48, alternative="greater").proportion_ci(0.975, method="exact").low
    assert found.estimate == pytest.approx(14 / 48)
    assert found.lower_one_sided == pytest.approx(differ * (2 * direction - 1))
    most = binomtest(18, 48, alternative="less").proportion_ci(0.975, method="exact").high
    best = binomtest(16, 18, alternative="less").proportion_ci(0.975, method="exact").high
    assert found.upper_one_sided == pytest.approx(most * (2 * best - 1))


def test_works_that_all_stay_alike_still_leave_a_bound():
    found = rate_change(*hits(3, 45, 0, 0))
    assert found.estimate == 0
    assert found.upper_one_sided == -found.lower_one_sided == pytest.approx(1 - 0.025 ** (1 / 48))


@FAST
@given(COUNTS)
def test_a_bound_above_nothing_is_mcnemar_below_a_twentieth(counts):
    sides = hits(*counts)
    found, test = rate_change(*sides), mcnemar(*sides)
    significant = test.p_value < 0.05
    assert (found.lower_one_sided > 0) == (significant and test.only_after > test.only_before)
    assert (found.upper_one_sided < 0) == (significant and test.only_after < test.only_before)


@FAST
@given(COUNTS)
def test_exchanging_the_sides_changes_the_signs_and_nothing_else(counts):
    before, after = hits(*counts)
    one, other = rate_change(before, after), rate_change(after, before)
    assert other.estimate == -one.estimate
    assert (-other.upper, -other.lower, -other.upper_one_sided, -other.lower_one_sided) == ends(one)


@FAST
@given(COUNTS)
def test_bounds_lie_around_the_estimate_and_within_reach(counts):
    found = rate_change(*hits(*counts))
    assert -1 <= found.lower <= found.lower_one_sided <= found.estimate <= found.upper_one_sided <= found.upper <= 1


@pytest.mark.parametrize(
    ("p_down", "p_up"), [(0.0, 0.0), (0.05, 0.05), (0.1, 0.4), (0.0, 0.3), (0.45, 0.5), (0.0, 1.0)]
)
@pytest.mark.parametrize("n", [3, 12])
def test_bounds_hold_as_often_as_they_say(n, p_down, p_up):
    true = p_up - p_down
    missed = {"lower": 0.0, "upper": 0.0, "two-sided": 0.0}
    for down, up in product(range(n + 1), repeat=2):
        if down + up <= n:
            weight = trinomial(n, down, up, p_down, p_up)
            found = rate_change(*hits(0, n - down - up, down, up))
            missed["lower"] += weight * (found.lower_one_sided > true + 1e-12)
            missed["upper"] += weight * (found.upper_one_sided < true - 1e-12)
            missed["two-sided"] += weight * (not found.lower - 1e-12 <= true <= found.upper + 1e-12)
    assert max(missed.values()) <= 0.05


@pytest.mark.parametrize(("n", "p_down", "p_up"), [(6, 0, 1), (10, 0.1, 0.5), (15, 0.05, 0.3), (12, 0.2, 0.2)])
def test_power_equals_the_sum_over_all_outcomes(n, p_down, p_up):
    assert power_of_mcnemar(n, p_down + p_up, p_up - p_down) == pytest.approx(literal_power(n, p_down, p_up), abs=1e-12)


@FAST
@given(st.integers(1, 120), st.floats(0, 1))
@example(5, 3.2e-308)
@example(120, 0.0)
def test_without_a_change_a_rise_is_hardly_ever_found(n, differing):
    assert 0 <= power_of_mcnemar(n, differing, 0.0) <= 0.025


@pytest.mark.parametrize(("n", "discordant"), [(6, 0), (24, 3), (48, 0), (48, 48), (300, 12)])
def test_the_detectable_change_is_the_smallest_with_that_power(n, discordant):
    found = minimum_detectable_change(n, discordant)
    differing = discordant / n
    assert power_of_mcnemar(n, max(differing, found), found) >= 0.8
    less = found * (1 - 1e-6)
    assert power_of_mcnemar(n, max(differing, less), less) < 0.8


def test_more_works_see_smaller_changes_and_five_see_none():
    assert [minimum_detectable_change(n, 0) for n in (0, 1, 5)] == [None] * 3
    found = [minimum_detectable_change(n, 0) for n in (6, 24, 48, 500)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(0.8 ** (1 / 6))  # all six must change


@pytest.mark.parametrize(("n", "discordant"), [(5, 6), (5, -1)])
def test_works_that_cannot_differ_are_refused(n, discordant):
    with pytest.raises(ValueError, match="works that differ must be within"):
        minimum_detectable_change(n, discordant)


@pytest.mark.parametrize(("differing", "change"), [(0.1, 0.2), (1.1, 0.2), (0.5, -0.1)])
def test_a_change_larger_than_what_differs_is_refused(differing, change):
    with pytest.raises(ValueError, match="expected 0 <= change"):
        power_of_mcnemar(10, differing, change)
