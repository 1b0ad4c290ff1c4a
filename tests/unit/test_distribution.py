import math
from statistics import fmean, pstdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from amnestic.core.errors import InputError, NotFinite
from amnestic.measures import distribution
from amnestic.measures.distribution import change_of_distance, clip_mmd, kid

FAST = settings(max_examples=25, deadline=None, database=None)


def normal(n, d=3, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def unit(n, d=3, seed=0, shift=0.0):
    return normalize(normal(n, d, seed, shift))


def literal_kid(a, b):
    """Unbiased MMD^2 by loops over pairs."""

    def k(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

    a, b = a.tolist(), b.tolist()
    within = [fmean(k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j) for s in (a, b)]
    return sum(within) - 2 * fmean(k(x, y) for x in a for y in b)


def literal_cmmd(a, b, sigma, scale):
    """Biased MMD^2 by loops over pairs, each image with itself included."""

    def mean_k(one, other):
        squares = [sum((p - q) ** 2 for p, q in zip(x, y, strict=True)) for x in one for y in other]
        return fmean(math.exp(-s / (2 * sigma**2)) for s in squares)

    a, b = a.tolist(), b.tolist()
    return scale * (mean_k(a, a) + mean_k(b, b) - 2 * mean_k(a, b))


def mean_gap(a, b):
    """A measure whose bootstrap is known: linear in the rows."""
    return float(a.mean() - b.mean())


@FAST
@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 99))
def test_kid_of_whole_sets_equals_loops(n, d, seed):
    a, b = normal(n, d, seed), normal(n, d, seed + 1, shift=1.0)
    found = kid(a, b, subset_size=n, n_subsets=3, seed=seed)
    assert found.mean == pytest.approx(literal_kid(a, b), rel=1e-9, abs=1e-9)
    assert found.std == pytest.approx(0, abs=1e-9)
    assert (found.subset_size, found.n_subsets) == (n, 3)


def test_kid_over_subsets_is_mean_and_deviation_of_those_drawn(monkeypatch):
    seen = []

    def spy(a, b):
        seen.append((a, b))
        return torch.tensor(literal_kid(a, b), dtype=torch.float64)

    a, b = normal(9), normal(7, seed=1)
    monkeypatch.setattr(distribution, "poly_mmd", spy)
    found = kid(a, b, subset_size=4, n_subsets=6, seed=3)
    values = [literal_kid(*pair) for pair in seen]
    assert len(values) == 6
    assert len(set(values)) == 6
    assert (found.mean, found.std) == (pytest.approx(fmean(values)), pytest.approx(pstdev(values)))
    for one, other in seen:
        assert {tuple(x) for x in one.tolist()} < {tuple(x) for x in a.tolist()}
        assert {tuple(x) for x in other.tolist()} < {tuple(x) for x in b.tolist()}
        assert len(one.unique(dim=0)) == len(other.unique(dim=0)) == 4


def test_kid_is_unbiased_around_zero_for_one_distribution_and_grows_with_the_shift():
    alike = [kid(normal(40, seed=2 * s), normal(40, seed=2 * s + 1), subset_size=40, n_subsets=1, seed=0).mean
             for s in range(60)]  # fmt: skip
    assert min(alike) < 0 < max(alike)
    assert abs(fmean(alike)) < 3 * pstdev(alike) / math.sqrt(60)
    far = [kid(normal(40), normal(40, seed=1, shift=s), subset_size=40, n_subsets=1, seed=0).mean for s in (0, 1, 2)]
    assert far == sorted(far)
    assert far[1] > 2 * max(alike)


def test_kid_is_decided_by_its_seed_and_leaves_the_global_generator_alone():
    a, b = normal(20), normal(20, seed=1)
    state = torch.random.get_rng_state()
    one = kid(a, b, subset_size=5, n_subsets=4, seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert one == kid(a, b, subset_size=5, n_subsets=4, seed=1)
    assert one != kid(a, b, subset_size=5, n_subsets=4, seed=2)
    assert kid(a, b, subset_size=5, n_subsets=1, seed=1).std is None


def test_kid_keeps_double_precision_for_half_precision_features():
    a, b = normal(8).half(), normal(8, seed=1).half()
    found = kid(a, b, subset_size=8, n_subsets=1, seed=0)
    assert found.mean == pytest.approx(literal_kid(a.double(), b.double()), rel=1e-9)


@FAST
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99), st.sampled_from([0.5, 10.0]))
def test_cmmd_equals_loops(n, r, d, seed, sigma):
    a, b = unit(n, d, seed), unit(r, d, seed + 1, shift=0.5)
    found = clip_mmd(a, b, sigma=sigma)
    assert found == pytest.approx(literal_cmmd(a, b, sigma, 1000.0), rel=1e-6, abs=1e-9)
    assert found == pytest.approx(clip_mmd(b, a, sigma=sigma), abs=1e-9)
    assert found >= -1e-9
    assert clip_mmd(a, a, sigma=sigma) == pytest.approx(0, abs=1e-9)


def test_cmmd_has_the_published_defaults_and_is_biased():
    a, b = unit(5), unit(6, seed=1)
    assert clip_mmd(a, b) == pytest.approx(literal_cmmd(a, b, 10.0, 1000.0), rel=1e-6)
    alike = [clip_mmd(unit(10, seed=2 * s), unit(10, seed=2 * s + 1)) for s in range(20)]
    larger = [clip_mmd(unit(200, seed=2 * s), unit(200, seed=2 * s + 1)) for s in range(20)]
    assert min(alike) > 0
    assert fmean(alike) > 5 * fmean(larger)


def test_cmmd_in_blocks_of_rows_is_the_same(monkeypatch):
    a, b = unit(11), unit(7, seed=1)
    whole = clip_mmd(a, b)
    monkeypatch.setattr(distribution, "_ROWS", 3)
    assert clip_mmd(a, b) == pytest.approx(whole, abs=1e-9)


def test_a_linear_measure_gives_the_change_of_means_and_the_interval_of_its_standard_error():
    before = normal(200, 1)
    after = before + 0.3 + 0.5 * normal(200, 1, seed=1)
    change = (after - before).flatten()
    error = float(change.std() / math.sqrt(200))
    for resampling in ("bootstrap", "half"):
        found = change_of_distance(
            before, after, normal(5, 1), measure=mean_gap, seed=0, n_resamples=2000, resampling=resampling
        )
        assert found.estimate == pytest.approx(float(change.mean()))
        assert found.after - found.before == found.estimate
        assert found.lower == pytest.approx(found.estimate - 1.96 * error, abs=0.15 * error)
        assert found.upper == pytest.approx(found.estimate + 1.96 * error, abs=0.15 * error)
        assert found.n == 200
        assert resampling in found.method


@pytest.mark.parametrize("n", [3, 5])
def test_halves_of_an_odd_number_spread_like_the_mean_of_all(n):
    """All halves are known; scaled as they are, the means of them have the variance s^2 / n."""
    before, after, m = torch.zeros(n, 1), normal(n, 1, seed=n), n // 2
    found = change_of_distance(before, after, before, measure=mean_gap, seed=0, n_resamples=4000, resampling="half")
    means = torch.stack([after[c].mean() for c in torch.combinations(torch.arange(n), m)])
    spread = (means - means.mean()) * math.sqrt(m / (n - m))
    assert float(spread.std(correction=0)) == pytest.approx(float(after.std()) / math.sqrt(n))
    assert found.upper == pytest.approx(found.estimate + float(spread.max()), abs=0.05)
    assert found.lower == pytest.approx(found.estimate + float(spread.min()), abs=0.05)


def test_before_and_after_are_drawn_together():
    """With different picks, equal images would seem to change."""
    images = unit(30)
    found = change_of_distance(images, images, unit(20, seed=1), measure=clip_mmd, seed=0, n_resamples=20)
    assert (found.estimate, found.lower, found.upper) == (0.0, 0.0, 0.0)


def test_rows_of_a_group_are_drawn_together_and_widen_the_interval():
    """Ten copies of each of 20 prompts say no more than one each."""
    single, moved = normal(20, 1), normal(20, 1, seed=1)
    before, after = single.repeat_interleave(10, 0), moved.repeat_interleave(10, 0)
    prompts = [f"p{i // 10}" for i in range(200)]
    given_ = {"measure": mean_gap, "seed": 0, "n_resamples": 500}
    reference = normal(3, 1)
    grouped = change_of_distance(before, after, reference, groups=prompts, **given_)
    once = change_of_distance(single, moved, reference, **given_)
    rows = change_of_distance(before, after, reference, **given_)
    assert grouped.n == once.n == 20
    assert (grouped.lower, grouped.upper) == (pytest.approx(once.lower), pytest.approx(once.upper))
    assert rows.upper - rows.lower < 0.5 * (grouped.upper - grouped.lower)
    assert "groups" in grouped.method
    assert "rows" in rows.method


def test_groups_need_not_be_adjacent_nor_equally_large():
    seen = []

    def spy(a, b):
        seen.append(sorted(a.flatten().tolist()))
        return float(a.mean())

    rows = torch.arange(5.0)[:, None]
    change_of_distance(rows, rows, rows, measure=spy, seed=0, n_resamples=30, groups=[1, "b", 1, "b", 1])
    whole, odd = [0.0, 2.0, 4.0], [1.0, 3.0]
    assert {tuple(s) for s in seen} == {tuple(sorted(x)) for x in (whole + odd, whole + whole, odd + odd)}


def test_intervals_of_kid_cover_a_change_of_spread():
    """An image drawn twice is a pair with itself; plain percentiles would lie above the change."""
    measure = lambda a, b: distribution.kid(a, b, subset_size=min(len(a), len(b)), n_subsets=1, seed=0).mean  # noqa: E731
    reference = normal(30, 4)
    found = []
    for s in range(20):
        before = normal(30, 4, seed=100 + s)
        found.append(change_of_distance(before, 1.5 * before, reference, measure=measure, seed=s, n_resamples=60))
    truth = fmean(f.estimate for f in found)
    assert sum(f.lower <= truth <= f.upper for f in found) >= 18
    assert all(f.lower <= f.estimate <= f.upper for f in found)


def test_a_change_is_decided_by_its_seed():
    before, after, reference = unit(12), unit(12, seed=1), unit(9, seed=2)
    state = torch.random.get_rng_state()
    one, same, other = (
        change_of_distance(before, after, reference, measure=clip_mmd, seed=s, n_resamples=30) for s in (0, 0, 1)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert one == same
    assert (one.lower, one.upper) != (other.lower, other.upper)
    assert one.estimate == other.estimate


def test_one_group_has_no_interval():
    rows = normal(4)
    found = change_of_distance(rows, rows + 1, rows, measure=mean_gap, seed=0, groups=["p"] * 4)
    assert (found.lower, found.upper, found.n) == (None, None, 1)
    assert found.estimate == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kid(normal(4), normal(4, 2), subset_size=2, n_subsets=1, seed=0), InputError, "one encoder"),
        (lambda: kid(normal(4), normal(3), subset_size=4, n_subsets=1, seed=0), InputError, "2 to 3 images"),
        (lambda: kid(normal(4), normal(3), subset_size=1, n_subsets=1, seed=0), InputError, "2 to 3 images"),
        (lambda: kid(normal(4), normal(3), subset_size=2, n_subsets=0, seed=0), InputError, "at least 1 subset"),
        (lambda: kid(normal(4)[0], normal(3), subset_size=2, n_subsets=1, seed=0), InputError, "2 axes"),
        (lambda: kid(normal(4) * math.nan, normal(3), subset_size=2, n_subsets=1, seed=0), NotFinite, "finite"),
        (lambda: clip_mmd(normal(4) * 3, unit(4)), InputError, "unit vectors"),
        (lambda: clip_mmd(unit(4), unit(4) * 3), InputError, "unit vectors"),
        (lambda: clip_mmd(unit(4), unit(0)), InputError, "2 axes"),
        (lambda: clip_mmd(unit(4), unit(4), sigma=0.0), InputError, "sigma"),
        (lambda: clip_mmd(unit(4), unit(4), scale=-1.0), InputError, "scale"),
    ],
)
def test_refusals_say_what_to_do(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"after": normal(3)}, InputError, "one shape"),
        ({"reference": normal(4, 2)}, InputError, "one encoder"),
        ({"n_resamples": 0}, InputError, "at least 1 resample"),
        ({"resampling": "jackknife"}, InputError, "bootstrap or half"),
        ({"groups": ["p"]}, InputError, "one group per row"),
        ({"measure": lambda a, b: math.nan}, NotFinite, "finite distance"),
    ],
)
def test_changes_that_cannot_be_measured_are_refused(changed, error, message):
    sound = {"before": normal(4), "after": normal(4), "reference": normal(4), "measure": mean_gap, "seed": 0}
    with pytest.raises(error, match=message):
        change_of_distance(**(sound | changed))
