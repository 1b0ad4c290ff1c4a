"""Reference sets."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from amnestic.core.errors import InputError
from amnestic.sources.images import ImageProblem
from amnestic.sources.references import named_references, read_references


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


def test_named_pictures_count_from_the_folder_or_one_above_it(tmp_path):
    save(tmp_path / "list" / "originals" / "a.png")
    save(tmp_path / "list" / "originals" / "unnamed.png", 1)
    inner = tmp_path / "list" / "originals"
    assert [(r.id, r.status) for r in named_references(inner, ["a.png"]).references] == [("a.png", "ok")]
    found = named_references(inner, ["originals/a.png", "originals/./a.png", "originals/gone.png"])
    assert found.folder == tmp_path / "list"
    assert [(r.id, r.status) for r in found.references] == [
        ("originals/a.png", "ok"),
        ("originals/gone.png", "missing"),
    ]


def test_named_pictures_that_are_nowhere_or_outside(tmp_path):
    (tmp_path / "originals").mkdir()
    assert [r.status for r in named_references(tmp_path / "originals", ["a.png"]).references] == ["missing"]
    with pytest.raises(InputError, match=r"a\.png"):
        named_references(tmp_path / "originals", ["../a.png"])
    with pytest.raises(InputError, match="expected a folder"):
        named_references(tmp_path / "none", ["a.png"])
