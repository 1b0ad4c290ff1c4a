"""Folders as the library `datasets` lays them out: prompts and originals at once, nothing unpacked."""

import csv
import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from amnestic import stages
from amnestic.audit.request import references_for
from amnestic.core.errors import InputError
from amnestic.sources.image_sets import read_captioned
from amnestic.sources.images import ImageProblem, open_image
from amnestic.sources.prompts import read_prompts
from amnestic.sources.references import read_references

TEXTS = ["a red cat", 'two dogs, "one"\nof them <b>big</b>', "日本語"]


def pixels(seed, side=64):
    small = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return np.kron(small, np.ones((side // 8, side // 8, 1), dtype=np.uint8))


def png(seed):
    file = io.BytesIO()
    Image.fromarray(pixels(seed)).save(file, "PNG")
    return file.getvalue()


def write_metadata(folder, kind, rows):
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")
    elif kind == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    else:
        with (folder / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def listed_folder(folder, kind="csv", column="text", split="train"):
    inside = folder / split
    inside.mkdir(parents=True)
    for seed in range(3):
        (inside / f"{seed}.png").write_bytes(png(seed))
    rows = [
        {"file_name": f"{i}.png", column: text, "aesthetic": 5.5, "label": i, "work": f"w{i}"}
        for i, text in enumerate(TEXTS)
    ]
    write_metadata(inside, kind, rows)
    return folder


def packed_folder(folder, **changes):
    data = folder / "data"
    data.mkdir(parents=True)
    rows = [{"image": {"bytes": png(i), "path": f"{i}.png"}, "caption": t, "width": 64} for i, t in enumerate(TEXTS)]
    for number, value in changes.get("images", {}).items():
        rows[number]["image"] = value
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("caption", pa.string()), ("width", pa.int64())])
    table = pa.Table.from_pylist(rows, schema=schema)
    parquet.write_table(table, data / "train-00000-of-00001.parquet", row_group_size=2)
    return folder


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_metadata_names_captions_and_pictures(tmp_path, kind, column):
    folder = listed_folder(tmp_path / "set", kind, column)
    prompts = read_prompts(folder)
    assert [p.prompt for p in prompts] == TEXTS
    assert [p.image for p in prompts] == [f"train/{i}.png" for i in range(3)]
    assert [p.work for p in prompts] == ["w0", "w1", "w2"]
    assert {p.label for p in prompts} == {"none"}  # class labels are no labels of a prompt list
    assert len({p.id for p in prompts}) == 3
    references = read_references(folder, extra=[p.image for p in prompts])
    assert references.counts() == {"ok": 3, "unreadable": 0, "missing": 0}


def test_splits_are_read_together_and_labels_of_ours_understood(tmp_path):
    for split in ("train", "test"):
        listed_folder(tmp_path, split=split)
    rows = [{"file_name": "0.png", "text": "a", "label": "heldout", "id": "mine"}]
    write_metadata(tmp_path / "test", "csv", rows)
    prompts = read_prompts(tmp_path)
    assert [p.image for p in prompts] == ["test/0.png", *(f"train/{i}.png" for i in range(3))]
    assert (prompts[0].id, prompts[0].label) == ("mine", "heldout")


def test_pictures_inside_parquet_are_read_where_they_are(tmp_path):
    folder = packed_folder(tmp_path / "set")
    before = sorted(tmp_path.rglob("*"))
    prompts = read_prompts(folder)
    assert [p.prompt for p in prompts] == TEXTS
    assert prompts[2].image == "data/train-00000-of-00001.parquet/2"
    references = read_references(folder, extra=[p.image for p in prompts])
    assert references.counts() == {"ok": 3, "unreadable": 0, "missing": 0}
    for seed, one in enumerate(references.references):
        assert one.sha256 == hashlib.sha256(png(seed)).hexdigest()
        assert np.array_equal(references.load(one), pixels(seed))
    assert sorted(tmp_path.rglob("*")) == before


def test_captioned_pictures_of_either_layout(tmp_path):
    for folder in (listed_folder(tmp_path / "a", "jsonl"), packed_folder(tmp_path / "b")):
        found = list(read_captioned(folder))
        assert [text for text, _ in found] == TEXTS
        assert all(np.array_equal(picture, pixels(i)) for i, (_, picture) in enumerate(found))


def test_rows_without_usable_pictures_are_counted(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(9))
    images = {
        0: {"bytes": b"<html>", "path": None},
        1: {"bytes": None, "path": "../../secret.png"},
        2: {"bytes": None, "path": None},
    }
    folder = packed_folder(tmp_path / "set", images=images)
    with pytest.raises(InputError, match="elsewhere"):
        raise_of(folder, 1)
    prompts = read_prompts(folder)
    references = read_references(folder, extra=[p.image for p in prompts])
    assert references.counts() == {"ok": 0, "unreadable": 3, "missing": 0}
    reasons = [r.reason for r in references.references]
    assert "not an image" in reasons[0]
    assert "elsewhere" in reasons[1]
    assert "neither bytes nor a path" in reasons[2]


def raise_of(folder, row):
    return open_image(folder / "data" / "train-00000-of-00001.parquet" / str(row))


def test_a_row_may_name_a_file_beside_it(tmp_path):
    folder = packed_folder(tmp_path / "set", images={1: {"bytes": None, "path": "kept/1.png"}})
    (folder / "data" / "kept").mkdir()
    (folder / "data" / "kept" / "1.png").write_bytes(png(1))
    assert np.array_equal(raise_of(folder, 1), pixels(1))


def test_a_row_that_is_not_there(tmp_path):
    folder = packed_folder(tmp_path / "set")
    with pytest.raises(ImageProblem, match="no row 3"):
        raise_of(folder, 3)
    with pytest.raises(ImageProblem, match="no such file"):
        open_image(folder / "data" / "other.parquet" / "0")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"file_name": "0.png", "words": "a"}], "expected a column caption, text, prompt"),
        ([{"file_name": "", "text": "a"}], "names no file"),
        ([{"file_name": "../../x.png", "text": "a"}], "must stay inside"),
        ([{"file_name": "0.png", "text": " "}], "the prompt is empty"),
    ],
)
def test_metadata_that_cannot_be_used(tmp_path, rows, words):
    write_metadata(tmp_path, "csv", rows)
    with pytest.raises(InputError, match=words):
        read_prompts(tmp_path)


def test_folders_without_captions(tmp_path):
    (tmp_path / "0.png").write_bytes(png(0))
    with pytest.raises(InputError, match=r"folder without metadata\.csv"):
        read_prompts(tmp_path)
    parquet.write_table(pa.Table.from_pylist([{"text": "a"}]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="expected a column of images"):
        read_prompts(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(InputError, match="not a readable parquet"):
        read_prompts(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match="one object a line"):
        read_prompts(tmp_path)


@pytest.mark.parametrize("make", [listed_folder, packed_folder])
def test_an_audit_of_a_folder_that_is_both(request_of, tmp_path, make):
    folder = make(tmp_path / "set")
    request = replace(request_of, prompts=folder, references=references_for(folder, None), out=tmp_path / "out")
    summary = stages.audit(request)
    assert summary is not None
    listed = json.loads((tmp_path / "out" / "references.json").read_text())
    assert sum(one["status"] == "ok" for one in listed) == 3


def test_a_list_alone_needs_references(tmp_path):
    with pytest.raises(InputError, match="--references"):
        references_for(tmp_path / "prompts.csv", None)
