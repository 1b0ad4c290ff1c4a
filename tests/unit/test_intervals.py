import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, norm

from amnestic.core.errors import InputError, NotFinite
from amnestic.measures import intervals
from amnestic.measures.intervals import cluster_mean, cluster_rate, rate

FAST = settings(max_examples=40, deadline=None, database=None)
IMAGES = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=20)


def rng(seed=0):
    return np.random.default_rng(seed)


def split(images):
    return [hit for _, hit in images], [work for work, _ in images]


def test_examples_in_docstrings():
    assert doctest.testmod(intervals).failed == 0


@pytest.mark.parametrize(("n", "bound"), [(50, 0.0582), (59, 0.0495), (100, 0.0295), (299, 0.00997)])
def test_no_events_still_bounds_the_rate(n, bound):
    found = rate(0, n)
    assert found.upper_one_sided == pytest.approx(bound, abs=5e-5)
    assert found.upper_one_sided == pytest.approx(1 - 0.05 ** (1 / n), rel=1e-9)
    assert (found.estimate, found.lower) == (0.0, 0.0)


def test_how_many_trials_a_limit_needs():
    assert rate(0, 58).upper_one_sided > 0.05 > rate(0, 59).upper_one_sided
    assert rate(0, 298).upper_one_sided > 0.01 > rate(0, 299).upper_one_sided


@FAST
@given(st.integers(1, 400), st.data(), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_rate_equals_the_formulas(n, data, confidence):
    k = data.draw(st.integers(0, n))
    found, p, z = rate(k, n, confidence=confidence), k / n, norm.ppf((1 + confidence) / 2)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert found.lower == pytest.approx(middle - half, abs=1e-9)
    assert found.upper == pytest.approx(middle + half, abs=1e-9)
    assert found.upper_one_sided == pytest.approx(1.0 if k == n else beta.ppf(confidence, k + 1, n - k), abs=1e-9)
    assert 0 <= found.lower <= found.estimate <= found.upper <= 1
    assert found.estimate <= found.upper_one_sided <= 1
    assert found.n == n


def test_method_names_both_intervals():
    assert rate(1, 9).method == "Wilson 95 %; one-sided Clopper-Pearson 95 %"
    assert rate(1, 9, confidence=0.9).method == "Wilson 90 %; one-sided Clopper-Pearson 90 %"


@pytest.mark.parametrize("found", [rate(0, 0), cluster_rate([], [], rng=rng())])
def test_no_trials_is_not_measured(found):
    assert (found.estimate, found.lower, found.upper, found.upper_one_sided, found.n) == (None, None, None, None, 0)
    assert found.method == "not measured"


@pytest.mark.parametrize(("k", "n", "confidence"), [(-1, 3, 0.95), (4, 3, 0.95), (0, -1, 0.95), (1, 3, 1.0), (1, 3, 0)])
def test_impossible_counts_are_refused(k, n, confidence):
    with pytest.raises(InputError):
        rate(k, n, confidence=confidence)


@FAST
@given(IMAGES)
def test_cluster_rate_contains_its_estimate(images):
    hits, works = split(images)
    found = cluster_rate(hits, works, rng=rng(), resamples=50)
    assert found.n == len(set(works))
    assert 0 <= found.lower <= found.estimate <= found.upper <= 1
    assert found.estimate <= found.upper_one_sided <= 1
    assert found.upper_one_sided >= rate(0, found.n).upper_one_sided - 1e-12
    if any(hits) and not all(hits):
        assert found.estimate == pytest.approx(sum(hits) / len(hits))


@FAST
@given(IMAGES, st.randoms(use_true_random=False))
def test_order_of_images_does_not_matter(images, random):
    shuffled = random.sample(images, len(images))
    hits, works = split(images)
    other_hits, other_works = split(shuffled)
    assert cluster_rate(hits, works, rng=rng(), resamples=50) == cluster_rate(
        other_hits, other_works, rng=rng(), resamples=50
    )
    one = cluster_mean([0.1 * h for h in hits], works, rng=rng(), resamples=50)
    other = cluster_mean([0.1 * h for h in other_hits], other_works, rng=rng(), resamples=50)
    np.testing.assert_array_equal(one, other)


def test_cluster_rate_is_the_literal_percentile_bootstrap():
    works = {"a": [0, 0, 0], "b": [0, 0, 1], "c": [1, 1]}  # already sorted by (hits, images)
    draws, generator = [], rng(7)
    for _ in range(300):
        drawn = [hit for i in generator.integers(3, size=3) for hit in list(works.values())[i]]
        draws.append(sum(drawn) / len(drawn))
    flat = [(w, h) for w, hits in works.items() for h in hits]
    found = cluster_rate([h for _, h in flat], [w for w, _ in flat], rng=rng(7), resamples=300)
    assert found.estimate == 3 / 8
    assert (found.lower, found.upper) == tuple(np.quantile(draws, [0.025, 0.975]))
    assert found.upper_one_sided == np.quantile(draws, 0.95)
    assert found.method.startswith("cluster bootstrap 95 % over works, 300 resamples")


def test_images_of_one_work_count_less_than_as_many_works():
    hits = [1] * 8 * 5 + [0] * 8 * 35
    clustered = cluster_rate(hits, [i // 8 for i in range(320)], rng=rng(), resamples=400)
    single = cluster_rate(hits, range(320), rng=rng(), resamples=400)
    assert clustered.estimate == single.estimate
    assert clustered.upper - clustered.lower > 2 * (single.upper - single.lower)


def test_no_hits_falls_back_to_works_not_images():
    found = cluster_rate([0] * 400, [i // 8 for i in range(400)], rng=rng())
    assert (found.estimate, found.lower, found.n) == (0.0, 0.0, 50)
    assert found.upper_one_sided == pytest.approx(0.0582, abs=5e-5)
    assert found.upper == pytest.approx(1 - 0.025 ** (1 / 50))
    assert "Clopper-Pearson" in found.method
    assert "no hits" in found.method


def test_only_hits_falls_back_too():
    found = cluster_rate([True] * 40, [i // 4 for i in range(40)], rng=rng())
    assert (found.estimate, found.upper, found.upper_one_sided, found.n) == (1.0, 1.0, 1.0, 10)
    assert found.lower == pytest.approx(0.025 ** (1 / 10))
    assert "only hits" in found.method


def test_one_hit_is_never_safer_than_none():
    works = [i // 8 for i in range(400)]
    none = cluster_rate([0] * 400, works, rng=rng())
    one = cluster_rate([1] + [0] * 399, works, rng=rng())
    assert one.upper_one_sided >= none.upper_one_sided
    assert "not below" in one.method


def test_one_work_says_nothing_about_others():
    found = cluster_rate([1, 0, 0, 1], ["a"] * 4, rng=rng())
    assert (found.estimate, found.lower, found.upper, found.n) == (0.5, 0.0, 1.0, 1)
    assert found.method.startswith("one work")


def test_works_of_one_share_do_not_collapse():
    found = cluster_rate([1, 0] * 10, [i // 2 for i in range(20)], rng=rng())
    assert (found.lower, found.upper) == (rate(10, 20).lower, rate(10, 20).upper)
    assert found.method.startswith("Wilson 95 % over images")
    assert found.n == 10


def test_bootstrap_covers_about_as_often_as_it_says():
    generator, covered = rng(5), 0
    for _ in range(60):
        shares = generator.beta(2, 2, size=40)
        hits = (generator.random((40, 4)) < shares[:, None]).reshape(-1)
        found = cluster_rate(hits, [i // 4 for i in range(160)], rng=generator, resamples=150)
        covered += found.lower <= 0.5 <= found.upper
    assert covered >= 51


@pytest.mark.parametrize(
    ("hits", "works", "options", "message"),
    [
        ([1, 0], ["a"], {}, "one work per image"),
        ([2, 0], ["a", "b"], {}, "0 or 1"),
        ([0.5, 0], ["a", "b"], {}, "0 or 1"),
        ([math.nan, 0], ["a", "b"], {}, "0 or 1"),
        ([1, 0], ["a", "b"], {"resamples": 0}, "resamples"),
        ([1, 0], ["a", "b"], {"confidence": 95}, "confidence"),
    ],
)
def test_wrong_hits_are_refused(hits, works, options, message):
    with pytest.raises(InputError, match=message):
        cluster_rate(hits, works, rng=rng(), **options)


def test_cluster_mean_is_the_literal_percentile_bootstrap():
    works = [[0.1, 0.2], [0.3, 0.5, math.nan], [0.9, 0.7]]  # sorted by sum
    draws, generator = [], rng(3)
    for _ in range(200):
        drawn = [v for i in generator.integers(3, size=3) for v in works[i] if not math.isnan(v)]
        draws.append(sum(drawn) / len(drawn))
    values = [v for work in works for v in work]
    found = cluster_mean(values, [0, 0, 1, 1, 1, 2, 2], rng=rng(3), resamples=200)
    assert found == pytest.approx((2.7 / 6, *np.quantile(draws, [0.025, 0.975])))


def test_cluster_mean_without_enough_works():
    mean, lower, upper = cluster_mean([1.0, 3.0], ["a", "a"], rng=rng())
    assert mean == 2.0
    assert math.isnan(lower)
    assert math.isnan(upper)
    assert all(math.isnan(v) for v in cluster_mean([math.nan], ["a"], rng=rng()))


def test_cluster_mean_refuses_infinity_and_unequal_lengths():
    with pytest.raises(NotFinite):
        cluster_mean([math.inf], ["a"], rng=rng())
    with pytest.raises(InputError):
        cluster_mean([1.0], [], rng=rng())
