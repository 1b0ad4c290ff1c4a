"""Which pictures show the same work."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amnestic.core.errors import InputError, NotFinite
from amnestic.sources import work_clusters
from amnestic.sources.work_clusters import cluster_works


def slow_groups(vectors, names, threshold, declared):
    """Declared works grow picture by picture, then single linkage to the letter: join until nothing changes."""

    def likeness(a, b):
        u, v = (vectors[names.index(n)] for n in (a, b))
        return u @ v / np.linalg.norm(u) / np.linalg.norm(v)

    def alike(a, b):
        return likeness(a, b) > threshold

    works = {name: declared[name] for name in names if declared.get(name)}
    near = list(works)
    while near:
        taken = {}
        for name in names:
            best = max(near, key=lambda other, name=name: likeness(name, other))
            if name not in works and alike(name, best):
                taken[name] = works[best]
        works |= taken
        near = list(taken)
    groups = [{n for n in works if works[n] == work} for work in set(works.values())]
    rest = [{name} for name in names if name not in works]
    return {frozenset(g) for g in groups + linked(rest, alike)}


def linked(groups, alike):
    changed = True
    while changed:
        changed = False
        for one in groups:
            for other in groups:
                if one is not other and any(alike(a, b) for a in one for b in other):
                    one |= other
                    groups.remove(other)
                    changed = True
                    break
            if changed:
                break
    return groups


def partition(works):
    groups = {}
    for name, work in works.items():
        groups.setdefault(work, set()).add(name)
    return {frozenset(g) for g in groups.values()}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 12), seed=st.integers(0, 2**31), threshold=st.floats(-0.5, 0.95))
def test_works_agree_with_the_slow_reference_in_any_order_and_tiling(data, n, seed, threshold):
    vectors = np.random.default_rng(seed).normal(size=(n, 3))
    names = [f"d{i % 3}/n{i % 5}.{'png' if i % 2 else 'jpg'}" for i in range(n)]
    declared = {name: data.draw(st.sampled_from(["", "", "w1", "w2", "n1"])) for name in names}
    works = cluster_works(torch.tensor(vectors), names, threshold=threshold, declared=declared)
    assert partition(works) == slow_groups(vectors, names, threshold, declared)
    assert list(works) == sorted(names)
    order = data.draw(st.permutations(range(n)))
    again = cluster_works(
        torch.tensor(vectors)[order], [names[i] for i in order], threshold=threshold, declared=declared
    )
    assert again == works
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work_clusters, "_TILE", 4)
        assert cluster_works(torch.tensor(vectors), names, threshold=threshold, declared=declared) == works


def works_of(rows, names, threshold=0.9, **declared):
    given_works = {k.replace("_", "."): v for k, v in declared.items()}
    return cluster_works(torch.tensor(rows), names, threshold=threshold, declared=given_works)


def test_a_chain_becomes_one_work():
    angles = torch.arange(5) * 0.3  # neighbours cos 0.955, ends cos 0.36
    rows = torch.stack([angles.cos(), angles.sin()], dim=1).tolist()
    assert set(works_of(rows, list("abcde"), 0.95).values()) == {"a"}


def test_the_threshold_itself_does_not_join():
    rows = [[1.0, 0.0], [0.0, 1.0]]
    assert len(set(works_of(rows, ["a", "b"], 0.0).values())) == 2
    assert len(set(works_of(rows, ["a", "b"], -0.01).values())) == 1


def test_rounding_does_not_lift_equal_pictures_above_one():
    rows = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    names = [f"{i:02d}" for i in range(40)]
    assert len(set(cluster_works(rows, names, threshold=1.0, declared={}).values())) == 40


def test_length_of_vectors_does_not_matter_and_zero_is_like_nothing():
    rows = [[1.0, 0.0], [500.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    works = works_of(rows, ["a", "b", "c", "d"])
    assert works == {"a": "a", "b": "a", "c": "c", "d": "d"}


def test_declared_works_join_and_name():
    rows = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.1, 1.0]]
    works = works_of(rows, ["a.png", "b.png", "c.png", "d.png"], a_png="w", b_png="w", d_png="v", gone_png="w")
    assert works == {"a.png": "w", "b.png": "w", "c.png": "v", "d.png": "v"}


def test_works_declared_different_stay_apart_however_alike():
    rows = [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    works = works_of(rows, ["a", "c", "b", "d"], c="w2", b="w9", d="w2")
    assert works == {"a": "w9", "b": "w9", "c": "w2", "d": "w2"}  # of two equally alike, the first takes a


def test_a_picture_that_was_left_open_joins_the_declared_work_it_shows():
    rows = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    assert works_of(rows, ["copy.png", "w.png", "x.png"], w_png="w") == {"copy.png": "w", "w.png": "w", "x.png": "x"}


def test_a_chain_between_two_declared_works_is_cut_where_it_is_longest():
    angles = torch.arange(6) * 0.3
    rows = torch.stack([angles.cos(), angles.sin()], dim=1).tolist()
    works = works_of(rows, list("abcdef"), 0.95, a="one", f="two")
    assert works == {"a": "one", "b": "one", "c": "one", "d": "two", "e": "two", "f": "two"}


def test_a_work_without_its_picture_keeps_its_name():
    assert works_of([[1.0, 0.0]], ["x/dog.png"], gone_png="dog") == {"x/dog.png": "x/dog"}


def test_works_never_share_a_name_by_accident():
    names = ["cat.png", "x/cat.png", "y/cat.png", "y/cat.jpg", "dog.png", "z/e.png"]
    works = cluster_works(torch.eye(6), names, threshold=0.5, declared={"z/e.png": "dog"})
    assert len(set(works.values())) == 6
    assert works == {
        "cat.png": "cat", "x/cat.png": "x/cat", "y/cat.png": "y/cat.png", "y/cat.jpg": "y/cat.jpg",
        "dog.png": "dog.png", "z/e.png": "dog",
    }  # fmt: skip


def test_a_declared_work_named_like_another_picture():
    with pytest.raises(InputError, match="also the path of a picture; rename it"):
        cluster_works(torch.eye(2), ["a", "b"], threshold=0.5, declared={"b": "a"})


def test_many_equal_pictures_across_tiles(monkeypatch):
    monkeypatch.setattr(work_clusters, "_TILE", 50)
    rows = torch.eye(4).repeat(60, 1)
    names = [f"{i:03d}" for i in range(240)]
    works = cluster_works(rows, names, threshold=0.9, declared={})
    assert works == {name: f"{int(name) % 4:03d}" for name in names}


def test_nothing_to_cluster():
    assert cluster_works(torch.zeros(0, 3), [], threshold=0.5, declared={}) == {}


def test_refused_input():
    eye = torch.eye(2)
    with pytest.raises(InputError, match="one descriptor per name, got shape"):
        cluster_works(eye, ["a"], threshold=0.5, declared={})
    with pytest.raises(InputError, match="'a' is given twice"):
        cluster_works(eye, ["a", "a"], threshold=0.5, declared={})
    for threshold in (1.1, float("nan")):
        with pytest.raises(InputError, match="must be a cosine"):
            cluster_works(eye, ["a", "b"], threshold=threshold, declared={})
    with pytest.raises(NotFinite, match="NaN or infinity"):
        cluster_works(eye / 0, ["a", "b"], threshold=0.5, declared={})
