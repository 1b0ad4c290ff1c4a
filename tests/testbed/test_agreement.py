import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amnestic.testbed.agreement import agreement


def test_a_rising_map_of_the_scores_agrees_fully():
    judge = torch.tensor([[0.1, 0.2], [0.5, 0.75], [0.9, 0.3]])
    found = agreement(judge**3, judge, ["a", "b", "c"], bundled_threshold=0.7**3, judge_threshold=0.7)
    assert found == {"rank_correlation": pytest.approx(1.0), "same_verdict": 1.0, "works": 3.0}


def test_the_highest_score_over_a_works_prompts_decides():
    bundled = torch.tensor([[0.1], [0.9], [0.2]])
    judge = torch.tensor([[0.8], [0.1], [0.9]])
    found = agreement(bundled, judge, ["a", "a", "b"], bundled_threshold=0.5, judge_threshold=0.5)
    assert (found["works"], found["same_verdict"]) == (2.0, 0.5)  # a: both copies; b: only the judge says so


@given(st.permutations(range(6)))
def test_the_order_of_prompts_does_not_matter(order):
    rng = torch.Generator().manual_seed(0)
    bundled, judge = torch.rand(6, 2, generator=rng), torch.rand(6, 2, generator=rng)
    works = ["a", "a", "b", "c", "d", "e"]
    before = agreement(bundled, judge, works, bundled_threshold=0.6, judge_threshold=0.7)
    after = agreement(
        bundled[list(order)], judge[list(order)], [works[i] for i in order], bundled_threshold=0.6, judge_threshold=0.7
    )
    assert after == pytest.approx(before)
