"""Reference sets and the works they show."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from amnestic.core.errors import InputError, NotFinite
from amnestic.sources import references
from amnestic.sources.images import ImageProblem
from amnestic.sources.references import cluster_works, read_references


def save(path, seed=0, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def by_id(found):
    return {r.id: r for r in found.references}


# --- reading -------------------------------------------------------------------------------------


def test_a_folder_is_read_sorted_and_recursively(tmp_path):
    pixels = save(tmp_path / "b.PNG", 1)
    save(tmp_path / "a" / "z.jpeg", 2)
    save(tmp_path / "a" / "deep" / "y.webp", 3)
    (tmp_path / "notes.txt").write_text("no picture")
    found = read_references(tmp_path)
    assert [r.id for r in found.references] == ["a/deep/y.webp", "a/z.jpeg", "b.PNG"]
    assert found.counts() == {"ok": 3, "unreadable": 0, "missing": 0}
    last = found.references[-1]
    assert (last.width, last.height, last.status, last.reason, last.work) == (6, 4, "ok", "", "")
    np.testing.assert_array_equal(found.load(last), pixels)


def test_what_cannot_be_used_is_kept_with_its_reason(tmp_path):
    save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "zero.gif").touch()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    found = read_references(tmp_path, extra=["gone.png", "good.png", ""])
    assert found.counts() == {"ok": 1, "unreadable": 5, "missing": 1}
    told = {name: r.reason for name, r in by_id(found).items()}
    assert "truncated" in told["cut.png"]
    assert "not an image" in told["text.jpg"]
    assert "empty" in told["zero.gif"]
    assert "not a file" in told["pipe.png"]
    assert "no such file" in told["gone.png"]
    assert by_id(found)["cut.png"].sha256
    assert [r.id for r in found.usable()] == ["good.png"]
    with pytest.raises(ImageProblem, match="empty"):
        found.load(by_id(found)["zero.gif"])


def test_links_may_not_lead_out(tmp_path):
    folder, outside = tmp_path / "set", tmp_path / "outside"
    save(folder / "in.png")
    save(outside / "secret.png", 1)
    (folder / "alias.png").symlink_to("in.png")
    (folder / "out.png").symlink_to(outside / "secret.png")
    (folder / "dangling.png").symlink_to(outside / "none.png")
    (folder / "away").symlink_to(outside)
    (folder / "here").symlink_to(folder)
    found = by_id(read_references(folder, extra=["away/secret.png"]))
    assert sorted(found) == ["alias.png", "away", "away/secret.png", "dangling.png", "in.png", "out.png"]
    assert found["alias.png"].sha256 == found["in.png"].sha256
    for name in ("out.png", "dangling.png", "away", "away/secret.png"):
        assert found[name].status == "unreadable"
        assert "leads out of the reference folder" in found[name].reason
        assert found[name].sha256 == ""


def test_a_folder_reached_through_a_link(tmp_path):
    save(tmp_path / "real" / "a.png")
    (tmp_path / "link").symlink_to("real")
    assert read_references(tmp_path / "link").counts()["ok"] == 1


def test_a_single_picture(tmp_path):
    save(tmp_path / "blobs" / "a.png")
    save(tmp_path / "blobs" / "b.png", 1)
    assert [r.id for r in read_references(tmp_path / "blobs" / "a.png").references] == ["a.png"]
    (tmp_path / "named.png").symlink_to("blobs/a.png")
    assert read_references(tmp_path / "named.png").counts()["ok"] == 1


def test_named_paths_are_found_in_any_spelling_and_whatever_they_end_in(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.original")
    save(tmp_path / "b.png")
    found = read_references(tmp_path, extra=["./a.original", ".//b.png"])
    assert [r.id for r in found.usable()] == ["a.original", "b.png"]


def test_masks_are_left_out_unless_named(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "masks" / "a.png", 1)
    save(tmp_path / "masks" / "b.png", 2)
    found = read_references(tmp_path, extra=["masks/b.png"], leave_out=["./masks/a.png", "masks/b.png"])
    assert [r.id for r in found.references] == ["a.png", "masks/b.png"]


def test_a_name_that_is_not_utf8(tmp_path):
    save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff.png")
    found = read_references(tmp_path)
    assert found.references[0].status == "unreadable"
    assert "not UTF-8" in found.references[0].reason
    json.dumps(found.manifest(), ensure_ascii=False).encode()


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.png", "a/../../b.png", "C:\\a.png"])
def test_extra_paths_that_leave_the_folder(tmp_path, path):
    save(tmp_path / "a.png")
    with pytest.raises(InputError, match="must stay inside"):
        read_references(tmp_path, extra=[path])


def test_no_folder_and_no_picture(tmp_path):
    with pytest.raises(InputError, match="does not exist; give a folder of pictures"):
        read_references(tmp_path / "none")
    with pytest.raises(InputError, match="holds no picture; put files there that end in one of: bmp gif jpeg"):
        read_references(tmp_path)
    with pytest.raises(InputError, match="holds no picture"):
        read_references(tmp_path, extra=["gone.png"])


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def closed(path):
        raise PermissionError(13, "Permission denied", str(path))

    save(tmp_path / "a.png")
    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(InputError, match="cannot be listed"):
        read_references(tmp_path)


def test_digest_is_that_of_the_content(tmp_path):
    for name in ("one", "two"):
        save(tmp_path / name / "a.png")
        save(tmp_path / name / "b.png", 1)
    one, two = read_references(tmp_path / "one"), read_references(tmp_path / "two")
    assert one.digest == two.digest
    assert one.digest == one.with_works({"a.png": "w"}).digest
    save(tmp_path / "two" / "b.png", 2)
    assert read_references(tmp_path / "two").digest != one.digest
    assert read_references(tmp_path / "one", extra=["c.png"]).digest != one.digest
    (tmp_path / "one" / "b.png").rename(tmp_path / "one" / "c.png")
    assert read_references(tmp_path / "one").digest != one.digest


def test_manifest_is_plain_and_names_no_folder(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    found = read_references(tmp_path, extra=["c.png"]).with_works({"a.png": "w1", "other": "w2"})
    text = json.dumps(found.manifest())
    assert str(tmp_path) not in text
    assert [(r["id"], r["status"], r["work"]) for r in json.loads(text)] == [
        ("a.png", "ok", "w1"), ("b.png", "unreadable", ""), ("c.png", "missing", ""),
    ]  # fmt: skip


def test_a_file_that_changed_meanwhile_is_not_loaded(tmp_path):
    save(tmp_path / "a.png")
    found = read_references(tmp_path)
    save(tmp_path / "a.png", 1)
    with pytest.raises(InputError, match="changed since"):
        found.load(found.references[0])


# --- works ---------------------------------------------------------------------------------------


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
        patch.setattr(references, "_TILE", 4)
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
    monkeypatch.setattr(references, "_TILE", 50)
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


def test_references_set_aside_are_counted_with_their_reason(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", size=(300, 1))
    found = read_references(tmp_path)
    left = found.without({"b.png": "too thin", "c.png": "unknown"})
    assert left.counts() == {"ok": 1, "unreadable": 1, "missing": 0}
    assert (by_id(left)["b.png"].status, by_id(left)["b.png"].reason) == ("unreadable", "too thin")
    assert left.digest != found.digest
    with pytest.raises(ImageProblem, match="too thin"):
        left.load(by_id(left)["b.png"])


def test_a_reference_marked_missing_is_not_loaded(tmp_path):
    save(tmp_path / "a.png")
    found = read_references(tmp_path)
    with pytest.raises(ImageProblem, match="gone"):
        found.load(replace(found.references[0], status="missing", reason="gone"))
