"""An attack beside its controls, from a finished audit to a verdict."""

import csv
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from amnestic import stages
from amnestic.audit.attack_arms import arm_of
from amnestic.audit.attack_goals import known_images
from amnestic.audit.selection import Selection, select
from amnestic.audit.tried_inputs import STOPPING_SEEDS, InputJudge
from amnestic.core.errors import InputError
from amnestic.core.records import Unit
from amnestic.core.seeds import seeded_init
from amnestic.core.store import Run
from amnestic.model.sscd import small_network
from amnestic.model.target import PipelineTarget
from amnestic.stages import AttackRequest, attacking
from amnestic.stages.attack_bench import Bench
from amnestic.testbed.sscd_mini import export_sscd


@pytest.fixture
def audited(request_of):
    """An audit of four works beside three held-out ones."""
    with request_of.prompts.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for i in range(3):
        picture = np.random.default_rng(10 + i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(picture).save(request_of.references / f"h{i}.png")
        rows.append({"id": f"h{i}", "prompt": f"a held-out work {i}", "image": f"h{i}.png", "label": "heldout"})
    request = replace(request_of, prompts=request_of.prompts.with_name("with-heldout.csv"))
    with request.prompts.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "prompt", "image", "label", "rung"])
        writer.writeheader()
        writer.writerows(rows)
    stages.audit(request)
    return request


@pytest.fixture
def asked(audited):
    """A short attack."""
    return AttackRequest(
        run=audited.out, references=audited.references, options={"steps": 2, "draws": 2}, keep=(1,), device="cpu",
        random=False, descriptor="sscd-mini", sscd_weights=audited.sscd_weights,
    )  # fmt: skip


def arm(asked, record, name="works"):
    return Run.open(asked.run).record(record.data["arms"][name])


class TestArms:
    def test_every_arm_is_scored_at_every_kept_step(self, asked, tiny_pipeline):
        record = stages.attack(replace(asked, random=True, twin=str(tiny_pipeline), original=str(tiny_pipeline)))
        assert list(record.data["arms"]) == ["works", "heldout", "random", "twin", "original"]
        for name in record.data["arms"]:
            found = arm(asked, record, name)
            n = 3 if name == "heldout" else 4
            assert found.data["steps"] == [0, 1, 2]
            assert found.tensors["scores"].shape == (n, 1, 3, 2)
            assert found.tensors["scores"].isfinite().all()
            assert found.tensors["cond"].shape[:2] == (1, n)

    def test_step_zero_scores_what_the_audit_scored(self, asked, audited):
        found = arm(asked, stages.attack(asked))
        rows = {(r["prompt_id"], r["seed"]): r["sscd_paired"] for r in Run.open(asked.run).read_table("matches")}
        plain = torch.tensor([[rows[name, seed] for seed in (0, 1)] for name in found.data["goals"]])
        assert torch.allclose(found.tensors["scores"][:, 0, 0], plain.float(), atol=2e-4)

    def test_before_is_the_own_prompt_wherever_the_search_starts(self, asked):
        elsewhere = replace(asked, options={**asked.options, "start": "noise"})
        own, other = (arm(one, stages.attack(one)) for one in (asked, elsewhere))
        assert "plain" not in own.tensors
        torch.testing.assert_close(other.tensors["plain"], own.tensors["scores"][:, 0, 0], atol=1e-5, rtol=0)
        expected = other.tensors["plain"].double().amax(1)
        assert torch.equal(arm_of(other, 0.7).before, expected)
        assert not torch.equal(other.tensors["scores"][:, 0, 0].double().amax(1), expected)

    def test_equal_models_give_equal_arms(self, asked, tiny_pipeline):
        record = stages.attack(replace(asked, twin=str(asked.run)))
        works, twin = (arm(asked, record, name) for name in ("works", "twin"))
        assert torch.equal(works.tensors["scores"], twin.tensors["scores"])

    def test_rows_are_counted_by_the_base(self, asked):
        found = arm(asked, stages.attack(asked))
        assert found.tensors["forward"][0, :, 0].tolist() == [0, 2, 4]
        assert found.tensors["backward"][0, :, 0].tolist() == [0, 2, 4]

    def test_found_embeddings_draw_the_scored_images(self, asked, audited):
        found = arm(asked, stages.attack(asked))
        target = PipelineTarget.load(audited.model)
        drawn = target.pipeline(
            prompt_embeds=found.tensors["cond"][0, :1], num_inference_steps=2, guidance_scale=2.0, output_type="np",
            latents=target.noise([Unit("w0", 0)]),
        ).images[0]  # fmt: skip
        shown = found.tensors["image_after"][0].numpy() / 255
        assert np.abs(drawn - shown).max() < 0.02

    def test_a_page_is_written_on_which_prompts_stay_text(self, asked):
        record = stages.attack(asked)
        page = (asked.run / f"{record.id}.html").read_text()
        assert "<script>" not in page
        assert "&lt;script&gt;alert(1)" in page

    def test_radii_are_swept_for_works_and_controls(self, asked):
        record = stages.attack(replace(asked, radii=(0.1, 1.0)))
        assert set(record.data["verdict"]["radius"]) == {"works", "heldout"}
        for radius in (0.1, 1.0):
            found = arm(asked, record, f"works within {radius:g}")
            reach = radius * found.data["natural_distance"]
            assert (found.tensors["moved"] <= reach * (1 + 1e-5)).all()

    def test_a_finished_attack_is_read_from_its_record(self, asked, monkeypatch):
        first = stages.attack(asked)
        monkeypatch.setattr(Bench, "_part", lambda *a, **k: pytest.fail("attacked again"))
        assert stages.attack(asked).data == first.data

    def test_an_interrupted_arm_continues_and_ends_the_same(self, asked, monkeypatch):
        whole = arm(asked, stages.attack(asked))
        run = Run.open(asked.run)
        for name in [*run.records("attack"), *run.records("attack-arm")]:
            run.drop(name)
        parts, real = [], Bench._part

        def dies(self, *args, **kwargs):
            parts.append(1)
            if len(parts) == 3:
                raise KeyboardInterrupt
            return real(self, *args, **kwargs)

        monkeypatch.setattr(attacking, "Bench", partial(Bench, works_at_once=1))
        monkeypatch.setattr(Bench, "_part", dies)
        with pytest.raises(KeyboardInterrupt):
            stages.attack(asked)
        assert len(run.records("attack-part")) == 2
        monkeypatch.setattr(Bench, "_part", real)
        again = arm(asked, stages.attack(asked))
        assert torch.allclose(again.tensors["scores"], whole.tensors["scores"], atol=1e-3)
        assert not run.records("attack-part")

    def test_an_early_stop_is_decided_by_other_seeds_and_saves_rows(self, audited, asked, monkeypatch):
        asked_of, real = [], InputJudge.__call__

        def recorded(self, prompts, cond, seeds, **how):
            asked_of.append(tuple(seeds))
            return real(self, prompts, cond, seeds, **how)

        monkeypatch.setattr(InputJudge, "__call__", recorded)
        stages.audit(replace(audited, threshold=-1.0))  # everything counts as back
        found = arm(asked, stages.attack(replace(asked, early_stop=True)))
        assert found.data["stopped"] == [[1, 1, 1, 1]]
        assert found.tensors["forward"][0, -1].tolist() == [2, 2, 2, 2]
        scoring = {(0, 1)}
        assert scoring < set(asked_of)
        assert all(min(seeds) >= STOPPING_SEEDS for seeds in set(asked_of) - scoring)
        assert found.data["images_looked_at"] == 8
        assert found.data["rows_looked_at"] == 8 * audited.sampling.rows_per_image

    def test_another_threshold_is_another_verdict(self, audited, asked):
        strict = stages.attack(asked)
        stages.audit(replace(audited, threshold=-1.0))
        loose = stages.attack(asked)
        assert loose.data["arms"] == strict.data["arms"]
        assert loose.data["verdict"]["threshold"] == -1.0
        assert loose.data["verdict"]["arms"]["works"]["before"]["estimate"] == 1.0


class TestRefusals:
    def test_a_missing_original_is_named(self, asked):
        (asked.references / "w1.png").unlink()
        with pytest.raises(InputError, match=r"w1\.png"):
            stages.attack(asked)

    def test_originals_are_the_files_that_the_audit_read(self, asked, audited):
        file = sorted(audited.references.glob("*.png"))[0]
        Image.open(file).convert("L").save(file)
        with pytest.raises(InputError, match=rf"missing, unreadable or changed, the first is {file.name}"):
            stages.attack(asked)

    def test_originals_count_from_a_folder_above_as_in_an_audit(self, request_of, tmp_path):
        with request_of.prompts.open(newline="") as file:
            rows = [row | {"image": f"{request_of.references.name}/{row['image']}"} for row in csv.DictReader(file)]
        above = request_of.references.with_name("above.csv")
        with above.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        stages.audit(replace(request_of, prompts=above))
        asked = AttackRequest(
            run=request_of.out, references=request_of.references, options={"steps": 1, "draws": 1}, keep=(1,),
            device="cpu", random=False, descriptor="sscd-mini", sscd_weights=request_of.sscd_weights,
        )  # fmt: skip
        assert stages.attack(asked) is not None

    def test_another_descriptor_is_refused(self, asked, tmp_path):
        with seeded_init(1, "another sscd"):
            network = small_network(base_width=8)
        other = export_sscd(network.eval(), tmp_path / "other", 0.99999)
        with pytest.raises(InputError, match="judged by"):
            stages.attack(replace(asked, sscd_weights=other))

    def test_an_unknown_attack_gets_a_suggestion(self, asked):
        with pytest.raises(InputError, match="did you mean dori"):
            stages.attack(replace(asked, method="dory"))

    def test_no_work_left_is_refused(self, asked):
        with pytest.raises(InputError, match="at least one work"):
            stages.attack(replace(asked, selection=Selection(rung=7)))


class TestKnownImages:
    def test_a_work_without_its_original_is_dealt_out_nowhere(self, asked):
        run = Run.open(asked.run)
        samples, matches = run.read_table("samples"), run.read_table("matches")
        lost = [row | {"sscd_paired": None} if row["prompt_id"] == "w1" else row for row in matches]
        known = known_images(samples, lost, Selection())
        assert [p.id for p in known.works] == ["w0", "w2", "w3"]
        chosen = [select(samples, lost, -2.0, Selection(part=(i, 2))).memorized for i in (1, 2)]
        parts = [known_images(samples, lost, Selection(part=(i, 2))).works for i in (1, 2)]
        assert [{p.id for p in one} for one in parts] == [{p.id for p in one} for one in chosen]

    def test_works_controls_and_ordinary_prompts_are_told_apart(self, asked):
        run = Run.open(asked.run)
        known = known_images(run.read_table("samples"), run.read_table("matches"), Selection())
        assert [p.id for p in known.works] == ["w0", "w1", "w2", "w3"]
        assert [p.id for p in known.heldout] == ["h0", "h1", "h2"]
        assert [p.id for p in known.natural] == ["b0", "b1"]

    def test_as_many_controls_as_works(self, asked):
        run = Run.open(asked.run)
        known = known_images(run.read_table("samples"), run.read_table("matches"), Selection(limit=2))
        assert (len(known.works), len(known.heldout)) == (2, 2)
