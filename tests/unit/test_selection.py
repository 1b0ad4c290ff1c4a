"""Which prompts of an audit are controls."""

import pytest

from amnestic.audit.selection import NO_BASE, Selection, select
from amnestic.core.errors import InputError

THRESHOLD = 0.5


def rows_of(*kinds):
    """Samples and matches of two works that replicate and two prompts of each kind, two seeds each."""
    prompts = [(f"w{i}", "VM", f"w{i}.png", f"work-{i}") for i in range(2)]
    for kind in kinds:
        image, work = ("{}.png", "work of {}") if kind == "heldout" else ("", "")
        names = [f"{kind}-{i}" for i in range(2)]
        prompts += [(name, kind, image.format(name) or None, work.format(name)) for name in names]
    samples, matches = [], []
    for name, label, original, work in prompts:
        for seed in range(2):
            both = {"prompt_id": name, "seed": seed, "label": label, "rung": 1 if label == "VM" else None}
            samples.append(both | {"prompt": f"a picture of {name}", "original": original})
            matches.append(both | {"work": work, "sscd_paired": None if original is None else 0.9})
    return samples, matches


def selected(controls, *kinds):
    return select(*rows_of(*kinds), THRESHOLD, Selection(controls=controls))


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("base", ["base-0", "base-1"]),
        ("heldout", ["heldout-0", "heldout-1"]),
        ("both", ["base-0", "base-1", "heldout-0", "heldout-1"]),
    ],
)
def test_controls_are_of_the_kind_that_is_asked_for(asked, wanted):
    found = selected(asked, "heldout", "base")
    assert [p.id for p in found.controls] == wanted
    assert found.note == ""
    assert [p.id for p in found.memorized] == ["w0", "w1"]
    kinds = found.control_kinds()
    assert kinds == {kind: 2 for kind in ("base", "heldout") if any(name.startswith(kind) for name in wanted)}


def test_base_is_what_is_asked_for_by_default():
    samples, matches = rows_of("heldout", "base")
    assert select(samples, matches, THRESHOLD, Selection()) == selected("base", "heldout", "base")


def test_a_held_out_prompt_names_its_work_and_an_ordinary_one_has_none():
    found = selected("both", "base", "heldout")
    assert [p.work for p in found.controls] == ["", "", "work of heldout-0", "work of heldout-1"]
    assert [p.image for p in found.controls] == ["", "", "heldout-0.png", "heldout-1.png"]


def test_without_ordinary_prompts_the_default_takes_held_out_ones_and_says_so():
    found = selected("base", "heldout")
    assert [p.id for p in found.controls] == ["heldout-0", "heldout-1"]
    assert (found.note, found.control_kinds()) == (NO_BASE, {"heldout": 2})


def test_without_any_there_are_none():
    found = selected("base")
    assert (found.controls, found.note, found.control_kinds()) == ((), "", {})


@pytest.mark.parametrize(
    ("asked", "kinds", "said"),
    [
        ("heldout", ("base",), "prompts of held-out works as controls, the audit drew none; .* --controls base"),
        ("heldout", (), "prompts of held-out works as controls, the audit drew none; label some of the list heldout"),
        ("both", ("base",), "prompts of held-out works as controls"),
        ("both", ("heldout",), "ordinary prompts as controls, the audit drew none; .* --controls heldout"),
    ],
)
def test_a_kind_that_is_not_there_is_refused_with_what_to_do(asked, kinds, said):
    with pytest.raises(InputError, match=said):
        selected(asked, *kinds)


def test_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="one of base, heldout, both; got held-out"):
        Selection(controls="held-out")
