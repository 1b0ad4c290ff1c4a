"""What two audits say of each other: known answers, properties, and the words that they carry."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import arm_of
from scipy.stats import binomtest

from amnestic.audit.run_comparison import (
    IMPROVEMENT,
    INCONCLUSIVE,
    REGRESSION,
    UNDETECTED,
    compare_attack,
    concluded,
    group_comparison,
    with_holm,
)
from amnestic.measures.paired import paired_bootstrap

FAST = settings(max_examples=40, deadline=None, database=None)
SCORE = st.floats(-1, 1, width=32)
PAIRS = st.lists(st.tuples(SCORE, SCORE), min_size=1, max_size=20)
LOW, HIGH = 0.1, 0.9


def group(before, after, name="all works"):
    names = [f"w{i}" for i in range(len(before))]
    return group_comparison(name, names, torch.tensor(before), torch.tensor(after), 0.7)


def split(n, down=0, up=0):
    """Works of which some replicate on one side only; the others on neither."""
    return group([HIGH] * down + [LOW] * (n - down), [LOW] * down + [HIGH] * up + [LOW] * (n - down - up))


def test_a_group_by_scipy():
    found = split(30, down=2, up=11)
    assert (found.before.estimate, found.after.estimate) == (2 / 30, 11 / 30)
    assert found.before.upper_one_sided == binomtest(2, 30, alternative="less").proportion_ci(method="exact").high
    assert found.mcnemar.p_value == pytest.approx(binomtest(2, 13).pvalue)
    assert found.no_longer == ("w0", "w1")
    assert found.newly == tuple(f"w{i}" for i in range(2, 13))
    assert found.change.estimate == pytest.approx(9 / 30)
    assert found.reading == "rose"


def test_the_mean_of_best_scores_is_the_paired_bootstrap():
    before, after = [0.1, 0.2, 0.9], [0.3, 0.1, 0.95]
    found, columns = group(before, after), [torch.tensor(side).double()[:, None] for side in (before, after)]
    assert found.score_change == paired_bootstrap(*columns, seed=0)
    assert found.score_after - found.score_before == pytest.approx(found.score_change.estimate)
    assert group([0.1], [0.2]).score_change is None


@FAST
@given(st.lists(SCORE, min_size=1, max_size=20))
def test_a_model_beside_itself_shows_nothing(scores):
    found = group(scores, scores)
    assert found.newly == found.no_longer == ()
    assert (found.change.estimate, found.mcnemar.p_value) == (0, 1)
    assert found.change.lower_one_sided < 0 < found.change.upper_one_sided
    assert concluded(found)[0] == (INCONCLUSIVE if len(scores) < 6 else UNDETECTED)


@FAST
@given(PAIRS)
def test_exchanging_the_models_changes_the_signs(pairs):
    before, after = [a for a, _ in pairs], [b for _, b in pairs]
    one, other = group(before, after), group(after, before)
    assert other.change.estimate == -one.change.estimate
    assert (other.change.lower, other.change.upper) == (-one.change.upper, -one.change.lower)
    assert (other.newly, other.no_longer) == (one.no_longer, one.newly)
    assert (other.mcnemar.p_value, other.detectable) == (one.mcnemar.p_value, one.detectable)
    if one.score_change is not None:
        assert other.score_change.estimate == pytest.approx(-one.score_change.estimate)
    turned = {REGRESSION: IMPROVEMENT, IMPROVEMENT: REGRESSION}
    assert concluded(other)[0] == turned.get(concluded(one)[0], concluded(one)[0])


@pytest.mark.parametrize(
    ("n", "down", "up", "conclusion"),
    [
        (48, 0, 5, UNDETECTED), (48, 0, 6, REGRESSION), (48, 6, 0, IMPROVEMENT), (48, 1, 7, UNDETECTED),
        (48, 1, 8, REGRESSION), (6, 0, 6, REGRESSION), (5, 0, 5, INCONCLUSIVE), (1, 0, 0, INCONCLUSIVE),
    ],
)  # fmt: skip
def test_conclusions(n, down, up, conclusion):
    assert concluded(split(n, down, up))[0] == conclusion


def test_sentences_carry_their_bounds():
    rose = concluded(split(48, up=12))[1]
    assert rose.startswith("Regression: the memorization rate rose from 0 % to 25 % of 48 works, by at least ")
    assert "one-sided 95 % bound" in rose
    same = concluded(split(48))[1]
    assert same.startswith("No difference detected")
    assert "a rise of up to 7.4 points and a fall of up to 7.4 points remain possible" in same
    assert "a change of 16 points would have been found with probability 0.8" in same
    assert "no difference." not in same
    assert "too few" in concluded(split(5))[1]
    assert "no work in common" in concluded(None)[1]


def test_bounds_are_rounded_to_the_side_that_claims_less():
    for works in (split(48, up=12), split(48, down=12), split(48), split(300, up=40), split(7, down=7)):
        said = concluded(works)[1]
        least = max(works.change.lower_one_sided, -works.change.upper_one_sided)
        if least > 0:
            assert float(re.search(r"by at least ([\d.]+) points", said)[1]) <= 100 * least
        else:
            rise, fall = map(float, re.search(r"rise of up to ([\d.]+) points .* to ([\d.]+) points", said).groups())
            assert rise >= 100 * works.change.upper_one_sided
            assert fall >= -100 * works.change.lower_one_sided
            assert float(re.search(r"a change of ([\d.]+) points", said)[1]) >= 100 * works.detectable


def test_holm_raises_p_over_groups_and_with_it_the_reading():
    rose = split(40, up=6)  # p = 1/32
    alone, many = with_holm([rose])[0], with_holm([rose, split(40), split(40)])[0]
    assert (alone.reading, alone.p_adjusted) == ("rose", 1 / 32)
    assert (many.reading, many.p_adjusted) == ("no difference detected", 3 / 32)
    assert with_holm([split(3)])[0].reading == "too few works"


def test_attacks_are_compared_over_shared_works_by_what_ever_came_back():
    one, other = arm_of([HIGH] * 8, "w", (0, 50)), arm_of([LOW] * 9, "w", (0, 50))
    found = compare_attack("dori", {"steps": 50}, ("a", "b"), {"works": (one, other)})
    assert found.arms[0].works == 8
    assert (found.arms[0].before.estimate, found.arms[0].after.estimate) == (1, 0)
    assert found.arms[0].reading == "fell"
    assert compare_attack("dori", {}, ("a", "b"), {"works": (one, arm_of([LOW], "x", (0, 50)))}) is None
