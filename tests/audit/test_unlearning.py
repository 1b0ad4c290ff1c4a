"""From an audit to an edited model and back: located, pruned, audited again, restored."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from amnestic import stages
from amnestic.attacks.extraction import CliqueExtraction
from amnestic.audit.selection import Selection
from amnestic.core.edit_file import load_edit, read_header
from amnestic.core.errors import InputError, StoreError
from amnestic.core.store import Run
from amnestic.model.target import PipelineTarget
from amnestic.stages import AnalyzeRequest, LocateRequest, PruneRequest
from amnestic.stages.locating import located_of, units_of


@pytest.fixture
def audited(request_of):
    """An audit with a threshold that everything exceeds."""
    stages.audit(replace(request_of, threshold=-1.0))
    return request_of


def audited_beside_heldout(request_of, *, base=True):
    """An audit with two held-out works beside the others."""
    with request_of.prompts.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if base or row["label"] != "base"]
    for i in range(2):
        picture = np.random.default_rng(10 + i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(picture).save(request_of.references / f"h{i}.png")
        rows.append({"id": f"h{i}", "prompt": f"a held-out work {i}", "image": f"h{i}.png", "label": "heldout"})
    request = replace(request_of, threshold=-1.0, prompts=request_of.prompts.with_name("with-heldout.csv"))
    with request.prompts.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "prompt", "image", "label", "rung"])
        writer.writeheader()
        writer.writerows(rows)
    stages.audit(request)
    return request


@pytest.fixture
def located(audited):
    return stages.locate(LocateRequest(run=audited.out, options={"r": 0.2, "tau": 2}, device="cpu"))


@pytest.fixture
def pruned(audited, located, tmp_path):
    stages.prune(PruneRequest(run=audited.out, out=tmp_path / "pruned", device="cpu"))
    return tmp_path / "pruned"


def edit_of(run):
    (file,) = (run / "edits").glob("*.safetensors")
    return load_edit(file)


class TestLocate:
    def test_the_record_holds_what_the_method_found(self, audited, located):
        assert located.data["outcome"] == "found"
        assert located.data["works"] == ["w0", "w1", "w2", "w3"]
        assert located.data["controls"] == ["b0", "b1"]
        units = units_of(Run.open(audited.out).record(located.id))
        assert len(units) == located.data["units"] > 0
        assert units.counts() == located.data["counts"]
        assert units.model == PipelineTarget.load(audited.model).ident.digest
        assert any(name.startswith("memorized.") for name in located_of(located).tensors)

    def test_the_same_question_is_answered_from_the_record(self, audited, located, monkeypatch):
        monkeypatch.setattr("amnestic.stages.locating.model_of", lambda *a, **k: pytest.fail("loaded the model"))
        again = stages.locate(LocateRequest(run=audited.out, options={"r": 0.2, "tau": 2}, device="cpu"))
        assert again.id == located.id

    def test_parts_share_the_works_among_them(self, audited):
        def works(part):
            how = Selection(part=part)
            return stages.locate(LocateRequest(run=audited.out, options={"r": 0.2}, selection=how)).data["works"]

        one, other = works((1, 2)), works((2, 2))
        assert len(one) == len(other) == 2
        assert {*one, *other} == {"w0", "w1", "w2", "w3"}

    def test_only_a_rung(self, audited):
        found = stages.locate(LocateRequest(run=audited.out, selection=Selection(rung=1)))
        assert (found.data["works"], found.data["other_works"]) == (["w1", "w3"], ["w0", "w2"])

    def test_nothing_that_replicates_is_an_outcome(self, request_of):
        stages.audit(replace(request_of, threshold=1.0))
        found = stages.locate(LocateRequest(run=request_of.out))
        assert (found.data["outcome"], found.data["works"]) == ("found nothing", [])
        with pytest.raises(InputError, match="found nothing, so there is nothing to prune"):
            stages.prune(PruneRequest(run=request_of.out, out=request_of.out.parent / "pruned"))

    def test_random_units_imitate_a_record(self, audited, located):
        with pytest.raises(InputError, match="--like is for random-units"):
            stages.locate(LocateRequest(run=audited.out, method="nemo", like=located.id))
        found = stages.locate(LocateRequest(run=audited.out, method="random-units", like=located.id))
        assert found.data["counts"] == located.data["counts"]
        assert found.id != located.id

    @pytest.mark.parametrize("method", ["gradient-attribution"])
    def test_originals_are_asked_for_and_used(self, audited, method):
        with pytest.raises(InputError, match="give their folder with --references"):
            stages.locate(LocateRequest(run=audited.out, method=method))
        found = stages.locate(
            LocateRequest(run=audited.out, method=method, references=audited.references, options={"n_timesteps": 1})
        )
        assert found.data["outcome"] == "found"
        assert found.data["notes"]["without original"] == []

    def test_an_unfinished_audit_is_refused(self, audited):
        shutil.rmtree(audited.out / "records")
        with pytest.raises(StoreError, match="has not finished"):
            stages.locate(LocateRequest(run=audited.out))

    def test_another_model_is_refused(self, audited, tiny_copy):
        weights = tiny_copy / "unet" / "diffusion_pytorch_model.safetensors"
        from safetensors.torch import save_file

        save_file({k: v + 1e-3 for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
        with pytest.raises(InputError, match="give the folder of the audited one with --model"):
            stages.locate(LocateRequest(run=audited.out, model=str(tiny_copy)))

    def test_settings_are_checked(self, audited):
        with pytest.raises(InputError, match=r"has no setting rr.*did you mean r\?"):
            stages.locate(LocateRequest(run=audited.out, options={"rr": 1}))
        with pytest.raises(InputError, match=r"r: .*valid number"):
            stages.locate(LocateRequest(run=audited.out, options={"r": "many"}))


class TestControls:
    @pytest.fixture
    def both(self, request_of):
        return audited_beside_heldout(request_of)

    def located(self, run, controls, **options):
        how = {"r": 0.2, "tau": 2} | options
        return stages.locate(LocateRequest(run=run, options=how, selection=Selection(controls=controls)))

    def test_they_are_those_that_are_asked_for(self, both):
        found = [self.located(both.out, controls) for controls in ("base", "heldout", "both")]
        assert [r.data["controls"] for r in found] == [["b0", "b1"], ["h0", "h1"], ["b0", "b1", "h0", "h1"]]
        assert [r.data["control_kinds"] for r in found] == [{"base": 2}, {"heldout": 2}, {"base": 2, "heldout": 2}]
        assert [r.data["selection"]["controls"] for r in found] == ["base", "heldout", "both"]
        assert [r.data["controls_note"] for r in found] == ["", "", ""]
        assert [r.data["works"] for r in found] == [["w0", "w1", "w2", "w3"]] * 3
        assert len({r.id for r in found}) == 3

    def test_others_give_another_contrast(self, both):
        base, heldout = (
            located_of(self.located(both.out, controls, contrast="controls")).tensors
            for controls in ("base", "heldout")
        )
        equal = {name: torch.equal(norms, heldout[name]) for name, norms in base.items()}
        assert not any(same for name, same in equal.items() if name.startswith("contrast."))

    def test_those_that_the_audit_lacks_are_refused(self, audited):
        with pytest.raises(InputError, match=r"held-out works as controls, the audit drew none; .* --controls base"):
            self.located(audited.out, "heldout")

    def test_held_out_ones_stand_in_for_ordinary_ones_and_the_record_says_so(self, request_of):
        request = audited_beside_heldout(request_of, base=False)
        found = self.located(request.out, "base")
        assert (found.data["controls"], found.data["control_kinds"]) == (["h0", "h1"], {"heldout": 2})
        assert "drew no ordinary prompts, so the controls are prompts of held-out works" in found.data["controls_note"]
        assert found.data["controls_note"] in stages.analyze(analysis_of(request.out)).data["notes"]
        with pytest.raises(
            InputError, match=r"ordinary prompts as controls, the audit drew none; .* --controls heldout"
        ):
            self.located(request.out, "both")

    def test_a_held_out_work_has_an_original_to_look_at(self, both, monkeypatch):
        monkeypatch.setattr("amnestic.stages.locating.images_of", lambda *_: lambda unit: pytest.fail(f"drew {unit}"))
        found = stages.locate(
            LocateRequest(
                run=both.out, method="gradient-attribution", references=both.references, options={"n_timesteps": 1},
                selection=Selection(controls="heldout"),
            )
        )  # fmt: skip
        assert found.data["notes"]["without original"] == []

    def test_the_analysis_compares_with_them(self, both):
        found = {}
        for controls in ("base", "heldout"):
            asked = analysis_of(both.out)
            asked = replace(asked, locate=replace(asked.locate, selection=Selection(controls=controls)))
            found[controls] = stages.analyze(asked)
            words = {"base": "ordinary prompts", "heldout": "prompts of held-out works"}[controls]
            assert f"Controls are {words}" in (both.out / "subspace.html").read_text()
            assert found[controls].data["selection"]["controls"] == controls
            assert found[controls].data["control_kinds"] == {controls: 2}
            assert not [note for note in found[controls].data["notes"] if "held-out" in note]
        base, heldout = found["base"], found["heldout"]
        assert base.id != heldout.id
        assert base.data["share_memorized"] == heldout.data["share_memorized"]
        assert base.data["share_controls"] != heldout.data["share_controls"]


def analysis_of(run):
    located = LocateRequest(run=run, options={"r": 0.2, "tau": 2}, device="cpu")
    return AnalyzeRequest(locate=located, n_sets=2, size=1, transfer_seeds=0)


class TestPrune:
    def test_the_folder_is_plain_diffusers_and_the_run_keeps_the_edit(self, audited, located, pruned):
        edit, about = edit_of(audited.out)
        assert read_header(pruned)["edit"] == about["edit"]
        assert about["result"] == PipelineTarget.load(pruned).ident.digest
        assert about["works"] == located.data["works"]
        assert about["weights"] == len(edit) == located.data["units"]
        assert about["traces"] == {"exact_zeros": 1.0, "auc_of_smallness": 1.0}
        pipeline = StableDiffusionPipeline.from_pretrained(pruned)
        plain = StableDiffusionPipeline.from_pretrained(audited.model)
        for (name, after), before in zip(
            pipeline.unet.state_dict().items(), plain.unet.state_dict().values(), strict=True
        ):
            if name in edit.changes:
                wanted = before.clone().reshape(-1)
                wanted[edit.changes[name].at] = 0
                assert torch.equal(after.reshape(-1), wanted)
            else:
                assert torch.equal(after, before), name

    def test_what_was_pruned_can_be_restored(self, audited, pruned, tmp_path):
        told = stages.restore(pruned, audited.out, tmp_path / "restored", device="cpu")
        before = PipelineTarget.load(audited.model).ident.digest
        assert PipelineTarget.load(tmp_path / "restored").ident.digest == told["model"] == before

    def test_the_same_edit_again_writes_nothing_and_another_is_refused(self, audited, located, pruned):
        before = {p: p.stat().st_mtime_ns for p in pruned.rglob("*")}
        again = stages.prune(PruneRequest(run=audited.out, out=pruned))
        assert again["edit"] == read_header(pruned)["edit"]
        with pytest.raises(StoreError, match="is not empty"):
            stages.prune(PruneRequest(run=audited.out, out=pruned, method="scale-units"))
        assert before == {p: p.stat().st_mtime_ns for p in pruned.rglob("*")}

    def test_the_folder_tells_neither_where_it_was_cut_nor_where_the_model_lay(self, audited, located, pruned):
        assert not list(pruned.rglob("*edit*.safetensors"))
        text = "".join(p.read_text() for p in pruned.rglob("*.json"))
        assert str(audited.out.parent) not in text
        assert str(Path(audited.model).parent) not in text
        assert "_name_or_path" not in text
        assert not any(site["name"] in text for site in located.data["sites"])

    def test_concealed_places_are_not_zero(self, audited, located, tmp_path):
        about = stages.prune(PruneRequest(run=audited.out, out=tmp_path / "hidden", method="conceal-units"))
        assert about["traces"]["exact_zeros"] == 0
        assert about["traces"]["auc_of_smallness"] < 1

    def test_with_two_records_one_has_to_be_named(self, audited, located, tmp_path):
        other = stages.locate(LocateRequest(run=audited.out, method="value-zscore", options={"theta": 0.5}))
        with pytest.raises(InputError, match=r"wanda-subspace.*value-zscore.*choose with --located"):
            stages.prune(PruneRequest(run=audited.out, out=tmp_path / "x"))
        about = stages.prune(PruneRequest(run=audited.out, out=tmp_path / "x", located=other.id))
        assert about["located_by"]["name"] == "value-zscore"

    def test_a_damaged_edit_is_refused(self, audited, pruned, tmp_path):
        (file,) = (audited.out / "edits").glob("*.safetensors")
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(StoreError, match="cannot be read as an edit"):
            stages.restore(pruned, audited.out, tmp_path / "restored")

    def test_weights_changed_after_the_edit_are_refused(self, audited, pruned, tmp_path):
        from safetensors.torch import save_file

        weights = pruned / "vae" / "diffusion_pytorch_model.safetensors"
        save_file({k: v + 1e-3 for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
        with pytest.raises(InputError, match="was changed after it was pruned"):
            stages.restore(pruned, audited.out, tmp_path / "restored")


class TestBeforeAfter:
    def audited_after(self, audited, pruned, **how):
        return replace(audited, threshold=-1.0, model=str(pruned), out=audited.out.parent / "after", **how)

    def test_compares_work_by_work(self, audited, pruned):
        found = stages.audit(self.audited_after(audited, pruned, before=audited.out))["before_after"]
        assert [row["group"] for row in found["rates"]] == [
            "all works", "works used to locate", "rung 0", "rung 1", "base prompts",
        ]  # fmt: skip
        assert all(row["mcnemar"]["p_value"] == 1 for row in found["rates"])
        assert found["edit"]["method"] == "zero-units"
        assert found["edit"]["selected"] == 4
        names = {(row["name"], row["group"]) for row in found["changes"]}
        assert {("SSCD_Gen (1 before)", "works"), ("D_SSCD", "works"), ("SSCD_Orig (max over seeds)", "works")} <= names
        assert [row[0] for row in found["not_measured"]] == [
            "CLIP alignment, CLIP-MMD and KID", "KID on Inception features",
            "Distance to a model that never saw the works",
        ]  # fmt: skip
        text = (audited.out.parent / "after" / "report.html").read_text()
        assert 'id="before-after"' in text
        assert json.loads((audited.out.parent / "after" / "summary.json").read_text())["before_after"] == found

    def test_before_is_before_and_after_is_after(self, audited, pruned):
        summary = stages.audit(self.audited_after(audited, pruned, before=audited.out))
        once = json.loads((audited.out / "summary.json").read_text())
        (row,) = (r for r in summary["before_after"]["changes"] if r["name"] == "SSCD_Orig (max over seeds)")
        name = "SSCD_Orig (max over seeds)"
        assert row["before"] == pytest.approx(once["similarity"][name]["mean"], abs=1e-6)
        assert row["after"] == pytest.approx(summary["similarity"][name]["mean"], abs=1e-6)
        assert row["before"] != row["after"]

    def test_an_edit_of_another_model_or_changed_weights_are_refused_before_drawing(self, audited, pruned, tmp_path):
        from safetensors.torch import save_file

        weights = pruned / "vae" / "diffusion_pytorch_model.safetensors"
        save_file({k: v + 1e-3 for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
        with pytest.raises(StoreError, match="audit the models that belong together"):
            stages.audit(self.audited_after(audited, pruned, before=audited.out))
        assert not (audited.out.parent / "after").exists()

    def test_an_edit_that_the_run_before_does_not_hold_is_refused(self, audited, pruned):
        shutil.rmtree(audited.out / "edits")
        with pytest.raises(InputError, match="give as --before the run that was pruned"):
            stages.audit(self.audited_after(audited, pruned, before=audited.out))

    def test_a_model_equals_itself(self, audited, tmp_path):
        again = replace(audited, threshold=-1.0, out=tmp_path / "again", before=audited.out, twin=audited.out)
        found = stages.audit(again)["before_after"]
        assert found["edit"] is None
        for row in found["changes"]:
            assert row["change"]["estimate"] == pytest.approx(0, abs=1e-6), row

    def test_other_prompts_or_seeds_are_refused(self, audited, pruned):
        with pytest.raises(StoreError, match=r"cannot be compared with this audit \(seeds was \[0, 1\], now \[0\]\)"):
            stages.audit(self.audited_after(audited, pruned, before=audited.out, n_seeds=1))


class TestExtract:
    def test_a_model_that_draws_one_image_is_claimed_and_judged(self, audited):
        """At distance 1 any two images are near, so all are claimed; a threshold of -1 calls all of them copies."""
        found = stages.extract(audited.out, CliqueExtraction(clique=2, distance=1.0)).data
        assert (found["claimed"], found["prompts"], found["works"]) == (6, 6, 4)
        assert found["recovered"] == ["w0", "w1", "w2", "w3"]
        assert found["precision"]["estimate"] == found["recall"]["estimate"] == 1
        assert found["passes"] == 12 * 2 * 2

    def test_claims_are_not_successes(self, request_of):
        stages.audit(replace(request_of, threshold=1.0))
        found = stages.extract(request_of.out, CliqueExtraction(clique=2, distance=1.0)).data
        assert (found["claimed"], found["recovered"], found["precision"]["estimate"]) == (6, [], 0)

    def test_without_claims_precision_is_not_measured(self, audited):
        found = stages.extract(audited.out, CliqueExtraction(clique=2, distance=0.0)).data
        assert (found["claimed"], found["precision"]["estimate"], found["recall"]["estimate"]) == (0, None, 0)

    def test_too_few_images_are_refused(self, audited):
        with pytest.raises(InputError, match="expected at least 10 generations of one prompt, got 2"):
            stages.extract(audited.out, CliqueExtraction())

    def test_latents_alone_are_refused(self, request_of):
        stages.audit(replace(request_of, threshold=-1.0, keep="latents"))
        with pytest.raises(InputError, match="audit again with --keep images"):
            stages.extract(request_of.out, CliqueExtraction(clique=2))


class TestAnalyze:
    def asked(self, audited, **how):
        located = LocateRequest(run=audited.out, options={"r": 0.2, "tau": 2}, device="cpu")
        return AnalyzeRequest(locate=located, n_sets=2, size=1, **how)

    def test_writes_a_record_and_a_page(self, audited):
        with pytest.raises(InputError, match="scores of two are never"):
            stages.analyze(self.asked(audited))
        record = stages.analyze(self.asked(audited, transfer_seeds=0))
        sites = PipelineTarget.load(audited.model).sites("ffn-weight")
        assert [row["site"] for row in record.data["layers"]][: len(sites)] == [s.name for s in sites]
        assert [row["n_prompts"] for row in record.data["growth"]] == [1, 2, 4]
        assert record.data["growth"][-1]["iou_with_full"] == 1
        assert [row["rung"] for row in record.data["rungs"]] == [0, 1]
        assert record.tensors["step_shares"].shape == (len(sites), 2)
        assert record.data["transfer"]["rates"] is None
        assert "subspace" in (audited.out / "subspace.html").read_text()

    def test_is_answered_from_the_record(self, audited, monkeypatch):
        once = stages.analyze(self.asked(audited, transfer_seeds=0))
        monkeypatch.setattr("amnestic.stages.analyzing.model_of", lambda *a, **k: pytest.fail("loaded the model"))
        assert stages.analyze(self.asked(audited, transfer_seeds=0)).id == once.id

    def test_too_few_works_are_refused(self, audited):
        located = LocateRequest(run=audited.out, device="cpu")
        with pytest.raises(InputError, match="expected 60 different works for 6 sets of 10, got 4"):
            stages.analyze(AnalyzeRequest(locate=located))
