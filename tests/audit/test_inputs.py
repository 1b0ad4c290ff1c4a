"""What an audit makes of its inputs: originals, works and metadata, before and between runs."""

import csv
import json
import threading
import time
from dataclasses import replace

import pytest
from PIL import Image

from amnestic import stages
from amnestic.core.errors import InputError, StoreError
from amnestic.core.records import Descriptor, Unit
from amnestic.core.store import Run
from amnestic.model.sscd import SscdEncoder
from amnestic.model.target import PipelineTarget
from amnestic.parallel import Team
from amnestic.stages import generating
from amnestic.stages.inputs import read_inputs, usable_with


def rewrite(path, change):
    """The prompt list with each row as `change` returns it."""
    with path.open(newline="") as file:
        rows = [change(dict(row)) for row in csv.DictReader(file)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("inside", ["", "runs/one"])
def test_a_run_inside_the_originals_is_refused(request_of, inside):
    with pytest.raises(InputError, match=r"lies inside the references .* give a folder elsewhere"):
        read_inputs(replace(request_of, out=request_of.references / inside))


def test_a_run_beside_the_originals_below_the_list_is_not(request_of):
    rewrite(request_of.prompts, lambda row: row | {"image": row["image"] and f"references/{row['image']}"})
    request = replace(request_of, out=request_of.prompts.parent / "run")
    stages.audit(request)
    assert len(read_inputs(request).references.references) == 4


def test_a_single_original_has_no_inside(request_of):
    only = request_of.references / "w0.png"
    read_inputs(replace(request_of, references=only, out=request_of.references / "run"))


def test_one_image_with_two_works_is_refused(request_of):
    rewrite(request_of.prompts, lambda row: row | {"image": row["image"] and "./w0.png", "work": row["image"]})
    with pytest.raises(InputError, match=r"prompts w0 and w1 name one image, .* but the works 'w0.png' and 'w1.png'"):
        read_inputs(request_of)


def test_declared_works_meet_the_pictures_that_were_left_open(request_of):
    """A copy of a declared original is of its work; a picture that is named like a declared work is not."""
    folder = request_of.references
    (folder / "copy.png").write_bytes((folder / "w0.png").read_bytes())
    known = {"w0": {"work": "w3"}, "w1": {"work": "one"}, "w2": {"image": "copy.png"}}
    rewrite(request_of.prompts, lambda row: row | {"work": ""} | known.get(row["id"], {}))
    summary = stages.audit(request_of)
    found = {r["prompt_id"]: r["work"] for r in Run.open(request_of.out).read_table("matches")}
    assert {name: found[name] for name in ("w0", "w1", "w2", "w3")} == {
        "w0": "w3", "w1": "one", "w2": "w3", "w3": "w3.png",
    }  # fmt: skip
    assert summary["works"]["total"] == 3


def test_an_original_that_the_descriptor_cannot_take_is_counted(request_of, monkeypatch):
    monkeypatch.setattr(SscdEncoder, "refuses", lambda self, height, width: "too thin" if width == 40 else "")
    Image.new("RGB", (40, 1)).save(request_of.references / "w3.png")
    summary = stages.audit(request_of)
    assert summary["references"]["counts"] == {"ok": 3, "unreadable": 1, "missing": 0}
    assert summary["references"]["problems"] == [{"id": "w3.png", "reason": "too thin"}]
    assert summary["works"]["total"] == 3


def test_a_descriptor_that_takes_no_original_is_named(request_of):
    class Picky:
        descriptor = Descriptor(name="picky", preprocessing="native", digest="0")

        def refuses(self, height, width):
            return f"{width} is too wide"

    with pytest.raises(InputError, match="picky takes none of the references: 64 is too wide"):
        usable_with(Picky(), read_inputs(request_of))


def test_corrected_metadata_is_scored_again_without_drawing(request_of, monkeypatch):
    before = stages.audit(request_of)
    scored = {p.name for p in (request_of.out / "records").iterdir()}
    monkeypatch.setattr(generating, "generate", lambda *a: pytest.fail("drew again") if a[2] else iter(()))
    rewrite(request_of.prompts, lambda row: row | {"label": row["label"].replace("VM", "TM"), "rung": ""})
    after = stages.audit(request_of)
    assert (set(before["by_label"]), set(after["by_label"])) == ({"VM"}, {"TM"})
    new = {p.name for p in (request_of.out / "records").iterdir()} - scored
    assert [name.partition("-")[0] for name in new] == ["score"]


def test_another_text_is_another_run(request_of):
    stages.audit(request_of)
    rewrite(request_of.prompts, lambda row: row | {"prompt": row["prompt"] + "!"})
    with pytest.raises(StoreError, match=r"\(prompts was .* now .*; give another --out"):
        stages.audit(request_of)


class Member(Team):
    """One of two processes, played by a thread."""

    meeting = threading.Barrier(2, timeout=20)

    def wait(self):
        self.meeting.wait()


def test_what_is_missing_is_shared_evenly(request_of, monkeypatch):
    """Batches 0 and 2 of three are missing: each of two processes draws one, whichever is slower to look."""
    stages.audit(request_of)
    run, inputs, drew = Run.open(request_of.out), read_inputs(request_of), {}
    for unit in (Unit("w0", 1), Unit("b1", 0)):
        run.image_file(unit).unlink()
    look = Run.missing

    def slowly(self, *units):
        time.sleep(0.1 if threading.current_thread().name == "1" else 0)
        return look(self, *units)

    def generate(target, prompts, batches, how, shrunk):
        name = threading.current_thread().name
        drew[name] = [unit.prompt_id for batch in batches for unit in batch]
        for unit in (Unit("w0", 1), Unit("b1", 0)):
            if unit.prompt_id in drew[name]:
                run.image_file(unit).write_bytes(b"drawn")
        return iter(())

    monkeypatch.setattr(Run, "missing", slowly)
    monkeypatch.setattr(generating, "generate", generate)
    threads = [
        threading.Thread(
            target=generating.generate_stage,
            args=(run, request_of, inputs, None, Member(index=i, size=2), lambda *_: None),
            name=str(i),
        )
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drew == {"0": ["w0", "w0", "w1", "w1"], "1": ["b0", "b0", "b1", "b1"]}


def test_a_smaller_batch_is_told_in_the_events(request_of, monkeypatch):
    sample = PipelineTarget.sample

    def cramped(self, units, texts, how):
        if len(units) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return sample(self, units, texts, how)

    monkeypatch.setattr(PipelineTarget, "sample", cramped)
    stages.audit(request_of)
    events = [json.loads(line) for line in (request_of.out / "events.jsonl").read_text().splitlines()]
    (shrunk,) = [e for e in events if e["event"] == "batch size"]
    assert (shrunk["images"], shrunk["process"]) == (2, 0)
