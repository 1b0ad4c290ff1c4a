import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amnestic.core.seeds import seed_for
from amnestic.measures.paired import mcnemar, paired_bootstrap

FAST = settings(max_examples=40, deadline=None, database=None)
PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30)
SCORES = st.floats(0.125, 8, width=32)
ROWS = st.lists(st.tuples(SCORES, SCORES, SCORES, SCORES), min_size=2, max_size=8)


def hits(pairs):
    return torch.tensor([a for a, _ in pairs]), torch.tensor([b for _, b in pairs])


def conditions(rows):
    """Two seeds before and two after, per work."""
    table = torch.tensor(rows, dtype=torch.float64)
    return table[:, :2], table[:, 2:]


def ends(found):
    return found.lower, found.upper, found.lower_one_sided, found.upper_one_sided


def literal_p(only_before, only_after):
    """Probability of all splits that are no likelier than the one seen."""
    n = only_before + only_after
    ways = [math.comb(n, k) for k in range(n + 1)]
    return sum(w for w in ways if w <= ways[only_before]) / 2**n


def literal_draws(before, after, *, seed, n_resamples, relative):
    """Image by image, over works sorted by their means."""
    works = sorted(zip(before.tolist(), after.tolist(), strict=True), key=lambda w: (np.mean(w[0]), np.mean(w[1])))
    rng, draws = np.random.default_rng(seed_for(seed, "paired bootstrap")), []
    for _ in range(n_resamples):
        drawn = [works[i] for i in rng.integers(len(works), size=len(works))]
        old, new = (float(np.mean([v for w in drawn for v in w[side]])) for side in (0, 1))
        draws.append((new - old) / old if relative else new - old)
    return draws


@pytest.mark.parametrize(
    ("only_before", "only_after", "p"),
    [(5, 0, 0.0625), (6, 0, 0.03125), (0, 6, 0.03125), (8, 2, 112 / 1024), (3, 3, 1.0), (1, 0, 1.0)],
)
def test_mcnemar_by_hand(only_before, only_after, p):
    same = [(True, True)] * 4 + [(False, False)] * 3
    found = mcnemar(*hits(same + [(True, False)] * only_before + [(False, True)] * only_after))
    assert (found.n, found.only_before, found.only_after) == (7 + only_before + only_after, only_before, only_after)
    assert found.p_value == pytest.approx(p, rel=1e-12)


@FAST
@given(PAIRS)
def test_mcnemar_equals_the_literal_sum(pairs):
    found = mcnemar(*hits(pairs))
    assert found.only_before == sum(a and not b for a, b in pairs)
    assert found.only_after == sum(b and not a for a, b in pairs)
    assert found.p_value == pytest.approx(literal_p(found.only_before, found.only_after), rel=1e-9)


@FAST
@given(PAIRS)
def test_mcnemar_of_swapped_conditions(pairs):
    one, other = mcnemar(*hits(pairs)), mcnemar(*reversed(hits(pairs)))
    assert (one.only_before, one.only_after) == (other.only_after, other.only_before)
    assert one.p_value == pytest.approx(other.p_value, rel=1e-12)


def test_without_discordant_works_nothing_is_found():
    found = mcnemar(torch.tensor([True, False]), torch.tensor([True, False]))
    assert (found.n, found.only_before, found.only_after, found.p_value) == (2, 0, 0, 1.0)
    with pytest.raises(FrozenInstanceError):
        found.n = 3


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (torch.tensor([True]), torch.tensor([True, False]), r"one shape .* keep the works"),
        (torch.ones(2, 2) > 0, torch.ones(2, 2) > 0, "1 axes"),
        (torch.tensor([1.0]), torch.tensor([True]), "threshold first"),
        (torch.tensor([True]), torch.tensor([1]), "threshold first"),
        (torch.zeros(0) > 0, torch.zeros(0) > 0, "none; measure both"),
    ],
)
def test_wrong_hits_are_refused(before, after, message):
    with pytest.raises(ValueError, match=message):
        mcnemar(before, after)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_bootstrap_equals_the_literal_one(relative, confidence):
    rng = np.random.default_rng(1)
    before = torch.tensor(rng.uniform(1, 3, size=(6, 3)))
    after = torch.tensor(rng.uniform(1, 3, size=(6, 3)))
    found = paired_bootstrap(before, after, seed=4, n_resamples=200, confidence=confidence, relative=relative)
    draws = literal_draws(before, after, seed=4, n_resamples=200, relative=relative)
    wanted = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2, 1 - confidence, confidence])
    assert ends(found) == pytest.approx(wanted.tolist(), rel=1e-9)
    difference = float(after.mean() - before.mean())
    assert found.estimate == pytest.approx(difference / float(before.mean()) if relative else difference, rel=1e-9)
    assert found.method.startswith("relative; paired" if relative else "absolute; paired")
    assert f"{100 * confidence:g} % over works, 200 resamples" in found.method


def test_two_works_by_hand():
    """Resamples are both works or one twice: changes 0, 1 and 2, with probability 1/4, 1/2 and 1/4."""
    found = paired_bootstrap(torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [3.0]]), seed=0)
    assert found.n == 2
    assert found.estimate == 1.0
    assert ends(found) == (0.0, 2.0, 0.0, 2.0)


@FAST
@given(ROWS, st.randoms(use_true_random=False), st.booleans())
def test_order_of_works_and_seeds_does_not_matter(rows, random, relative):
    before, after = conditions(rows)
    other_before, other_after = conditions(random.sample(rows, len(rows)))
    one = paired_bootstrap(before, after, seed=0, n_resamples=50, relative=relative)
    other = paired_bootstrap(other_before.flip(1), other_after, seed=0, n_resamples=50, relative=relative)
    assert one == other


@FAST
@given(ROWS, st.sampled_from([0.1, 0.5, 0.9, 0.99]), st.booleans())
def test_ends_enclose_the_estimate_and_are_nested(rows, confidence, relative):
    found = paired_bootstrap(*conditions(rows), seed=0, n_resamples=50, confidence=confidence, relative=relative)
    assert found.lower <= found.lower_one_sided
    assert found.upper >= found.upper_one_sided
    assert max(found.lower, found.lower_one_sided) <= found.estimate <= min(found.upper, found.upper_one_sided)


@FAST
@given(ROWS)
def test_scale_cancels_in_the_relative_change_only(rows):
    before, after = conditions(rows)
    for relative, factor in ((True, 1), (False, 4)):
        one = paired_bootstrap(before, after, seed=0, n_resamples=50, relative=relative)
        other = paired_bootstrap(4 * before, 4 * after, seed=0, n_resamples=50, relative=relative)
        assert (other.estimate, *ends(other)) == tuple(factor * v for v in (one.estimate, *ends(one)))


def test_pairs_stay_together():
    """Works differ by far more than conditions, yet the interval is as narrow as the changes are alike."""
    before = torch.arange(1.0, 41.0)[:, None]
    found = paired_bootstrap(before, 0.97 * before, seed=0, relative=True)
    assert ends(found) == pytest.approx([-0.03] * 4, abs=1e-6)
    assert found.lower_one_sided >= -0.05


def test_seeds_of_one_work_count_less_than_as_many_works():
    shift = torch.linspace(-1, 1, 10, dtype=torch.float64)[:, None].repeat(1, 8)
    together = paired_bootstrap(torch.zeros(10, 8), shift, seed=0)
    apart = paired_bootstrap(torch.zeros(80, 1), shift.reshape(80, 1), seed=0)
    assert together.upper - together.lower > 2 * (apart.upper - apart.lower)


def test_seed_decides_the_resamples():
    before, after = torch.zeros(9, 1), torch.arange(9.0).square()[:, None]
    one, same, other = (paired_bootstrap(before, after, seed=s, n_resamples=100) for s in (0, 0, 1))
    assert one == same
    assert ends(one) != ends(other)
    assert one.estimate == other.estimate


def test_bounds_cover_about_as_often_as_they_say():
    rng, inside, below, above = np.random.default_rng(2), 0, 0, 0
    for seed in range(100):
        before, after = rng.normal(1, 1, size=(30, 2)), rng.normal(1.5, 1, size=(30, 2))
        found = paired_bootstrap(torch.tensor(before), torch.tensor(after), seed=seed, n_resamples=200, confidence=0.9)
        inside += found.lower <= 0.5 <= found.upper
        below += found.lower_one_sided <= 0.5
        above += found.upper_one_sided >= 0.5
    assert all(80 <= k <= 98 for k in (inside, below, above))


@pytest.mark.parametrize(
    ("before", "after", "options", "message"),
    [
        ([[1.0], [2.0]], [[1.0]], {}, "keep the works and seeds that both"),
        ([1.0, 2.0], [1.0, 2.0], {}, "2 axes"),
        ([[], []], [[], []], {}, "none; measure both"),
        ([[1.0]], [[2.0]], {}, "at least two works"),
        ([[1.0], [math.nan]], [[1.0], [1.0]], {}, "leave out such a work in both"),
        ([[1.0], [1.0]], [[1.0], [math.inf]], {}, "leave out such a work in both"),
        ([[1.0], [2.0]], [[1.0], [2.0]], {"n_resamples": 0}, "n_resamples"),
        ([[1.0], [2.0]], [[1.0], [2.0]], {"confidence": 95}, "confidence"),
        ([[0.0], [0.0]], [[1.0], [2.0]], {"relative": True}, "take the absolute change"),
        ([[-1.0], [-2.0]], [[1.0], [2.0]], {"relative": True}, "mean before above 0"),
        ([[-1.0], [3.0]], [[1.0], [2.0]], {"relative": True}, "every resample"),
    ],
)
def test_wrong_values_are_refused(before, after, options, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(torch.tensor(before), torch.tensor(after), seed=0, **options)
