import doctest
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amnestic.core.errors import NotFinite
from amnestic.measures import aggregate
from amnestic.measures.aggregate import median_mad

FAST = settings(max_examples=50, deadline=None, database=None)
VALUES = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12)


def lower_median(values):
    return sorted(values)[(len(values) - 1) // 2]


def test_examples_in_docstrings():
    assert doctest.testmod(aggregate).failed == 0


@FAST
@given(VALUES, st.integers(0, 3))
def test_equals_loops_and_ignores_nan(values, missing):
    median, mad = median_mad(torch.tensor([math.nan] * missing + values))
    assert median == lower_median(values)
    assert mad == lower_median([abs(v - median) for v in values])


@FAST
@given(VALUES)
def test_order_does_not_matter_and_median_is_one_of_the_values(values):
    assert median_mad(torch.tensor(values)) == median_mad(torch.tensor(sorted(values)))
    assert median_mad(torch.tensor(values))[0] in values


def test_even_counts_take_the_lower_middle_unlike_numpy():
    assert median_mad(torch.tensor([[0.0, 1.0], [2.0, 10.0]])) == (1.0, 1.0)


@pytest.mark.parametrize("values", [[], [math.nan], [math.nan, math.nan]])
def test_nothing_measured_is_nan(values):
    assert all(math.isnan(v) for v in median_mad(torch.tensor(values)))


def test_infinity_is_refused():
    with pytest.raises(NotFinite):
        median_mad(torch.tensor([0.0, math.inf]))
