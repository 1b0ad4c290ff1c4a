"""From an audit to a fine-tuned model, and its audit beside the one before."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from amnestic import stages
from amnestic.core.edit_file import HEADER, read_header
from amnestic.core.errors import InputError, StoreError
from amnestic.core.records import MethodSpec, Prompt
from amnestic.core.store import Record, Run
from amnestic.mitigations.finetune.checkpoint import FILE
from amnestic.model.target import PipelineTarget
from amnestic.sources.image_sets import read_captioned
from amnestic.stages.surrogates import FIRST_SEED, Wanted, without_copies

SMALL = {"steps": 3, "forget_rows": 2, "retain_rows": 2}


def amnestic(*args):
    return subprocess.run(
        [sys.executable, "-m", "amnestic", *map(str, args)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def audited(request_of):
    stages.audit(replace(request_of, threshold=-1.0))
    return request_of


@pytest.fixture
def wanted(audited, tiny_pipeline, tmp_path):
    """A fine-tuning that takes a second; the model that draws surrogates is the audited one."""
    return stages.FinetuneRequest(
        run=audited.out, out=tmp_path / "tuned", references=audited.references, options=SMALL,
        attack_options={"steps": 2, "draws": 2}, surrogates_from=str(tiny_pipeline),
        surrogates=Wanted(n=2, below=2.0), descriptor="sscd-mini", sscd_weights=audited.sscd_weights, device="cpu",
    )  # fmt: skip


def test_from_an_audit_to_a_finetuned_model_and_its_audit(audited, tiny_pipeline, tmp_path):
    out = tmp_path / "tuned"
    command = [
        "finetune", audited.out, "--out", out, "--references", audited.references, "--part", "1/2", "--device", "cpu",
        "--surrogates-from", tiny_pipeline, "--surrogates", "2", "--surrogate-below", "2", "--attack-option", "steps=2",
        "--descriptor", "sscd-mini", "--sscd-weights", audited.sscd_weights,
        *(word for k, v in SMALL.items() for word in ("-o", f"{k}={v}")),
    ]  # fmt: skip
    done = amnestic(*command)
    assert done.returncode == 0, done.stderr
    assert "2 works, 3 steps" in done.stdout
    header, run = read_header(out), Run.open(audited.out)
    (name,) = run.records("finetune")
    assert header["edit"] == name
    record = run.record(name)
    assert record.tensors["curve.loss"].shape == (3,)
    assert record.data["passes"]["outer"]["forward"] == 3 * 4
    assert record.data["passes"]["inner"]["forward"] == 3 * 2 * 2 * 8  # steps, images, steps of a search, draws
    assert record.data["surrogate_passes"] == 2 * 2 * 2 * 2  # works, images, steps, guidance
    assert PipelineTarget.load(out).ident.digest == record.data["result"] == header["result"]
    assert str(tmp_path) not in (out / HEADER).read_text()
    assert not list(audited.out.glob(f"training/**/{FILE}"))
    assert amnestic(*command).stdout == done.stdout  # read, not made again
    done = amnestic(
        "audit", out, "--prompts", audited.prompts, "--references", audited.references, "--before", audited.out,
        "--out", tmp_path / "after", "--seeds", "2", "--num-inference-steps", "2", "--guidance-scale", "2",
        "--descriptor", "sscd-mini", "--sscd-weights", audited.sscd_weights, "--threshold", "-1", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    edit = json.loads((tmp_path / "after" / "summary.json").read_text())["before_after"]["edit"]
    assert (edit["method"], edit["works"], edit["weights"]) == (
        "adversarial", record.data["works"], record.data["weights"]
    )  # fmt: skip
    assert "The edit “adversarial” changed" in (tmp_path / "after" / "report.html").read_text()
    done = amnestic("restore", out, "--run", audited.out, "--out", tmp_path / "again", "--device", "cpu")
    assert done.returncode == 2
    assert "there is no edit to take back" in done.stderr


def test_killed_and_issued_again_it_continues(wanted):
    def stopped(what, done, _total):
        if what.startswith("fine-tune") and done == 2:
            raise KeyboardInterrupt

    whole = stages.finetune(replace(wanted, out=wanted.out.with_name("whole")))
    with pytest.raises(KeyboardInterrupt):
        stages.finetune(wanted, progress=stopped, watch=lambda _step, _model: {"rate": 0.5}, watch_at=(1,))
    assert not wanted.out.exists()
    assert len(list(wanted.run.glob(f"training/*/{FILE}"))) == 1
    steps = []
    again = stages.finetune(
        wanted, progress=lambda what, done, _total: steps.append(done) if what.startswith("fine-tune") else None
    )
    assert steps == [2, 3]
    assert again.data["result"] == whole.data["result"]
    assert again.data["watched"] == [{"step": 1, "rate": 0.5}]


def test_surrogates_come_from_seeds_that_no_audit_draws(wanted, audited):
    record = stages.finetune(wanted)
    run = Run.open(wanted.run)
    drawn = run.record(record.data["surrogates"])
    assert max(run.manifest()["settings"]["seeds"]) < FIRST_SEED
    for name in record.data["prompts"]:
        assert drawn.tensors[name].shape[0] == 2
        assert len(drawn.data["scores"][name]) == 2


def test_surrogates_that_are_copies_are_refused_with_the_works(wanted):
    with pytest.raises(InputError, match=r"draws only copies of w0.*w3.*--leave-out-copies"):
        stages.finetune(replace(wanted, surrogates=Wanted(n=1, below=-2.0)))
    assert not wanted.out.exists()


def test_works_of_which_there_are_only_copies_can_be_left_out():
    prompts = [Prompt(id=f"p{i}", prompt="x", work=f"work-{i}") for i in range(3)]
    record = Record(
        stage="surrogates", made_by=MethodSpec(name="surrogates", parameters={"below": 0.5}), parents=(),
        data={"copies": ["p1"]}, tensors={},
    )  # fmt: skip
    assert [p.id for p in without_copies(record, prompts, "pruned", leave_out=True)] == ["p0", "p2"]
    with pytest.raises(InputError, match=r"pruned draws only copies of work-1: none of the images is below 0\.5"):
        without_copies(record, prompts, "pruned", leave_out=False)
    with pytest.raises(InputError, match="draws only copies of work-1"):
        without_copies(record, prompts[1:2], "pruned", leave_out=True)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"surrogates_from": None}, InputError, "with --surrogates-from"),
        ({"method": "adversary"}, InputError, "did you mean adversarial?"),
        ({"options": {"refresh_in": "weeks"}}, InputError, "expected visits, epochs, steps; got weeks"),
        ({"descriptor": "sscd-mini", "sscd_weights": None}, InputError, "sscd-mini"),
    ],
)
def test_mistakes_are_refused_before_anything_is_trained(wanted, change, error, sentence):
    with pytest.raises(error, match=sentence.replace("?", r"\?")):
        stages.finetune(replace(wanted, **change))


def test_a_folder_that_holds_something_is_not_written_to(wanted):
    wanted.out.mkdir()
    (wanted.out / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="is not empty"):
        stages.finetune(wanted)


def test_nothing_replicates_means_nothing_to_forget(request_of, wanted, tmp_path):
    strict = replace(request_of, threshold=1.0, out=tmp_path / "strict")
    stages.audit(strict)
    with pytest.raises(InputError, match="no work of this selection replicates"):
        stages.finetune(replace(wanted, run=strict.out))


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(3)]


def as_png(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


def test_ordinary_pairs_are_taken_from_images_that_are_given(wanted, pictures, tmp_path):
    file = tmp_path / "set.parquet"
    rows = [{"caption": f"scene {i}", "image": {"bytes": as_png(p), "path": None}} for i, p in enumerate(pictures)]
    parquet.write_table(pa.Table.from_pylist(rows), file)
    record = stages.finetune(replace(wanted, retain=file, n_retain=2))
    assert (record.data["retained"], record.data["retained_origin"]) == (2, "given")
    default = stages.finetune(replace(wanted, out=wanted.out.with_name("default")))
    assert default.data["retained"] == 4  # two base prompts, two seeds
    assert default.id != record.id


@pytest.mark.parametrize("column", ["caption", "text", "prompt"])
@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_captions_are_read_beside_their_pictures(pictures, tmp_path, kind, column):
    captions = ["a cat", "", "two, dogs"]
    if kind == "parquet":
        path = tmp_path / "set.parquet"
        rows = [{column: c, "image": {"bytes": as_png(p)}} for c, p in zip(captions, pictures, strict=True)]
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path = tmp_path
        with (path / "metadata.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", column])
            for i, (caption, picture) in enumerate(zip(captions, pictures, strict=True)):
                Image.fromarray(picture).save(path / f"{i}.png")
                writer.writerow([f"{i}.png", caption])
    found = list(read_captioned(path))
    assert [c for c, _ in found] == captions
    assert all(np.array_equal(a, b) for (_, a), b in zip(found, pictures, strict=True))


@pytest.mark.parametrize(
    ("header", "row", "sentence"),
    [
        (None, None, "expected captions in"),
        (["file_name", "words"], ["0.png", "a"], "expected a column caption, text, prompt"),
        (["file_name", "text"], ["1.png", "a"], "names 1.png, which is not there"),
        (["file", "text"], ["0.png", "a"], "names no file"),
    ],
)
def test_images_without_captions_are_refused(pictures, tmp_path, header, row, sentence):
    Image.fromarray(pictures[0]).save(tmp_path / "0.png")
    if header is not None:
        (tmp_path / "metadata.csv").write_text(f"{','.join(header)}\n{','.join(row)}\n")
    with pytest.raises(InputError, match=sentence):
        list(read_captioned(tmp_path))


def test_a_model_of_another_run_is_not_compared(wanted, request_of, tmp_path):
    stages.finetune(wanted)
    other = replace(request_of, out=tmp_path / "other", threshold=-1.0)
    stages.audit(other)
    after = replace(request_of, model=str(wanted.out), before=other.out, out=tmp_path / "after", threshold=-1.0)
    with pytest.raises(InputError, match="give as --before the run that was fine-tuned"):
        stages.audit(after)
