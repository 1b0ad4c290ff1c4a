import pytest
import torch

from amnestic.testbed.contract import caption_auc, contract, contract_of_descriptor, contract_of_plain_call

LINES = ("works on the top rung", "replicated on the top", "mean similarity on", "rises", "heldout", "base images",
         "twin", "differ between seeds", "follow their captions")  # fmt: skip
MEAN, MEDIAN = "D_SSCD (mean over pairs) of base prompts", "D_SSCD of base prompts"


def step(works=64, share=0.97, mean=0.8, lower=0.7, upper=0.9):
    return {"works": works, "leak_rate": {"estimate": share}, "mean_score": mean, "lower": lower, "upper": upper}


def summary(*ladder, mean=0.412, median=0.40):
    similarity = {MEAN: {"mean": mean, "median": 0.9}, MEDIAN: {"mean": 0.9, "median": median}}
    return {"threshold": {"value": 0.5}, "ladder": list(ladder) or [step()], "similarity": similarity}


def images(label, *scores):
    return [{"label": label, "sscd_nearest": score} for score in scores]


CLEAN = images("heldout", 0.5, 0.1) + images("base", 0.2, 0.3)


def line(word, found=None, matches=CLEAN, twin=CLEAN, auc=0.99):
    rows = contract(summary() if found is None else found, matches, twin, auc_of_captions=auc)
    assert len(rows) == len(LINES)
    (row,) = [r for r in rows if word in r["promise"]]
    return row


def test_a_testbed_within_all_bounds_keeps_every_promise():
    rows = contract(summary(), CLEAN, CLEAN, auc_of_captions=0.99)
    assert all(row["holds"] is True for row in rows)
    assert [sum(word in row["promise"] for row in rows) for word in LINES] == [1] * len(LINES)
    assert all(set(row) == {"promise", "limit", "measured", "holds"} for row in rows)


@pytest.mark.parametrize(
    ("word", "found", "measured", "holds"),
    [
        ("works on the top rung", summary(step(works=60)), "60", True),
        ("works on the top rung", summary(step(works=59)), "59", False),
        ("replicated on the top", summary(step(share=0.95)), "95.0%", True),
        ("replicated on the top", summary(step(share=0.949)), "94.9%", False),
        ("mean similarity on", summary(step(mean=0.7)), "0.700", True),
        ("mean similarity on", summary(step(mean=0.699)), "0.699", False),
        ("differ between seeds", summary(), "mean 0.412, median 0.40", True),
        ("differ between seeds", summary(mean=0.5, median=0.7), "mean 0.500, median 0.70", True),
        ("differ between seeds", summary(mean=0.501, median=0.3), "mean 0.501, median 0.30", False),
    ],
)
def test_each_bound_of_the_summary(word, found, measured, holds):
    row = line(word, found)
    assert (row["measured"], row["holds"]) == (measured, holds)


@pytest.mark.parametrize(("lowest", "holds"), [(0.2, True), (0.6, True), (0.601, False)])
def test_similarity_may_fall_within_the_intervals_only(lowest, holds):
    rungs = (step(mean=0.7, lower=lowest), step(mean=0.5, upper=0.6), step(mean=0.8))
    row = line("rises", summary(*rungs))
    assert (row["measured"], row["holds"]) == ("0.70 < 0.50 < 0.80", holds)


@pytest.mark.parametrize("label", ["heldout", "base"])
def test_one_image_in_a_hundred_may_be_above_the_threshold(label):
    word = {"heldout": "heldout", "base": "base images"}[label]
    one = line(word, matches=images(label, 0.51, *[0.5] * 99))
    two = line(word, matches=images(label, 0.51, 0.51, *[0.5] * 98))
    assert (one["measured"], one["holds"]) == ("1.00% of 100", True)
    assert (two["measured"], two["holds"]) == ("2.00% of 100", False)


def test_controls_that_are_missing_do_not_hold():
    assert not line("heldout", matches=images("base", 0.1))["holds"]
    assert not line("base images", matches=images("heldout", 0.1))["holds"]


@pytest.mark.parametrize(("above", "measured", "holds"), [(1, "1.00% of 100", True), (2, "2.00% of 100", False)])
def test_the_twin_may_show_one_image_in_a_hundred(above, measured, holds):
    row = line("twin", twin=images("VM", *[0.6] * above, *[0.5] * (100 - above)))
    assert (row["measured"], row["holds"]) == (measured, holds)


@pytest.mark.parametrize("twin", [None, []])
def test_a_twin_that_was_not_audited_does_not_hold(twin):
    row = line("twin", twin=twin)
    assert (row["measured"], row["holds"]) == ("not measured", False)


@pytest.mark.parametrize(
    ("auc", "measured", "holds"), [(0.95, "0.9500", True), (0.9499, "0.9499", False), (None, "not measured", False)]
)
def test_the_bound_of_captions(auc, measured, holds):
    row = line("follow their captions", auc=auc)
    assert (row["measured"], row["holds"]) == (measured, holds)


@pytest.mark.parametrize("similarity", [{}, {MEDIAN: {"median": 0.1, "mean": 0.1}}, {MEAN: {"mean": None}}])
def test_diversity_that_was_not_measured_does_not_hold(similarity):
    row = line("differ between seeds", summary() | {"similarity": similarity})
    assert (row["measured"], row["holds"]) == ("not measured", False)


def test_images_that_follow_their_captions_are_told_from_shuffled_ones():
    captions = torch.eye(3)
    assert caption_auc(captions[:, None].repeat(1, 2, 1), captions) == 1.0
    assert caption_auc(captions.roll(1, 0)[:, None].repeat(1, 2, 1), captions) == 0.0
    assert caption_auc(torch.ones(3, 2, 3) / 3**0.5, captions) == 0.5


def test_half_of_the_seeds_that_follow_give_three_quarters():
    captions = torch.eye(4)[:3]
    images = torch.stack([captions, torch.eye(4)[3].expand(3, 4)], dim=1)  # the second seed shows something else
    assert caption_auc(images, captions) == pytest.approx(0.75)


def test_the_plain_call_has_bounds_of_its_own():
    rows = contract_of_plain_call(summary(step(share=0.949)), CLEAN)
    assert all(row["promise"].startswith("plain call: ") for row in rows)
    assert [row["promise"] for row in rows if not row["holds"]] == ["plain call: replicated on the top rung"]


@pytest.mark.parametrize(("rho", "same", "hold"), [(0.9, 0.95, [True, True]), (0.899, 0.949, [False, False])])
def test_the_bounds_of_the_descriptor(rho, same, hold):
    rows = contract_of_descriptor({"rank_correlation": rho, "same_verdict": same, "works": 100.0}, of="some works")
    assert [row["holds"] for row in rows] == hold
    assert rows[1]["measured"] == f"{same:.1%} of 100"
    assert all(row["promise"].endswith("(some works)") for row in rows)
