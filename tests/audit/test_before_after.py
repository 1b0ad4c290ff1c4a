"""Before and after on made-up scores: what is counted for whom, and in which direction."""

import pytest
import torch
from torch.nn import functional

from amnestic.audit.before_after import changes, groups_of, neighbours, rates, side_of
from amnestic.audit.replication import Embedded
from amnestic.core.records import Prompt

WIDTH, SEEDS = 16, 2


def unit(*values):
    return functional.normalize(torch.tensor(values, dtype=torch.float32), dim=-1)


@pytest.fixture
def embedded():
    """Four works on two rungs, a held-out work and five base prompts; originals are axes."""
    prompts = [Prompt(id=f"w{i}", prompt="p", image=f"w{i}.png", label="VM", rung=i % 2) for i in range(4)]
    prompts += [Prompt(id="h", prompt="p", image="h.png", label="heldout")]
    prompts += [Prompt(id=f"b{i}", prompt="p", label="base") for i in range(5)]
    references = torch.eye(WIDTH)[:5]
    generated = torch.zeros(10, SEEDS, WIDTH)
    for p in range(4):  # every work is copied
        generated[p] = references[p]
    for p in range(4, 10):
        generated[p] = torch.eye(WIDTH)[p + 2]
    return Embedded(
        prompts=tuple(prompts), seeds=(0, 1), generated=generated, references=references,
        original=(0, 1, 2, 3, 4, -1, -1, -1, -1, -1), works=("w0", "w1", "w2", "w3", "h"),
    )  # fmt: skip


def forgotten(embedded, *rows):
    """The images after an edit that breaks the copies of some works."""
    after = embedded.generated.clone()
    for row in rows:
        after[row] = torch.eye(WIDTH)[15]
    return after


def test_each_group_is_counted_for_itself(embedded):
    one = side_of(embedded, embedded.generated, None)
    other = side_of(embedded, forgotten(embedded, 0, 1, 2), None)
    found = {
        row["group"]: row for row in rates(embedded, one, other, 0.7, groups_of(embedded, ["w0", "w1"], ["w2", "w3"]))
    }
    counts = {name: (row["works"], row["before"]["estimate"], row["after"]["estimate"]) for name, row in found.items()}
    assert counts == {
        "all works": (4, 1, 0.25), "works used to locate": (2, 1, 0), "other works that replicated": (2, 1, 0.5),
        "rung 0": (2, 1, 0), "rung 1": (2, 1, 0.5), "held-out": (1, 0, 0), "base prompts": (5, 0, 0),
    }  # fmt: skip
    assert (found["all works"]["mcnemar"]["only_before"], found["all works"]["mcnemar"]["only_after"]) == (3, 0)
    assert found["all works"]["mcnemar"]["p_value"] == pytest.approx(0.25)


def test_one_seed_that_copies_is_enough(embedded):
    after = forgotten(embedded, 0)
    after[0, 1] = embedded.references[0]
    found = rates(embedded, side_of(embedded, embedded.generated, None), side_of(embedded, after, None), 0.7,
                  {"all": [0]})  # fmt: skip
    assert found[0]["after"]["estimate"] == 1


def test_a_control_is_judged_against_every_original(embedded):
    after = embedded.generated.clone()
    after[4, 0] = embedded.references[2]  # the held-out prompt draws another work
    found = rates(embedded, side_of(embedded, embedded.generated, None), side_of(embedded, after, None), 0.7,
                  {"held-out": [4]})  # fmt: skip
    assert found[0]["after"]["estimate"] == 1


def test_changes_have_the_sign_of_after_minus_before(embedded):
    alignment = torch.full((10, SEEDS), 0.5)
    lower = alignment.clone()
    lower[5:] = 0.4
    one = side_of(embedded, embedded.generated, alignment)
    other = side_of(embedded, forgotten(embedded, 0, 1, 2, 3), lower)
    found = {(row["name"], row["group"]): row for row in changes(embedded, one, other, "sscd", [0, 1])}
    assert found["SSCD_Orig (max over seeds)", "works"]["change"]["estimate"] == pytest.approx(-1)
    assert found["SSCD_Gen (1 before)", "works"]["after"] == pytest.approx(0)
    assert found["SSCD_Gen (1 before)", "base prompts"]["after"] == pytest.approx(1)
    loss = found["CLIP alignment", "base prompts"]
    assert loss["change"]["method"].startswith("relative")
    assert loss["change"]["estimate"] == pytest.approx(-0.2)
    assert loss["change"]["lower_one_sided"] == pytest.approx(-0.2)
    assert found["CLIP alignment", "works"]["change"]["estimate"] == 0


def test_without_clip_nothing_is_said_about_alignment(embedded):
    side = side_of(embedded, embedded.generated, None)
    assert not any(row["name"] == "CLIP alignment" for row in changes(embedded, side, side, "sscd", []))


def test_neighbours_are_the_base_prompts_nearest_to_the_works_located(embedded):
    near = embedded.generated.clone()
    near[7] = unit(*(0.6 if i in (0, 9) else 0.0 for i in range(WIDTH)))
    side = side_of(embedded, near, None)
    assert neighbours(embedded, side, [0], range(5, 10)) == [7]
    assert neighbours(embedded, side, [], range(5, 10)) == []
