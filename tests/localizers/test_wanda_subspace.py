import numpy as np
import pytest
import torch
from reference import wanda_literal

from amnestic.core.errors import InputError, NotFinite
from amnestic.core.methods import Case
from amnestic.core.records import Prompt, Sampling, Unit
from amnestic.core.registry import build, methods
from amnestic.model.target import PipelineTarget

HOW = Sampling(num_inference_steps=4, guidance_scale=3.0)


@pytest.fixture(scope="module")
def target(tiny_pipeline):
    return PipelineTarget.load(tiny_pipeline)


def prompts(*texts):
    return tuple(Prompt(id=f"p{i}", prompt=text) for i, text in enumerate(texts))


MEMORIZED = prompts("a red cat on a blue mat", "two dogs", "a green tree")
CONTROLS = prompts("a mat", "a red dog under a tree", "two cats", "a blue tree")


def literal(target, targets, others, *, r, tau):
    pipeline = target.pipeline
    noise = target.noise([Unit("wanda-subspace", 0)])
    layers = [site.name for site in target.sites("ffn-weight")]
    pipeline.set_progress_bar_config(disable=True)
    return wanda_literal.locate(
        pipeline, targets, others, layers=layers, ratio=r, tau=tau, steps=HOW.num_inference_steps,
        guidance_scale=HOW.guidance_scale, latents=noise, compare="norms",
    )  # fmt: skip


@pytest.mark.parametrize("contrast", ["empty", "controls"])
@pytest.mark.parametrize(("r", "tau"), [(0.05, 2), (0.3, 4)])
def test_masks_are_those_of_the_paper(target, contrast, r, tau):
    method = build("localizer", "wanda-subspace", {"r": r, "tau": tau, "contrast": contrast})
    found = method(target, Case(memorized=MEMORIZED, controls=CONTROLS, sampling=HOW))
    others = None if contrast == "empty" else [p.prompt for p in CONTROLS]
    wanted = literal(target, [p.prompt for p in MEMORIZED], others, r=r, tau=tau)
    assert {s.name for s in found.units.sites} == set(wanted)
    total = sum(mask.size for mask in wanted.values())
    different = sum(int((found.units.masks[name].numpy() != mask).sum()) for name, mask in wanted.items())
    assert different <= 1e-4 * total  # kernels of other batch sizes round otherwise where two scores nearly tie
    assert len(found.units) > 0


def test_the_batch_size_does_not_matter(target):
    case = Case(memorized=MEMORIZED, sampling=HOW)
    one, three = (
        build("localizer", "wanda-subspace", {"r": 0.1, "tau": 2, "batch_size": n})(target, case) for n in (1, 3)
    )
    for name, tensor in one.tensors.items():
        np.testing.assert_allclose(tensor.numpy(), three.tensors[name].numpy(), rtol=2e-4)


def test_only_the_first_steps_are_drawn_and_the_empty_prompt_once(target):
    found = build("localizer", "wanda-subspace", {"r": 0.1, "tau": 2})(target, Case(memorized=MEMORIZED, sampling=HOW))
    assert found.passes == (3 + 1) * 2 * 2
    half = build("localizer", "wanda-subspace", {"r": 0.1, "tau_share": 0.5})
    assert half(target, Case(memorized=MEMORIZED, sampling=HOW)).notes["tau"] == 2


def test_up_blocks_can_be_left_out(target):
    method = build("localizer", "wanda-subspace", {"r": 0.3, "tau": 1, "layers": "down+mid"})
    units = method(target, Case(memorized=MEMORIZED, sampling=HOW)).units
    assert all(not units.masks[s.name].any() for s in units.sites if s.stage == "up")
    assert any(units.masks[s.name].any() for s in units.sites if s.stage == "mid")


def test_conditional_rows_alone_give_other_masks(target):
    case = Case(memorized=MEMORIZED, controls=CONTROLS, sampling=HOW)
    both, one = (
        build("localizer", "wanda-subspace", {"r": 0.1, "tau": 2, "contrast": "controls", "rows": rows})(target, case)
        for rows in ("both", "conditional")
    )
    assert any((both.units.masks[name] != mask).any() for name, mask in one.units.masks.items())


def test_a_share_too_small_for_a_layer_is_told(target):
    found = build("localizer", "wanda-subspace", {"r": 0.001, "tau": 1})(
        target, Case(memorized=MEMORIZED, sampling=HOW)
    )
    assert found.outcome == "found nothing"
    assert len(found.notes["r selects nothing at"]) == len(found.units.sites)


def test_it_is_known_by_its_name_and_knows_its_settings(target):
    assert "wanda-subspace" in methods("localizer")
    spec = build("localizer", "wanda-subspace", {"r": 0.2}).spec()
    assert (spec.name, spec.parameters["r"], spec.parameters["tau"]) == ("wanda-subspace", 0.2, 10)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("wanda-subspce", {}, "did you mean wanda-subspace"),
        ("wanda-subspace", {"tua": 3}, "did you mean tau"),
        ("wanda-subspace", {"r": 0}, "r must lie in"),
        ("wanda-subspace", {"contrast": "none"}, "expected empty or controls"),
    ],
)
def test_mistakes_are_one_sentence(name, options, said):
    with pytest.raises(InputError, match=said):
        build("localizer", name, options)


def test_a_contrast_with_controls_needs_some(target):
    method = build("localizer", "wanda-subspace", {"contrast": "controls"})
    with pytest.raises(InputError, match="add controls to the case"):
        method(target, Case(memorized=MEMORIZED, sampling=HOW))


def test_no_memorized_prompt_is_a_mistake(target):
    with pytest.raises(InputError, match="at least one memorized prompt"):
        build("localizer", "wanda-subspace")(target, Case(memorized=(), sampling=HOW))


def test_nan_activations_are_told(tiny_copy):
    broken = PipelineTarget.load(tiny_copy)
    broken.pipeline.unet.mid_block.attentions[0].transformer_blocks[0].ff.net[0].proj.bias.data[0] = torch.nan
    with pytest.raises(NotFinite):
        build("localizer", "wanda-subspace", {"tau": 1})(broken, Case(memorized=MEMORIZED, sampling=HOW))
