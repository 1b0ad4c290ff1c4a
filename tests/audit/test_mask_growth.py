from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from amnestic.audit.mask_growth import mask_growth, masks_by_rung, step_shares
from amnestic.core.errors import InputError
from amnestic.core.methods import Case, Finding, Localizer, Located
from amnestic.core.records import MethodSpec, Prompt, Sampling
from amnestic.core.registry import build
from amnestic.core.units import Site, Units
from amnestic.model.target import PipelineTarget

SITES = (
    Site(name="down_layer", kind="ffn-weight", stage="down", shape=(2, 4)),
    Site(name="up_layer", kind="ffn-weight", stage="up", shape=(1, 4)),
)
WEIGHTS = {"down_layer": torch.tensor([[1.0, -2.0, 3.0, 1.0], [4.0, 1.0, 1.0, 1.0]]), "up_layer": torch.ones(1, 4)}


@dataclass(frozen=True)
class Toy:
    """As much of a model as is asked for here."""

    ident = SimpleNamespace(name="toy", digest="toy-digest")

    def sites(self, kind):
        return SITES

    def weight(self, site):
        return WEIGHTS[site.name]


@dataclass(frozen=True, kw_only=True)
class Letters(Localizer):
    """Chooses a unit of the first layer for every digit in the prompts."""

    kind = "ffn-weight"

    def locate(self, target, case):
        masks = {site.name: torch.zeros(site.shape, dtype=torch.bool) for site in SITES}
        for prompt in case.memorized:
            for digit in prompt.prompt:
                masks["down_layer"].view(-1)[int(digit)] = True
        return Finding(masks=masks, passes=len(case.memorized))


def prompts(*texts, works=None, start=0):
    return tuple(
        Prompt(id=f"p{start + i}", prompt=text, work=works[i] if works else "") for i, text in enumerate(texts)
    )


def located(*, method="wanda-subspace", model="toy-digest", **tensors):
    masks = {site.name: torch.zeros(site.shape, dtype=torch.bool) for site in SITES}
    return Located(
        units=Units(sites=SITES, masks=masks, model=model), passes=1, tensors=tensors,
        made_by=MethodSpec(name=method, parameters={"r": 0.25}),
    )  # fmt: skip


NORMS = {
    # step 0: |W| A = [1 2 3 1], [4 1 1 1]; step 1: unit 1 outweighs all, but no more than the contrast does
    "memorized.down_layer": torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.1, 9.0, 0.1, 0.1], [9.0, 1.0, 1.0, 1.0]]),
    "contrast.down_layer": torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]),
}


class TestStepShares:
    def test_a_case_by_hand(self):
        found = step_shares(located(**NORMS), Toy())
        assert (found.sites, found.stages) == (("down_layer",), ("down",))
        # step 0: weight (0, 2) alone, since unit 0 is used more by the contrast; step 1: none; step 2: (0, 0), (1, 0)
        np.testing.assert_allclose(found.shares, [[1 / 8, 0, 2 / 8]])
        np.testing.assert_allclose(found.united, [[1 / 8, 1 / 8, 3 / 8]])

    def test_another_r_may_be_asked_for(self):
        np.testing.assert_allclose(step_shares(located(**NORMS), Toy(), r=0.2).shares, [[0, 0, 0]])
        np.testing.assert_allclose(step_shares(located(**NORMS), Toy(), r=1).shares, [[6 / 8, 6 / 8, 1]])
        with pytest.raises(InputError, match="r within"):
            step_shares(located(**NORMS), Toy(), r=0)

    def test_what_keeps_no_norms_is_refused(self):
        with pytest.raises(InputError, match=r"expected a finding of wanda-subspace.*got one of nemo"):
            step_shares(located(method="nemo", **NORMS), Toy())
        with pytest.raises(InputError, match="holds no norms"):
            step_shares(located(), Toy())
        with pytest.raises(InputError, match="holds no norms"):
            step_shares(located(**{k: v for k, v in NORMS.items() if k.startswith("memorized")}), Toy())
        with pytest.raises(InputError, match="locate again on this model"):
            step_shares(located(model="another", **NORMS), Toy())

    @pytest.mark.parametrize("layers", ["all", "down+mid"])
    def test_the_union_of_all_steps_is_the_mask_of_the_finding(self, tiny_pipeline, layers):
        target = PipelineTarget.load(tiny_pipeline)
        how = Sampling(num_inference_steps=3, guidance_scale=2.0)
        found = build("localizer", "wanda-subspace", {"r": 0.1, "tau": 2, "layers": layers})(
            target, Case(memorized=prompts("a red cat", "two dogs"), sampling=how)
        )
        shares = step_shares(found, target)
        masks = [found.units.masks[name] for name in shares.sites]
        np.testing.assert_allclose(shares.united[:, -1], [float(m.double().mean()) for m in masks])
        assert shares.shares.shape == (len(masks), 2)
        assert ("up" in shares.stages) == (layers == "all")
        assert bool((shares.shares <= 0.1).all())
        assert float(shares.shares.max()) > 0


class TestMaskGrowth:
    def test_prefixes_against_all_prompts(self):
        case = Case(memorized=prompts("01", "1", "234"))
        rows = mask_growth(Letters(), Toy(), case, [3, 1, 2, 1])
        assert rows == [
            {"n_prompts": 1, "share": 2 / 12, "iou_with_full": 0.4},
            {"n_prompts": 2, "share": 2 / 12, "iou_with_full": 0.4},
            {"n_prompts": 3, "share": 5 / 12, "iou_with_full": 1.0},
        ]

    def test_nothing_found_is_no_overlap_but_no_disagreement_either(self):
        rows = mask_growth(Letters(), Toy(), Case(memorized=prompts("", "")), [1, 2])
        assert [(r["share"], r["iou_with_full"]) for r in rows] == [(0.0, None), (0.0, None)]

    @pytest.mark.parametrize("sizes", [[0], [1, 4], []])
    def test_sizes_that_there_are_not(self, sizes):
        with pytest.raises(InputError, match="within 1 and 3"):
            mask_growth(Letters(), Toy(), Case(memorized=prompts("0", "1", "2")), sizes)


class TestMasksByRung:
    def test_equally_many_prompts_and_the_top_rung_against_its_other_works(self):
        rungs = {
            7: prompts("01", "2", "03", "4"),
            2: prompts("0", "1", "77777", start=10),
            0: prompts("5", "6", start=20),
        }
        assert masks_by_rung(Letters(), Toy(), rungs, Case(memorized=())) == [
            {"rung": 0, "n_prompts": 2, "share": 2 / 12, "iou_with_top": 0.0},
            {"rung": 2, "n_prompts": 2, "share": 2 / 12, "iou_with_top": 2 / 3},
            {"rung": 7, "n_prompts": 2, "share": 3 / 12, "iou_with_top": 1 / 5},
        ]

    def test_the_top_rung_is_not_compared_with_its_own_works(self):
        top = prompts("01", "2", "03", "4", works=["a", "b", "a", "b"])
        rows = masks_by_rung(Letters(), Toy(), {0: prompts("5", "6", start=20), 1: top}, Case(memorized=()))
        assert rows[1] == {"rung": 1, "n_prompts": 2, "share": 3 / 12, "iou_with_top": None}

    def test_everything_else_of_the_case_stays(self):
        seen = []

        @dataclass(frozen=True, kw_only=True)
        class Watching(Letters):
            def locate(self, target, case):
                seen.append(case)
                return super().locate(target, case)

        case = Case(memorized=prompts("0"), controls=prompts("1", start=5), seeds=(3, 4))
        masks_by_rung(Watching(), Toy(), {0: prompts("2", start=8)}, case)
        assert seen == [replace(case, memorized=prompts("2", start=8))]

    def test_rungs_without_prompts(self):
        with pytest.raises(InputError, match=r"none on \[3\]"):
            masks_by_rung(Letters(), Toy(), {1: prompts("0"), 3: ()}, Case(memorized=()))
        with pytest.raises(InputError, match="no rung at all"):
            masks_by_rung(Letters(), Toy(), {}, Case(memorized=()))
