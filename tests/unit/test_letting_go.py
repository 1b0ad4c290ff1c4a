import random

import pytest

from amnestic.audit.letting_go import refined
from amnestic.core.units import Site

SITES = tuple(Site(name=name, kind="value", stage="down", shape=(600,)) for name in ("a", "b", "c"))
ORDERS = ("one-by-one", "grouped", "sized")


class Judge:
    """Says yes while all needed neurons are left; the late ones only matter when it is asked to confirm."""

    def __init__(self, needed, late=()):
        self.needed, self.late, self.asked, self.batches, self.confirmed = set(needed), set(late), [], 0, 0

    def ask(self, choices):
        self.batches += 1
        self.asked += choices
        return [self.needed <= flat(c) for c in choices]

    def confirm(self, choice):
        self.confirmed += 1
        missing = sorted(self.late - flat(choice), key=str)
        self.needed |= set(missing[:1])
        return not missing


def flat(neurons):
    return {(site.name, n) for site, chosen in neurons.items() for n in chosen}


def chosen_of(*sizes):
    return {site: list(range(n)) for site, n in zip(SITES, sizes, strict=True)}


@pytest.mark.parametrize("order", ORDERS)
def test_exactly_what_is_needed_is_left(order):
    judge = Judge({("a", 3), ("c", 7)})
    left = refined(chosen_of(10, 2, 20), judge.ask, judge.confirm, order=order)
    assert left == {SITES[0]: [3], SITES[1]: [], SITES[2]: [7]}
    assert judge.confirmed == 1
    if order == "one-by-one":
        assert [len(flat(c)) for c in judge.asked[:4]] == [12, 30, 20, 29]  # layers c, b, a; then the first of c
        assert len(judge.asked) == 3 + 30
    else:
        assert len(judge.asked) < 3 + 30 - 8


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("ahead", [1, 5])
def test_questions_asked_ahead_change_no_answer(order, share, ahead):
    drawn = random.Random(f"{share}")
    chosen = chosen_of(40, 0, 60)
    needed = {one for one in sorted(flat(chosen)) if drawn.random() < share}
    judge, alone = Judge(needed), Judge(needed)
    left = refined(chosen, judge.ask, judge.confirm, order=order, ahead=lambda: ahead)
    assert flat(left) == needed
    assert left == refined(chosen, alone.ask, alone.confirm, order=order)
    assert judge.batches <= alone.batches
    assert ahead == 1 or judge.batches < 0.8 * alone.batches


def test_no_question_is_asked_twice():
    for order in ORDERS:
        judge = Judge({("a", 3), ("a", 4), ("c", 7)})
        refined(chosen_of(16, 3, 8), judge.ask, judge.confirm, order=order)
        asked = [frozenset(flat(c)) for c in judge.asked]
        assert len(set(asked)) == len(asked)


def test_sized_groups_ask_less_where_few_are_needed_and_hardly_more_where_most_are():
    counts = {}
    for share in (0.02, 0.8):
        for order in ORDERS:
            drawn = random.Random(f"{share}")
            judge = Judge({one for one in sorted(flat(chosen_of(0, 0, 300))) if drawn.random() < share})
            refined(chosen_of(0, 0, 300), judge.ask, judge.confirm, order=order)
            counts[share, order] = len(judge.asked)
    assert counts[0.02, "sized"] < 0.25 * counts[0.02, "one-by-one"]
    assert counts[0.8, "sized"] < 1.03 * counts[0.8, "one-by-one"] < 0.7 * counts[0.8, "grouped"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ahead", [1, 4])
def test_what_is_refuted_late_is_taken_back(order, ahead):
    judge = Judge({("a", 3)}, late={("a", 3), ("b", 1), ("b", 5), ("c", 9)})
    left = refined(chosen_of(10, 8, 12), judge.ask, judge.confirm, order=order, ahead=lambda: ahead)
    assert flat(left) == {("a", 3), ("b", 1), ("b", 5), ("c", 9)}
    assert judge.confirmed == 4


def test_a_refusal_that_ask_never_learns_ends_all_the_same():
    refused = []

    def confirm(choice):
        refused.append(flat(choice))
        return len(flat(choice)) > 2

    left = refined(chosen_of(2, 0, 3), lambda choices: [True for _ in choices], confirm, order="one-by-one")
    assert len(flat(left)) == 3
    assert len(refused) > 1
