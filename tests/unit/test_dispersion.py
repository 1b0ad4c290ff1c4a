import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amnestic.core.errors import InputError, NotFinite
from amnestic.core.seeds import generator
from amnestic.measures import dispersion
from amnestic.measures.dispersion import (
    cross_l2,
    discrepancy,
    displacement,
    gaussian_distance,
    neighbour_map,
    pairwise_l2,
    principal_plane,
    spread,
)

FAST = settings(max_examples=30, deadline=None, database=None)
SIZES = st.tuples(st.integers(0, 7), st.integers(1, 4), st.integers(1, 5), st.integers(0, 1000))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed, "dispersion"))


def literal(one, other):
    return math.sqrt(sum((float(a) - float(b)) ** 2 for a, b in zip(one.flatten(), other.flatten(), strict=True)))


@FAST
@given(SIZES)
def test_distances_are_those_of_every_two_flattened_points(sizes):
    n, length, width, seed = sizes
    points = normal(n, length, width, seed=seed)
    wanted = [literal(points[i], points[j]) for i, j in combinations(range(n), 2)]
    np.testing.assert_allclose(pairwise_l2(points).numpy(), wanted, rtol=1e-5)
    crossed = cross_l2(points, points).numpy()
    assert crossed.shape == (n, n)
    for (i, j), value in zip(combinations(range(n), 2), wanted, strict=True):
        np.testing.assert_allclose([crossed[i, j], crossed[j, i]], value, rtol=1e-5)


def test_pieces_do_not_change_distances(monkeypatch):
    points = normal(6, 3, 5)
    whole, crossed = pairwise_l2(points), cross_l2(points[:2], points)
    monkeypatch.setattr(dispersion, "_BLOCK", 31)  # two rows of 15
    assert torch.equal(pairwise_l2(points), whole)
    assert torch.equal(cross_l2(points[:2], points), crossed)


def test_points_close_together_far_from_zero_keep_their_distance():
    points = torch.full((2, 4), 1000.0)
    points[1, 0] += 0.125
    assert pairwise_l2(points).tolist() == [0.125]


def test_half_precision_is_subtracted_in_float32():
    points = torch.tensor([[60000.0], [-60000.0]], dtype=torch.float16)
    assert pairwise_l2(points).tolist() == [pytest.approx(120000.0, rel=1e-3)]


def test_displacement_is_by_row_and_refuses_other_shapes():
    starts = normal(3, 2, 2)
    moved = starts.clone()
    moved[1, 0] += torch.tensor([3.0, 4.0])
    np.testing.assert_allclose(displacement(moved, starts).numpy(), [0, 5, 0], atol=1e-6)
    with pytest.raises(InputError, match="expected as many starts as points"):
        displacement(moved, starts[:2])
    with pytest.raises(InputError, match="points of one shape"):
        cross_l2(moved, starts[:, :1])


@FAST
@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20))
def test_quantiles_are_interpolated(values):
    found = spread(torch.tensor(values))
    ordered = sorted(values)

    def literal_quantile(q):
        place = q * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    for name, q in (("q05", 0.05), ("q25", 0.25), ("median", 0.5), ("q75", 0.75), ("q95", 0.95)):
        assert getattr(found, name) == pytest.approx(literal_quantile(q), abs=1e-5)
    assert found.n == len(values)


def test_nothing_has_no_spread_and_infinity_is_refused():
    empty = spread(torch.empty(0))
    assert (empty.median, empty.q05, empty.n) == (None, None, 0)
    with pytest.raises(NotFinite):
        spread(torch.tensor([1.0, math.inf]))
    with pytest.raises(NotFinite):
        pairwise_l2(torch.tensor([[1.0], [math.nan]]))


def test_random_points_are_as_far_apart_as_their_dimension_says():
    points = normal(12, 16, 64)
    expected = gaussian_distance(16, 64)
    assert expected == pytest.approx(math.sqrt(2 * 16 * 64))
    assert float(pairwise_l2(points).mean()) == pytest.approx(expected, rel=0.02)
    assert float(pairwise_l2(points).std()) < 0.05 * expected
    with pytest.raises(InputError):
        gaussian_distance(0, 3)


def test_discrepancy_is_the_mean_distance_of_matrices():
    activations = normal(5, 3, 4)
    wanted = [literal(one, other) for one, other in combinations(activations, 2)]
    assert discrepancy(activations) == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)
    assert discrepancy(activations[:1]) is None
    assert discrepancy(activations[:1].repeat(3, 1, 1)) == 0.0


class TestPlane:
    def test_a_plane_in_many_dimensions_is_found(self):
        flat = normal(20, 2) * torch.tensor([3.0, 1.0])
        axes = torch.linalg.qr(normal(30, 2, seed=1)).Q.T
        points = flat @ axes + 7
        found = principal_plane(points.reshape(20, 5, 6))
        np.testing.assert_allclose(pairwise_l2(found.points).numpy(), pairwise_l2(flat).numpy(), rtol=1e-3)
        assert sum(found.explained) == pytest.approx(1, abs=1e-4)
        assert found.explained[0] > found.explained[1] > 0

    def test_it_is_the_same_every_time(self):
        points = normal(9, 4, 4)
        assert torch.equal(principal_plane(points).points, principal_plane(points).points)

    def test_one_dimension_equal_points_and_too_few(self):
        line = principal_plane(torch.tensor([[0.0], [1.0], [3.0]]))
        assert line.points.shape == (3, 2)
        assert line.explained == (1.0, 0.0)
        assert principal_plane(torch.ones(4, 2, 2)).explained == (0.0, 0.0)
        with pytest.raises(InputError, match="at least 3 points"):
            principal_plane(normal(2, 5))
        with pytest.raises(NotFinite):
            principal_plane(torch.tensor([[0.0], [math.nan], [1.0]]))


class TestMap:
    def test_groups_stay_apart_and_the_seed_decides(self):
        near, far = normal(8, 3, 4, seed=1), normal(8, 3, 4, seed=2) + 50
        found = neighbour_map(torch.cat([near, far]), seed=3, perplexity=5)
        distances = cross_l2(found.points, found.points)
        distances.fill_diagonal_(math.inf)
        assert ((distances.argmin(dim=1) < 8) == (torch.arange(16) < 8)).all()
        assert torch.equal(found.points, neighbour_map(torch.cat([near, far]), seed=3, perplexity=5).points)
        assert found.explained is None

    def test_few_and_equal_points(self):
        assert neighbour_map(normal(4, 3), seed=0).points.isfinite().all()
        assert neighbour_map(torch.ones(5, 3), seed=0).points.abs().max() == 0
        with pytest.raises(InputError, match="at least 4 points"):
            neighbour_map(normal(3, 3), seed=0)
