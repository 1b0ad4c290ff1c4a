"""Where memorization lies: embeddings that stand for prompts, layers, weights, and the whole study."""

import csv
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image

from amnestic import stages
from amnestic.audit import locality as audit_locality
from amnestic.audit.locality import activation_discrepancy, geometry
from amnestic.audit.localizers.nemo import Nemo
from amnestic.audit.localizers.wanda_subspace import WandaSubspace
from amnestic.audit.request import AuditRequest
from amnestic.audit.weight_agreement import (
    ALL_LAYERS,
    Chosen,
    calibrated,
    located_by,
    united,
    weight_agreement,
)
from amnestic.commands.locality import _options
from amnestic.core.errors import InputError
from amnestic.core.methods import Case
from amnestic.core.records import Prompt, Sampling, Unit
from amnestic.core.seeds import generator, seeded_init
from amnestic.core.spoken import Spoken
from amnestic.core.store import Run
from amnestic.core.units import Site, Units
from amnestic.measures.dispersion import discrepancy, pairwise_l2, spread
from amnestic.measures.overlap import iou
from amnestic.mitigations.pruning.zero_units import ZeroUnits
from amnestic.model.target import PipelineTarget
from amnestic.stages.attack_bench import Bench
from amnestic.stages.locality_study import Study, ends_of
from amnestic.stages.studying_locality import LocalityRequest, locality
from amnestic.testbed.diffusion import new_unet

TINY_CHANNELS, TINY_WIDTH = (16, 16, 32, 32), 32
HOW = Sampling(num_inference_steps=3, guidance_scale=2.0)
TEXT = "a red cat on a blue mat"
CONTROLS = tuple(
    Prompt(id=f"c{i}", prompt=p) for i, p in enumerate(["a mat", "a red dog under a tree", "two cats", "green"])
)
NEMO = Nemo(similarity="ms-ssim-2", n_seeds=4, threshold=0.95)
WANDA = WandaSubspace(r=0.1, tau=2)


@pytest.fixture(scope="module")
def target(tiny_pipeline):
    return PipelineTarget.load(tiny_pipeline)


@pytest.fixture(scope="module")
def memorizing(tiny_pipeline):
    """A target whose noise differences are decided by the text: nearly no noise goes in, all of it comes out."""
    with seeded_init(0, "two scales"):
        unet = new_unet(TINY_CHANNELS, size=32, text_width=TINY_WIDTH)
    plain = unet.forward
    pattern = torch.randn(1, unet.config.in_channels, 32, 32, generator=generator(0, "pattern"))

    def forward(sample, *args, **kwargs):
        out = plain(pattern + 0.1 * sample, *args, **kwargs)
        out.sample = sample + 5 * out.sample
        return out

    unet.forward = forward
    parts = PipelineTarget.load(tiny_pipeline).pipeline.components
    parts |= {"unet": unet, "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False)}
    target = PipelineTarget.load(StableDiffusionPipeline(**parts, requires_safety_checker=False))
    for site in target.sites("value"):
        unet.get_submodule(site.name).weight.data *= 20
    return target


@pytest.fixture(params=["nemo", "wanda"])
def how(request, target, memorizing):
    """A localizer and a target in which it finds something."""
    return {"nemo": (NEMO, memorizing), "wanda": (WANDA, target)}[request.param]


@pytest.fixture(scope="module")
def case():
    return Case(memorized=(Prompt(id="m", prompt=TEXT),), controls=CONTROLS, sampling=HOW)


def conditioning(target, seed=0):
    return torch.randn(target.encode([""]).shape[1:], generator=generator(seed, "embedding"))


class TestSpoken:
    def test_texts_mean_what_they_are_told_and_others_what_they_meant(self, target):
        given = conditioning(target)
        spoken = Spoken(target, {"x": given})
        mixed = spoken.encode(["a mat", "x", "two cats"])
        assert torch.equal(mixed[1], given)
        assert torch.equal(mixed[[0, 2]], target.encode(["a mat", "two cats"]))
        assert torch.equal(spoken.encode(["x"])[0], given)
        assert torch.equal(spoken.encode(["a mat"]), target.encode(["a mat"]))

    def test_everything_else_is_the_target(self, target):
        spoken = Spoken(target, {})
        assert spoken.ident == target.ident
        assert spoken.sites("value") == target.sites("value")
        units = [Unit("u", 0)]
        assert torch.equal(spoken.sample(units, [TEXT], HOW), target.sample(units, [TEXT], HOW))

    def test_it_draws_from_the_conditioning(self, target):
        given, units = conditioning(target), [Unit("u", 0), Unit("v", 0)]
        spoken = Spoken(target, {"x": given})
        wanted = target.sample(units, [], HOW, cond=torch.stack([given, target.encode(["a mat"])[0]]))
        assert torch.equal(spoken.sample(units, ["x", "a mat"], HOW), wanted)
        plain = target.sample(units, ["x", "a mat"], HOW)
        assert not torch.allclose(plain[0], wanted[0])
        other = conditioning(target, seed=1)[None]
        said = spoken.sample(units[:1], ["x"], HOW, cond=other)
        assert torch.equal(said, target.sample(units[:1], [], HOW, cond=other))

    def test_another_shape_is_refused(self, target):
        with pytest.raises(InputError, match="expected conditionings of shape"):
            Spoken(target, {"x": conditioning(target)[1:]})

    def test_an_edited_model_hears_the_same(self, target, case):
        located, given = WANDA(target, case), conditioning(target)
        edit = ZeroUnits()(target, located.units)
        with Spoken(target, {"x": given}).edited(edit) as pruned:
            assert pruned.ident.digest != target.ident.digest
            assert torch.equal(pruned.encode(["x"])[0], given)


class TestLocatedBy:
    def test_the_prompts_own_embedding_chooses_what_the_prompt_does(self, how, case):
        method, target = how
        plain = method(target, case)
        spoken = located_by(method, target, {"end": target.encode([TEXT])[0]}, case)
        assert len(plain.units) > 0
        for name, mask in plain.units.masks.items():
            assert torch.equal(spoken.units.masks[name], mask)
        assert spoken.units.model == target.ident.digest
        for name, tensor in plain.tensors.items():
            assert torch.equal(spoken.tensors[name], tensor)

    def test_another_embedding_chooses_otherwise(self, how, case):
        method, target = how
        plain = method(target, case)
        other = located_by(method, target, {"end": 3 * conditioning(target)}, case)
        assert any(not torch.equal(other.units.masks[n], m) for n, m in plain.units.masks.items())

    def test_several_embeddings_are_as_several_prompts(self, target, case):
        texts = [TEXT, "two dogs"]
        prompts = tuple(Prompt(id=t, prompt=t) for t in texts)
        plain = WANDA(target, replace(case, memorized=prompts))
        spoken = located_by(WANDA, target, dict(zip(texts, target.encode(texts), strict=True)), case)
        assert all(torch.equal(spoken.units.masks[n], m) for n, m in plain.units.masks.items())

    def test_a_calibrated_threshold_changes_nothing(self, memorizing, case):
        open_one = replace(NEMO, threshold=None)
        fixed = calibrated(open_one, memorizing, case)
        assert fixed.threshold == open_one(memorizing, case).notes["threshold"]
        assert calibrated(fixed, memorizing, case) is fixed
        assert calibrated(WANDA, memorizing, case) is WANDA
        one, other = open_one(memorizing, case), fixed(memorizing, case)
        assert all(torch.equal(one.units.masks[n], m) for n, m in other.units.masks.items())


def units_of(*masks, model="m"):
    sites = tuple(Site(name=f"s{i}", kind="ffn", stage="down", shape=(len(m),)) for i, m in enumerate(masks))
    return Units(
        sites=sites, masks={f"s{i}": torch.tensor(m, dtype=torch.bool) for i, m in enumerate(masks)}, model=model
    )


def chosen(group, work, *masks):
    return Chosen(group=group, work=work, packed=units_of(*masks).packed())


class TestAgreement:
    def test_masks_are_united_for_the_model_that_is_named(self):
        found = united([units_of([1, 0, 0], model="a"), units_of([0, 0, 1], model="b")], model="c")
        assert found.masks["s0"].tolist() == [True, False, True]
        assert found.model == "c"
        with pytest.raises(InputError, match="got none"):
            united([], model="c")
        with pytest.raises(InputError, match="same sites"):
            united([units_of([1, 0]), units_of([1, 0, 0])], model="c")

    def rows(self, empty):
        some = [
            chosen("found", "w", [1, 1, 0], [0]), chosen("found", "w", [1, 0, 0], [0]),
            chosen("found", "v", [0, 0, 1], [1]), chosen("memorized", "", [1, 1, 0], [0]),
            chosen("memorized", "", [0, 0, 0], [0]), chosen("natural", "", [0, 1, 1], [0]),
        ]  # fmt: skip
        sites = units_of([0, 0, 0], [0]).sites
        return {row.site: row for row in weight_agreement(sites, some, empty=empty)}

    def test_known_answers_by_kind(self):
        kinds = self.rows(1.0)["s0"].kinds
        assert (kinds["within_found"].mean, kinds["within_found"].n) == (0.5, 1)
        assert (kinds["across_found"].mean, kinds["across_found"].n) == (0.0, 2)
        assert kinds["within_memorized"].mean == 0.0  # one empty mask is not two
        assert kinds["within_memorized"].empty_share == 0.0
        assert kinds["found_with_memorized"].mean == pytest.approx((1 + 0 + 0.5 + 0 + 0 + 0) / 6)
        assert (kinds["within_natural"].n, kinds["within_natural"].mean, kinds["within_heldout"].n) == (0, None, 0)

    @pytest.mark.parametrize(("empty", "wanted"), [(1.0, 1.0), (0.0, 0.0), (None, None)])
    def test_two_empty_masks_count_what_is_asked(self, empty, wanted):
        found = self.rows(empty)["s1"].kinds["within_found"]
        assert (found.mean, found.mean_of_chosen, found.empty_share) == (wanted, None, 1.0)
        across = self.rows(empty)["s1"].kinds["across_found"]
        assert (across.mean, across.mean_of_chosen, across.empty_share) == (0.0, 0.0, 0.0)

    def test_all_layers_are_one_mask(self):
        whole = self.rows(1.0)[ALL_LAYERS]
        assert whole.n_units == 4
        assert whole.kinds["within_found"].mean == 0.5
        assert whole.kinds["within_found"].empty_share == 0.0

    def test_means_are_those_of_iou(self, monkeypatch):
        monkeypatch.setattr("amnestic.audit.weight_agreement._COLUMNS", 16)
        masks = torch.rand((5, 61), generator=generator(0, "masks")) < 0.3
        some = [chosen("found", "w", mask.tolist()) for mask in masks]
        (row, _) = weight_agreement(units_of(masks[0].tolist()).sites, some)
        wanted = [iou(one, other) for one, other in combinations(masks, 2)]
        assert row.kinds["within_found"].mean == pytest.approx(sum(wanted) / len(wanted))
        assert row.kinds["within_found"].n == 10

    def test_a_missing_mask_is_refused(self):
        with pytest.raises(InputError, match="whole mask of s1"):
            weight_agreement(units_of([0], [0]).sites, [chosen("found", "w", [1])])


class TestGeometry:
    def test_what_did_not_move_is_as_dispersed_as_it_began(self):
        starts = torch.randn((6, 3, 4), generator=generator(0, "starts"))
        natural = spread(pairwise_l2(starts / 4))
        found = geometry(starts, starts + 0.01, torch.tensor([True] * 4 + [False] * 2), natural)
        assert found.to_starts == pytest.approx(1, abs=1e-4)
        assert found.to_natural == pytest.approx(4, abs=1e-3)
        assert (found.own_nearest, found.came.n, found.found.n) == (1.0, 6, 15)
        assert found.moved.median == pytest.approx(0.01 * 12**0.5, rel=1e-3)

    def test_what_ran_together_is_told_from_its_starts(self):
        starts = torch.randn((6, 3, 4), generator=generator(0, "starts"))
        found = geometry(starts, 0.001 * starts, torch.zeros(6, dtype=torch.bool), spread(torch.empty(0)))
        assert found.to_starts == pytest.approx(0.001, rel=1e-3)
        assert found.own_nearest < 1
        assert (found.to_natural, found.came_to_natural, found.came.n) == (None, None, 0)
        with pytest.raises(InputError, match="one outcome per result"):
            geometry(starts, starts, torch.ones(2, dtype=torch.bool), spread(torch.empty(0)))


@pytest.fixture(scope="module")
def sets(target):
    return {
        "far": torch.stack([3 * conditioning(target, seed=i) for i in range(3)]),
        "near": target.encode(["a mat", "a red mat", "two cats"]), "one": target.encode(["a mat"]),
        "equal": target.encode([TEXT]).repeat(2, 1, 1),
    }  # fmt: skip


@pytest.fixture(scope="module")
def rows(target, sets):
    return activation_discrepancy(target, sets, HOW)


class TestActivations:
    def test_every_value_and_feed_forward_layer_is_there(self, target, rows):
        wanted = [s.name for kind in ("value", "ffn") for s in target.sites(kind)]
        assert [row.site for row in rows] == wanted
        for row in rows:
            assert row.means["one"] is None
            assert row.means["equal"] == pytest.approx(0, abs=1e-3)
            assert row.means["far"] > 0
            assert row.means["near"] > 0

    def test_values_are_those_of_the_layer(self, target, sets, rows):
        site = target.sites("value")[1]
        wanted = discrepancy(target.through(site, sets["near"]))
        assert rows[1].means["near"] == pytest.approx(wanted, rel=1e-5)

    def test_feed_forward_inputs_are_those_of_the_first_step(self, target, sets, rows):
        site, seen = target.sites("ffn")[2], []
        module = target.pipeline.unet.get_submodule(site.name)
        handle = module.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].detach().clone()))
        noise = target.noise([Unit("locality", 0)])
        for cond in sets["near"]:
            t = target.timesteps(HOW)[:1]
            with torch.no_grad():
                target.predict(noise, t, cond[None])
        handle.remove()
        wanted = discrepancy(torch.cat(seen))
        row = next(r for r in rows if r.site == site.name and r.kind == "ffn")
        assert row.means["near"] == pytest.approx(wanted, rel=1e-3)

    def test_neither_batches_nor_memory_change_them(self, target, sets, rows):
        for few in ({"batch_size": 1}, {"most_bytes": 1}):
            again = activation_discrepancy(target, {"near": sets["near"]}, HOW, **few)
            for row, other in zip(rows, again, strict=True):
                assert other.means["near"] == pytest.approx(row.means["near"], rel=1e-3)

    def test_layers_share_a_pass_while_they_fit(self):
        sizes = {Site(name=str(i), kind="ffn", stage="mid", shape=(1,)): size for i, size in enumerate([3, 3, 9, 1])}
        assert [[s.name for s in group] for group in audit_locality._groups(sizes, 6)] == [["0", "1"], ["2"], ["3"]]


@pytest.fixture(scope="module")
def audited(tmp_path_factory, tiny_pipeline, tiny_sscd):
    """An audit of three works, two held-out ones and ordinary prompts, with a threshold that everything exceeds."""
    home = tmp_path_factory.mktemp("locality")
    (home / "references").mkdir()
    rows = [{"id": f"b{i}", "prompt": f"a base scene {i}", "image": "", "label": "base"} for i in range(4)]
    for i, name in enumerate(("w0", "w1", "w2", "h0", "h1")):
        picture = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(picture).save(home / "references" / f"{name}.png")
        label = "heldout" if name[0] == "h" else "VM"
        rows.append({"id": name, "prompt": f"a work {i}", "image": f"{name}.png", "label": label})
    with (home / "prompts.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "prompt", "image", "label"])
        writer.writeheader()
        writer.writerows(rows)
    request = AuditRequest(
        model=str(tiny_pipeline), prompts=home / "prompts.csv", references=home / "references", out=home / "run",
        n_seeds=1, sampling=Sampling(num_inference_steps=2, guidance_scale=2.0), device="cpu", batch_size=8,
        descriptor="sscd-mini", sscd_weights=tiny_sscd, threshold=-1.0,
    )  # fmt: skip
    stages.audit(request)
    return request


@pytest.fixture(scope="module")
def asked(audited):
    """A study that takes seconds."""
    return LocalityRequest(
        run=audited.out, references=audited.references, works=2, starts=3, n_seeds=1,
        attack={"steps": 2, "draws": 2}, n_masks=2, rounds=2, round_works=2, n_base=2, tsne=True, device="cpu",
        localizers={"wanda-subspace": {"r": 0.2, "tau": 2}, "nemo": {"similarity": "ssim", "n_seeds": 2}},
        descriptor="sscd-mini", sscd_weights=audited.sscd_weights,
    )  # fmt: skip


@pytest.fixture(scope="module")
def studied(asked):
    return locality(asked)


class TestStudy:
    def test_everything_is_measured_and_shown(self, asked, studied):
        data = studied.data
        assert [(row["group"], row["work"]) for row in data["starts"]] == [
            ("memorized", "w0"), ("memorized", "w1"), ("heldout", "h0"), ("heldout", "h1")
        ]  # fmt: skip
        for row in data["starts"]:
            assert (row["came"]["n"], row["came"]["estimate"]) == (3, 1.0)
            assert row["geometry"]["starts"]["n"] == 3
            assert row["geometry"]["moved"]["median"] > 0
        assert data["overall"]["memorized"]["n"] == data["overall"]["heldout"]["n"] == 2
        assert all(row[key] > 0 for row in data["activations"] for key in ("found", "heldout", "starts", "memorized"))
        assert set(data["agreement"]) == {"wanda-subspace", "nemo"}
        for found in data["agreement"].values():
            whole = found["layers"][-1]
            assert {kind: one["n"] for kind, one in whole["kinds"].items()} == {
                "within_found": 2, "across_found": 4, "within_memorized": 1, "found_with_memorized": 8,
                "within_natural": 1, "within_heldout": 2,
            }  # fmt: skip
        assert [row["round"] for row in data["rounds"]["rows"]] == [0, 1, 2]
        assert [m["how"] for m in data["maps"]] == ["principal", "t-sne"] * 2
        assert all(studied.tensors[m["tensor"]].shape == (sum(m["n"]), 2) for m in data["maps"])
        page = (asked.run / "locality.html").read_text()
        assert page.count("<figcaption>") == 1 + 4 + 1 + 1 + 2 + 1
        assert "not measured" in page  # no CLIP model was given

    def test_starts_of_one_work_have_draws_of_their_own(self, asked, studied):
        arm = self.arm(asked, ["w0"] * 3)
        assert arm.data["goals"] == ["w0.start-0", "w0.start-1", "w0.start-2"]
        cond = arm.tensors["cond"][0]
        assert all(not torch.allclose(one, other) for one, other in combinations(cond, 2))
        assert arm.tensors["loss"][0, 1].unique().numel() == 3
        found = studied.data["starts"][0]["geometry"]
        assert found["found"]["median"] == pytest.approx(float(pairwise_l2(cond).median()), rel=1e-5)
        assert sorted(arm.tensors["moved"][0].tolist())[1] == pytest.approx(found["moved"]["median"], rel=1e-4)

    @staticmethod
    def arm(asked, works):
        run = Run.open(asked.run)
        arms = [run.record(name) for name in run.records("attack-arm")]
        return next(a for a in arms if a.data["works"] == works and a.data["steps"] == [0, 2])

    def test_distances_begin_where_the_searches_began(self, asked):
        slow = {"steps": 1, "draws": 1, "learning_rate": 1e-6}
        localizers = {"wanda-subspace": asked.localizers["wanda-subspace"]}
        record = locality(replace(asked, works=1, rounds=0, attack=slow, localizers=localizers, tsne=False))
        found = record.data["starts"][0]["geometry"]
        assert found["to_starts"] == pytest.approx(1, abs=1e-3)
        assert found["own_nearest"] == 1.0
        assert found["starts"]["median"] == pytest.approx(record.data["gaussian_distance"], rel=0.1)
        assert found["moved"]["median"] < 1e-3 * found["starts"]["median"]
        assert record.data["rounds"] is None

    def test_rounds_prune_more_and_more_and_tell_the_cost(self, studied):
        rows = studied.data["rounds"]["rows"]
        assert [row["units"] for row in rows] == sorted({row["units"] for row in rows})
        assert rows[0]["share"] == 0.0
        assert rows[2]["share"] > rows[1]["share"] > 0
        assert len({row["model"] for row in rows}) == 3
        assert rows[0]["likeness"]["median"] == pytest.approx(1, abs=1e-5)
        assert rows[2]["likeness"]["median"] < 1
        assert rows[0]["likeness"]["n"] == 2
        assert all(row["alignment"] is None for row in rows)
        assert all(row[key]["n"] == 2 for row in rows for key in ("plain", "attacked", "heldout_attacked"))
        assert studied.data["rounds"]["ended"] == "all rounds were made"

    def test_each_round_locates_in_the_model_as_it_is_then(self, asked, audited, studied):
        run, target = Run.open(asked.run), PipelineTarget.load(audited.model)
        rows, how = studied.data["rounds"]["rows"], Sampling(**run.manifest()["settings"]["sampling"])
        units = {r.parents[0]: r for r in map(run.record, run.records("locality-units"))}
        assert set(units) == {row["model"] for row in rows[:2]}
        by_prompts = Case(
            memorized=tuple(Prompt(id=f"w{i}", prompt=f"a work {i}") for i in range(2)), sampling=how,
            controls=tuple(Prompt(id=f"b{i}", prompt=f"a base scene {i}") for i in range(4)),
        )  # fmt: skip
        first = WandaSubspace(r=0.2, tau=2)(target, by_prompts).units
        assert self.same(units[rows[0]["model"]], first)
        with target.edited(ZeroUnits()(target, first)) as pruned:
            assert pruned.ident.digest == rows[1]["model"]
            arm = next(
                r for r in map(run.record, run.records("attack-arm"))
                if r.data["model"] == pruned.ident.digest and r.data["works"] == ["w0", "w1"]
            )  # fmt: skip
            assert arm.made_by.parameters["seed"] == 1
            conds = dict(zip(("x", "y"), arm.tensors["cond"][0], strict=True))
            second = located_by(WandaSubspace(r=0.2, tau=2), pruned, conds, by_prompts).units
        assert self.same(units[rows[1]["model"]], second)
        assert rows[2]["units"] == len(united([first, second], model="any"))

    @staticmethod
    def same(record, units):
        return all(torch.equal(record.tensors[name], bits) for name, bits in units.packed().items())

    def test_the_plain_rate_is_that_of_the_audit(self, asked, studied):
        rows = {(r["prompt_id"], r["seed"]): r["sscd_paired"] for r in Run.open(asked.run).read_table("matches")}
        arm = self.arm(asked, ["w0", "w1"])
        assert arm.data["model"] == studied.data["rounds"]["rows"][0]["model"]
        wanted = torch.tensor([[rows["w0", 0]], [rows["w1", 0]]])
        assert torch.allclose(ends_of(arm).before, wanted.float(), atol=2e-4)

    def test_a_finished_study_is_read_from_its_record(self, asked, studied, monkeypatch):
        (asked.run / "locality.html").unlink()
        monkeypatch.setattr("amnestic.stages.locality_study.model_of", lambda *a, **k: pytest.fail("loaded the model"))
        assert locality(asked).data == studied.data
        assert (asked.run / "locality.html").exists()

    def test_an_interrupted_study_continues(self, asked, studied, monkeypatch):
        Run.open(asked.run).drop(studied.id)
        monkeypatch.setattr(Bench, "_part", lambda *a, **k: pytest.fail("attacked again"))
        monkeypatch.setattr(WandaSubspace, "locate", lambda *a, **k: pytest.fail("located again"))
        again, seconds = locality(asked), {"seconds": 0}
        assert {**again.data, **seconds} == {**studied.data, **seconds}

    def test_nothing_that_comes_back_ends_the_rounds_and_is_not_compared(self, asked, studied, monkeypatch):
        real = Study.__init__

        def strict(self, **parts):
            real(self, **parts | {"bench": replace(parts["bench"], threshold=2.0)})

        monkeypatch.setattr(Study, "__init__", strict)
        data = locality(replace(asked, n_base=1)).data
        assert data["starts"][0]["came"]["estimate"] == 0.0
        assert data["starts"][0]["geometry"]["came"]["n"] == 0
        assert data["agreement"]["nemo"]["layers"][-1]["kinds"]["within_found"]["mean"] is None
        assert all(row["found"] is None for row in data["activations"])
        assert [row["round"] for row in data["rounds"]["rows"]] == [0, 1]
        assert "brought no work back" in data["rounds"]["ended"]
        assert any("0 bring it" in note for note in data["notes"])

    def test_settings_are_checked_before_anything_is_searched(self, asked, monkeypatch):
        monkeypatch.setattr(Bench, "_part", lambda *a, **k: pytest.fail("attacked"))
        for wrong, words in (
            ({"attack": {"start": "prompt"}}, "leave out its setting start"),
            ({"localizers": {"nemo": {}}}, "expected a localizer of nemo to prune with"),
            ({"localizers": {"gradient-attribution": {}}, "rounds": 0}, "look at prompts alone"),
            ({"localizers": {"nemo": {}}, "prune_with": "nemo"}, "needs latents of at least"),
            ({"references": asked.run, "works": 1}, "expected the originals"),
        ):
            with pytest.raises(InputError, match=words):
                locality(replace(asked, **wrong))

    def test_works_that_do_not_replicate_are_no_study(self, audited, asked, tmp_path):
        stages.audit(replace(audited, threshold=1.0, out=tmp_path / "strict"))
        with pytest.raises(InputError, match="that replicate and name an original"):
            locality(replace(asked, run=tmp_path / "strict"))


class TestOptions:
    def test_settings_go_to_the_method_that_they_name(self):
        found = _options(["nemo.similarity=ssim", "dori.steps=5", "nemo.n-seeds=2"], ["dori", "wanda-subspace", "nemo"])
        assert found == {"dori": {"steps": 5}, "wanda-subspace": {}, "nemo": {"similarity": "ssim", "n_seeds": 2}}

    @pytest.mark.parametrize("word", ["steps=5", "random-units.share=0.1"])
    def test_others_are_refused(self, word):
        with pytest.raises(InputError, match="expected a setting of dori, nemo such as"):
            _options([word], ["dori", "nemo"])
