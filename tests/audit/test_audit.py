"""The replication audit on a tiny untrained model: what is written, what is resumed, what is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from amnestic import cli, stages
from amnestic.audit.generate import plan
from amnestic.core.errors import InputError, StoreError
from amnestic.core.records import Prompt, Sampling, Unit
from amnestic.core.store import Run
from amnestic.stages import embedding, generating, scoring
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
    with pytest.raises(StoreError, match=r"sampling\.num_inference_steps was 2, now 3.*give another --out"):
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


def test_no_other_thing_is_kept(request_of):
    with pytest.raises(InputError, match="expected keep to be one of images, latents, both; got latent"):
        read_inputs(replace(request_of, keep="latent"))


def test_nothing_for_others_names_a_folder_of_this_machine(request_of, capsys):
    stages.audit(request_of)
    page = (request_of.out / "report.html").read_text()
    told = page[: page.index('id="reproduce"')]
    folder = request_of.model.rsplit("/", 2)
    assert f"<title>Replication audit of {folder[1]}/{folder[2]}</title>" in told
    assert f"<bdi>{folder[1]}/{folder[2]}</bdi></td>" in told
    assert folder[0] not in page
    model = json.loads((request_of.out / "summary.json").read_text())["model"]
    assert model["digest"] in told
    assert model["name"] == f"{folder[1]}/{folder[2]}"
    cli.status(request_of.out)
    assert f"model: {folder[1]}/{folder[2]}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"descriptor": "sscd-mni"}, "did you mean sscd-mini"),
        ({"clip": "local-dir:nowhere"}, "expected open_clip_config.json"),
        ({"threshold": None, "sscd_weights": "uncalibrated"}, "has not been calibrated"),
    ],
)
def test_mistakes_are_told_before_anything_is_drawn(request_of, uncalibrated, change, sentence):
    if "sscd_weights" in change:
        change = change | {"sscd_weights": uncalibrated}
    with pytest.raises(InputError, match=sentence):
        stages.audit(replace(request_of, **change))
    assert not request_of.out.exists()


@pytest.mark.parametrize(
    ("mask", "reason"), [("none.png", "no such file"), ("away.png", "a link that leads out of the reference folder")]
)
def test_a_bad_mask_is_named_before_anything_is_drawn(request_of, tmp_path, mask, reason):
    Image.new("L", (64, 64), 255).save(tmp_path / "outside.png")
    (request_of.references / "away.png").symlink_to(tmp_path / "outside.png")
    lines = request_of.prompts.read_text().splitlines()
    lines = [f"{line},{'mask' if i == 0 else mask if i == 3 else ''}" for i, line in enumerate(lines)]
    request_of.prompts.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=rf"row 3 \(w2\): mask {mask}: {reason}"):
        stages.audit(request_of)
    assert not request_of.out.exists()


@pytest.fixture
def uncalibrated(tiny_sscd, tmp_path):
    """The tiny sscd-mini without a threshold of its own."""
    folder = tmp_path / "uncalibrated"
    shutil.copytree(tiny_sscd, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"threshold": None}))
    return folder


def test_a_given_threshold_stands_in_for_one_that_was_never_published(request_of, uncalibrated):
    summary = stages.audit(replace(request_of, sscd_weights=uncalibrated, threshold=1.0))
    assert summary["threshold"] == {"value": 1.0, "provenance": "given with --threshold"} | {
        k: v for k, v in summary["threshold"].items() if k not in ("value", "provenance")
    }
    assert summary["works"]["total"] == 4


def test_given_weights_bring_their_own_threshold(request_of, uncalibrated):
    for weights in (request_of.sscd_weights, request_of.sscd_weights / "model.safetensors"):
        summary = stages.audit(replace(request_of, threshold=None, sscd_weights=weights, bundled=uncalibrated))
        assert summary["threshold"]["value"] == 0.99999


def test_a_list_without_originals_is_refused_up_front(request_of):
    whole = request_of.prompts.read_text()
    request_of.prompts.write_text("id,prompt\nw0,a cat\n")
    with pytest.raises(InputError, match=r"no prompt of .* add a column image .* Wen et al"):
        read_inputs(request_of)
    request_of.prompts.write_text(whole.replace(",w", ",x"))
    with pytest.raises(InputError, match=r"none of the originals .* column image .* x0\.png: .*no such file"):
        read_inputs(request_of)


def test_prompts_without_an_original_are_counted(request_of):
    request_of.prompts.write_text(request_of.prompts.read_text().replace(",w1.png", ",").replace(",w2.png", ",x.png"))
    summary = stages.audit(request_of)
    assert summary["works"] | {"total": 2, "without_original": 2} == summary["works"]
    assert "<dt>2 works of the list</dt>" in (request_of.out / "report.html").read_text()


def test_the_report_stays_a_file_that_opens(request_of, monkeypatch):
    monkeypatch.setattr(scoring, "MOST_CARDS", 3)
    monkeypatch.setattr(scoring, "MOST_MISSES", 1)
    for threshold, images, sentence in ((1.0, 3 * 2, "1 more prompts, 0"), (-1.0, 3 * 3, "1 more prompts, 1")):
        stages.audit(replace(request_of, threshold=threshold))
        page = (request_of.out / "report.html").read_text()
        assert page.count("<article") == 3
        assert page.count("<img") == images  # an original and one or both of its images
        assert sentence in page


def test_pictures_are_embedded_within_bounds(monkeypatch):
    monkeypatch.setattr(embedding, "MOST_PIXELS", 100)
    monkeypatch.setattr(embedding, "MOST_PICTURES", 3)
    sizes = [10, 50, 40, 500, 1, 1, 1, 1, 99, 2]
    pictures = [np.full((1, size, 3), index, np.uint8) for index, size in enumerate(sizes)]
    chunks = list(embedding._chunks(iter(pictures)))
    assert [[p.shape[1] for p in chunk] for chunk in chunks] == [[10, 50, 40], [500], [1, 1, 1], [1, 99], [2]]
    assert [p[0, 0, 0] for chunk in chunks for p in chunk] == list(range(10))
