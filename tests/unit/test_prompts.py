"""Reading prompt lists."""

import csv
import io
import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from amnestic.core.errors import InputError
from amnestic.core.records import Prompt
from amnestic.sources.prompts import COLUMNS, prompts_digest, read_prompts, stays_inside

HOSTILE = (
    "<script>alert(1)</script>",
    '=cmd|"/c calc"!A1',
    "line one\nline two\r\nline three\rfour",
    "tab\there; semi, comma",
    "\x1b[31mred\x1b[0m \x07 \x85 \u2028 \u202e rtl",
    "[bold]rich[/bold] {{ jinja }} %s $(rm -rf /)",
    "'; DROP TABLE prompts; --",
    "emoji \U0001f600 and \ufeff inside",
)

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
prompts_text = text.filter(lambda t: t.strip())


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_prompts(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def prompts_or_sentence(path):
    try:
        return read_prompts(path)
    except InputError as error:
        return str(error)


def as_csv(rows, delimiter=","):
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter).writerows(rows)
    return stream.getvalue()


def test_all_canonical_columns(tmp_path):
    path = write(
        tmp_path,
        "a.csv",
        "id,prompt,image,label,work,rung,mask\n"
        'one,"A cat, sitting",img/one.png,vm,w1,3,masks/one.png\n'
        "two,A dog,,HeldOut,,,\n",
    )
    assert read_prompts(path) == (
        Prompt(
            id="one", prompt="A cat, sitting", image="img/one.png", label="VM", work="w1", rung=3, mask="masks/one.png"
        ),
        Prompt(id="two", prompt="A dog", label="heldout"),
    )


def test_nemo_layout(tmp_path):
    path = write(
        tmp_path,
        "memorized_laion_prompts.csv",
        ";Caption;URL;type;mean_sscd;max_sscd;Index\n"
        "0;Living in the Light, with Ann;http://x/a.jpg;VM;0.81;0.93;12\n"
        '1;"Prints; and ""more""";http://x/b.jpg;TM;;;7\n',
    )
    assert read_prompts(path) == (
        Prompt(id="12", prompt="Living in the Light, with Ann", label="VM"),
        Prompt(id="7", prompt='Prints; and "more"', label="TM"),
    )


def test_nemo_layout_without_types(tmp_path):
    path = write(tmp_path, "coco.csv", ";Caption;URL;Index\n0;A bike;http://x;5\n")
    assert read_prompts(path) == (Prompt(id="5", prompt="A bike"),)


def test_wen_layout(tmp_path):
    lines = [{"caption": "Mothers influence", "index": 0, "url": "http://x"}, {"caption": "b", "index": 17, "url": ""}]
    path = write(tmp_path, "sdv1_500_memorized.jsonl", "\n".join(map(json.dumps, lines)))
    assert [(p.id, p.prompt) for p in read_prompts(path)] == [("0", "Mothers influence"), ("17", "b")]


def test_parquet_with_missing_values(tmp_path):
    table = pa.table({
        "caption": ["a", "b"], "index": [1.0, float("nan")], "rung": pa.array([2, None], pa.int64()),
        "label": ["TM", None], "file_name": pa.array(["x.png", None]).dictionary_encode(), "URL": ["u", "v"],
        "__index_level_0__": [5, 6],
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "a.parquet")
    expected = (Prompt(id="1", prompt="a", rung=2, label="TM", image="x.png"), Prompt(id="p0002", prompt="b"))
    assert read_prompts(tmp_path / "a.parquet") == expected
    (tmp_path / "a.parquet").rename(tmp_path / "a.csv")  # content outranks the name
    assert read_prompts(tmp_path / "a.csv") == expected


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,prompt\nx,hello\n"),
        ("a.csv", "\ufeffid;prompt\r\nx;hello\r\n"),
        ("a.CSV", "\n\nid;prompt\nx;hello"),
        ("a.csv", "ID\tPrompt\nx\thello\n"),
        ("a.tsv", "id\tprompt\nx\thello\n"),
        ("a.tsv", "id,prompt\n\nx,hello\n\n"),
        ("a.jsonl", '{"id": "x", "prompt": "hello"}\n\n'),
        ("a.jsonl", '\ufeff{"id": "x", "prompt": "hello", "rung": null, "work": NaN}\r\n'),
        ("a.ndjson", '{"id": "x", "prompt": "hello"}'),
        ("a.txt", '{"id": "x", "prompt": "hello"}'),
        ("list", "id;prompt\nx;hello"),
        ("a.csv", "Unnamed: 0,id,prompt,url\n0,x,hello,u\n"),
    ],
)
def test_one_list_in_many_spellings(tmp_path, name, content):
    assert read_prompts(write(tmp_path, name, content)) == (Prompt(id="x", prompt="hello"),)


def test_single_column_with_separators_in_quotes(tmp_path):
    path = write(tmp_path, "a.csv", 'prompt\n"a; b, c"\nplain; text\n')
    assert [(p.id, p.prompt) for p in read_prompts(path)] == [("p0001", "a; b, c"), ("p0002", "plain; text")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_hostile_texts_come_back_to_the_letter(tmp_path, delimiter):
    rows = [["id", "prompt"], *[[f"h{i}", t] for i, t in enumerate(HOSTILE)]]
    path = write(tmp_path, "b.csv", as_csv(rows, delimiter))
    assert tuple(p.prompt for p in read_prompts(path)) == HOSTILE


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.tuples(prompts_text, text), min_size=1, max_size=5), delimiter=st.sampled_from(",;\t"))
def test_round_trip_of_any_text(texts, delimiter):
    expected = tuple(Prompt(id=f"p{i:04d}", prompt=p, work=w) for i, (p, w) in enumerate(texts, start=1))
    lines = [{"prompt": p, "work": w} for p, w in texts]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = as_csv([["prompt", "work"], *texts], delimiter)
        assert read_prompts(write(folder, "a.csv", table)) == expected
        for ascii_only in (True, False):
            content = "\n".join(json.dumps(line, ensure_ascii=ascii_only) for line in lines)
            assert read_prompts(write(folder, "a.jsonl", content)) == expected
        parquet.write_table(pa.Table.from_pylist(lines), folder / "a.parquet")
        assert read_prompts(folder / "a.parquet") == expected


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=60), name=st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a"]))
def test_any_bytes_end_in_prompts_or_one_sentence(content, name):
    with tempfile.TemporaryDirectory() as folder:
        outcome = prompts_or_sentence(write(Path(folder), name, content))
    assert outcome


@settings(max_examples=100, deadline=None)
@given(
    column=st.sampled_from(COLUMNS),
    value=st.none() | st.booleans() | st.floats() | st.integers() | text | st.lists(st.none(), max_size=1),
)
def test_any_json_value_in_any_column_ends_in_prompts_or_one_sentence(column, value):
    with tempfile.TemporaryDirectory() as folder:
        outcome = prompts_or_sentence(write(Path(folder), "a.jsonl", json.dumps({"prompt": "x", column: value})))
    assert len(outcome) == 1 or "line 1" in outcome


def test_unknown_column_is_named_with_a_guess(tmp_path):
    said = refusal(write(tmp_path, "a.csv", "promt,id\nx,y\n"))
    assert "unknown column 'promt', did you mean 'prompt'? known columns are id, prompt, image, label" in said
    said = refusal(write(tmp_path, "a.jsonl", '{"prompt": "x"}\n{"prompt": "x", "zzzzzz": 1}'))
    assert "line 2: unknown column 'zzzzzz'; known columns are" in said
    parquet.write_table(pa.table({"prompt": ["x"], "imagee": ["y"]}), tmp_path / "a.parquet")
    assert "did you mean 'image'?" in refusal(tmp_path / "a.parquet")


def test_a_hostile_column_name_is_shown_escaped_and_short(tmp_path):
    said = refusal(write(tmp_path, "a.jsonl", json.dumps({"\x1b[31m\n" + "x" * 5000: 1})))
    assert "\x1b" not in said
    assert len(said) < 400


@pytest.mark.parametrize("header", ["prompt,caption", "prompt,prompt", "Prompt,prompt"])
def test_two_columns_of_one_meaning(tmp_path, header):
    said = refusal(write(tmp_path, "a.csv", f"{header}\na,b\n"))
    assert "both mean 'prompt'; keep one of them" in said


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", "prompt list is empty"),
        ("a.csv", "\n\n", "prompt list is empty"),
        ("a.csv", "id,prompt\n", "prompt list is empty"),
        ("a.jsonl", "\n", "prompt list is empty"),
        ("a.csv", "id,url\na,b\n", "no column 'prompt'; known columns are"),
        ("a.jsonl", '{"id": "a"}', "line 1: no column 'prompt'"),
        ("a.csv", "id,prompt\na,x\nb,\n", "row 2: the prompt is empty"),
        ("a.csv", "id,prompt\na, \t \n", "row 1: the prompt is empty"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": null}', "line 2: the prompt is empty"),
        ("a.csv", "id,prompt\na,x\nb,y\na,z\n", "row 3: id 'a' is also that of row 1"),
        ("a.csv", "id,prompt\np0002,x\n,y\n", "row 2: id 'p0002' is also that of row 1"),
        ("a.csv", "id,prompt\n../a,x\n", "row 1: id '../a' must be at most 128 letters"),
        ("a.csv", 'id,prompt\n"a\n",x\n', r"row 1: id 'a\n' must be"),
        ("a.csv", f"id,prompt\n{'a' * 129},x\n", "row 1: id 'aaa"),
        ("a.csv", "id,prompt\n.hidden,x\n", "start with a letter or digit"),
        ("a.csv", "prompt,label\nx,heldoutt\n", "unknown label 'heldoutt', did you mean 'heldout'?"),
        ("a.csv", "prompt,type\nx,42\n", "unknown label '42'; known labels are VM, TM, heldout, base, none"),
        ("a.csv", "prompt,rung\nx,1.5\n", "rung must be a whole number or empty, got '1.5'"),
        ("a.csv", "prompt,rung\nx,٣\n", "rung must be a whole number"),
        ("a.csv", "prompt,image\nx,/etc/passwd\n", "image '/etc/passwd' must stay inside the reference folder"),
        ("a.csv", "prompt,image\nx,a/../../b.png\n", "must stay inside"),
        ("a.csv", "prompt,image\nx,..\\b.png\n", "must stay inside"),
        ("a.csv", "prompt,mask\nx,C:\\b.png\n", "mask 'C:"),
        ("a.csv", "id,prompt\na,b,c\n", "row 1: 3 fields where the header has 2"),
        ("a.csv", "id,prompt\na,b\nc\n", "row 2: 1 fields where the header has 2"),
        ("a.csv", 'id,prompt\na,"b\nc,d\n', "broken CSV"),
        ("a.csv", "id,prompt\na,\0b\n", "line 2: holds a NUL byte"),
        ("a.csv", b"id,prompt\na,caf\xe9\n", "not UTF-8 (byte 15); save it as UTF-8"),
        ("a.csv", "id,prompt\na,b\n".encode("utf-16"), "not UTF-8"),
        ("a.csv", "id,prompt\na," + "x" * 200_000, "broken CSV (field larger"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": \n', "line 2: broken JSON"),
        ("a.jsonl", '{"prompt": "x", "prompt": "y"}', "broken JSON (a key occurs twice)"),
        ("a.jsonl", "[" * 100_000, "line 1: broken JSON"),
        ("a.jsonl", "[1, 2]", "line 1: expected a JSON object, got list"),
        ("a.json", '[\n{"prompt": "x"}\n]', "write one object per line"),
        ("a.jsonl", '{"prompt": "a\\u0000b"}', "prompt holds a NUL character"),
        ("a.jsonl", '{"prompt": "a\\ud800b"}', "half of a surrogate pair"),
        ("a.jsonl", '{"prompt": {"a": 1}}', "prompt must be text or a whole number, got dict"),
        ("a.jsonl", '{"prompt": "x", "id": true}', "id must be text or a whole number, got bool"),
        ("a.jsonl", '{"prompt": "x", "id": 0.5}', "id must be text or a whole number, got float"),
        ("a.parquet", "id,prompt\na,b\n", "not a readable parquet file"),
        ("a.csv", "PAR1 and nothing else", "not a readable parquet file"),
    ],
)
def test_refusals(tmp_path, name, content, words):
    said = refusal(write(tmp_path, name, content))
    assert words in said
    assert name in said or "empty" in words


def test_whole_rungs_in_the_spellings_of_other_tools(tmp_path):
    path = write(tmp_path, "a.csv", "prompt,rung\na,4\nb,4.0\nc, 4 \nd,\n")
    assert [p.rung for p in read_prompts(path)] == [4, 4, 4, None]


def test_relative_paths_are_kept_as_they_are(tmp_path):
    path = write(tmp_path, "a.csv", "prompt,image\nx,./a//b..c.png\n")
    assert read_prompts(path)[0].image == "./a//b..c.png"


def test_parquet_texts_that_are_not_utf8(tmp_path):
    broken = pa.Array.from_buffers(pa.utf8(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    parquet.write_table(pa.table({"prompt": broken}), tmp_path / "a.parquet")
    assert "not a readable parquet file" in refusal(tmp_path / "a.parquet")


def test_parquet_columns_of_other_types(tmp_path):
    parquet.write_table(pa.table({"prompt": [b"bytes"]}), tmp_path / "a.parquet")
    assert "row 1: prompt must be text or a whole number, got bytes" in refusal(tmp_path / "a.parquet")


def test_places_that_are_no_files(tmp_path):
    assert "does not exist; give a CSV, TSV, JSONL or parquet file" in refusal(tmp_path / "none.csv")
    assert "is a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.csv")
    assert "not a regular file" in refusal(tmp_path / "pipe.csv")


def test_a_closed_file(tmp_path, monkeypatch):
    def closed(self):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, "a.csv", "prompt\nx\n")
    monkeypatch.setattr(Path, "read_bytes", closed)
    assert "cannot be read (Permission denied)" in refusal(path)


def test_digest_sees_every_field_and_the_order_but_not_the_format(tmp_path):
    one = read_prompts(write(tmp_path, "a.csv", "id,prompt\na,x\nb,y\n"))
    other = read_prompts(write(tmp_path, "a.jsonl", '{"id": "a", "prompt": "x"}\n{"prompt": "y", "id": "b"}'))
    assert prompts_digest(one) == prompts_digest(other)
    assert prompts_digest(one) != prompts_digest(one[::-1])
    for change in ({"label": "VM"}, {"rung": 1}, {"mask": "m"}, {"work": "w"}, {"image": "i"}):
        assert prompts_digest([Prompt(id="a", prompt="x", **change)]) != prompts_digest(one[:1])


@pytest.mark.parametrize(
    ("path", "inside"),
    [("a", True), ("", True), ("...", True), ("a/..", False), ("\\\\host\\a", False), ("/", False), ("~/a", True)],
)
def test_stays_inside(path, inside):
    assert stays_inside(path) is inside
