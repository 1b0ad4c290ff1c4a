import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from reference import nemo_literal

from amnestic.audit.localizers.nemo import SCALES, candidates
from amnestic.audit.noise_difference import NoiseDifferences
from amnestic.core.errors import InputError
from amnestic.core.methods import Case
from amnestic.core.records import Prompt, Sampling
from amnestic.core.registry import build
from amnestic.core.seeds import generator, seeded_init
from amnestic.model.target import PipelineTarget
from amnestic.testbed.diffusion import new_unet

HOW = Sampling(num_inference_steps=10)
BETAS = SCALES["ms-ssim-2"]


def memorizing(pipeline, unet, *, louder):
    """A target whose noise differences are decided by the text: nearly no noise goes in, all of it comes out."""
    plain, side = unet.forward, unet.config.sample_size
    pattern = torch.randn(1, unet.config.in_channels, side, side, generator=generator(0, "pattern"))

    def forward(sample, *args, **kwargs):
        out = plain(pattern + 0.1 * sample, *args, **kwargs)
        out.sample = sample + 5 * out.sample
        return out

    unet.forward = forward
    parts = pipeline.components | {"unet": unet, "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False)}
    target = PipelineTarget.load(StableDiffusionPipeline(**parts, requires_safety_checker=False))
    for site in target.sites("value"):
        unet.get_submodule(site.name).weight.data *= louder
    return target


@pytest.fixture(scope="module")
def target(tiny_pipeline):
    with seeded_init(0, "two scales"):
        unet = new_unet((16, 16, 32, 32), size=32, text_width=32)
    return memorizing(PipelineTarget.load(tiny_pipeline).pipeline, unet, louder=20)


def prompts(*texts):
    return tuple(Prompt(id=f"p{i}", prompt=text) for i, text in enumerate(texts))


MEMORIZED = prompts("a red cat on a blue mat", "two dogs under a tree")
CONTROLS = prompts("a mat", "a red dog under a tree", "two cats", "a blue tree", "green", "on a mat two red trees")


def literal(target, text, threshold, *, betas=BETAS, n=4):
    unet, names = target.pipeline.unet, nemo_literal.value_layers(target.pipeline.unet)
    embed = {p.prompt: target.encode([p.prompt]) for p in (*MEMORIZED, *CONTROLS)}
    statistics = nemo_literal.activation_statistics(unet, [embed[p.prompt] for p in CONTROLS], names)
    return nemo_literal.locate(
        unet, target.pipeline.scheduler, embed[text], statistics, n=n, steps=10, betas=betas,
        pair_threshold=threshold, accept=threshold, refinement=threshold,
    )  # fmt: skip


@pytest.mark.parametrize("threshold", [0.5, 0.95, 0.97])
def test_neurons_are_those_of_the_paper(target, threshold):
    method = build(
        "localizer", "nemo",
        {"similarity": "ms-ssim-2", "n_seeds": 4, "threshold": threshold, "refine": "one-by-one"},
    )  # fmt: skip
    found = method(target, Case(memorized=MEMORIZED, controls=CONTROLS, sampling=HOW))
    for prompt in MEMORIZED:
        wanted, ours = literal(target, prompt.prompt, threshold), found.notes["prompts"][prompt.id]
        assert ours["kept_seeds"] == wanted.kept != []
        assert ours["outcome"] == ("gave up" if wanted.selection.gave_up else "found")
        assert 0 < ours["refined"] < ours["initial"]
        assert ours.get("neurons", {}) == {name: sorted(c) for name, c in wanted.refined.items() if c}


def test_the_union_of_all_prompts_is_masked(target):
    method = build("localizer", "nemo", {"similarity": "ms-ssim-2", "n_seeds": 4, "threshold": 0.95})
    found = method(target, Case(memorized=MEMORIZED, controls=CONTROLS, sampling=HOW))
    wanted = {}
    for told in found.notes["prompts"].values():
        for name, chosen in told.get("neurons", {}).items():
            wanted.setdefault(name, set()).update(chosen)
    assert {n: set(m.nonzero().flatten().tolist()) for n, m in found.units.masks.items() if m.any()} == wanted
    assert all(not found.units.masks[s.name].any() for s in found.units.sites if s.stage == "up")


def test_latents_too_small_for_three_scales_are_refused(target):
    with pytest.raises(InputError, match=r"at least 44 pixels, .* has 32; use one of ms-ssim-2, ssim"):
        build("localizer", "nemo")(target, Case(memorized=MEMORIZED, controls=CONTROLS, sampling=HOW))


def test_the_published_setting_on_latents_of_64_pixels(tiny_pipeline):
    with seeded_init(0, "wide"):
        unet = new_unet((16, 16, 16), size=64, text_width=32)
    target = memorizing(PipelineTarget.load(tiny_pipeline).pipeline, unet, louder=20)
    wanted = literal(target, MEMORIZED[0].prompt, 0.8, betas=SCALES["ms-ssim-3"])
    method = build("localizer", "nemo", {"n_seeds": 4, "threshold": 0.8, "refine": "one-by-one"})
    told = method(target, Case(memorized=MEMORIZED[:1], controls=CONTROLS, sampling=HOW)).notes["prompts"]["p0"]
    assert told["kept_seeds"] == wanted.kept
    assert told.get("neurons", {}) == {name: sorted(c) for name, c in wanted.refined.items() if c}
    assert told["refined"] > 0


def test_a_threshold_is_calibrated_on_the_controls(target):
    method = build("localizer", "nemo", {"similarity": "ms-ssim-2", "n_seeds": 3})
    found = method(target, Case(memorized=MEMORIZED[:1], controls=CONTROLS, sampling=HOW))
    unet = target.pipeline.unet
    deltas = [
        nemo_literal.noise_difference(
            unet, target.pipeline.scheduler, nemo_literal.initial_latents(unet, 3), target.encode([p.prompt]), steps=10
        )
        for p in CONTROLS
    ]
    assert found.notes["threshold"] == pytest.approx(nemo_literal.calibrated_threshold(deltas, betas=BETAS), abs=1e-4)


def test_candidates_are_outliers_and_the_most_active():
    activity, z = torch.tensor([0.1, 5.0, 0.2, 4.0]), torch.tensor([6.0, 0.0, 1.0, 0.5])
    assert candidates(activity, z, theta=5.0, k=0) == [0]
    assert candidates(activity, z, theta=5.0, k=2) == [0, 1, 3]


def neurons_of(target, threshold, **options):
    method = build("localizer", "nemo", {"n_seeds": 6, "threshold": threshold, **options})
    found = method(target, Case(memorized=MEMORIZED, controls=CONTROLS, sampling=HOW))
    return found.passes, {id_: told.get("neurons", {}) for id_, told in found.notes["prompts"].items()}


def test_a_noise_alone_refutes_as_all_do_together(target):
    method = {"similarity": "ssim", "n_seeds": 6, "threshold": 0.95, "refine": "one-by-one"}
    found = build("localizer", "nemo", method)(target, Case(memorized=MEMORIZED, controls=CONTROLS, sampling=HOW))
    rows, unet = [], target.pipeline.unet
    hook = unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    wanted = [literal(target, p.prompt, 0.95, betas=SCALES["ssim"], n=6) for p in MEMORIZED]
    hook.remove()
    for prompt, one in zip(MEMORIZED, wanted, strict=True):
        told = found.notes["prompts"][prompt.id]
        assert told["neurons"] == {name: sorted(c) for name, c in one.refined.items() if c} != {}
        assert told["initial"] > told["refined"]
        assert told["score"] == pytest.approx(one.selection.score, abs=1e-5)
    assert found.passes < 0.7 * sum(rows)


@pytest.mark.parametrize("refine", ["one-by-one", "grouped"])
def test_witnesses_change_no_neuron(target, refine, monkeypatch):
    options = {"similarity": "ssim", "refine": refine}
    rows, neurons = neurons_of(target, 0.95, **options)
    monkeypatch.setattr(NoiseDifferences, "apart", property(lambda _: False, lambda *_: None), raising=False)
    all_rows, all_neurons = neurons_of(target, 0.95, **options)
    assert neurons == all_neurons
    assert any(neurons.values())
    assert rows < 0.7 * all_rows


def test_late_confirmation_leaves_the_same_neurons_where_order_does_not_matter(target):
    rows, neurons = neurons_of(target, 0.95, similarity="ssim", refine="witnessed")
    one_rows, one_by_one = neurons_of(target, 0.95, similarity="ssim", refine="one-by-one")
    assert neurons == one_by_one
    assert any(neurons.values())
    assert rows < one_rows


@pytest.mark.parametrize(("threshold", "outcome"), [(0.9, "gave up"), (0.93, "found")])
def test_what_late_confirmation_leaves_is_enough_for_every_noise(target, threshold, outcome):
    """The order of tests may decide here which neurons are left; that they suffice must hold all the same."""
    method = {"similarity": "ssim", "n_seeds": 6, "threshold": threshold, "refine": "witnessed"}
    found = build("localizer", "nemo", method)(target, Case(memorized=MEMORIZED, controls=CONTROLS, sampling=HOW))
    unet = target.pipeline.unet
    given = (unet, target.pipeline.scheduler, nemo_literal.initial_latents(unet, 6))
    for prompt in MEMORIZED:
        told, cond = found.notes["prompts"][prompt.id], target.encode([prompt.prompt])
        plain, blocked = (
            nemo_literal.noise_difference(*given, cond, neurons=n, steps=10) for n in ({}, told["neurons"])
        )
        scores = nemo_literal.ms_ssim(plain[told["kept_seeds"]], blocked[told["kept_seeds"]], betas=SCALES["ssim"])
        assert told["outcome"] == outcome
        assert scores.max() < (threshold if outcome == "found" else told["score"] + 1.1e-4)
        assert 0 < told["refined"] < told["initial"]
    assert found.passes < 0.8 * neurons_of(target, threshold, similarity="ssim", refine="one-by-one")[0]


def test_scores_of_single_noises_are_those_of_all_together(target):
    noises = NoiseDifferences(target, HOW, n_seeds=4, seed=1, t_index=1, betas=(1.0,))
    cond, site = target.encode([MEMORIZED[0].prompt]), target.sites("value")[0]
    plain, choices = noises.plain(cond), [{site: torch.arange(site.shape[0]) < n} for n in (3, 9)]
    together = noises.scores(cond, plain, [0, 1, 2, 3], choices)
    apart = torch.cat([noises.scores(cond, plain, [i], choices) for i in range(4)], dim=1)
    assert (together - together[:, :1]).abs().max() > 1e-4
    torch.testing.assert_close(apart, together, atol=1e-5, rtol=0)


def test_controls_share_batches(target):
    noises = NoiseDifferences(target, HOW, n_seeds=3, seed=1, t_index=1, betas=BETAS, most_rows=7)
    cond = target.encode([p.prompt for p in CONTROLS])
    together = noises.likeness(cond)
    assert noises.rows == 3 * len(CONTROLS)
    torch.testing.assert_close(together, torch.cat([noises.likeness(one[None]) for one in cond]), atol=1e-5, rtol=0)


def test_wasted_passes_change_nothing_but_the_rows(target):
    unet, asked = target.pipeline.unet, []
    hook = unet.register_forward_pre_hook(lambda _, inputs: asked.append(int(inputs[1])))
    given = (unet, target.pipeline.scheduler, nemo_literal.initial_latents(unet, 2), target.encode(["a mat"]))
    one, other = (nemo_literal.noise_difference(*given, steps=10, wasted_passes=wasted) for wasted in (False, True))
    hook.remove()
    assert torch.equal(one, other)
    assert asked == [801, 901, 801]


def test_a_control_is_needed(target):
    with pytest.raises(InputError, match="at least two non-memorized prompts"):
        build("localizer", "nemo", {"similarity": "ssim"})(target, Case(memorized=MEMORIZED, sampling=HOW))
