"""The replication audit on a tiny untrained model: what is written, what is resumed, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from amnestic import stages
from amnestic.audit.generate import plan
from amnestic.core.errors import InputError, StoreError
from amnestic.core.records import Prompt, Sampling, Unit
from amnestic.core.store import Run
from amnestic.stages import generating
from amnestic.stages.inputs import read_inputs

HOSTILE = "<script>alert(1)</script> a red cat"


def images_of(run):
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in sorted((run / "images").glob("*/*.png"))}


def test_writes_what_it_promises(request_of):
    summary = stages.audit(request_of)
    run = Run.open(request_of.out)
    assert len(images_of(request_of.out)) == 12
    assert len(run.read_table("samples")) == len(run.read_table("matches")) == 12
    assert summary == json.loads((request_of.out / "summary.json").read_text())
    assert summary["works"]["total"] == 4
    assert set(summary["leak_rate"]) == {"estimate", "lower", "upper", "upper_one_sided", "n", "method"}
    assert summary["controls"]["base"]["works"] == 2
    assert summary["verdict"] == "none"
    assert [step["rung"] for step in summary["ladder"]] == [0, 1]
    assert HOSTILE not in (request_of.out / "report.html").read_text()
    assert (request_of.out / "events.jsonl").read_text().count("\n") == 2


def test_resume_is_bitwise_and_repeats_whole_batches(request_of, tmp_path):
    stages.audit(request_of)
    whole = images_of(request_of.out)
    (request_of.out / "images" / "w0" / "1.png").unlink()
    (request_of.out / "images" / "w2" / "0.png").unlink()
    stages.audit(request_of)
    assert images_of(request_of.out) == whole


def test_batch_size_changes_no_verdict(request_of, tmp_path):
    stages.audit(request_of)
    other = replace(request_of, out=tmp_path / "other", batch_size=3)
    stages.audit(other)
    for name, content in images_of(request_of.out).items():
        one, two = (np.asarray(Image.open(p / name), dtype=int) for p in (request_of.out, other.out))
        assert np.abs(one - two).max() <= 1, (name, len(content))  # kernel rounding between batch sizes


def test_rescoring_draws_nothing_again(request_of, monkeypatch):
    stages.audit(request_of)
    monkeypatch.setattr(generating, "generate", lambda *a: pytest.fail("drew again") if a[2] else iter(()))
    summary = stages.audit(replace(request_of, threshold=-1.0))
    assert summary["works"]["replicated"] == 4


def test_other_settings_are_refused_by_name(request_of):
    stages.audit(request_of)
    with pytest.raises(StoreError, match=r"sampling was .*give another --out"):
        stages.audit(replace(request_of, sampling=Sampling(num_inference_steps=3)))


def test_gate(request_of, tmp_path):
    failed = stages.audit(replace(request_of, threshold=-1.0, max_leak_rate=0.5))
    assert failed["verdict"] == "fail"
    clean = stages.audit(replace(request_of, threshold=1.0, max_leak_rate=0.1))
    assert clean["verdict"] == "inconclusive"  # 4 clean works cannot bound a rate below 10 %
    assert stages.audit(replace(request_of, threshold=1.0, max_leak_rate=0.9))["verdict"] == "pass"


def test_broken_references_are_counted_with_reason(request_of):
    (request_of.references / "w3.png").write_bytes(b"not a picture")
    summary = stages.audit(request_of)
    assert summary["references"]["counts"] == {"ok": 3, "unreadable": 1, "missing": 0}
    assert summary["references"]["problems"][0]["id"] == "w3.png"
    assert summary["works"]["total"] == 3


def test_foreign_folder_is_refused(request_of):
    request_of.out.mkdir()
    (request_of.out / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty and holds no run"):
        stages.audit(request_of)


def test_no_seed_is_refused(request_of):
    with pytest.raises(InputError, match="at least 1 seed"):
        read_inputs(replace(request_of, n_seeds=0))


def test_originals_beside_the_prompt_list(listed, request_of):
    prompts, _ = listed
    text = prompts.read_text().replace(",w", ",references/w")
    prompts.write_text(text)
    inputs = read_inputs(request_of)
    assert {r.id for r in inputs.references.usable()} == {f"references/w{i}.png" for i in range(4)}


def test_plan_covers_every_unit_once():
    prompts = [Prompt(id=f"p{i}", prompt="x") for i in range(5)]
    batches = plan(prompts, range(3), batch_size=4)
    assert [len(b) for b in batches] == [4, 4, 4, 3]
    assert [u for b in batches for u in b] == [Unit(f"p{i}", s) for i in range(5) for s in range(3)]
