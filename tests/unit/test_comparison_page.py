"""The page and the Markdown of two audits: hostile names, missing values, words that the numbers carry."""

import pytest
import torch
from pages import Reader, drawn_well

from amnestic.audit.run_comparison import RunComparison, compare_attack, concluded, group_comparison, with_holm
from amnestic.core.records import plain
from amnestic.report.comparison_figures import change_figure
from amnestic.report.comparison_page import comparison_markdown, render_comparison
from amnestic.report.comparison_rows import points

HOSTILE = "<script>alert(1)</script>\n| # `x` \u202e"
LOW, HIGH = 0.1, 0.9


def found(up=9, n=20, **changes):
    """`up` works replicate under the second model alone, the first of them with a hostile name."""
    names = [HOSTILE, *(f"w{i}" for i in range(1, n))]
    before, after = torch.full((n,), LOW), torch.tensor([HIGH] * up + [LOW] * (n - up))
    groups = with_holm(
        [
            group_comparison("all works", names, before, after, 0.7),
            group_comparison("held-out", names, before, before, 0.7),
        ]
    )
    conclusion, sentence = concluded(groups[0])
    whole = RunComparison(
        conclusion=conclusion, sentence=sentence, notes=(HOSTILE,), groups=groups, means=(), attacks=(),
        not_compared=(("3 prompts", HOSTILE),), threshold=0.7,
    )  # fmt: skip
    sides = {side: {"run": side, "model": HOSTILE, "digest": "ab12"} for side in ("before", "after")}
    return plain(whole) | sides | {"protocol": {"threshold": 0.7}, "descriptor": {"name": "made-up"}} | changes


def test_the_page_says_what_was_found_with_its_bounds():
    page = Reader(render_comparison(found()))
    assert "Regression: the memorization rate rose from 0 % to 45 % of 20 works" in page.words
    assert "Memorization rate before 0 % upper bound 13.9 %" in page.words
    assert "Change, in points +45" in page.words
    assert "all works : 9 replicate after only" in page.words
    assert "3 prompts" in page.words
    assert not page.all("script")
    parts = ("verdict", "verdict", "rates", "works", "attacks", "means", "limits", "settings", "words")
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in parts]
    assert {f"#{attrs.get('id')}" for attrs in page.all("section")} >= {link["href"] for link in page.all("a")}


def test_hostile_names_stay_text_on_both():
    html, text = render_comparison(found()), comparison_markdown(found())
    assert "<script" not in html
    assert "\u202e" not in html
    assert "<script" not in text.replace("\\<script", "").replace("`<script>alert(1)</script> | # 'x'`", "")
    assert "\u202e" not in text
    assert "\n| #" not in text
    assert "\n# `x`" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    unescaped = [line.replace("\\|", "").count("|") for line in tables]
    assert set(unescaped) == {4, 9}  # cells of the two tables


def test_what_is_missing_is_not_measured():
    page = Reader(render_comparison({}))
    assert "Not measured: whether the two models differ." in page.words
    assert "Memorization rates: not measured." in page.words
    assert "Not compared: no attack was made alike on both models." in page.words
    assert "Memorization rates: not measured." in comparison_markdown({})
    torn = found(groups=[{"group": "all works", "before": None, "change": {"estimate": float("nan")}, "newly": "w1"}])
    assert "not measured" in Reader(render_comparison(torn)).words


def test_attacks_have_their_own_tables():
    from runs import arm_of

    arms = {name: (arm_of([HIGH] * 8, "w", (0, 50)), arm_of([LOW] * 8, "w", (0, 50))) for name in ("works", "heldout")}
    compared = plain(compare_attack("dori", {"steps": 50}, ("a", "b"), arms))
    page = Reader(render_comparison(found(attacks=[compared])))
    assert "What dori brought back from both models" in page.words
    assert "works never trained on fell" in page.words
    assert "## Attack dori\n\nsteps=50\n\n| Group | Works |" in comparison_markdown(found(attacks=[compared]))


def test_the_figure_is_drawn_well_and_empty_without_groups():
    drawn_well("change", lambda: change_figure(found()["groups"]))
    assert change_figure([]) == ""


@pytest.mark.parametrize(("share", "text"), [(0.00001, "0"), (-0.00001, "0"), (1.0, "+100"), (-0.333, "\u221233.3")])
def test_points(share, text):
    assert points(share) == text
