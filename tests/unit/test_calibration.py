import doctest
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from amnestic.core.errors import InputError, NotFinite
from amnestic.measures import calibration
from amnestic.measures.calibration import auc, calibrate_threshold

FAST = settings(max_examples=60, deadline=None, database=None)
TIED = st.sampled_from([i / 16 for i in range(-16, 17)])


def test_examples_in_docstrings():
    assert doctest.testmod(calibration).failed == 0


@FAST
@given(st.lists(TIED | st.floats(-1, 1), min_size=2, max_size=80), st.sampled_from([0.01, 0.02, 0.05, 0.07, 0.29, 0.5]))
def test_rate_holds_and_no_smaller_threshold_keeps_it(scores, wanted):
    assume(len(scores) >= math.ceil(1 / wanted))
    threshold = calibrate_threshold(scores, false_positive_rate=wanted).value
    assert sum(s > threshold for s in scores) / len(scores) <= wanted
    just_below = math.nextafter(threshold, -math.inf)
    assert sum(s > just_below for s in scores) / len(scores) > wanted


@FAST
@given(st.lists(TIED, min_size=100, max_size=120), st.randoms(use_true_random=False))
def test_order_of_null_scores_does_not_matter(scores, random):
    assert calibrate_threshold(scores) == calibrate_threshold(random.sample(scores, len(scores)))


def test_known_thresholds():
    scores = np.arange(1000) / 1000
    found = calibrate_threshold(scores)
    assert (found.value, found.n_null, found.false_positive_rate) == (0.989, 1000, 0.01)
    assert found.provenance.startswith("calibrated on 1000 null pairs")
    # 0.29 * 100 is 28.999999999999996 in floating point; 29 of 100 are still allowed
    assert calibrate_threshold(np.arange(100.0), false_positive_rate=0.29).value == 70.0


def test_float32_scores_keep_their_decision():
    scores = np.random.default_rng(0).normal(0, 0.1, 300).astype(np.float32)
    assert (scores > calibrate_threshold(scores).value).sum() == 3


def test_fresh_null_scores_exceed_it_as_often_as_documented():
    generator, n = np.random.default_rng(1), 200
    shares = [1 - calibrate_threshold(generator.random(n)).value for _ in range(500)]
    assert np.mean(shares) == pytest.approx(3 / (n + 1), rel=0.1)


def test_too_few_null_scores_says_how_many():
    with pytest.raises(InputError, match="at least 100 null scores, got 99"):
        calibrate_threshold(np.zeros(99))
    with pytest.raises(InputError, match="at least 1000"):
        calibrate_threshold(np.zeros(100), false_positive_rate=0.001)


@pytest.mark.parametrize("wanted", [0, 1, -0.1, 5, math.nan])
def test_impossible_rates_are_refused(wanted):
    with pytest.raises(InputError, match="within"):
        calibrate_threshold(np.zeros(200), false_positive_rate=wanted)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(NotFinite):
        calibrate_threshold([math.nan] * 200)
    with pytest.raises(NotFinite):
        auc([math.inf], [0.0])


@FAST
@given(st.lists(TIED, min_size=1, max_size=15), st.lists(TIED, min_size=1, max_size=15))
def test_auc_equals_loops_and_sklearn(positives, negatives):
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    value = auc(positives, negatives)
    assert value == pytest.approx(wins / (len(positives) * len(negatives)))
    labels = [1] * len(positives) + [0] * len(negatives)
    assert value == pytest.approx(roc_auc_score(labels, positives + negatives))
    assert auc(negatives, positives) == pytest.approx(1 - value)


def test_auc_needs_both_sides():
    with pytest.raises(InputError, match="both kinds"):
        auc([], [0.1])
