import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amnestic.measures.overlap import expected_random_iou, holm, iou, pairwise_iou, permutation_p

FAST = settings(max_examples=40, deadline=None, database=None)
BITS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12)
P_VALUES = st.lists(st.none() | st.just(math.nan) | st.floats(0, 1), max_size=8)
UNDEFINED = math.nan


def mask(chosen, total):
    return torch.tensor([i in chosen for i in range(total)], dtype=torch.bool)


def matrix(n, pairs, fill=UNDEFINED):
    """Symmetric, with an absurd diagonal that nothing may read."""
    ious = np.full((n, n), fill)
    for (i, j), value in pairs.items():
        ious[i, j] = ious[j, i] = value
    np.fill_diagonal(ious, 1.0)
    return ious


def random_matrix(n, *, seed, undefined=0.0):
    rng = np.random.default_rng(seed)
    return matrix(n, {p: UNDEFINED if rng.random() < undefined else rng.random() for p in combinations(range(n), 2)})


def literal_statistic(ious, inside):
    def mean(pairs):
        known = [ious[i, j] for i, j in pairs if not math.isnan(ious[i, j])]
        return sum(known) / len(known) if known else math.nan

    outside = [i for i in range(len(ious)) if i not in inside]
    return mean(combinations(inside, 2)) - mean((i, j) for i in inside for j in outside)


def literal_p(ious, inside):
    """Share of all labellings that are at least as extreme; undefined ones count."""
    observed = literal_statistic(ious, inside)
    found = [literal_statistic(ious, other) for other in combinations(range(len(ious)), len(inside))]
    return sum(math.isnan(t) or t >= observed - 1e-9 for t in found) / len(found)


def labels(inside, n):
    return [i in inside for i in range(n)]


def test_iou_by_hand():
    assert iou(mask({0, 1, 2}, 6), mask({2, 3}, 6)) == 0.25
    assert iou(mask({0}, 6), mask({1}, 6)) == 0.0
    assert iou(mask({0, 5}, 6), mask({0, 5}, 6)) == 1.0
    assert iou(mask({0, 1, 2}, 6).reshape(2, 3), mask({2, 3}, 6).reshape(2, 3)) == 0.25


def test_two_empty_masks_have_no_overlap_to_speak_of():
    assert iou(mask({}, 3), mask({}, 3)) is None
    assert iou(mask({}, 3), mask({1}, 3)) == 0.0


@FAST
@given(BITS)
def test_iou_equals_the_one_of_sets(bits):
    one, other = ({i for i, pair in enumerate(bits) if pair[side]} for side in (0, 1))
    found = iou(mask(one, len(bits)), mask(other, len(bits)))
    assert found == (len(one & other) / len(one | other) if one | other else None)
    assert found == iou(mask(other, len(bits)), mask(one, len(bits)))


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (torch.ones(2) > 0, torch.ones(3) > 0, "same layer"),
        (torch.ones(1, 2) > 0, torch.ones(2) > 0, "same layer"),
        (torch.ones(2), torch.ones(2) > 0, "boolean masks"),
        (torch.ones(2) > 0, torch.ones(2), "boolean masks"),
    ],
)
def test_wrong_masks_are_refused(one, other, message):
    with pytest.raises(ValueError, match=message):
        iou(one, other)
    with pytest.raises(ValueError, match=message):
        pairwise_iou([one, other])


def test_pairs_by_hand():
    found = pairwise_iou([mask(chosen, 4) for chosen in ({0, 1}, {}, {1}, {})])
    np.testing.assert_array_equal(found.values, [0.0, 0.5, 0.0, 0.0, UNDEFINED, 0.0])
    assert found.empty_share == pytest.approx(1 / 6)
    np.testing.assert_array_equal(found.matrix, found.matrix.T)
    assert np.isnan(found.matrix.diagonal()).all()
    assert found.matrix[0, 2] == 0.5


def test_only_empty_masks():
    found = pairwise_iou([mask({}, 4)] * 3)
    assert found.empty_share == 1.0
    assert np.isnan(found.values).all()


@pytest.mark.parametrize("masks", [[], [mask({0}, 2)]])
def test_one_mask_is_no_pair(masks):
    with pytest.raises(ValueError, match=f"got {len(masks)}"):
        pairwise_iou(masks)


@FAST
@given(st.integers(0, 6), st.data())
def test_chance_equals_the_mean_over_all_masks(total, data):
    n_one, n_other = (data.draw(st.integers(0, total)) for _ in range(2))
    fixed = mask(range(n_one), total)
    every = [iou(fixed, mask(chosen, total)) for chosen in combinations(range(total), n_other)]
    found = expected_random_iou((n_one, n_other), total)
    if n_one + n_other == 0:
        assert found is None
        assert every == [None]
    else:
        assert found == pytest.approx(sum(every) / len(every), rel=1e-9)
        assert found == pytest.approx(expected_random_iou((n_other, n_one), total), rel=1e-9)


def test_chance_by_hand():
    assert expected_random_iou((2, 2), 4) == pytest.approx((1 * 0 + 4 / 3 + 1 * 1) / 6)
    assert expected_random_iou((0, 3), 4) == 0.0
    assert expected_random_iou((4, 3), 4) == pytest.approx(0.75)


def test_chance_in_a_large_layer_equals_its_expansion():
    """K / (s - K) around the mean m = 100 up to the variance v; the next term is 2e-9 of the value."""
    s, m, v = 20_000, 100, 100 * 0.99 * 0.99 * 1_000_000 / 999_999
    expansion = m / (s - m) + s / (s - m) ** 3 * v
    assert expected_random_iou((10_000, 10_000), 1_000_000) == pytest.approx(expansion, rel=1e-7)


@pytest.mark.parametrize("sizes", [(-1, 2), (2, 5), (5, 2)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="within 0 and 4"):
        expected_random_iou(sizes, 4)


def test_permutations_by_hand():
    """Of six labellings of two masks, only the given one pairs the two that overlap."""
    found = permutation_p(matrix(4, {(0, 2): 0.8}, fill=0.2), labels({0, 2}, 4), seed=0)
    assert found.statistic == pytest.approx(0.6)
    assert found.p_value == pytest.approx(1 / 6)
    assert (found.n_permutations, found.exact) == (6, True)


@FAST
@given(st.integers(4, 7), st.integers(0, 1000), st.sampled_from([0.0, 0.4]), st.data())
def test_exact_test_equals_the_literal_one(n, seed, undefined, data):
    inside = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=2, max_size=n - 2)))
    ious = random_matrix(n, seed=seed, undefined=undefined)
    found = permutation_p(ious, labels(inside, n), seed=0)
    wanted = literal_statistic(ious, inside)
    if math.isnan(wanted):
        assert (found.statistic, found.p_value, found.n_permutations, found.exact) == (None, None, 0, False)
    else:
        assert found.statistic == pytest.approx(wanted, abs=1e-9)
        assert found.p_value == pytest.approx(literal_p(ious, inside), rel=1e-12)
        assert found.n_permutations == math.comb(n, len(inside))
        assert found.exact


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7])
def test_masks_that_are_all_alike_tell_nothing(value):
    found = permutation_p(matrix(8, {}, fill=value), labels(range(3), 8), seed=0)
    assert (found.statistic, found.p_value) == (0.0, 1.0)


def test_memorized_masks_that_overlap_less_are_not_found():
    found = permutation_p(matrix(4, {(0, 1): 0.0}, fill=0.5), labels({0, 1}, 4), seed=0)
    assert found.statistic == -0.5
    assert found.p_value == 1.0


def test_a_labelling_without_a_statistic_counts_as_extreme():
    ious = matrix(4, {(0, 1): 0.9, (0, 2): 0.1, (0, 3): 0.1, (1, 2): 0.1, (1, 3): 0.1})
    found = permutation_p(ious, labels({0, 1}, 4), seed=0)
    assert found.p_value == pytest.approx(2 / 6)
    none = permutation_p(ious, labels({2, 3}, 4), seed=0)
    assert (none.statistic, none.p_value) == (None, None)


def test_random_labellings_approach_all_of_them():
    ious, inside = random_matrix(10, seed=3), range(4)
    exact = permutation_p(ious, labels(inside, 10), seed=0, n_permutations=210)
    drawn = permutation_p(ious, labels(inside, 10), seed=0, n_permutations=209)
    many = [permutation_p(ious, labels(inside, 10), seed=s, n_permutations=200).p_value for s in range(10)]
    assert (exact.exact, exact.n_permutations) == (True, 210)
    assert (drawn.exact, drawn.n_permutations) == (False, 209)
    assert exact.statistic == drawn.statistic
    assert 0.1 < exact.p_value < 0.9
    assert np.mean(many) == pytest.approx(exact.p_value, abs=0.05)
    assert len(set(many)) > 1
    assert drawn == permutation_p(ious, labels(inside, 10), seed=0, n_permutations=209)


def test_random_labellings_never_give_zero():
    inside = range(15)
    ious = matrix(30, dict.fromkeys(combinations(inside, 2), 0.9), fill=0.1)
    found = permutation_p(ious, labels(inside, 30), seed=0, n_permutations=99)
    assert (found.p_value, found.n_permutations, found.exact) == (0.01, 99, False)


def test_pairs_of_masks_fit_the_test():
    chosen = [{0, 1, 2}, {0, 1, 3}, {0, 1}, {7}, {8}, {}, {}]
    found = permutation_p(pairwise_iou([mask(c, 9) for c in chosen]).matrix, labels(range(3), 7), seed=0)
    assert found.statistic == pytest.approx((1 / 2 + 2 / 3 + 2 / 3) / 3)
    assert found.p_value == pytest.approx(1 / 35)


@pytest.mark.parametrize(
    ("ious", "memorized", "options", "message"),
    [
        (np.zeros((4, 3)), [True, True, False, False], {}, "symmetric"),
        (np.zeros(4), [True, True, False, False], {}, "symmetric"),
        (np.triu(np.ones((4, 4))), [True, True, False, False], {}, "symmetric"),
        (matrix(4, {}, fill=1.5), [True, True, False, False], {}, "within"),
        (matrix(4, {}, fill=-0.5), [True, True, False, False], {}, "within"),
        (matrix(4, {}, fill=0.5), [True, True, False], {}, "one true or false per mask"),
        (matrix(4, {}, fill=0.5), [1, 1, 0, 0], {}, "one true or false per mask"),
        (matrix(4, {}, fill=0.5), [True, False, False, False], {}, "more disjoint sets"),
        (matrix(4, {}, fill=0.5), [True, True, True, False], {}, "more disjoint sets"),
        (matrix(4, {}, fill=0.5), [True, True, False, False], {"n_permutations": 0}, "at least 1"),
    ],
)
def test_wrong_matrices_and_labels_are_refused(ious, memorized, options, message):
    with pytest.raises(ValueError, match=message):
        permutation_p(ious, memorized, seed=0, **options)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_undefined_tests_do_not_count():
    assert holm([None, 0.02, math.nan, 0.01]) == [None, 0.02, None, 0.02]
    assert holm([None, math.nan]) == [None, None]


@FAST
@given(P_VALUES)
def test_holm_rejects_what_the_steps_reject(p_values):
    adjusted = holm(p_values)
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None and not math.isnan(p))
    assert [i for i, p in enumerate(adjusted) if p is not None] == sorted(i for _, i in known)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for left, (p, i) in zip(range(len(known), 0, -1), known, strict=True):
            if left * p > level:
                break
            rejected.add(i)
        assert {i for i, p in enumerate(adjusted) if p is not None and p <= level} == rejected
    assert all(0 <= p <= adjusted[i] <= 1 for p, i in known)


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_impossible_p_values_are_refused(p):
    with pytest.raises(ValueError, match="give None"):
        holm([0.5, p])
