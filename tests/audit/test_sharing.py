import json
import math
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amnestic.audit.prompt_sets import disjoint_sets, work_of
from amnestic.audit.set_pairs import chance_in_layer, chance_over_layers
from amnestic.audit.sharing import ALL_LAYERS, MEAN_OVER_LAYERS, all_units, shared_subspace, sharing_table
from amnestic.core.errors import InputError
from amnestic.core.records import Prompt, plain
from amnestic.core.units import Site, Units
from amnestic.measures.overlap import expected_random_iou, holm

FAST = settings(max_examples=40, deadline=None, database=None)
SITES = tuple(
    Site(name=f"{stage}_layer", kind="ffn-weight", stage=stage, shape=shape)
    for stage, shape in (("down", (10, 40)), ("mid", (20, 20)), ("up", (10, 60)))
)
PLANTED = "mid_layer"


def units(masks, *, sites=SITES, model="model"):
    return Units(sites=sites, masks=masks, model=model)


def random_units(seed, *, share=0.05, planted=False):
    """Masks by chance; in the planted layer, nine tenths of sixty units that all such sets have in common as well."""
    rng = np.random.default_rng(seed)
    masks = {site.name: torch.from_numpy(rng.random(site.shape) < share) for site in SITES}
    if planted:
        common = torch.zeros(400, dtype=torch.bool)
        common[::7] = True
        masks[PLANTED] |= common.reshape(20, 20) & torch.from_numpy(rng.random((20, 20)) < 0.9)
    return units(masks)


def chosen(*indices, site=SITES[0], total=None):
    mask = torch.zeros(total or site.size, dtype=torch.bool)
    mask[list(indices)] = True
    return mask.reshape(-1 if total else site.shape)


def one_layer(*sets):
    site = Site(name="only", kind="value", stage="mid", shape=(10,))
    return [units({"only": chosen(*s, total=10)}, sites=(site,)) for s in sets]


PLANTED_SETS = [random_units(i, planted=True) for i in range(6)]
PLAIN_SETS = [random_units(100 + i) for i in range(6)]


def layer(shared, name):
    return next(found for found in shared.layers if found.site == name)


class TestDisjointSets:
    def test_no_work_is_in_two_sets_and_each_stands_once(self):
        items = [Prompt(id=f"{w}-{i}", prompt="x", work=f"w{w}") for w in range(12) for i in range(3)]
        sets = disjoint_sets(items, n_sets=3, size=4, seed=0)
        works = [p.work for s in sets for p in s]
        assert [len(s) for s in sets] == [4, 4, 4]
        assert sorted(works) == sorted({f"w{w}" for w in range(12)})
        assert all(p.id.endswith("-0") for s in sets for p in s)

    def test_the_seed_decides(self):
        items = [Prompt(id=f"p{i}", prompt="x") for i in range(30)]
        one, again, other = (disjoint_sets(items, n_sets=3, size=10, seed=seed) for seed in (0, 0, 1))
        assert one == again
        assert [{p.id for p in s} for s in one] != [{p.id for p in s} for s in other]

    def test_prompts_of_one_original_are_of_one_work(self):
        items = [Prompt(id=f"p{i}", prompt="x", image=f"{i // 2}.png") for i in range(8)]
        assert len(disjoint_sets(items, n_sets=2, size=2, seed=0)) == 2
        with pytest.raises(InputError, match="got 4; 2 sets of 2 are possible, or 3 of 1"):
            disjoint_sets(items, n_sets=3, size=2, seed=0)

    @pytest.mark.parametrize(("n_sets", "size"), [(0, 3), (2, 0), (-1, 2)])
    def test_numbers_without_meaning_are_refused(self, n_sets, size):
        with pytest.raises(InputError, match="at least one set"):
            disjoint_sets([Prompt(id="a", prompt="x")], n_sets=n_sets, size=size, seed=0)

    @given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3))
    @FAST
    def test_sets_are_disjoint_or_refused(self, works, n_sets, size, seed):
        items = [Prompt(id=f"p{i}", prompt="x", work=f"w{w}") for i, w in enumerate(works)]
        if len(set(works)) < n_sets * size:
            with pytest.raises(InputError, match=f"{len(set(works)) // size} sets of {size} are possible"):
                disjoint_sets(items, n_sets=n_sets, size=size, seed=seed)
        else:
            sets = disjoint_sets(items, n_sets=n_sets, size=size, seed=seed)
            found = [work_of(p) for s in sets for p in s]
            assert len(found) == len(set(found)) == n_sets * size


def literal_iou(one, other):
    a, b = (set(np.flatnonzero(m.numpy().reshape(-1)).tolist()) for m in (one, other))
    return len(a & b) / len(a | b) if a | b else None


def literal_mean(values):
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def test_a_planted_subspace_is_found_where_it_was_planted_and_nowhere_else():
    shared = shared_subspace(PLANTED_SETS, PLAIN_SETS, seed=0, n_prompts=10)
    found = layer(shared, PLANTED)
    assert found.test.exact
    assert found.test.p_value == 1 / math.comb(12, 6)
    assert found.p_adjusted == pytest.approx(3 / math.comb(12, 6))
    assert found.within_memorized.iou > 0.5 > 5 * found.with_controls.iou
    assert all(other.p_adjusted > 0.05 for other in shared.layers if other.site != PLANTED)
    assert shared.whole.test.p_value == 1 / math.comb(12, 6)
    assert shared.notes == ()


def test_what_controls_share_is_no_finding():
    shared = shared_subspace(PLAIN_SETS, PLANTED_SETS, seed=0)
    assert layer(shared, PLANTED).within_controls.iou > 0.5
    assert layer(shared, PLANTED).test.p_value > 0.05
    everyone = shared_subspace(PLANTED_SETS[:3], PLANTED_SETS[3:], seed=0)
    assert layer(everyone, PLANTED).with_controls.iou > 0.5
    assert layer(everyone, PLANTED).test.p_value > 0.05


def test_independent_masks_are_rarely_called_shared_and_overlap_as_chance_says():
    found = [
        shared_subspace(
            [random_units([run, i]) for i in range(4)], [random_units([run, 50 + i]) for i in range(4)], seed=0
        )
        for run in range(40)
    ]
    p_values = [shared.whole.test.p_value for shared in found]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.15
    assert 0.35 < np.mean(p_values) < 0.65
    for site in SITES:
        layers = [layer(shared, site.name) for shared in found]
        for kind in ("within_memorized", "with_controls", "within_controls"):
            seen, expected = (
                np.mean([getattr(getattr(lay, kind), key) for lay in layers]) for key in ("iou", "random")
            )
            assert seen == pytest.approx(expected, rel=0.12)


def test_numbers_are_those_of_a_literal_count():
    ours, theirs = PLANTED_SETS[:3], PLAIN_SETS[:4]
    shared = shared_subspace(ours, theirs, seed=0)
    assert [lay.site for lay in shared.layers] == [site.name for site in SITES]
    for site, found in zip(SITES, shared.layers, strict=True):
        a, b = ([u.masks[site.name] for u in sets] for sets in (ours, theirs))
        for got, pairs in (
            (found.within_memorized, combinations(a, 2)),
            (found.with_controls, product(a, b)),
            (found.within_controls, combinations(b, 2)),
        ):
            known = list(pairs)
            assert got.iou == pytest.approx(literal_mean(literal_iou(*pair) for pair in known))
            sizes = [(int(x.sum()), int(y.sum())) for x, y in known]
            assert got.random == pytest.approx(literal_mean(expected_random_iou(s, site.size) for s in sizes))
            assert (got.n, got.empty_share) == (len(known), 0.0)
        assert found.memorized == tuple(int(m.sum()) for m in a)
        assert (found.stage, found.n_units) == (site.stage, site.size)
        statistic = found.within_memorized.iou - found.with_controls.iou
        assert found.test.statistic == pytest.approx(statistic, abs=1e-9)
    assert [lay.p_adjusted for lay in shared.layers] == holm([lay.test.p_value for lay in shared.layers])
    sets = [*ours, *theirs]
    for i, j in product(range(7), repeat=2):
        wanted = None if i == j else literal_iou(all_units(sets[i]), all_units(sets[j]))
        assert shared.matrix[i][j] == wanted
    assert shared.share_memorized == tuple(u.share for u in ours)
    assert shared.share_controls == tuple(u.share for u in theirs)
    assert shared.whole.n_units == 1400
    means = [lay.with_controls.iou for lay in shared.layers]
    assert shared.layer_means["with_controls"] == pytest.approx(sum(means) / 3)


def test_the_order_of_sets_does_not_matter():
    one = shared_subspace(PLANTED_SETS, PLAIN_SETS, seed=0)
    order = [3, 0, 5, 1, 4, 2]
    other = shared_subspace([PLANTED_SETS[i] for i in order], [PLAIN_SETS[i] for i in reversed(order)], seed=1)
    for a, b in zip(one.layers, other.layers, strict=True):
        assert a.test == b.test
        assert a.within_memorized.iou == pytest.approx(b.within_memorized.iou)
        assert a.with_controls.random == pytest.approx(b.with_controls.random)
    assert [other.matrix[0][k] for k in range(1, 6)] == [one.matrix[3][order[k]] for k in range(1, 6)]


def test_empty_masks_are_left_out_when_paired_and_count_as_zero_beside_others():
    shared = shared_subspace(one_layer((), (), (0, 1)), one_layer((0, 1), ()), seed=0)
    found = shared.layers[0]
    assert found.within_memorized.iou == 0.0
    assert found.within_memorized.empty_share == pytest.approx(1 / 3)
    # of the six pairs with controls, two are of empty masks; (0, 1) with itself is one of the other four
    assert found.with_controls.iou == 0.25
    assert found.with_controls.empty_share == pytest.approx(2 / 6)
    assert found.within_controls.iou == 0.0
    assert shared.matrix[0] == (None, None, 0.0, 0.0, None)
    assert "left out" in shared.convention


def test_a_layer_of_empty_masks_has_no_value_and_does_not_count_as_a_test():
    def emptied(one):
        return units(dict(one.masks) | {"up_layer": torch.zeros(10, 60, dtype=torch.bool)})

    shared = shared_subspace([emptied(u) for u in PLANTED_SETS], [emptied(u) for u in PLAIN_SETS], seed=0)
    empty, found = layer(shared, "up_layer"), layer(shared, PLANTED)
    assert (empty.within_memorized.iou, empty.within_memorized.random, empty.test.p_value) == (None, None, None)
    assert (empty.within_memorized.empty_share, empty.p_adjusted) == (1.0, None)
    assert found.p_adjusted == pytest.approx(2 * found.test.p_value)
    assert shared.notes == ("1 of 3 layers have no p-value: too many masks are empty.",)
    known = [lay.within_memorized.iou for lay in shared.layers[:2]]
    assert shared.layer_means["within_memorized"] == pytest.approx(sum(known) / 2)


def test_equal_masks_share_everything():
    shared = shared_subspace(one_layer((1, 2), (1, 2)), one_layer((3,), (4,)), seed=0)
    assert (shared.whole.within_memorized.iou, shared.whole.with_controls.iou) == (1.0, 0.0)
    assert shared.whole.test.statistic == 1.0


def test_chance_over_layers_is_that_of_masks_with_as_many_units_of_every_layer():
    n_units, counts = np.array([200, 1000]), np.array([[80, 60], [50, 40]])
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(400):
        shared = chosen_units = 0
        for n, (one, other) in zip(n_units, counts, strict=True):
            a, b = (set(rng.choice(n, k, replace=False).tolist()) for k in (one, other))
            shared, chosen_units = shared + len(a & b), chosen_units + len(a | b)
        seen.append(shared / chosen_units)
    assert chance_over_layers(counts, n_units)[0, 1] == pytest.approx(np.mean(seen), rel=0.02)
    flat = expected_random_iou((130, 100), 1200)
    assert chance_over_layers(counts, n_units)[0, 1] > 1.5 * flat
    np.testing.assert_allclose(
        chance_over_layers(counts[1:], n_units[1:])[0, 1], chance_in_layer(counts[1], 1000)[0, 1], rtol=0.02
    )
    assert np.isnan(chance_over_layers(np.zeros((2, 2), dtype=int), n_units)).all()


def test_everything_becomes_json():
    shared = shared_subspace(one_layer((), (), (0, 1)), one_layer((0, 1), ()), seed=0)
    told = json.loads(json.dumps(plain(shared), allow_nan=False))
    assert told["layers"][0]["within_memorized"]["iou"] == 0.0
    assert told["matrix"][0][0] is None
    json.dumps(sharing_table(shared), allow_nan=False)


def test_the_table_has_a_row_per_layer_and_two_over_all():
    shared = shared_subspace(PLANTED_SETS, PLAIN_SETS, seed=0)
    rows = sharing_table(shared)
    assert [r["site"] for r in rows] == [*(s.name for s in SITES), ALL_LAYERS, MEAN_OVER_LAYERS]
    assert all(list(r) == list(rows[0]) for r in rows[:-1])
    assert set(rows[-1]) == set(rows[0])
    found = layer(shared, PLANTED)
    row = rows[1]
    assert (row["within_memorized"], row["p_adjusted"]) == (found.within_memorized.iou, found.p_adjusted)
    assert row["share_memorized"] == pytest.approx(np.mean(found.memorized) / 400)
    assert rows[3]["share_controls"] == pytest.approx(np.mean(shared.share_controls))
    assert rows[3]["p_adjusted"] is None
    assert rows[-1]["within_memorized"] == shared.layer_means["within_memorized"]
    assert rows[-1]["p_value"] is None


def test_what_is_too_little_is_said():
    few = shared_subspace(PLANTED_SETS[:3], PLAIN_SETS[:5], seed=0, n_prompts=4).notes
    assert few[:2] == (
        "Only 3 memorized sets; at least 5 are asked for.",
        "Only 4 prompts per set; at least 10 works are asked for.",
    )
    assert "no p-value can be below 0.018, and none that is corrected over 3 layers below 0.054" in few[2]
    assert shared_subspace(PLANTED_SETS[:5], PLAIN_SETS[:5], seed=0, n_prompts=10).notes == ()
    sampled = shared_subspace(PLANTED_SETS, PLAIN_SETS, seed=0, n_permutations=10)
    assert not sampled.whole.test.exact
    assert "no p-value can be below 0.091" in sampled.notes[0]


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="at least two memorized and two control sets, got 6 and 1"):
        shared_subspace(PLANTED_SETS, PLAIN_SETS[:1], seed=0)
    stranger = units(PLAIN_SETS[0].masks, model="other")
    with pytest.raises(InputError, match="one model, got model and other"):
        shared_subspace(PLANTED_SETS, [PLAIN_SETS[0], stranger], seed=0)
    fewer = units({s.name: PLAIN_SETS[0].masks[s.name] for s in SITES[:2]}, sites=SITES[:2])
    with pytest.raises(InputError, match="one of 3 and another of 2"):
        shared_subspace(PLANTED_SETS, [PLAIN_SETS[0], fewer], seed=0)
