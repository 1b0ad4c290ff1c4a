import doctest
import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amnestic.core.errors import InputError, NotFinite
from amnestic.measures import similarity
from amnestic.measures.similarity import diversity, nearest, pair_scores, paired, same_seed

FAST = settings(max_examples=30, deadline=None, database=None)
SEEDS = st.integers(0, 2**32)


def unit(*shape, seed=0, dtype=torch.float32):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=-1).to(dtype)


def cosine(one, other):
    return math.fsum(a * b for a, b in zip(one.tolist(), other.tolist(), strict=True))


def exact(one, other):
    """The documented cosine in whole numbers of any size: no floating point can round here."""
    dot = sum(round(a * 2**26) * round(b * 2**26) for a, b in zip(one.tolist(), other.tolist(), strict=True))
    whole, rest = divmod(dot, 2**28)
    up = rest > 2**27 or (rest == 2**27 and whole % 2)
    return max(-(2**24), min(2**24, whole + up)) / 2**24


def nearest_by_loops(queries, references, k):
    values, indices = [], []
    for query in queries:
        ranked = sorted((-exact(query, r), j) for j, r in enumerate(references))[:k]
        values.append([-score for score, _ in ranked])
        indices.append([j for _, j in ranked])
    return torch.tensor(values), torch.tensor(indices)


def lower_median(values):
    return sorted(values)[(len(values) - 1) // 2]


def test_examples_in_docstrings():
    assert doctest.testmod(similarity).failed == 0


@FAST
@given(seed=SEEDS, n=st.integers(1, 5), r=st.integers(1, 9), chunk=st.integers(1, 12), data=st.data())
def test_nearest_equals_loops_for_every_chunk(seed, n, r, chunk, data):
    k = data.draw(st.integers(1, r))
    queries, references = unit(n, 5, seed=seed), unit(r, 5, seed=seed + 1)
    values, indices = nearest(queries, references, k=k, chunk=chunk)
    expected_values, expected_indices = nearest_by_loops(queries, references, k)
    assert torch.equal(values, expected_values)
    assert torch.equal(indices, expected_indices)


@FAST
@given(seed=SEEDS, chunk=st.integers(1, 700), k=st.integers(1, 20))
def test_chunks_never_change_a_bit(seed, chunk, k):
    queries = unit(40, 64, seed=seed)
    # many exact duplicates: ties are the rule, not the exception
    references = unit(60, 64, seed=seed + 1)[torch.arange(600) % 60]
    one_shot = nearest(queries, references, k=k)
    chunked = nearest(queries, references, k=k, chunk=chunk)
    assert torch.equal(one_shot[0], chunked[0])
    assert torch.equal(one_shot[1], chunked[1])


def test_blocks_of_queries_change_nothing(monkeypatch):
    queries, references = unit(50, 16), unit(30, 16, seed=1)
    whole = nearest(queries, references, k=3)
    monkeypatch.setattr(similarity, "BLOCK", 60)
    blocked = nearest(queries, references, k=3)
    assert torch.equal(whole[0], blocked[0])
    assert torch.equal(whole[1], blocked[1])


def test_no_product_is_larger_than_a_block(monkeypatch):
    sizes = []
    keys = similarity._keys
    monkeypatch.setattr(similarity, "BLOCK", 100)
    monkeypatch.setattr(similarity, "_keys", lambda dots, start: sizes.append(dots.numel()) or keys(dots, start))
    nearest(unit(33, 4), unit(70, 4, seed=1), chunk=20)
    assert max(sizes) == 100
    assert sum(sizes) == 33 * 70


def test_duplicates_tie_and_lower_index_wins():
    references = unit(7, 512, seed=3)[[4, 1, 4, 2, 4, 1]]
    values, indices = nearest(references[[0, 1]], references, k=3, chunk=2)
    assert indices.tolist() == [[0, 2, 4], [1, 5, indices[1, 2].item()]]
    assert values[0].tolist() == [1.0, 1.0, 1.0]


def test_nearest_is_the_cosine_of_float64():
    queries, references = unit(20, 512), unit(200, 512, seed=1)
    values, indices = nearest(queries, references, k=200)
    expected = queries.double() @ references.double().T
    torch.testing.assert_close(values.double(), expected.gather(1, indices), atol=4e-7, rtol=0)
    assert (values.diff(dim=1) <= 0).all()
    assert (indices.sort(dim=1).values == torch.arange(200)).all()


@FAST
@given(seed=SEEDS)
def test_order_of_queries_and_references_does_not_matter(seed):
    queries, references = unit(6, 8, seed=seed), unit(20, 8, seed=seed + 1)
    values, indices = nearest(queries, references, k=4)
    shuffle = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    turned_values, turned = nearest(queries.flip(0), references[shuffle], k=4)
    assert torch.equal(turned_values.flip(0), values)
    distinct = (values.diff(dim=1) != 0).all()
    assert not distinct or torch.equal(shuffle[turned].flip(0), indices)


def test_negative_cosines_and_signs():
    references = torch.tensor([[-1.0, 0.0], [0.0, -1.0], [-0.6, -0.8]])
    values, indices = nearest(torch.tensor([[1.0, 0.0]]), references, k=3)
    assert indices.tolist() == [[1, 2, 0]]
    torch.testing.assert_close(values, torch.tensor([[0.0, -0.6, -1.0]]))
    assert math.copysign(1, values[0, 0].item()) == 1
    orthogonal = paired(torch.tensor([[[-1.0, 0.0]]]), torch.tensor([[0.0, 1.0]]))
    assert math.copysign(1, orthogonal.item()) == 1


def test_cosine_never_leaves_its_range():
    same = unit(500, 512)
    assert paired(same[:, None], same).max() <= 1
    assert paired(same[:, None], -same).min() >= -1


def test_no_queries_gives_no_rows():
    values, indices = nearest(torch.empty(0, 4), unit(3, 4), k=2)
    assert values.shape == indices.shape == (0, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_precision_is_read(dtype):
    vectors = unit(3, 2, 64, dtype=dtype)
    before = vectors.clone()
    assert paired(vectors, vectors[:, 0]).dtype == torch.float32
    assert torch.equal(vectors, before)


def test_paired_equals_loops_and_nearest():
    generated, originals = unit(4, 3, 128), unit(4, 128, seed=1)
    scores = paired(generated, originals)
    for p in range(4):
        for s in range(3):
            assert scores[p, s].item() == exact(generated[p, s], originals[p])
            assert scores[p, s].item() == pytest.approx(cosine(generated[p, s], originals[p]), abs=4e-7)
            assert nearest(generated[p, s : s + 1], originals[p : p + 1])[0].item() == scores[p, s].item()


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
def test_pairs_and_diversity_equal_loops(seeds):
    generated = unit(3, seeds, 16)
    scores = pair_scores(generated)
    for p in range(3):
        expected = [exact(a, b) for a, b in combinations(generated[p], 2)]
        assert scores[p].tolist() == expected
        assert diversity(generated)[p].item() == lower_median(expected)


@FAST
@given(seed=SEEDS, seeds=st.integers(2, 6))
def test_order_of_seeds_does_not_matter(seed, seeds):
    one, other = unit(2, seeds, 8, seed=seed), unit(2, seeds, 8, seed=seed + 1)
    order = torch.randperm(seeds, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(diversity(one), diversity(one[:, order]))
    assert torch.equal(same_seed(one, other), same_seed(one[:, order], other[:, order]))
    assert torch.equal(same_seed(one, other), same_seed(other, one))


@pytest.mark.parametrize("seeds", [0, 1])
def test_diversity_of_too_few_seeds_is_nan(seeds):
    assert pair_scores(unit(2, seeds, 8)).shape == (2, 0)
    assert diversity(unit(2, seeds, 8)).isnan().tolist() == [True, True]


def test_same_seed_equals_loops():
    one, other = unit(3, 4, 16), unit(3, 4, 16, seed=1)
    for p, value in enumerate(same_seed(one, other).tolist()):
        assert value == lower_median([exact(a, b) for a, b in zip(one[p], other[p], strict=True)])
    assert same_seed(one, one).tolist() == [1.0, 1.0, 1.0]
    assert same_seed(one[:, :0], other[:, :0]).isnan().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest(unit(2, 4), unit(3, 5)), "same descriptor"),
        (lambda: nearest(unit(2, 4), unit(3, 4), k=4), "number of references"),
        (lambda: nearest(unit(2, 4), unit(3, 4), k=0), "number of references"),
        (lambda: nearest(unit(2, 4), torch.empty(0, 4)), "number of references"),
        (lambda: nearest(unit(2, 4), unit(3, 4), chunk=0), "chunk"),
        (lambda: nearest(unit(4), unit(3, 4)), "2 axes"),
        (lambda: nearest(2 * unit(2, 4), unit(3, 4)), "norm of 2"),
        (lambda: nearest(unit(2, 4), torch.zeros(3, 4)), "norm of 0"),
        (lambda: paired(unit(2, 3, 4), unit(3, 4)), "one original per prompt"),
        (lambda: paired(unit(2, 4), unit(2, 4)), "3 axes"),
        (lambda: pair_scores(unit(2, 4)), "3 axes"),
        (lambda: same_seed(unit(2, 3, 4), unit(2, 2, 4)), "one shape"),
    ],
)
def test_refusals_say_what_to_do(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_descriptors_that_are_not_finite_are_refused(bad):
    broken = unit(2, 3, 4)
    broken[1, 1, 1] = bad
    for call in (lambda: paired(broken, unit(2, 4)), lambda: diversity(broken), lambda: nearest(broken[1], unit(3, 4))):
        with pytest.raises(NotFinite):
            call()
